"""Queueing theory: waits under Poisson arrivals, one sequence at a time, on one replica and on many.

The waits of one run depend on each other, so a confidence interval comes from independent replications: the
mean of each, its first tenth left out since it begins empty, and Student's t over these means at 99 %. Seeds
are fixed, so that the verdict is the same each time; an interval that is too wide to say anything fails too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from sim import simulate
from sim.hardware.profile import Profile
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

CONTINUOUS = "continuous:max_num_seqs=1,max_num_batched_tokens=100000"
LOADS = [(0.5, 0.1), (0.8, 0.2), (0.95, 0.4)]
"""Load, and the half-width that an interval may have as a share of the mean."""

NUM_REQUESTS = {0.5: 3_000, 0.8: 6_000, 0.95: 8_000}
"""Requests of a replication: the busier, the longer waits depend on each other."""


def machine(step_s: float) -> Profile:
    """So that a request's service is its tokens times `step_s`."""
    return flat_machine(step_s, kv_tokens=10**9)


class Run(NamedTuple):
    """One replication in its steady part: waits (s), and by how much Little's law fails on all of it."""

    waits: FloatArray
    little: float


def runs(
    lengths: Sequence[np.ndarray[Any, Any]], rate: float, profile: Profile, policy: str, **how: Any
) -> list[Run]:
    found = []
    for seed, output in enumerate(lengths):
        n = len(output)
        trace = Trace("theory", np.arange(n), np.full(n, 1), output)
        result = simulate(trace, policy=policy, request_rate=rate, seed=seed, profile=profile, **how)
        arrival, start = result.columns["arrival_s"], result.columns["scheduled_s"]
        found.append(Run((start - arrival)[n // 10 :], little(arrival, start)))
    return found


def little(arrival: FloatArray, start: FloatArray) -> float:
    """The mean number waiting, by a sweep over time, against the rate times the mean wait; 0: they agree."""
    times = np.concatenate([arrival, start])
    order = np.argsort(times, kind="stable")
    level = np.concatenate([np.ones(len(arrival)), -np.ones(len(start))])[order].cumsum()
    span = times.max() - times.min()
    number = float((level[:-1] * np.diff(times[order])).sum()) / span
    return number - len(arrival) / span * float((start - arrival).mean())


def assert_mean(values: Sequence[float], theory: float, narrowest: float) -> None:
    """`theory` lies in the 99 % confidence interval of the mean, and the interval says something."""
    half = stats.t.ppf(0.995, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - theory) <= half
    assert half <= narrowest * theory


def assert_waits(found: Sequence[Run], theory: float, narrowest: float) -> None:
    """Mean waits as in theory, and Little's law on every run."""
    assert_mean([float(run.waits.mean()) for run in found], theory, narrowest)
    assert max(abs(run.little) for run in found) < 1e-6


def geometric(stop: float, num_requests: int, replications: int = 8, seed: int = 100) -> list[Any]:
    """Lengths of which each token is the last with probability `stop`: the exponential law in tokens."""
    return [np.random.default_rng(seed + k).geometric(stop, num_requests) for k in range(replications)]


@pytest.mark.parametrize(
    ("policy", "load", "narrowest"),
    [*((CONTINUOUS, *load) for load in LOADS), ("vanilla:batch_size=1", *LOADS[1])],
)
def test_fixed_lengths_wait_as_in_m_d_1(policy: str, load: float, narrowest: float) -> None:
    tokens, step_s = 20, 0.05
    service_s = tokens * step_s
    found = runs([np.full(NUM_REQUESTS[load], tokens)] * 8, load / service_s, machine(step_s), policy)
    assert_waits(found, load * service_s / (2 * (1 - load)), narrowest)


@pytest.mark.parametrize(
    ("policy", "load", "narrowest"),
    [*((CONTINUOUS, *load) for load in LOADS), ("vanilla:batch_size=1", *LOADS[1])],
)
def test_geometric_lengths_wait_as_in_m_g_1_and_nearly_as_in_m_m_1(
    policy: str, load: float, narrowest: float
) -> None:
    stop, step_s = 1 / 50, 0.02
    mean_s, mean_square = step_s / stop, step_s**2 * (2 - stop) / stop**2
    rate = load / mean_s
    pollaczek_khinchine = rate * mean_square / (2 * (1 - load))
    found = runs(geometric(stop, NUM_REQUESTS[load]), rate, machine(step_s), policy)
    assert_waits(found, pollaczek_khinchine, 1.5 * narrowest)
    m_m_1 = load / (1 - load) * mean_s
    assert pollaczek_khinchine == pytest.approx(m_m_1, rel=0.02)


@pytest.mark.parametrize(("load", "narrowest"), LOADS)
def test_two_kinds_of_lengths_wait_as_in_m_g_1(load: float, narrowest: float) -> None:
    """Nine of ten answers are short, and the tenth is long: Pollaczek-Khinchine, far from M/M/1."""
    step_s, short, long = 0.01, 10, 200
    draws = [np.random.default_rng(200 + k).random(NUM_REQUESTS[load]) for k in range(8)]
    lengths = [np.where(draw < 0.1, long, short) for draw in draws]
    mean_s = step_s * (0.9 * short + 0.1 * long)
    mean_square = step_s**2 * (0.9 * short**2 + 0.1 * long**2)
    rate = load / mean_s
    found = runs(lengths, rate, machine(step_s), CONTINUOUS)
    assert_waits(found, rate * mean_square / (2 * (1 - load)), 2.5 * narrowest)


def erlang_c(servers: int, load: float) -> float:
    """The probability that all servers are busy at an arrival, from Erlang's B by its recursion."""
    offered, blocked = servers * load, 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def test_erlang_c_is_that_of_the_tables() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 0.5) == pytest.approx(1 / 3)
    assert erlang_c(10, 0.8) == pytest.approx(0.40918, abs=1e-5)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("servers", [2, 4, 10])
def test_replicas_before_a_shared_queue_wait_as_in_m_m_k(servers: int, load: float) -> None:
    """Erlang C: how many wait at all, and for how long.

    With 1,000 tokens on average the geometric law is the exponential one: its variance is 0.1 % smaller. Of
    many that are half idle hardly any waits, which takes more requests to be seen.
    """
    num_requests = 12_000 if (servers, load) == (10, 0.5) else NUM_REQUESTS[load]
    stop, step_s = 1 / 1000, 0.001
    mean_s = step_s / stop
    found = runs(
        geometric(stop, num_requests, seed=300),
        servers * load / mean_s,
        machine(step_s),
        CONTINUOUS,
        replicas=servers,
        router="shared-queue",
    )
    waits = erlang_c(servers, load)
    assert_mean([float((run.waits > 0).mean()) for run in found], waits, 0.3)
    assert_waits(found, waits * mean_s / (servers * (1 - load)), 0.5)


def test_routers_rank_as_theory_has_it_at_high_load() -> None:
    """One queue waits least, then the shortest of all queues, of two, in turn, at random (M/M/1 each)."""
    servers, load, stop, step_s = 8, 0.9, 1 / 1000, 0.001
    means = {}
    for router in ("shared-queue", "least-requests", "power-of-two", "round-robin", "random"):
        found = runs(
            geometric(stop, 10_000, replications=1, seed=400),
            servers * load / (step_s / stop),
            machine(step_s),
            CONTINUOUS,
            replicas=servers,
            router=router,
        )
        means[router] = float(found[0].waits.mean())
    assert list(means.values()) == sorted(means.values())
    assert means["random"] == pytest.approx(load / (1 - load), rel=0.25)


class Kind(NamedTuple):
    """A kind of request: its share of all, its true length, and the one that is predicted (tokens)."""

    share: float
    length: int
    predicted: int


KNOWN = [Kind(0.6, 50, 50), Kind(0.3, 150, 150), Kind(0.1, 600, 600)]
PREDICTED = [
    Kind(share * p, length, round(length * factor))
    for share, length, _ in KNOWN
    for p, factor in ((0.25, 0.5), (0.5, 1.0), (0.25, 2.0))
]


@dataclass(frozen=True)
class Written:
    """Predicts what the trace says, and charges nothing."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        assert trace.predicted_tokens is not None
        return trace.predicted_tokens


def times_in_system(kinds: list[Kind], load: float, policy: str, replications: int = 12) -> list[float]:
    """The mean of each replication (s), a token taking a second, its first tenth left out."""
    rate = load / sum(kind.share * kind.length for kind in kinds)
    means = []
    for seed in range(replications):
        rng = np.random.default_rng(500 + seed)
        n = NUM_REQUESTS[load]
        chosen = rng.choice(len(kinds), n, p=[kind.share for kind in kinds])
        length, predicted = (np.array([kind[k] for kind in kinds])[chosen] for k in (1, 2))
        trace = Trace("theory", np.arange(n), np.full(n, 1), length, predicted_tokens=predicted)
        how: Any = {"request_rate": rate, "seed": seed, "profile": machine(1.0), "predictor": Written()}
        result = simulate(trace, policy=f"{CONTINUOUS},{policy}", **how)
        columns = result.columns
        means.append(float((columns["finish_s"] - columns["arrival_s"])[n // 10 :].mean()))
    return means


def shortest_first(kinds: list[Kind], load: float) -> float:
    """Mean time in system where the shortest predicted waiting request goes next: a queue with priorities
    (Cobham); equal ones go in the order in which they came.
    """
    rate = load / sum(kind.share * kind.length for kind in kinds)
    residual = rate * sum(kind.share * kind.length**2 for kind in kinds) / 2

    def load_of(holds: Callable[[Kind], bool]) -> float:
        return rate * sum(kind.share * kind.length for kind in kinds if holds(kind))

    total = 0.0
    for kind in kinds:
        up_to, below = (
            load_of(lambda k, y=kind.predicted: k.predicted <= y),  # type: ignore[misc]
            load_of(lambda k, y=kind.predicted: k.predicted < y),  # type: ignore[misc]
        )
        total += kind.share * (residual / ((1 - up_to) * (1 - below)) + kind.length)
    return total


def shortest_remaining_first(kinds: list[Kind], load: float) -> float:
    """The same where what has the shortest predicted rest runs, and who outlives its prediction is not
    preempted: SPRPT (Mitzenmacher, "Scheduling with predictions and the price of misprediction", 2020); with
    true predictions it is Schrage and Miller's formula for SRPT (1966).
    """
    rate = load / sum(kind.share * kind.length for kind in kinds)

    def load_below(predicted: float) -> float:
        return rate * sum(k.share * k.length for k in kinds if k.predicted < predicted)

    total = 0.0
    for _, length, predicted in kinds:
        ahead = sum(
            k.share
            * (k.length if k.predicted <= predicted else max(0, k.length - (k.predicted - predicted))) ** 2
            for k in kinds
        )
        up_to = rate * sum(k.share * k.length for k in kinds if k.predicted <= predicted)
        wait = rate * ahead / (2 * (1 - up_to) * (1 - load_below(predicted)))
        # While it runs, those preempt it whose whole is predicted to be shorter than its rest.
        rests = np.maximum(predicted - (np.arange(length) + 0.5), 0)
        residence = float(sum(1 / (1 - load_below(rest)) for rest in rests))
        total += next(k.share for k in kinds if (k.length, k.predicted) == (length, predicted)) * (
            wait + residence
        )
    return total


@pytest.mark.parametrize(("load", "narrowest"), LOADS[:2])
@pytest.mark.parametrize("kinds", [KNOWN, PREDICTED])
def test_shortest_first_takes_as_long_as_in_theory(kinds: list[Kind], load: float, narrowest: float) -> None:
    means = times_in_system(kinds, load, "order=shortest-predicted")
    assert_mean(means, shortest_first(kinds, load), narrowest)


@pytest.mark.parametrize(("load", "narrowest"), LOADS[:2])
@pytest.mark.parametrize("kinds", [KNOWN, PREDICTED])
def test_shortest_remaining_first_takes_as_long_as_in_theory(
    kinds: list[Kind], load: float, narrowest: float
) -> None:
    """Just below 1, so that who has outlived its prediction is not preempted."""
    means = times_in_system(kinds, load, "order=shortest-remaining,preempt_until=0.999999")
    assert_mean(means, shortest_remaining_first(kinds, load), narrowest)
    assert shortest_remaining_first(KNOWN, load) < shortest_first(KNOWN, load)
