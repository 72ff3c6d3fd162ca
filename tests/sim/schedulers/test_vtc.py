"""Clients are served evenly, by the paper's bound, and who was away has no credit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.request import Request
from sim.scenario.policies import make_scheduler
from sim.schedulers.vtc import ByClient, VtcScheduler
from sim.work import Iterations, Limits, Outcome
from tests.sim.execution.test_leap import SETTINGS, assert_leaping_changes_nothing, traces
from traces.trace import Trace

BLOCKS = 20
TOKENS = 16 * BLOCKS


def asks(id: int, user: str, prompt: int, arrival_s: float = 0.0) -> Request:
    return Request(id, arrival_s, prompt, TOKENS - prompt, user=user)


def service(policy: str, shapes: dict[str, list[tuple[int, int]]]) -> list[dict[str, int]]:
    """What each client was served, by prompts let in and tokens generated, after each iteration in which both
    have somebody waiting; clients have requests of so many (prompt, answer) tokens, all there from the start.
    """
    scheduler = make_scheduler(policy, Limits(TOKENS + 16))
    requests, lengths = dict[int, Request](), dict[int, int]()
    for user, pairs in shapes.items():
        for prompt, length in pairs:
            request = asks(len(requests), user, prompt)
            requests[request.id], lengths[request.id] = request, length
            scheduler.submit(request, 0.0)
    done, seen, served = Counter[int](), set[int](), Counter[str](dict.fromkeys(shapes, 0))
    running, history = set[int](), list[dict[str, int]]()
    now = 0.0
    while len(seen) < len(requests):
        work = scheduler.next_work(now)
        assert isinstance(work, Iterations)
        running -= {request.id for request in work.evict}
        for chunk in work.chunks:
            request = chunk.request
            if request.id not in seen:
                served[str(request.user)] += request.prompt_tokens
                seen.add(request.id)
            if chunk.last:
                running.add(request.id)
        for id in running - {request.id for request in work.pause}:
            done[id] += 1
            served[str(requests[id].user)] += 2
        finished = [requests[id] for id in sorted(running) if done[id] == lengths[id]]
        running -= {request.id for request in finished}
        now += 1.0
        scheduler.record(work, Outcome(1, finished), now)
        waiting = {request.user for id, request in requests.items() if id not in seen}
        if waiting == set(shapes):
            history.append(dict(served))
    return history


SHAPES = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 90)), min_size=30, max_size=60)
POLICY = "continuous:order={},max_num_seqs={},max_num_batched_tokens=4096,async_scheduling=off"


@settings(max_examples=60)
@given(one=SHAPES, other=SHAPES, seqs=st.sampled_from([1, 3, 50]))
def test_two_clients_with_a_backlog_differ_by_no_more_than_the_theorem_says(
    one: list[tuple[int, int]], other: list[tuple[int, int]], seqs: int
) -> None:
    bound = 2 * max(*(prompt for prompt, _ in one + other), 2 * TOKENS)
    history = service(POLICY.format("vtc", seqs), {"a": one, "b": other})
    assert history and max(abs(served["a"] - served["b"]) for served in history) <= bound


def test_first_come_first_served_is_not_fair_by_that_bound() -> None:
    """A client with long requests, all of which stand before the short ones of the other."""
    shapes = {"a": [(150, 90)] * 40, "b": [(10, 5)] * 40}
    gaps = {
        order: max(abs(served["a"] - served["b"]) for served in service(POLICY.format(order, 50), shapes))
        for order in ("fcfs", "vtc")
    }
    assert gaps["vtc"] <= 4 * TOKENS < gaps["fcfs"]


def entry(id: int, user: str) -> tuple[float, int, Request]:
    return (float(id), id, asks(id, user, 10, float(id)))


def test_who_was_away_has_no_credit() -> None:
    """Lifted to the least of who waits; where nobody does, to the one that left the queue last."""
    queue = ByClient()
    queue.served.update({"a": 500, "b": 300})
    for id, user in enumerate(["a", "b", "c"]):
        queue.push(entry(id, user))
    queue.look()  # the queue was empty, and nobody had left it; then a waits alone
    assert queue.served == {"a": 500, "b": 500, "c": 500}
    assert [queue.pop_first()[2].user for _ in range(3)] == ["a", "b", "c"]
    queue.served["c"] = 700
    queue.push(entry(3, "a"))
    assert queue[0][2].user == "a" and queue.served["a"] == 700 and len(queue) == 1


def test_a_decision_holds_until_another_client_is_first() -> None:
    """The first was served 10 less, and is served 4 more an iteration: it is first in two more."""
    queue = ByClient()
    for id, user in enumerate(["a", "b"]):
        queue.push(entry(id, user))
    queue.look()
    queue.served.update({"a": 5, "b": 15})
    assert queue.holds_for(Counter({"a": 6, "b": 2})) == 3
    assert queue.holds_for(Counter({"a": 2, "b": 2})) == float("inf")


@pytest.mark.parametrize("option", ["preempt_until=0.5", "starve_after=3", "rules=sglang"])
def test_it_does_not_go_with_what_it_knows_nothing_of(option: str) -> None:
    with pytest.raises(Exception, match=f"order: vtc does not go with {option}; .* is needed"):
        make_scheduler(f"continuous:order=vtc,{option}", Limits(TOKENS))


def test_a_prompt_is_counted_once_however_often_it_is_computed() -> None:
    """Memory is short: the later one is evicted, and let in again."""
    scheduler: Any = make_scheduler(POLICY.format("vtc", 4), Limits(16 * 8))
    assert isinstance(scheduler, VtcScheduler)
    first, second = Request(0, 0.0, 40, 60, user="a"), Request(1, 0.0, 40, 60, user="b")
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.0)
    evicted = 0
    for k in range(60):
        work = scheduler.next_work(float(k))
        evicted += len(work.evict)
        scheduler.record(work, Outcome(1, [first] if k == 59 else []), k + 1.0)
    work = scheduler.next_work(60.0)
    assert evicted == 1 and [chunk.request.id for chunk in work.chunks] == [1]
    assert scheduler.waiting.served["a"] == 40 + 2 * 60
    assert 40 < scheduler.waiting.served["b"] < 40 + 2 * 60


@settings(max_examples=60)
@given(
    trace=traces(expire=True),
    how=SETTINGS,
    seqs=st.sampled_from([1, 2, 5, 30]),
    is_ahead=st.sampled_from(["on", "off"]),
    cap=st.sampled_from(["shared", "own"]),
)
def test_leaping_is_iteration_by_iteration(
    trace: Trace, how: dict[str, Any], seqs: int, is_ahead: str, cap: str, profile: Profile
) -> None:
    """Counters move with every iteration, and with them who is first."""
    policy = f"continuous:order=vtc,max_num_seqs={seqs},max_num_batched_tokens=64,async_scheduling={is_ahead}"
    assert_leaping_changes_nothing(trace, policy, profile, how | {"cap": cap})
