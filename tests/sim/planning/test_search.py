"""The searches against queueing theory, on queues that are a recursion of a few lines."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.planning.rate_search import highest_rate
from sim.planning.search import Effort, Search, decide, fewest_replicas
from sim.planning.slo import Observation, Slo, observe, parse_slo
from sim.planning.verdict import FleetPoint, Run, json_value
from traces.errors import InputError

Queue = Callable[[Run], dict[str, np.ndarray[Any, Any]]]


@cache
def m_m_k(run: Run, service_s: float = 1.0, fixed_s: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
    """First come, first served by `replicas` servers: Poisson arrivals, exponential service.

    `fixed_s` is added to every service. The random numbers depend on the seed and the place alone.
    """
    arrivals, services = (np.random.default_rng((run.seed, k)) for k in (0, 1))
    arrival = np.cumsum(arrivals.standard_exponential(run.num_requests)) / run.rate
    service = services.standard_exponential(run.num_requests) * service_s + fixed_s
    free = [0.0] * run.replicas
    start = np.empty(run.num_requests)
    for i, (at, takes) in enumerate(zip(arrival.tolist(), service.tolist(), strict=True)):
        start[i] = begin = max(at, free[0])
        heapq.heapreplace(free, begin + takes)
    finish = start + service
    return {
        "arrival_s": arrival,
        "wait_ms": (start - arrival) * 1e3,
        "finish_s": finish,
        "ttft_ms": (start - arrival) * 1e3,
        "e2el_ms": (finish - arrival) * 1e3,
        "tpot_ms": np.full(run.num_requests, np.nan),
        "output_tokens": np.ones(run.num_requests),
    }


def mean_wait_ms(servers: int, rate: float, service_s: float = 1.0) -> float:
    """Erlang C."""
    load = rate * service_s
    if load >= servers:
        return math.inf
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    waits = blocked / (1 - load / servers * (1 - blocked))
    return waits / (servers / service_s - rate) * 1e3


def carry_out(search: Search[Any], slo: Slo, queue: Queue = m_m_k) -> Any:
    """What the search finds."""
    asked = next(search)
    while True:
        seen: list[Observation] = [observe(slo, queue(run), {}) for run in asked]
        try:
            asked = search.send(seen)
        except StopIteration as end:
            return end.value


def between(servers: int, rate: float, service_s: float) -> float:
    """A mean wait that `servers` keep and one less does not, far from both."""
    enough = mean_wait_ms(servers, rate, service_s)
    return math.sqrt(
        enough * min(mean_wait_ms(servers - 1, rate, service_s) if servers > 1 else 9 * enough, 20 * enough)
    )


ERLANG = [
    (1, 0.5, 1.0),
    (2, 0.9, 1.0),
    (2, 30.0, 0.05),
    (3, 2.2, 1.0),
    (4, 3.2, 1.0),
    (5, 0.4, 10.0),
    (7, 5.5, 1.0),
    (10, 8.0, 1.0),
    (14, 23.0, 0.5),
    (21, 18.0, 1.0),
]


@pytest.mark.parametrize(("servers", "rate", "service_s"), ERLANG)
def test_the_fewest_replicas_are_those_of_erlang_c(servers: int, rate: float, service_s: float) -> None:
    slo = parse_slo(f"wait_mean:{between(servers, rate, service_s)}")
    found = carry_out(fewest_replicas(slo, rate, Effort()), slo, partial(m_m_k, service_s=service_s))
    assert found.replicas == servers and not found.undecided
    assert all(p.verdict != "meets" for p in found.points if p.replicas < servers)
    assert found.at(servers).measured[0].high <= slo.bounds[0].limit


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.6), (2, 1.5), (4, 3.2)])
def test_the_highest_rate_is_within_two_percent_of_theory(servers: int, rate: float) -> None:
    slo = parse_slo(f"wait_mean:{mean_wait_ms(servers, rate)}")
    effort = Effort(num_requests=4000, max_requests=12_000)
    found = carry_out(highest_rate(slo, servers, effort, start=servers / 2, tolerance=0.005), slo)
    assert found.rate == pytest.approx(rate, rel=0.02)
    assert found.low <= found.rate and found.low <= rate <= found.high


@pytest.mark.parametrize("load", [1.1, 1.5, 4.0])
def test_a_queue_that_grows_is_unstable_however_loose_the_bound(load: float) -> None:
    slo = parse_slo("wait_mean:1e9")
    point: FleetPoint = carry_out(decide(slo, 2, 2 * load, Effort()), slo)
    assert point.verdict == "unstable" and point.drift.low > 0
    calm: FleetPoint = carry_out(decide(slo, 2, 1.6, Effort()), slo)
    assert calm.verdict == "meets"


def test_a_bound_below_the_service_itself_is_out_of_reach_and_says_why() -> None:
    slo = parse_slo("e2el_mean:1500")
    found = carry_out(fewest_replicas(slo, 5.0, Effort()), slo, partial(m_m_k, fixed_s=1.0))
    assert (found.replicas, found.outcome) == (None, "unreachable")
    assert found.alone.verdict == "fails" and found.alone.backlog < 0.02
    for words in ("e2el_mean", "one request alone on an idle replica", "1,500 ms", "at 5 requests/s"):
        assert words in found.reason


def test_a_fleet_that_may_not_grow_is_not_enough() -> None:
    slo = parse_slo("wait_mean:100")
    found = carry_out(fewest_replicas(slo, 50.0, Effort(), max_replicas=12), slo)
    assert found.outcome == "unreachable" and "backlog of 12 replicas still grows" in found.reason


def test_a_tail_that_no_run_can_show_is_undecided_and_not_unreachable() -> None:
    slo = parse_slo("wait_p99.99:20000")
    asked: list[Run] = []

    def noted(run: Run) -> dict[str, np.ndarray[Any, Any]]:
        asked.append(run)
        return m_m_k(run)

    found = carry_out(fewest_replicas(slo, 5.0, Effort()), slo, noted)
    assert (found.replicas, found.outcome) == (None, "undecided")
    assert found.likely in (6, 7) and max(run.replicas for run in asked) <= 8
    assert "runs of 6,000 requests are too short" in found.reason
    enough = int(found.reason.split("--max-requests ")[1].split()[0])
    longer = carry_out(fewest_replicas(slo, 5.0, Effort(max_requests=enough)), slo)
    assert longer.outcome == "met" and longer.replicas in (6, 7, 8)


@pytest.mark.parametrize(("rate", "some"), [(200.0, True), (4000.0, False)])
def test_more_requests_in_flight_than_a_run_can_hold_are_undecided(rate: float, some: bool) -> None:
    slo = parse_slo("e2el_p90:60000")
    effort = Effort(num_requests=400, max_requests=800)
    found = carry_out(fewest_replicas(slo, rate, effort, 4096), slo, partial(m_m_k, fixed_s=1.0))
    assert found.outcome == "undecided" and (found.likely is not None) == some
    assert "runs of 800 requests are too short" in found.reason


def test_an_interval_across_the_bound_of_the_largest_fleet_is_undecided() -> None:
    slo = parse_slo(f"wait_mean:{mean_wait_ms(3, 2.4)}")
    effort = Effort(num_requests=500, max_requests=4000, max_seeds=6)
    found = carry_out(fewest_replicas(slo, 2.4, effort, max_replicas=3), slo)
    assert found.outcome == "undecided" and "across the bound" in found.reason


def test_a_rate_that_no_run_can_show_is_undecided() -> None:
    slo = parse_slo("wait_p99.99:1000")
    found = carry_out(highest_rate(slo, 2, Effort(), start=1.0), slo)
    assert (found.rate, found.outcome) == (None, "undecided") and "--max-requests 23000" in found.reason


def test_a_rate_out_of_reach_says_so() -> None:
    slo = parse_slo("e2el_mean:500")
    found = carry_out(highest_rate(slo, 2, Effort(), start=1.0), slo)
    assert found.outcome == "unreachable" and "one request at a time" in found.reason


def test_a_point_on_its_bound_is_simulated_longer_and_then_named_undecided() -> None:
    slo = parse_slo(f"wait_mean:{mean_wait_ms(3, 2.4)}")
    effort = Effort(num_requests=500, max_requests=4000, max_seeds=6)
    asked: list[Run] = []

    def noted(run: Run) -> dict[str, np.ndarray[Any, Any]]:
        asked.append(run)
        return m_m_k(run)

    point: FleetPoint = carry_out(decide(slo, 3, 2.4, effort, patient=True), slo, noted)
    assert point.verdict == "undecided"
    assert (point.num_requests, point.num_seeds) == (4000, 6)
    assert len({run.num_requests for run in asked}) > 1 and {run.seed for run in asked} == set(range(6))
    at = point.measured[0]
    assert at.low <= at.limit <= at.high


WORLDS = st.tuples(st.floats(0.3, 12.0), st.floats(0.1, 3.0), st.integers(0, 1000))
QUICK = {"num_requests": 200, "max_requests": 400, "max_seeds": 4}


@settings(max_examples=40)
@example((1.5, 1.5, 346), 20.0, 2.0)  # so few requests leave 5 replicas undecided for the looser one
@given(WORLDS, st.floats(20, 5000), st.floats(1.0, 4.0))
def test_a_looser_slo_never_needs_more_replicas(
    world: tuple[float, float, int], limit: float, looser: float
) -> None:
    rate, service_s, seed = world
    queue = partial(m_m_k, service_s=service_s)
    answers = []
    for bound in (limit, limit * looser):
        slo = parse_slo(f"wait_p90:{bound}")
        search = fewest_replicas(slo, rate, Effort(**QUICK, first_seed=seed), max_replicas=64)
        answers.append(carry_out(search, slo, queue))
    strict, loose = answers
    # A size that so few requests cannot decide is not said to be too small.
    assert min(loose.replicas or math.inf, *loose.undecided, math.inf) <= (strict.replicas or math.inf)


@settings(max_examples=40)
@given(WORLDS, st.integers(1, 20), st.integers(1, 5), st.floats(50, 5000))
def test_more_replicas_never_lower_goodput(
    world: tuple[float, float, int], servers: int, more: int, limit: float
) -> None:
    rate, service_s, seed = world
    slo = parse_slo("attainment:0.9", {"e2el": limit})
    few, many = (
        observe(slo, m_m_k(Run(k, rate, seed, 300), service_s=service_s), {})
        for k in (servers, servers + more)
    )
    assert many.values[0] >= few.values[0]


def test_an_effort_is_checked() -> None:
    for settings_, says in (
        ({"num_seeds": 2}, "num_seeds: 2"),
        ({"num_requests": 9000}, "max_requests"),
        ({"confidence": 1.0}, "confidence"),
    ):
        with pytest.raises(InputError, match=says):
            Effort(**settings_)  # type: ignore[arg-type]


def test_infinity_becomes_null() -> None:
    assert json_value({"a": (1.0, math.inf), "b": [math.nan]}) == {"a": [1.0, None], "b": [None]}


Seen = Callable[[Run], tuple[float, float, float]]
"""(value, seconds of the mean request, backlog) of a run that was made up."""


def asked_for(search: Search[Any], seen: Seen) -> tuple[Any, list[tuple[int, int, int]]]:
    """What a search finds, and what it asks for: (replicas, seeds, requests a run), one after the other."""
    log = []
    try:
        runs = next(search)
        while True:
            log.append((runs[0].replicas, len(runs), runs[0].num_requests))
            made = [(run, *seen(run)) for run in runs]
            runs = search.send(
                [
                    Observation((value,), 0.0, 1.0, backlog, takes_s, run.num_requests, 0, 1.0, 0.5, 0.5)
                    for run, value, takes_s, backlog in made
                ]
            )
    except StopIteration as stop:
        return stop.value, log


EFFORT = Effort(num_requests=100, max_requests=400, max_seeds=5)
NOISY = (900.0, 1000.0, 1100.0, 900.0, 1000.0)
"""Values by seed: of three 1000 ± 248, of five 980 ± 104."""


def effort_spent(
    limit_ms: float, takes_s: float = 0.1, replicas: int = 1, **how: Any
) -> list[tuple[int, int]]:
    """(seeds, requests a run) that are asked for at a request a second."""
    search = decide(parse_slo(f"e2el_mean:{limit_ms}"), replicas, 1.0, how.pop("effort", EFFORT), **how)
    point, log = asked_for(search, lambda run: (NOISY[run.seed], takes_s, 0.0))
    assert point.num_seeds == log[-1][1] and point.num_requests == log[-1][2]
    return [(seeds, requests) for _, seeds, requests in log]


def test_what_is_undecided_is_run_longer_and_with_more_seeds() -> None:
    assert effort_spent(1000, patient=True) == [(3, 100), (5, 200), (5, 400)]
    assert effort_spent(2000) == effort_spent(500) == [(3, 100)]
    assert effort_spent(1000, effort=EFFORT.at_a_glance()) == [(3, 100)]
    assert effort_spent(1000, effort=EFFORT.at_length()) == [(5, 400)]


def test_what_all_the_effort_would_not_decide_is_left_after_a_quarter_of_it() -> None:
    """Half of the effort is spent at five seeds of 200: all of it brings the interval down to ± 73."""
    assert effort_spent(1000) == [(3, 100), (5, 200)]
    assert effort_spent(1010) == [(3, 100), (5, 200)]
    assert effort_spent(1020) == [(3, 100), (5, 200), (5, 400)]


def test_a_large_fleet_is_run_longer_and_none_beyond_the_most() -> None:
    assert [effort_spent(2000, replicas=k) for k in (2, 5, 100)] == [[(3, 100)], [(3, 200)], [(3, 400)]]


def test_runs_become_as_long_as_it_takes_to_settle() -> None:
    """Which takes 0.8 × 9.375 times as many requests as one takes seconds."""
    assert effort_spent(2000, 13.0) == [(3, 100)]
    assert effort_spent(2000, 14.0) == [(3, 100), (3, 200)]
    assert effort_spent(2000, 32.0) == [(3, 100), (3, 300)]
    # Not even 400 do: if nothing speaks against it, that is all that is to be said.
    assert effort_spent(2000, 64.0) == [(3, 100), (3, 400)]
    assert effort_spent(2000, 64.0, patient=True) == [(3, 100), (3, 400), (5, 400)]
    assert effort_spent(500, 64.0) == [(3, 100)]


def test_a_fleet_that_fails_at_length_gives_way_to_the_next_larger_one() -> None:
    def seen(run: Run) -> tuple[float, float, float]:
        meets = run.rate < 1.0 or run.replicas > 3 or (run.replicas == 3 and run.num_requests < 400)
        return (900.0 if meets else 1100.0), 0.1, 0.0

    found, log = asked_for(fewest_replicas(parse_slo("e2el_mean:1000"), 1.0, EFFORT), seen)
    assert (found.replicas, found.outcome, found.undecided) == (4, "met", ())
    assert [replicas for replicas, *_ in log] == [1, 1, 2, 4, 3, 3, 4]
    assert log[-2:] == [(3, 5, 400), (4, 5, 400)]


def test_no_fleet_helps_where_one_that_is_mostly_idle_fails_as_an_idle_replica_does() -> None:
    """With eight requests in the system eight replicas are not."""
    search = fewest_replicas(parse_slo("e2el_mean:1000"), 1.0, EFFORT)
    found, log = asked_for(search, lambda run: (1100.0, 0.1, 8.0 if run.rate == 1.0 else 0.0))
    assert (found.replicas, found.outcome) == (None, "unreachable")
    assert [replicas for replicas, *_ in log] == [1, 1, 2, 4, 8, 16]
    assert "for one request alone on an idle replica, beyond the bound of 1,000 ms" in found.reason
    search = fewest_replicas(parse_slo("e2el_mean:1000"), 1.0, EFFORT, 3)
    found, log = asked_for(search, lambda run: (1100.0 if run.rate == 1.0 else 900.0, 0.1, 8.0))
    assert [replicas for replicas, *_ in log] == [1, 1, 2, 3]
    assert found.reason == (
        "at 1 requests/s 3 replicas reach e2el_mean 1,100 ms (1,100 to 1,100 ms), and the bound is 1,000 ms; "
        "max_replicas is 3"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_requests": 500}, "max_requests: 500 is below num_requests, 1000"),
        ({"max_seeds": 2}, "max_seeds: 2 is below num_seeds, 3"),
        ({"num_requests": 19}, "num_requests: 19 is below 20"),
        ({"num_seeds": 2}, "num_seeds: 2 is below 3"),
    ],
)
def test_an_effort_that_contradicts_itself_is_refused_by_what_was_given(
    asked: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Effort(**asked)
