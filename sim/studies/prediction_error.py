"""Questions that take many simulations: what prediction errors and sampling noise cost. Draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from traces.errors import InputError
from traces.spec import names_of
from traces.trace import IntArray, Trace

from ..perception.accuracy import error_report
from ..perception.predictions import perceive
from ..perception.predictors import TUNED, FromTrace, Noisy
from ..scenario.policies import scheduler_maker
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords, check_names

if TYPE_CHECKING:
    import pandas as pd

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.39, 0.5, 0.65, 0.85, 1.1, 1.5)
"""Errors to try, standard deviations of the log length; 0.39 is that of the paper's tuned predictor."""

Progress = Callable[[Sequence[Any]], Iterable[Any]]


def sensitivity(
    trace: Trace | str,
    *,
    policies: Sequence[str] | str = ("sequence:vbs=off,fcr=off", "sequence", "sequence:vbs=memory"),
    baseline: str = "vanilla",
    sigmas: Sequence[float] = SIGMAS,
    num_seeds: int = 3,
    progress: Progress = iter,
    **settings: Unpack[Keywords],
) -> pd.DataFrame:
    """Throughput of each policy over that of `baseline`, as predictions get worse.

    One row per policy, sigma and seed: columns policy, sigma, miss, mean_error (tokens, against the perceived
    truth), seed, throughput_ratio. Misses grow with sigma in the proportion of the tuned predictor, answers
    are multiples of 50, perception is charged. `policies`: specs, or one text with semicolons between them.
    `settings` as for `simulate`; its predictor is replaced. InputError, before anything is simulated, where a
    policy, an error or `num_seeds` cannot be used.
    """
    import pandas as pd

    check_names(settings, sensitivity, Keywords)
    policies = names_of(policies, "policies")
    check_policies(*policies, baseline)
    check_points(num_seeds, sigmas=sigmas)
    first_seed = settings.pop("seed", 0)
    rows = []
    for sigma, seed in progress([(s, first_seed + k) for k in range(num_seeds) for s in sigmas]):
        made = erring(sigma)
        shared = scenario(trace, **(settings | {"predictor": made, "seed": seed}))
        said = perceive(made, shared.trace, stream(seed, "perception"))
        error = error_report(said.predicted, shared.trace.perceived_truth).error
        base = _throughput(shared, baseline)
        rows += [
            {
                "policy": policy,
                "sigma": sigma,
                "miss": made.miss,
                "mean_error": error,
                "seed": seed,
                "throughput_ratio": _throughput(shared, policy) / base,
            }
            for policy in policies
        ]
    return pd.DataFrame(rows)


def check_policies(*policies: str) -> None:
    """InputError where one of them is none."""
    for policy in policies:
        scheduler_maker(policy)


def check_points(num_seeds: int, **lists: Sequence[Any]) -> None:
    """InputError where there is no seed, and where one of the lists is empty, or has a value twice or one
    that cannot be used: rates and loads are above 0 and finite, sigmas between 0 and 10.
    """
    if num_seeds < 1:
        raise InputError(f"num_seeds: {num_seeds} must be at least 1")
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise InputError(f"{name}: at least one is needed, and none twice ({len(values)} given)")
    for name in ("rates", "loads", "load"):
        for value in lists.get(name, ()):
            if not 0 < value < np.inf:
                raise InputError(f"{name}: {value:g} is not above 0 and finite")
    for sigma in lists.get("sigmas", ()):
        erring(sigma)


def erring(sigma: float, *, charge: bool = True) -> Noisy:
    """A predictor with that standard deviation of the log length, its share of misses in proportion to the
    tuned one's; InputError where it is not between 0 and 10.
    """
    miss = min(1.0, sigma * TUNED.miss / TUNED.sigma)
    try:
        return Noisy(sigma=sigma, miss=miss, round_to=TUNED.round_to, charge=charge)
    except ValueError as error:
        raise InputError(str(error)) from None


def variance(
    trace: Trace | str,
    *,
    policy: str = "sequence",
    baseline: str = "vanilla",
    progress: Progress = iter,
    **settings: Unpack[Keywords],
) -> tuple[pd.DataFrame, Trace]:
    """What it costs to know exactly how long *another* answer to the same prompt was.

    A perfect predictor of each sample in turn, of the largest of them, and of the answer itself; one row each
    with effective_token_ratio, failure_ratio and throughput_ratio (over `baseline`). Returns the rows and the
    trace that was replayed. InputError where the trace has no samples.
    """
    import pandas as pd

    check_names(settings, variance, Keywords)
    check_policies(policy, baseline)
    shared = scenario(trace, **(settings | {"predictor": "exact"}))
    samples = shared.trace.samples
    if samples is None:
        raise InputError(
            f"{shared.trace.name}: it has no samples of the same prompt (columns L_t0.0, L_t0.3, ...)"
        )
    told: dict[str, IntArray] = {"exact": shared.trace.output_tokens}
    told |= {name: samples[:, k] for k, name in enumerate(shared.trace.sample_names)}
    told["largest of all"] = samples.max(axis=1)
    base = _throughput(shared, baseline)
    rows = []
    for name in progress(list(told)):
        knowing = replace(shared.trace, predicted_tokens=told[name])
        summary = replace(shared, trace=knowing, predictor=FromTrace()).run(policy).summary
        rows.append(
            {
                "predictor": name,
                "effective_token_ratio": summary["effective_token_ratio"],
                "failure_ratio": summary["failure_ratio"],
                "throughput_ratio": summary["request_throughput"] / base,
            }
        )
    return pd.DataFrame(rows), shared.trace


def _throughput(shared: Scenario, policy: str) -> float:
    value = shared.run(policy).summary["request_throughput"]
    if value is None:
        raise InputError(
            f"policy {policy}: no request of {shared.trace.name} completed, so there is no throughput"
        )
    return float(value)
