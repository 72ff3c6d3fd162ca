"""How many requests per second a policy gets done, which is the measure of a load. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack, cast

import numpy as np

from traces.arguments import checked
from traces.errors import InputError
from traces.trace import Trace

from ..results.result import Result
from ..scenario.scenario import scenario
from ..scenario.settings import Keywords
from .prediction_error import check_points, check_policies
from .study import Study, StudyKeywords, split

IDLE_FACTOR = 10.0
"""How many times as long as the median on an idle machine a good request may take."""


@checked
def capacity(
    trace: Trace | str, *, policy: str = "continuous", num_seeds: int = 1, **settings: Unpack[StudyKeywords]
) -> float:
    """Requests/s that a policy gets done while there is always one waiting; the mean over seeds.

    Everything arrives at once. The first and the last tenth of the requests to finish are left out, in which
    batches fill up and run empty. `settings` as for `simulate` and `Study`. InputError where fewer than two
    requests complete, or `num_seeds` is below 1.
    """
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


@checked
def idle_bound(trace: Trace | str, *, rate: float, **settings: Unpack[StudyKeywords]) -> dict[str, float]:
    """A bound for a good request where none is given: 10 times the median E2EL of `continuous` on a machine
    that idles, at a hundredth of `rate` (its capacity in requests/s); `{"e2el": ms}`.

    It bounds the whole answer, since a padded batch returns as one. `settings` as for `simulate` and `Study`.
    """
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


def check(num_seeds: int, settings: Keywords, **lists: Sequence[Any]) -> tuple[int, Keywords]:
    """The first seed and the other settings, once all these can be used; lists as for `check_points`."""
    check_points(num_seeds, **lists)
    if settings.get("request_rate") is not None:
        raise InputError("request_rate: an experiment about load sets it; give rates or loads instead")
    rest = settings.copy()
    rest.pop("request_rate", None)
    return rest.pop("seed", 0), rest
