"""Queue disciplines: whom each puts first, how priorities age, and what is fair."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers import SCHEDULERS, ContinuousScheduler
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.disciplines import discipline
from sim.schedulers.order import BY_MEMORY, ORDERS, FairShare, Order
from sim.work import Drop, Iterations, Limits, Outcome


def request(
    id: int,
    arrival_s: float = 0.0,
    predicted: int | None = None,
    priority: int = 0,
    user: str | None = None,
    prompt_tokens: int = 10,
) -> Request:
    return Request(id, arrival_s, prompt_tokens, 100, priority, user, None, predicted)


def admitted(order: Order, requests: list[Request], *, now: float = 0.0, aging_s: float = 0.0) -> list[int]:
    """In which order one place is given to requests that all wait, each done after a token."""
    chosen: dict[str, Any] = {"order": order, "aging_s": aging_s, "max_num_seqs": 1}
    scheduler = SCHEDULERS["continuous"](Limits(100_000), **chosen, **CACHING.get(order, {}))
    for r in requests:
        scheduler.submit(r, now)
    ids = []
    while (work := scheduler.next_work(now)) is not None:
        assert isinstance(work, Iterations)
        (chunk,) = work.chunks
        ids.append(chunk.request.id)
        scheduler.record(work, Outcome(1, [chunk.request]), now)
    return ids


CACHING = {order: {"prefix_caching": "on"} for order in BY_MEMORY}
"""Options that some orders need."""

MIXED = [
    request(0, 1.0, 90, 2),
    request(1, 2.0, 50, 0),
    request(2, 3.0, 70, -1),
    request(3, 4.0, 20, 2),
]


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ("fcfs", [0, 1, 2, 3]),
        ("shortest-predicted", [3, 1, 2, 0]),
        ("shortest-remaining", [3, 1, 2, 0]),
        ("priority", [2, 1, 0, 3]),
        ("fair", [0, 1, 2, 3]),
    ],
)
def test_whom_each_discipline_puts_first(order: Order, ids: list[int]) -> None:
    assert admitted(order, MIXED) == ids
    assert order in ORDERS


@pytest.mark.parametrize("order", ORDERS)
def test_ties_go_by_submission(order: Order) -> None:
    alike = [request(i, 5.0, 40, user=f"user {i}") for i in (3, 1, 4, 0, 2)]
    assert admitted(order, alike) == [3, 1, 4, 0, 2]


def test_remaining_is_what_is_left_of_the_prediction_then_the_excess() -> None:
    rank = discipline(ContinuousOptions(order="shortest-remaining"), Limits(0))
    r = request(0, predicted=50)
    assert [rank(r, generated) for generated in (0, 30, 50, 90)] == [50, 20, 0, 40]
    assert discipline(ContinuousOptions(order="shortest-predicted"), Limits(0))(r, 30) == 50


def test_a_priority_level_is_worth_so_many_seconds() -> None:
    late = [request(0, arrival_s=0.0, priority=3), request(1, arrival_s=25.0, priority=0)]
    assert admitted("priority", late, now=25.0) == [1, 0]
    assert admitted("priority", late, now=25.0, aging_s=10.0) == [1, 0]
    assert admitted("priority", late, now=25.0, aging_s=8.0) == [0, 1]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.floats(0, 100)), min_size=2, max_size=8),
    st.floats(0.1, 50),
    st.floats(100, 1000),
)
def test_ageing_is_a_level_per_interval_waited(
    asked: list[tuple[int, float]], aging_s: float, now: float
) -> None:
    """Ranks given at arrival sort as if each were aged at the time of asking."""
    rank = discipline(ContinuousOptions(order="priority", aging_s=aging_s), Limits(0))
    for (p, a), (q, b) in itertools.combinations(asked, 2):
        aged = (p - (now - a) / aging_s) - (q - (now - b) / aging_s)
        if abs(aged) > 1e-6:
            ranks = rank(request(0, a, priority=p), 0) - rank(request(1, b, priority=q), 0)
            assert (ranks > 0) == (aged > 0)


def test_fair_alternates_users_whatever_their_backlog() -> None:
    heavy = [request(i, user="heavy", predicted=40) for i in range(20)]
    light = [request(20 + i, user="light", predicted=40) for i in range(3)]
    ids = admitted("fair", heavy + light)
    assert [i for i in ids if i >= 20] == [20, 21, 22]
    assert max(ids.index(i) for i in (20, 21, 22)) <= 6


def test_fair_counts_work_not_requests() -> None:
    long = [request(i, user="long", predicted=90) for i in range(4)]  # 100 tokens each
    short = [request(10 + i, user="short", predicted=10) for i in range(20)]  # 20 tokens each
    ids = admitted("fair", long + short)
    assert Counter(i < 10 for i in ids[:12]) == {True: 2, False: 10}


def test_who_was_away_has_no_credit() -> None:
    """A user who comes back starts where the service is, not where it once was."""
    rank = FairShare()
    for i in range(5):
        r = request(i, user="steady")
        rank(r, 0)
        rank.admitted(r)
    first, second = request(8, user="back"), request(9, user="back")
    assert rank(first, 0) == rank.served == 4 * 110
    assert rank(second, 0) == rank.served + 110


def test_fair_does_not_count_what_was_given_up_waiting() -> None:
    """Two of a user's three long requests expire; from then on one is behind him."""

    def long(id: int, deadline_s: float) -> Request:
        return replace(request(id, user="a", prompt_tokens=500), deadline_s=deadline_s)

    fair = FairShare()
    for late in (long(0, 1.0), long(1, 1.0), long(2, 9.0)):
        fair(late, 0)
    assert fair(request(3, 1.0, user="a"), 0) == 1800
    assert fair(request(4, 1.5, user="a"), 0) == 1910 - 1200
    fair.admitted(long(2, 9.0))
    assert fair.in_time == {2}
    assert fair(request(5, 10.0, user="a"), 0) == max(1200, 1910 - 1200 + 110)
    assert fair.in_time == set() and not fair.patience


