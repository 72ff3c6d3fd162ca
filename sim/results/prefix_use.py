"""What a run found again in KV memory: figures of a summary; knows nothing of how anything is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    return {
        "prefix_hit_fraction": sum(use.found for use in used) / asked if asked else None,
        "prefix_evicted_tokens": sum(use.evicted for use in used),
        "recomputed_tokens": sum(use.recomputed for use in used),
    }
