"""Questions about load: what each policy does to latency as requests come faster, and where knowing lengths
pays. Draws nothing.

A load is a share of a measured capacity, so that the same loads suit any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast

import numpy as np

from traces.errors import InputError
from traces.spec import names_of
from traces.trace import Trace

from ..kv_blocks import blocks_for
from ..perception.accuracy import error_report
from ..perception.predictions import perceive
from ..results.metrics import request_latencies
from ..results.result import Result
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords, check_names
from .prediction_error import check_points, check_policies, erring
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

POLICIES = (
    "vanilla",
    "sequence:max_wait_s=10",
    "continuous",
    "continuous:order=shortest-predicted",
    "continuous:order=shortest-remaining,admission=predicted",
)
LENGTH_AWARE = POLICIES[3:]
CURVE_LOADS = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4)
"""From where padded batches are idle to where continuous batching is overrun; shares of its capacity."""
MAP_LOADS = (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
MAP_SIGMAS = (0.0, 0.2, 0.39, 0.65, 1.0, 1.5)
"""Errors of the map, standard deviations of the log length; 0.39 is that of the paper's tuned predictor."""
SCARCE_KV = 8
"""The scarce case of the map has one such part of the KV cache."""
BURSTY = 0.02
"""The bursty case of the map: the gaps between arrivals have a coefficient of variation of 7."""

GAINS = ("mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms", "p99_e2el_ms")
IDLE_FACTOR = 10.0
"""How many times as long as the median on an idle machine a good request may take."""


@dataclass(frozen=True)
class Case:
    """A machine's KV cache (blocks of 16 tokens; None: the profile's) and how arrivals clump (None: as the
    trace's own, faster or slower).
    """

    label: str
    kv_blocks: int | None
    burstiness: float | None = 1.0


def curve_keys() -> tuple[str, ...]:
    """The metrics of `load_curves`."""
    latencies = (latency.metric(s).key for latency in request_latencies().values() for s in ("mean", "p99"))
    figures = ("request_throughput", "output_throughput", "request_goodput", "preemptions", "failed")
    return (*latencies, *figures)


def capacity(
    trace: Trace | str, *, policy: str = "continuous", num_seeds: int = 1, **settings: Unpack[StudyKeywords]
) -> float:
    """Requests/s that a policy gets done while there is always one waiting; the mean over seeds.

    Everything arrives at once. The first and the last tenth of the requests to finish are left out, in which
    batches fill up and run empty. `settings` as for `simulate` and `Study`. InputError where fewer than two
    requests complete, or `num_seeds` is below 1.
    """
    check_names(settings, capacity, StudyKeywords)
    running, rest = split(settings)
    check_points(num_seeds)
    check_policies(policy)
    with Study(**running) as study:
        return mean_capacity(study, trace, policy, num_seeds, rest)


def mean_capacity(study: Study, trace: Trace | str, policy: str, num_seeds: int, settings: Keywords) -> float:
    """`capacity` as a part of a study."""
    rest = settings.copy()
    first_seed = rest.pop("seed", 0)
    shared = _Capacity(trace, policy, rest)
    points = [{"seed": first_seed + k} for k in range(num_seeds)]
    rates = study.run(_capacity_at, shared, points, {"trace": trace, "policy": policy, **rest})
    return float(np.mean(rates))


class _Capacity(NamedTuple):
    """What all seeds of a capacity share."""

    trace: Trace | str
    policy: str
    settings: Keywords


def _capacity_at(shared: _Capacity, seed: int) -> float:
    workload: Keywords = {"seed": seed, "request_rate": np.inf}
    return _steady_rate(
        scenario(shared.trace, **(shared.settings | workload)).run(shared.policy), shared.policy
    )


def _steady_rate(result: Result, policy: str) -> float:
    finish = np.asarray(result.columns["finish_s"], dtype=float)
    done = np.sort(finish[~np.isnan(finish)])
    low, high = len(done) // 10, len(done) - 1 - len(done) // 10
    if len(done) > 1 and done[high] > done[low]:
        return float((high - low) / (done[high] - done[low]))
    if result.summary["request_throughput"] is None:
        raise InputError(f"policy {policy}: {len(done)} requests completed, which makes no capacity")
    return float(result.summary["request_throughput"])


