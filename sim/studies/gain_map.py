"""Where knowing lengths pays, by load and prediction error. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from traces.arguments import checked
from traces.spec import names_of
from traces.trace import Trace

from ..perception.accuracy import error_report
from ..perception.predictions import perceive
from ..results.failures import failures_of
from ..scenario.scenario import stream
from ..scenario.settings import Keywords
from .capacity import check
from .cases import Case, points
from .load_curves import POLICIES
from .prediction_error import check_policies, erring
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

LENGTH_AWARE = POLICIES[3:]
MAP_LOADS = (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
MAP_SIGMAS = (0.0, 0.2, 0.39, 0.65, 1.0, 1.5)
"""Errors of the map, standard deviations of the log length; 0.39 is that of the paper's tuned predictor."""
GAINS = ("mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms", "p99_e2el_ms")


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
        every = points(
            study,
            trace,
            cases,
            loads,
            baseline=baseline,
            first_seed=first_seed,
            num_seeds=num_seeds,
            settings=rest,
        )
        about = {name: value for name, value in shared._asdict().items() if name != "settings"}
        return frame_of(study.run(_map_rows, shared, every, {**about, **rest}))


class _Map(NamedTuple):
    """What all points of a map share."""

    trace: Trace | str
    cases: tuple[Case, ...]
    policies: Sequence[str]
    baseline: str
    sigmas: tuple[float, ...]
    charge: bool
    settings: Keywords


def _map_rows(shared: _Map, case: int, load: float, rate: float, seed: int) -> list[dict[str, Any]]:
    of = shared.cases[case]
    workload = of.arriving_at(shared.trace, rate, shared.settings | {"seed": seed})
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
            rows.append({"case": of.label, "policy": policy, **where, **_gains(base, summary)})
    return rows


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
