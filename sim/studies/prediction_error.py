"""Questions that take many simulations: what prediction errors and sampling noise cost. Draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from traces.arguments import checked
from traces.errors import InputError
from traces.spec import names_of
from traces.trace import IntArray, Trace

from ..perception.accuracy import error_report
from ..perception.predictions import perceive
from ..perception.predictors import TUNED, TUNED_SIGMA, FromTrace, Noisy
from ..results.failures import failures_of
from ..scenario.policies import scheduler_maker
from ..scenario.scenario import Scenario, scenario, stream
from ..scenario.settings import Keywords
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.39, 0.5, 0.65, 0.85, 1.1, 1.5)
"""Errors to try, standard deviations of the log length; 0.39 is that of the paper's tuned predictor."""


@checked
def sensitivity(
    trace: Trace | str,
    *,
    policies: Sequence[str] | str = ("sequence:vbs=off,fcr=off", "sequence", "sequence:vbs=memory"),
    baseline: str = "vanilla",
    sigmas: Sequence[float] = SIGMAS,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """Throughput of each policy over that of `baseline`, as predictions get worse.

    One row per policy, sigma and seed: columns policy, sigma, miss, mean_error (tokens, against the perceived
    truth), seed, throughput_ratio, and what failed in the
    worse of the two. Misses grow with sigma in the proportion of the tuned predictor, answers
    are multiples of 50, perception is charged. `policies`: specs, or one text with semicolons between them.
    `settings` as for `simulate` and `Study`; the predictor is replaced. InputError, before anything is
    simulated, where a policy, an error or `num_seeds` cannot be used.
    """
    running, rest = split(settings)
    policies = names_of(policies, "policies")
    check_policies(*policies, baseline)
    check_points(num_seeds, sigmas=sigmas)
    first_seed = rest.pop("seed", 0)
    rest.pop("predictor", None)
    points = [{"sigma": sigma, "seed": first_seed + k} for k in range(num_seeds) for sigma in sigmas]
    with Study(**running) as study:
        about = {"trace": trace, "policies": policies, "baseline": baseline, **rest}
        shared = _Policies(trace, policies, baseline, rest)
        return frame_of(study.run(_sensitivity_rows, shared, points, about))


class _Policies(NamedTuple):
    """What all errors and seeds share."""

    trace: Trace | str
    policies: Sequence[str]
    baseline: str
    settings: Keywords


def _sensitivity_rows(shared: _Policies, sigma: float, seed: int) -> list[dict[str, Any]]:
    predictor = erring(sigma)
    workload = scenario(shared.trace, **(shared.settings | {"predictor": predictor, "seed": seed}))
    predicted = perceive(predictor, workload.trace, stream(seed, "perception")).predicted
    error = error_report(predicted, workload.trace.perceived_truth).error
    base = _summary(workload, shared.baseline)
    rows = []
    for policy in shared.policies:
        summary = _summary(workload, policy)
        rows.append(
            {
                "policy": policy,
                "sigma": sigma,
                "miss": predictor.miss,
                "mean_error": error,
                "seed": seed,
                "throughput_ratio": summary["request_throughput"] / base["request_throughput"],
                **failures_of(base, summary),
            }
        )
    return rows


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
    miss = min(1.0, sigma * TUNED.miss / TUNED_SIGMA)
    try:
        return Noisy(sigma=sigma, miss=miss, round_to=TUNED.round_to, charge=charge)
    except ValueError as error:
        raise InputError(str(error)) from None


@checked
def variance(
    trace: Trace | str,
    *,
    policy: str = "sequence",
    baseline: str = "vanilla",
    **settings: Unpack[StudyKeywords],
) -> tuple[pd.DataFrame, Trace]:
    """What it costs to know exactly how long *another* answer to the same prompt was.

    A perfect predictor of each sample in turn, of the largest of them, and of the answer itself; one row each
    with effective_token_ratio, failure_ratio, throughput_ratio (over `baseline`) and what failed. Returns the
    rows and the trace that was replayed. `settings` as for `simulate` and `Study`. InputError where the trace
    has no samples.
    """
    running, rest = split(settings)
    check_policies(policy, baseline)
    rest |= {"predictor": "exact"}
    workload = scenario(trace, **rest)
    samples = workload.trace.samples
    if samples is None:
        raise InputError(
            f"{workload.trace.name}: it has no samples of the same prompt (columns L_t0.0, L_t0.3, ...)"
        )
    known_lengths: dict[str, IntArray] = {"exact": workload.trace.output_tokens}
    known_lengths |= {name: samples[:, k] for k, name in enumerate(workload.trace.sample_names)}
    known_lengths["largest of all"] = samples.max(axis=1)
    with Study(**running) as study:
        about = {"trace": trace, **rest}
        (base,) = study.run(_summary, workload, [{"policy": baseline}], about)
        shared = _Knowing(workload, policy, known_lengths, base)
        points = [{"predictor": name} for name in known_lengths]
        rows = study.run(_variance_rows, shared, points, {**about, "policy": policy, "base": base})
    return frame_of(rows), workload.trace


class _Knowing(NamedTuple):
    """What all perfect predictors share; `base`: the summary that theirs is compared with."""

    workload: Scenario
    policy: str
    known_lengths: Mapping[str, IntArray]
    base: Mapping[str, Any]


def _variance_rows(shared: _Knowing, predictor: str) -> list[dict[str, Any]]:
    trace = replace(shared.workload.trace, predicted_tokens=shared.known_lengths[predictor])
    summary = replace(shared.workload, trace=trace, predictor=FromTrace()).run(shared.policy).summary
    return [
        {
            "predictor": predictor,
            "effective_token_ratio": summary["effective_token_ratio"],
            "failure_ratio": summary["failure_ratio"],
            "throughput_ratio": summary["request_throughput"] / shared.base["request_throughput"],
            **failures_of(shared.base, summary),
        }
    ]


def _summary(shared: Scenario, policy: str) -> dict[str, Any]:
    summary = shared.run(policy).summary
    if summary["request_throughput"] is None:
        raise InputError(
            f"policy {policy}: no request of {shared.trace.name} completed, so there is no throughput"
        )
    return summary