def idle_bound(trace: Trace | str, *, rate: float, **settings: Unpack[StudyKeywords]) -> dict[str, float]:
    """A bound for a good request where none is given: 10 times the median E2EL of `continuous` on a machine
    that idles, at a hundredth of `rate` (its capacity in requests/s); `{"e2el": ms}`.

    It bounds the whole answer, since a padded batch returns as one. `settings` as for `simulate` and `Study`.
    """
    check_names(settings, idle_bound, StudyKeywords)
    running, rest = split(settings)
    with Study(**running) as study:
        points = [{"rate": rate / 100}]
        (median_e2el_ms,) = study.run(_median_e2el_ms, (trace, rest), points, {"trace": trace, **rest})
    if median_e2el_ms is None:
        raise InputError("goodput: no request completed on an idle machine; give a bound such as e2el:30000")
    return {"e2el": IDLE_FACTOR * median_e2el_ms}


def _median_e2el_ms(shared: tuple[Trace | str, Keywords], rate: float) -> float | None:
    trace, settings = shared
    summary = scenario(trace, **(settings | {"request_rate": rate})).run("continuous").summary
    return cast("float | None", summary["median_e2el_ms"])


def load_curves(
    trace: Trace | str,
    *,
    rates: Sequence[float],
    policies: Sequence[str] | str = POLICIES,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """What each policy does to latency, throughput and goodput at each of `rates` (requests/s).

    One row per rate, seed and policy: columns policy, request_rate, seed and those of `curve_keys`. At one
    seed all rates see the same requests and the same pattern of arrivals. `settings` as for `simulate` and
    `Study`.
    """
    check_names(settings, load_curves, StudyKeywords)
    running, rest = split(settings)
    policies = names_of(policies, "policies")
    check_policies(*policies)
    first_seed, rest = check(num_seeds, rest, rates=rates)
    points = [{"rate": rate, "seed": first_seed + k} for k in range(num_seeds) for rate in rates]
    with Study(**running) as study:
        about = {"trace": trace, "policies": policies, **rest}
        return frame_of(study.run(_curve_rows, _Curves(trace, policies, rest), points, about))


class _Curves(NamedTuple):
    """What all points of load curves share."""

    trace: Trace | str
    policies: Sequence[str]
    settings: Keywords


def _curve_rows(shared: _Curves, rate: float, seed: int) -> list[dict[str, Any]]:
    workload = scenario(shared.trace, **(shared.settings | {"seed": seed, "request_rate": rate}))
    rows = []
    for policy in shared.policies:
        summary = workload.run(policy).summary
        figures = {name: summary[name] for name in curve_keys()}
        rows.append({"policy": policy, "request_rate": rate, "seed": seed, **figures})
    return rows


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
    throughput_ratio (policy over baseline), preemptions, baseline_preemptions, failed. A load is a share of
    what `baseline` gets done in that case (`capacity`). Misses grow with sigma as in `sensitivity`; with
    `charge` the accelerator spends time on every question. `settings` as for `simulate` and `Study`.
    """
    check_names(settings, gain_map, StudyKeywords)
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
    workload = _arriving(shared.trace, rate, shared.cases[case].burstiness, settings)
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


def _arriving(trace: Trace | str, rate: float, burstiness: float | None, settings: Keywords) -> Scenario:
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
        "failed": max(summary["failed"], base["failed"]),
    }


def _ratio(part: float | None, whole: float | None) -> float:
    return part / whole if part is not None and whole else float("nan")


def check(num_seeds: int, settings: Keywords, **lists: Sequence[Any]) -> tuple[int, Keywords]:
    """The first seed and the other settings, once all these can be used; lists as for `check_points`."""
    check_points(num_seeds, **lists)
    if settings.get("request_rate") is not None:
        raise InputError("request_rate: an experiment about load sets it; give rates or loads instead")
    rest = settings.copy()
    rest.pop("request_rate", None)
    return rest.pop("seed", 0), rest