def test_fair_ranks_do_not_move_when_asked_again() -> None:
    rank = FairShare()
    r = request(0, user="one")
    assert rank(r, 0) == rank(r, 50) == 0.0


@pytest.mark.parametrize("order", ["fcfs", "fair"])
def test_a_heavy_user_starves_nobody_under_fair(order: Order, limits: Limits) -> None:
    """One place, a user who asks more than it serves, one who asks little: how long does that one wait?"""
    scheduler = ContinuousScheduler(limits, max_num_seqs=1, order=order)
    pending = [request(i, 0.0, user="heavy", predicted=30) for i in range(40)]
    pending += [request(100 + i, 60.0 * (i + 1), user="light", predicted=30) for i in range(5)]
    left: dict[int, int] = {}
    waited: dict[int, float] = {}
    now = 0.0
    while True:
        while pending and pending[0].arrival_s <= now:
            r = pending.pop(0)
            left[r.id] = 30
            scheduler.submit(r, now)
        work = scheduler.next_work(now)
        if work is None:
            break
        assert isinstance(work, Iterations)
        assert not isinstance(work, Drop)
        for chunk in work.chunks:
            waited[chunk.request.id] = now - chunk.request.arrival_s
        running = [request for *_, request in scheduler.running.values()]
        for r in running:
            left[r.id] -= 1
        now += 1.0
        scheduler.record(work, Outcome(1, [r for r in running if left[r.id] == 0]), now)
    longest = max(wait for id, wait in waited.items() if id >= 100)
    assert (longest <= 30) == (order == "fair")


@pytest.mark.parametrize("order", ORDERS)
def test_a_discipline_ranks_before_anything_is_predicted(order: Order) -> None:
    options: Any = CACHING.get(order, {})
    rank: Callable[[Request, int], float] = discipline(
        ContinuousOptions(order=order, aging_s=1.0, **options), Limits(0)
    )
    assert rank(request(0, 3.0), 0) >= 0
