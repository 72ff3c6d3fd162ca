"""`seqsched quality`: what differs between the requests that a policy orders and the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import show

if TYPE_CHECKING:
    from real.serving.comparison import Difference


def report(
    log: Path,
    /,
    *,
    alpha: float = 0.05,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Compare both arms of a log that `serve --share` wrote, as it grew: at 200, 400, 800, ... requests.

    Answer lengths, finish reasons and failures should not depend on the order in which requests are served;
    latencies should. Exit status 1 where at the last look the former differ by more than chance. Senders stay
    in one arm: a difference between them is found as well.

    Parameters
    ----------
    log
        The file of `serve --log`.
    alpha
        The probability, over all looks, of finding a difference where there is none.
    json_
        Print the looks as one JSON array.
    """
    from real.serving.quality import looks

    found = looks(log, alpha)
    if json_:
        print(json.dumps([_entry(each) for each in found], indent=2))
    else:
        _print(log, found)
    if found[-1].findings:
        raise SystemExit(1)


def _print(log: Path, found: list[Difference]) -> None:
    import pandas as pd

    rows = [
        {
            "requests": f"{each.num_requests[0]:,} / {each.num_requests[1]:,}",
            "mean E2EL": _interval(each, "all"),
            "predicted short": _interval(each, "short"),
            "predicted middle": _interval(each, "middle"),
            "predicted long": _interval(each, "long"),
            "lengths apart %": f"{100 * each.lengths:.1f} (found from {100 * each.seen_from:.1f})",
            "failed, points": _points(each.failures, each.failures_interval),
        }
        for each in found
    ]
    show.frame_table(
        f"{log.name} · the policy's arm against first come, first served: requests of each, ratios of "
        "latencies, differences of answers",
        pd.DataFrame(rows),
    )
    show.console().print(f"At the last look: {found[-1].text}.", soft_wrap=True, highlight=False)


def _interval(each: Difference, group: str) -> str:
    if group not in each.latency:
        return "–"
    ratio, low, high = each.latency[group]
    return f"{ratio:.2f} × ({low:.2f} to {high:.2f})"


def _points(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:+.2f} ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"


def _entry(each: Difference) -> dict[str, Any]:
    return {
        "policy_requests": each.num_requests[0],
        "fcfs_requests": each.num_requests[1],
        "mean_e2el_ratio": {
            name: dict(zip(("value", "low", "high"), values, strict=True))
            for name, values in each.latency.items()
        },
        "length_distance": each.lengths,
        "length_distance_found_from": each.seen_from,
        "failure_difference": {
            "value": each.failures,
            "low": each.failures_interval[0],
            "high": each.failures_interval[1],
        },
        "finish_reason": {"name": each.reason[0], "difference": each.reason[1]},
        "findings": list(each.findings),
    }
