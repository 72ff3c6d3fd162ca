"""Questions about load: what each policy does to latency as requests come faster, and where knowing lengths
pays. Draws nothing.

A load is a share of a measured capacity, so that the same loads suit any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

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
from .prediction_error import Progress, check_points, check_policies, erring

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
    trace: Trace | str, *, policy: str = "continuous", num_seeds: int = 1, **settings: Unpack[Keywords]
) -> float:
    """Requests/s that a policy gets done while there is always one waiting; the mean over seeds.

    Everything arrives at once. The first and the last tenth of the requests to finish are left out, in which
    batches fill up and run empty. InputError where fewer than two requests complete, or `num_seeds` is below
    1.
    """
    check_names(settings, capacity, Keywords)
    check_points(num_seeds)
    check_policies(policy)
    first_seed = settings.pop("seed", 0)
    rates = []
    for seed in range(first_seed, first_seed + num_seeds):
        result = scenario(trace, **(settings | {"seed": seed, "request_rate": np.inf})).run(policy)
        rates.append(_steady_rate(result, policy))
    return float(np.mean(rates))


def _steady_rate(result: Result, policy: str) -> float:
    finish = np.asarray(result.columns["finish_s"], dtype=float)
    done = np.sort(finish[~np.isnan(finish)])
    low, high = len(done) // 10, len(done) - 1 - len(done) // 10
    if len(done) > 1 and done[high] > done[low]:
        return float((high - low) / (done[high] - done[low]))
    if result.summary["request_throughput"] is None:
        raise InputError(f"policy {policy}: {len(done)} requests completed, which makes no capacity")
    return float(result.summary["request_throughput"])


def idle_bound(trace: Trace | str, *, rate: float, **settings: Unpack[Keywords]) -> dict[str, float]:
    """A bound for a good request where none is given: 10 times the median E2EL of `continuous` on a machine
    that idles, at a hundredth of `rate` (its capacity in requests/s); `{"e2el": ms}`.

    It bounds the whole answer, since a padded batch returns as one.
    """
    summary = scenario(trace, **(settings | {"request_rate": rate / 100})).run("continuous").summary
    if summary["median_e2el_ms"] is None:
        raise InputError("goodput: no request completed on an idle machine; give a bound such as e2el:30000")
    return {"e2el": IDLE_FACTOR * summary["median_e2el_ms"]}


def load_curves(
    trace: Trace | str,
    *,
    rates: Sequence[float],
    policies: Sequence[str] | str = POLICIES,
    num_seeds: int = 3,
    n_jobs: int = 1,
    progress: Progress = iter,
    **settings: Unpack[Keywords],
) -> pd.DataFrame:
    """What each policy does to latency, throughput and goodput at each of `rates` (requests/s).

    One row per rate, seed and policy: columns policy, request_rate, seed and those of `curve_keys`. At one
    seed all rates see the same requests and the same pattern of arrivals. `settings` as for `simulate`.
    """
    check_names(settings, load_curves, Keywords)
    policies = names_of(policies, "policies")
    check_policies(*policies)
    first_seed, settings = check(num_seeds, n_jobs, settings, rates=rates)
    points = [(rate, first_seed + k) for k in range(num_seeds) for rate in rates]

    def run(rate: float, seed: int) -> list[dict[str, Any]]:
        shared = scenario(trace, **(settings | {"seed": seed, "request_rate": rate}))
        rows = []
        for policy in policies:
            summary = shared.run(policy).summary
            figures = {name: summary[name] for name in curve_keys()}
            rows.append({"policy": policy, "request_rate": rate, "seed": seed, **figures})
        return rows

    return frame_of(run, points, n_jobs, progress)


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
    n_jobs: int = 1,
    progress: Progress = iter,
    **settings: Unpack[Keywords],
) -> pd.DataFrame:
    """How many times lower latency is under each policy than under `baseline`, by load and prediction error.

    One row per case, load, seed, policy and sigma: columns case, policy, load, request_rate, sigma, miss,
    mean_error (tokens), seed, one per name in `GAINS` (baseline over policy: above 1 is better),
    throughput_ratio (policy over baseline), preemptions, baseline_preemptions, failed. A load is a share of
    what `baseline` gets done in that case (`capacity`). Misses grow with sigma as in `sensitivity`; with
    `charge` the accelerator spends time on every question. `settings` as for `simulate`.
    """
    check_names(settings, gain_map, Keywords)
    policies = names_of(policies, "policies")
    check_policies(*policies, baseline)
    first_seed, settings = check(num_seeds, n_jobs, settings, loads=loads, sigmas=sigmas, cases=cases)
    at: list[Keywords] = [settings | {"kv_blocks": case.kv_blocks, "predictor": "exact"} for case in cases]
    most = [
        capacity(trace, policy=baseline, num_seeds=num_seeds, **(machine | {"seed": first_seed}))
        for machine in at
    ]
    points = [
        (case, load, first_seed + k) for case in range(len(cases)) for k in range(num_seeds) for load in loads
    ]

    def run(case: int, load: float, seed: int) -> list[dict[str, Any]]:
        rate = load * most[case]
        shared = _arriving(trace, rate, cases[case].burstiness, at[case] | {"seed": seed})
        base = shared.run(baseline).summary
        rows = []
        for sigma in sigmas:
            made = erring(sigma, charge=charge)
            said = perceive(made, shared.trace, stream(seed, "perception"))
            where = {
                "load": load,
                "request_rate": rate,
                "sigma": sigma,
                "miss": made.miss,
                "mean_error": error_report(said.predicted, shared.trace.perceived_truth).error,
                "seed": seed,
            }
            for policy in policies:
                summary = replace(shared, predictor=made).run(policy).summary
                rows.append({"case": cases[case].label, "policy": policy, **where, **_gains(base, summary)})
        return rows

    return frame_of(run, points, n_jobs, progress)


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


def check(num_seeds: int, n_jobs: int, settings: Keywords, **lists: Sequence[Any]) -> tuple[int, Keywords]:
    """The first seed and the other settings, once all these can be used; lists as for `check_points`."""
    check_points(num_seeds, **lists)
    if n_jobs < 1 and n_jobs != -1:
        raise InputError(f"n_jobs: {n_jobs} must be at least 1, or -1 for every core")
    if settings.get("request_rate") is not None:
        raise InputError("request_rate: an experiment about load sets it; give rates or loads instead")
    rest = settings.copy()
    rest.pop("request_rate", None)
    return rest.pop("seed", 0), rest


def frame_of(
    run: Callable[..., list[dict[str, Any]]], points: Sequence[Any], n_jobs: int, progress: Progress
) -> pd.DataFrame:
    """All rows that `run` gives for the points, in their order, over `n_jobs` processes."""
    import joblib
    import pandas as pd

    found: Iterable[list[dict[str, Any]]] = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(run)(*point) for point in points
    )
    return pd.DataFrame([row for _, rows in zip(progress(points), found, strict=True) for row in rows])
