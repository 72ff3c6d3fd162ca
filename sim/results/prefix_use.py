"""What a run found again in KV memory: figures of a summary; knows nothing of how anything is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..work import Fetch, TierUse
from .ledger import ReplicaUse


def prefix_figures(uses: Sequence[ReplicaUse]) -> dict[str, Any]:
    """Keys of a summary where some replica looks for the beginnings of prompts in memory; else none.

    `prefix_hit_fraction`: prompt tokens that were found when their request first ran on a replica / prompt
    tokens of the requests that ran, which count once for each replica that they began on, as failures make
    them. `prefix_evicted_tokens`: given up for others, though they might still have been found.
    `recomputed_tokens`: computed again since a preemption had taken them out of memory.
    """
    used = [use.prefixes for use in uses if use.prefixes is not None]
    if not used:
        return {}
    asked = sum(use.asked for use in used)
    found = {
        "prefix_hit_fraction": sum(use.found for use in used) / asked if asked else None,
        "prefix_evicted_tokens": sum(use.evicted for use in used),
        "recomputed_tokens": sum(use.recomputed for use in used),
    }
    tiers = [use.tiers for use in used if use.tiers is not None]
    return found | tier_figures(tiers, asked) if tiers else found


def tier_figures(uses: Sequence[TierUse], asked: int) -> dict[str, Any]:
    """Keys of a summary where some replica has slower memory for KV blocks, CPU memory or a disk behind it.

    `cpu_hit_fraction`, `disk_hit_fraction`: prompt tokens that came from there when their request first ran /
    the `asked` prompt tokens. `fetched_tokens`: all that came from there, after preemptions too.
    `mean_fetch_ms`: of the requests that waited for that, from when they found it until it was there.
    `cpu_evicted_tokens`, `disk_evicted_tokens`: given up there for others.
    """
    figures: dict[str, Any] = {}
    for number, name in enumerate(uses[0].names):
        found, evicted = sum(use.found[number] for use in uses), sum(use.evicted[number] for use in uses)
        figures[f"{name}_hit_fraction"] = found / asked if asked else None
        figures[f"{name}_evicted_tokens"] = evicted
    fetches = [fetch for use in uses for fetch in use.fetches]
    waited_s = sum(fetch.there_s - fetch.since_s for fetch in fetches)
    return figures | {
        "fetched_tokens": sum(fetch.cpu_tokens + fetch.disk_tokens for fetch in fetches),
        "mean_fetch_ms": 1e3 * waited_s / len(fetches) if fetches else None,
    }


def fetches_of(uses: Sequence[ReplicaUse]) -> tuple[tuple[int, Fetch], ...]:
    """What came from slower memory, with the replica that it came to: replica by replica, as they began."""
    return tuple(
        (number, fetch)
        for number, use in enumerate(uses)
        if use.prefixes is not None and use.prefixes.tiers is not None
        for fetch in use.prefixes.tiers.fetches
    )
