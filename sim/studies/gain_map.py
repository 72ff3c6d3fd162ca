"""Where knowing lengths pays, by load and prediction error. Draws nothing.

A load is a share of a measured capacity, so that the same loads suit any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from traces.arguments import checked
from traces.errors import InputError
from traces.spec import names_of
from traces.trace import Trace

from ..kv_blocks import blocks_for
from ..perception.accuracy import error_report
from ..perception.predictions import perceive
from ..results.failures import failures_of
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords
from .capacity import check, mean_capacity
from .load_curves import POLICIES
from .prediction_error import check_policies, erring
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

LENGTH_AWARE = POLICIES[3:]
MAP_LOADS = (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
MAP_SIGMAS = (0.0, 0.2, 0.39, 0.65, 1.0, 1.5)
"""Errors of the map, standard deviations of the log length; 0.39 is that of the paper's tuned predictor."""
SCARCE_KV = 8
"""The scarce case of the map has one such part of the KV cache."""
BURSTY = 0.02
"""The bursty case of the map: the gaps between arrivals have a coefficient of variation of 7."""

GAINS = ("mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms", "p99_e2el_ms")


@dataclass(frozen=True)
class Case:
    """A machine's KV cache (blocks of 16 tokens; None: the profile's) and how arrivals clump (None: as the
    trace's own, faster or slower).
    """

    label: str
    kv_blocks: int | None
    burstiness: float | None = 1.0


def map_cases(trace: Trace | str, **settings: Unpack[Keywords]) -> tuple[Case, Case, Case]:
    """Where a map looks: all of the KV cache, an eighth of it, and that under arrivals that clump.

    Those are the trace's own where it has times, else bursty ones. The eighth holds two of the longest
    requests.
    """
    shared = scenario(trace, **(settings | {"request_rate": None}))
    limits = shared.limits
    num_blocks = limits.kv_tokens // limits.block_size
    longest = int(shared.trace.prompt_tokens.max()) + shared.max_new_tokens
    scarce = min(num_blocks, max(num_blocks // SCARCE_KV, 2 * blocks_for(longest, limits.block_size)))
    burstiness = settings.get("burstiness", 1.0)
    return (
        Case(f"{num_blocks:,} KV blocks", settings.get("kv_blocks"), burstiness),
        Case(f"{scarce:,} KV blocks", scarce, burstiness),
        Case(f"{scarce:,} KV blocks, the trace's own arrivals", scarce, None)
        if shared.trace.mean_rate
        else Case(f"{scarce:,} KV blocks, bursty arrivals", scarce, BURSTY),
    )


@checked
def gain_map(
    trace: Trace | str,
    *,
    cases: Sequence[Case],
    policies: Sequence[str] | str = LENGTH_AWARE,
    baseline: str = "continuous",
    loads: Sequence[float] = MAP_LOADS,
    sigmas: Sequence[float] = MAP_SIGMAS,
    charge: bool = False,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """How many times lower latency is under each policy than under `baseline`, by load and prediction error.

    One row per case, load, seed, policy and sigma: columns case, policy, load, request_rate, sigma, miss,
    mean_error (tokens), seed, one per name in `GAINS` (baseline over policy: above 1 is better),
    throughput_ratio (policy over baseline), preemptions, baseline_preemptions, and what failed in the worse
    of the two. A load is a share of what `baseline` gets done in that case (`capacity`). Misses grow with
    sigma as in `sensitivity`; with `charge` the accelerator spends time on every question. `settings` as for
    `simulate` and `Study`.
    """
    running, rest = split(settings)
    policies = names_of(policies, "policies")
    check_policies(*policies, baseline)
    first_seed, rest = check(num_seeds, rest, loads=loads, sigmas=sigmas, cases=cases)
    shared = _Map(trace, tuple(cases), policies, baseline, tuple(sigmas), charge, rest)
    with Study(**running) as study:
        most = [
            mean_capacity(study, trace, baseline, num_seeds, shared.machine(case) | {"seed": first_seed})
            for case in range(len(cases))
        ]
        points = [
            {"case": case, "load": load, "rate": load * most[case], "seed": first_seed + k}
            for case in range(len(cases))
            for k in range(num_seeds)
            for load in loads
        ]
        about = {name: value for name, value in shared._asdict().items() if name != "settings"}
        return frame_of(study.run(_map_rows, shared, points, {**about, **rest}))


class _Map(NamedTuple):
    """What all points of a map share."""

    trace: Trace | str
    cases: tuple[Case, ...]
    policies: Sequence[str]
    baseline: str
    sigmas: tuple[float, ...]
    charge: bool
    settings: Keywords

    def machine(self, case: int) -> Keywords:
        """The settings of a case."""
        return self.settings | {"kv_blocks": self.cases[case].kv_blocks, "predictor": "exact"}


def _map_rows(shared: _Map, case: int, load: float, rate: float, seed: int) -> list[dict[str, Any]]:
    settings = shared.machine(case) | {"seed": seed}
    workload = arriving_at(shared.trace, rate, shared.cases[case].burstiness, settings)
    base = workload.run(shared.baseline).summary
    rows = []
    for sigma in shared.sigmas:
        predictor = erring(sigma, charge=shared.charge)
        predicted = perceive(predictor, workload.trace, stream(seed, "perception")).predicted
        where = {
            "load": load,
            "request_rate": rate,
            "sigma": sigma,
            "miss": predictor.miss,
            "mean_error": error_report(predicted, workload.trace.perceived_truth).error,
            "seed": seed,
        }
        for policy in shared.policies:
            summary = replace(workload, predictor=predictor).run(policy).summary
            label = shared.cases[case].label
            rows.append({"case": label, "policy": policy, **where, **_gains(base, summary)})
    return rows


def arriving_at(trace: Trace | str, rate: float, burstiness: float | None, settings: Keywords) -> Scenario:
    """The scenario at so many requests/s: drawn gaps or, without a burstiness, the trace's own, scaled."""
    if burstiness is not None:
        return scenario(trace, **(settings | {"request_rate": rate, "burstiness": burstiness}))
    own = scenario(trace, **settings).trace.mean_rate
    if not own:
        raise InputError(
            f"{trace if isinstance(trace, str) else trace.name}: it has no arrival times to scale"
        )
    return scenario(trace, **(settings | {"time_scale": own / rate}))


def _gains(base: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """One run against the baseline's; NaN where one of the two is undefined."""
    return {
        **{name: _ratio(base[name], summary[name]) for name in GAINS},
        "throughput_ratio": _ratio(summary["request_throughput"], base["request_throughput"]),
        "preemptions": summary["preemptions"],
        "baseline_preemptions": base["preemptions"],
        **failures_of(base, summary),
    }


def _ratio(part: float | None, whole: float | None) -> float:
    return part / whole if part is not None and whole else float("nan")
