"""What shortest-first costs the long requests, and how much of that ageing and fair shares give back. Draws
nothing.

Neither is a discipline of its own: a request's priority, or the class of users it counts with, is the length
that is predicted for it, in levels of so many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from traces.errors import InputError
from traces.trace import FloatArray, Trace

from ..perception.predictions import perceive
from ..perception.predictors import TUNED
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords, check_names
from .load_curves import capacity, check, frame_of
from .prediction_error import Progress, check_policies, erring

if TYPE_CHECKING:
    import pandas as pd

AGINGS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds of waiting that are worth one level."""
SIGMA = TUNED.sigma
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


def starvation(
    trace: Trace | str,
    *,
    load: float = 1.25,
    agings: Sequence[float] = AGINGS,
    sigma: float = SIGMA,
    num_seeds: int = 3,
    n_jobs: int = 1,
    progress: Progress = iter,
    **settings: Unpack[Keywords],
) -> pd.DataFrame:
    """Latency of all, of the slowest and of the long requests under continuous batching, by discipline.

    One row per seed and discipline: columns label, policy, aging_s (NaN where there is none), seed,
    request_rate, mean_ttft_ms, mean_e2el_ms, p99_e2el_ms, long_e2el_ms and short_e2el_ms (means over the
    tenth with the longest answers, and over the others), throughput. `load` is a share of what `continuous`
    gets done; predictions err by `sigma` and cost nothing. `settings` as for `simulate`. InputError where all
    answers are as long as the long ones.
    """
    check_names(settings, starvation, Keywords)
    shown = [f"{aging:g}" for aging in agings]
    first_seed, settings = check(num_seeds, n_jobs, settings, load=(load,), sigmas=(sigma,), agings=shown)
    chosen = policies_of(agings)
    check_policies(*chosen.values())
    machine: Keywords = settings | {"seed": first_seed, "predictor": "exact"}
    _is_long(scenario(trace, **machine).trace)
    rate = load * capacity(trace, num_seeds=num_seeds, **machine)

    def run(seed: int) -> list[dict[str, Any]]:
        shared = _levelled(scenario(trace, **(machine | {"seed": seed, "request_rate": rate})), sigma)
        long = _is_long(shared.trace)
        rows = []
        for label, policy in chosen.items():
            result = shared.run(policy)
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
                }
            )
        return rows

    return frame_of(run, [(first_seed + k,) for k in range(num_seeds)], n_jobs, progress)


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
    made = erring(sigma, charge=False)
    said = perceive(made, shared.trace, stream(shared.seed, "perception"))
    levels = -(-said.predicted // LEVEL_TOKENS)
    users = np.array([f"level {level}" for level in levels.tolist()])
    return replace(shared, predictor=made, trace=replace(shared.trace, priority=levels, user=users))
