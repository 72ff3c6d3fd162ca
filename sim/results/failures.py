"""What a run says of the requests that did not complete, which no latency counts. Knows nothing of tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KEYS = ("completed", "failed", "failed_reason")
"""What a summary says of it."""


def share_text(share: float) -> str:
    """A share in percent, with three digits."""
    return f"{100 * share:.3g} %"


def failures_text(summary: Mapping[Any, Any]) -> str | None:
    """How many requests of a run did not complete, and why the first of them; None where all did."""
    failed = summary["failed"]
    if not failed:
        return None
    failed, total = int(failed), int(summary["completed"] + failed)
    reason = summary.get("failed_reason")
    why = f"; the first: {reason}" if isinstance(reason, str) else ""
    return f"{failed:,} of {total:,} requests ({share_text(failed / total)}) that did not complete{why}"


def failures_of(*summaries: Mapping[str, Any]) -> dict[str, Any]:
    """`KEYS` of the run with the largest share that failed: for a row that sums up several runs."""
    worst = max(summaries, key=failed_share)
    return {key: worst[key] for key in KEYS}


def worst_of(rows: Iterable[Mapping[Any, Any]]) -> str | None:
    """What rows with the columns `KEYS` leave out at most; None where all requests of all runs completed."""
    lost = [row for row in rows if row.get("failed")]
    if not lost:
        return None
    return f"in {len(lost)} of the runs, at worst {failures_text(max(lost, key=failed_share))}"


def failed_share(summary: Mapping[Any, Any]) -> float:
    """The share of the requests that did not complete."""
    return float(summary["failed"] / max(summary["completed"] + summary["failed"], 1))
