"""Where studies of load look: how much KV cache there is, how arrivals clump, and the points of every load.

A load is a share of a measured capacity, so that the same loads suit any machine. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from traces.errors import InputError
from traces.trace import Trace

from ..kv_blocks import blocks_for
from ..scenario.scenario import Scenario, scenario
from ..scenario.settings import Keywords
from .capacity import mean_capacity
from .study import Study

SCARCE_KV = 8
"""The scarce case has one such part of the KV cache."""
BURSTY = 0.02
"""The bursty case: the gaps between arrivals have a coefficient of variation of 7."""


@dataclass(frozen=True)
class Case:
    """A machine's KV cache (blocks of 16 tokens; None: the profile's) and how arrivals clump (None: as the
    trace's own, faster or slower).
    """

    label: str
    kv_blocks: int | None
    burstiness: float | None = 1.0

    def machine(self, settings: Keywords) -> Keywords:
        """The settings with the KV cache of this case, for a policy that needs no predictions."""
        return settings | {"kv_blocks": self.kv_blocks, "predictor": "exact"}

    def arriving_at(self, trace: Trace | str, rate: float, settings: Keywords) -> Scenario:
        """The scenario at so many requests/s: drawn gaps or, without a burstiness, the trace's own."""
        settings = self.machine(settings)
        if self.burstiness is not None:
            drawn: Keywords = {"request_rate": rate, "burstiness": self.burstiness}
            return scenario(trace, **(settings | drawn))
        own = scenario(trace, **settings).trace.mean_rate
        if not own:
            raise InputError(
                f"{trace if isinstance(trace, str) else trace.name}: it has no arrival times to scale"
            )
        return scenario(trace, **(settings | {"time_scale": own / rate}))


def map_cases(trace: Trace | str, **settings: Unpack[Keywords]) -> tuple[Case, Case, Case]:
    """All of the KV cache, an eighth of it, and that under arrivals that clump.

    Those are the trace's own where it has times, else bursty ones. The eighth holds two of the longest
    requests.
    """
    shared = scenario(trace, **(settings | {"request_rate": None}))
    limits = shared.limits
    num_blocks = limits.kv_tokens // limits.block_size
    longest = int(shared.trace.prompt_tokens.max()) + shared.max_new_tokens
    scarce = min(num_blocks, max(num_blocks // SCARCE_KV, 2 * blocks_for(longest, limits.block_size)))
    return (
        Case(f"{num_blocks:,} KV blocks", settings.get("kv_blocks"), settings.get("burstiness", 1.0)),
        Case(f"{scarce:,} KV blocks", scarce, settings.get("burstiness", 1.0)),
        Case(f"{scarce:,} KV blocks, the trace's own arrivals", scarce, None)
        if shared.trace.mean_rate
        else Case(f"{scarce:,} KV blocks, bursty arrivals", scarce, BURSTY),
    )


def points(
    study: Study,
    trace: Trace | str,
    cases: Sequence[Case],
    loads: Sequence[float],
    *,
    baseline: str,
    first_seed: int,
    num_seeds: int,
    settings: Keywords,
) -> list[dict[str, Any]]:
    """Every case, by its place, seed and load, with the rate (requests/s) that is this share of what
    `baseline` gets done in that case while there is always a queue.
    """
    most = [
        mean_capacity(study, trace, baseline, num_seeds, case.machine(settings) | {"seed": first_seed})
        for case in cases
    ]
    return [
        {"case": case, "load": load, "rate": load * most[case], "seed": first_seed + k}
        for case in range(len(cases))
        for k in range(num_seeds)
        for load in loads
    ]
