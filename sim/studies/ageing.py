"""What shortest-first costs the long requests, and how much of that ageing and fair shares give back. Draws
nothing.

Neither is a discipline of its own: a request's priority, or the class of users it counts with, is the length
that is predicted for it, in levels of so many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from traces.arguments import checked
from traces.errors import InputError
from traces.trace import FloatArray, Trace

from ..perception.predictions import perceive
from ..perception.predictors import TUNED_SIGMA
from ..results.failures import failures_of
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords
from .capacity import check, mean_capacity
from .prediction_error import check_policies, erring
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

AGINGS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds of waiting that are worth one level."""
SIGMA = TUNED_SIGMA
LEVEL_TOKENS = 50
LONG = 0.9
"""Requests whose answer is at least as long as this quantile count as long."""


def policies_of(agings: Sequence[float]) -> dict[str, str]:
    """Label -> policy: the two ends, the ageing in between them, and equal shares for every level."""
    return {
        "first come, first served": "continuous",
        "shortest predicted first": "continuous:order=shortest-predicted",
        **{f"ageing {aging:g} s": f"continuous:order=priority,aging_s={aging:g}" for aging in agings},
        "fair to every level": "continuous:order=fair",
    }


@checked
def starvation(
    trace: Trace | str,
    *,
    load: float = 1.25,
    agings: Sequence[float] = AGINGS,
    sigma: float = SIGMA,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """Latency of all, of the slowest and of the long requests under continuous batching, by discipline.

    One row per seed and discipline: columns label, policy, aging_s (NaN where there is none), seed,
    request_rate, mean_ttft_ms, mean_e2el_ms, p99_e2el_ms, long_e2el_ms and short_e2el_ms (means over the
    tenth with the longest answers, and over the others), throughput, and what failed. `load` is a share of
    what `continuous` gets done; predictions err by `sigma` and cost nothing. `settings` as for `simulate`
    and `Study`. InputError where all answers are as long as the long ones.
    """
    running, rest = split(settings)
    shown = [f"{aging:g}" for aging in agings]
    first_seed, rest = check(num_seeds, rest, load=(load,), sigmas=(sigma,), agings=shown)
    policies = policies_of(agings)
    check_policies(*policies.values())
    machine: Keywords = rest | {"predictor": "exact"}
    with Study(**running) as study:
        _is_long(scenario(trace, **(machine | {"seed": first_seed})).trace)
        most = mean_capacity(study, trace, "continuous", num_seeds, machine | {"seed": first_seed})
        points = [{"rate": load * most, "seed": first_seed + k} for k in range(num_seeds)]
        about = {
            "trace": trace,
            "policies": [*policies.values()],
            "labels": [*policies],
            "sigma": sigma,
            **machine,
        }
        shared = _Disciplines(trace, policies, sigma, machine)
        return frame_of(study.run(_rows, shared, points, about))


class _Disciplines(NamedTuple):
    """What all seeds share."""

    trace: Trace | str
    policies: Mapping[str, str]
    sigma: float
    settings: Keywords


def _rows(shared: _Disciplines, rate: float, seed: int) -> list[dict[str, Any]]:
    workload = scenario(shared.trace, **(shared.settings | {"seed": seed, "request_rate": rate}))
    workload = _levelled(workload, shared.sigma)
    long = _is_long(workload.trace)
    rows = []
    for label, policy in shared.policies.items():
        result = workload.run(policy)
        e2el = np.asarray(result.columns["e2el_ms"], dtype=float)
        names = ("mean_ttft_ms", "mean_e2el_ms", "p99_e2el_ms")
        aging = policy.partition("aging_s=")[2]
        rows.append(
            {
                "label": label,
                "policy": policy,
                "aging_s": float(aging) if aging else np.nan,
                "seed": seed,
                "request_rate": rate,
                **{name: result.summary[name] for name in names},
                "long_e2el_ms": _mean(e2el[long]),
                "short_e2el_ms": _mean(e2el[~long]),
                "throughput": result.summary["request_throughput"],
                **failures_of(result.summary),
            }
        )
    return rows


def _is_long(trace: Trace) -> npt.NDArray[np.bool_]:
    bound = np.quantile(trace.output_tokens, LONG)
    long: npt.NDArray[np.bool_] = trace.output_tokens >= bound
    if long.all():
        raise InputError(
            f"{trace.name}: its shortest answer ({trace.output_tokens.min()} tokens) is as long as its long "
            f"ones (at least {bound:g}), so there is nobody to compare them with"
        )
    return long


def _mean(e2el_ms: FloatArray) -> float:
    """Of the requests that completed; NaN where none did."""
    done = e2el_ms[~np.isnan(e2el_ms)]
    return float(done.mean()) if len(done) else np.nan


def _levelled(shared: Scenario, sigma: float) -> Scenario:
    """The scenario in which every request has its predicted length as priority and as class of users."""
    predictor = erring(sigma, charge=False)
    predicted = perceive(predictor, shared.trace, stream(shared.seed, "perception")).predicted
    levels = -(-predicted // LEVEL_TOKENS)
    users = np.array([f"level {level}" for level in levels.tolist()])
    return replace(shared, predictor=predictor, trace=replace(shared.trace, priority=levels, user=users))
