"""What is held for a turn to come: for whom, what gives way to it, and when it falls free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim import simulate
from sim.request import KnownBlocks, Request
from sim.scenario.policies import limits_of, make_scheduler
from sim.schedulers.prefixes import path_of
from sim.schedulers.preserving import PreservingScheduler
from sim.work import Drop, Iterations, Limits, MemoryTier, Outcome
from tests.sim.flat_machine import flat_machine


def turn(id: int, session: str, *hashes: int, wait_s: float | None = None, answer: int = -1) -> Request:
    """A request whose prompt is blocks of 32 tokens, of which its session predicts another after the wait."""
    ends = [32 * (k + 1) for k in range(len(hashes))]
    known = KnownBlocks(list(hashes), ends, answer)
    return Request(
        id,
        float(id),
        32 * len(hashes) + 1,
        40,
        blocks=known,
        session_id=session,
        predicted_wait_s=wait_s,
    )


def held(scheduler: Any) -> list[Any]:
    return [each.session for each in scheduler.kv.kept.preserved]


def end(scheduler: Any, request: Request, now: float) -> None:
    """The request is let in, and ends with its first token."""
    work = scheduler.next_work(now)
    assert isinstance(work, Iterations) and request.id in [chunk.request.id for chunk in work.chunks]
    scheduler.record(work, Outcome(1, [request]), now + 1.0)


HOLDING = "continuous:prefix_caching=on,waits=preserve,async_scheduling=off"


def test_nothing_is_held_for_a_turn_that_is_turned_away_or_goes_elsewhere() -> None:
    scheduler: Any = make_scheduler(HOLDING + ",max_num_seqs=1", Limits(16 * 40))
    for session in "abc":
        first = turn(ord(session), session, ord(session), wait_s=5.0)
        scheduler.submit(first, 0.0)
        end(scheduler, first, 0.0)
    assert held(scheduler) == ["a", "b", "c"]
    assert not scheduler.sent_elsewhere(turn(0, "d", ord("a"))), "it begins alike, and is another's"
    assert scheduler.sent_elsewhere(turn(0, "a", ord("a"), 900))
    assert scheduler.next_work(2.0) is None and held(scheduler) == ["b", "c"]
    late = replace(turn(1, "b", ord("b"), 901), deadline_s=3.0)
    scheduler.submit(late, 2.0)
    assert scheduler.back == {1}
    work = scheduler.next_work(4.0)
    assert isinstance(work, Drop) and work.requests == (late,)
    scheduler.record(work, Outcome(), 4.0)
    assert held(scheduler) == ["c"] and not scheduler.back


def test_who_begins_like_a_turn_of_another_session_does_not_come_back() -> None:
    """All begin with the same system prompt, and nothing more is known of them."""
    scheduler: Any = make_scheduler(HOLDING, Limits(16 * 40))
    first = turn(0, "a", 7, wait_s=5.0)
    scheduler.submit(first, 0.0)
    end(scheduler, first, 0.0)
    scheduler.submit(turn(1, "b", 7), 2.0)
    assert not scheduler.back
    scheduler.submit(turn(2, "a", 7), 3.0)
    assert scheduler.back == {2}


def test_what_has_come_and_finds_no_block_for_its_rest_is_given_memory_that_is_held() -> None:
    """Of 19 blocks, 8 are fetched for who waits in memory and wants 5 more; meanwhile an answer grows that
    leaves 8 to be held for the next turn.
    """
    limits = Limits(16 * 20, tiers=(MemoryTier("cpu", 16 * 99, 1.0),), block_size=16)
    scheduler: Any = make_scheduler(HOLDING, limits)
    first = replace(turn(0, "a", 11, wait_s=500.0, answer=12), max_new_tokens=100)
    other = turn(1, "b", 1, 2, 3, 4, 5, 6)
    assert scheduler.tiers.store(99, path_of(other, 16), 0, 8, 0.0)
    scheduler.submit(first, 200.0)
    for k in range(97):
        work = scheduler.next_work(200.0 + k)
        assert isinstance(work, Iterations)
        if k == 0:
            scheduler.submit(other, 200.5)
        scheduler.record(work, Outcome(1, [first] if k == 96 else []), 201.0 + k)
    assert scheduler.coming == {1} and held(scheduler) == ["a"] and scheduler.kv.free == 19 - 8 - 8
    now = 297.0
    while not isinstance(work := scheduler.next_work(now), Iterations):
        assert scheduler.wake_at is not None, "nobody runs, and nothing is on its way"
        now = scheduler.wake_at
    assert [chunk.request.id for chunk in work.chunks] == [1] and not held(scheduler)


@pytest.mark.parametrize("options", ["async_scheduling=off", "async_scheduling=on"])
def test_what_falls_free_in_the_midst_of_a_leap_was_held_until_then(options: str) -> None:
    """Forty iterations by one, and in two leaps, in the last of which a turn goes elsewhere."""
    peaks = []
    for at_a_time in (1, 20):
        scheduler: Any = make_scheduler(
            f"continuous:prefix_caching=on,waits=preserve,{options}", Limits(16 * 40)
        )
        first = turn(0, "a", ord("a"), wait_s=5.0)
        scheduler.submit(first, 0.0)
        end(scheduler, first, 0.0)
        while (work := scheduler.next_work(1.0)) is not None:
            scheduler.record(work, Outcome(1), 1.0)
        scheduler.submit(Request(1, 1.0, 16, 80), 1.0)
        scheduler.record(scheduler.next_work(1.0), Outcome(1), 2.0)
        for done in range(0, 40, at_a_time):
            work = scheduler.next_work(2.0 + done)
            assert work.at_most >= at_a_time
            if done + at_a_time == 40:
                assert scheduler.sent_elsewhere(turn(2, "a", ord("a"), 900))
            scheduler.record(work, Outcome(at_a_time), 2.0 + done + at_a_time)
        scheduler.next_work(42.0)
        assert held(scheduler) == []
        peaks.append(scheduler.kv_peak_tokens)
    assert peaks[0] == peaks[1]


def test_what_two_sessions_have_on_the_host_is_kept_until_both_have_come_back() -> None:
    """Both begin with the same system prompt. Of 8 blocks in CPU memory 4 have to go: those that only the
    first session had, and two that came later.
    """
    limits = Limits(16 * 40, tiers=(MemoryTier("cpu", 16 * 8, 0.01),), block_size=16)
    scheduler: Any = make_scheduler("continuous:prefix_caching=on,waits=swap,async_scheduling=off", limits)
    turns = [
        turn(0, "a", 7, 1, wait_s=50.0),
        turn(1, "b", 7, 2, wait_s=50.0),
        turn(2, "a", 7, 1),
        turn(3, "c", 30),
        turn(4, "d", 40, 41),
    ]
    for each in turns:
        scheduler.submit(each, each.arrival_s)
        end(scheduler, each, 10.0 * each.id)
        if each.id == 1:
            assert [swapped.session for swapped in scheduler.kv.kept.swapped] == ["a", "b"]
    assert [swapped.session for swapped in scheduler.kv.kept.swapped] == ["b"]
    assert scheduler.tiers.cpu.num_evicted == 4
    assert scheduler.tiers.find(9, path_of(turns[1], 16), 0, 4, 90.0) == (4, 90.0)


def test_without_sessions_nothing_is_held() -> None:
    policy = "continuous:prefix_caching=on,waits=preserve"
    scheduler = make_scheduler(policy, limits_of(flat_machine(1.0), 100))
    assert isinstance(scheduler, PreservingScheduler)
    how: dict[str, Any] = {"num_prompts": 40, "profile": flat_machine(0.25), "kv_blocks": 60}
    plain, held = (
        simulate("alpaca-vicuna", policy=each, request_rate=2.0, **how)
        for each in ("continuous:prefix_caching=on", policy)
    )
    assert plain.columns["finish_s"].tolist() == held.columns["finish_s"].tolist()
