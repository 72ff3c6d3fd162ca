"""Vanilla batching: first come, first served, to the longest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers import MicrobatchScheduler
from sim.work import Drop, Limits

Requests = Callable[..., list[Request]]
Run = Callable[..., Any]


def test_batches_in_order_of_arrival(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(MicrobatchScheduler(limits, batch_size=3), requests([9, 400, 3, 5, 5, 8, 1]))
    assert log.batches == [([0, 1, 2], 512), ([3, 4, 5], 512), ([6], 512)]
    assert log.starts == [0, 400, 408]


def test_takes_what_waits_and_never_waits_for_more(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([10] * 5, arrival_s=[0, 1, 2, 3, 100])
    log = run_scheduler(MicrobatchScheduler(limits), asked)
    assert [rows for rows, _ in log.batches] == [[0], [1, 2, 3], [4]]
    assert log.starts == [0, 10, 100]


def test_sixteen_by_default(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(MicrobatchScheduler(limits), requests([1] * 40))
    assert [len(rows) for rows, _ in log.batches] == [16, 16, 8]


def test_as_many_as_the_memory_holds(requests: Requests, run_scheduler: Run) -> None:
    asked = requests([1] * 4, prompt_tokens=[10, 10, 88, 10], max_new_tokens=12)
    # Three short rows take 3 x 22 tokens; with the long prompt two rows are 2 x 100.
    log = run_scheduler(MicrobatchScheduler(Limits(kv_tokens=199)), asked)
    assert log.batches == [([0, 1], 12), ([2], 12), ([3], 12)]


def test_priorities_and_predictions_do_not_matter(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([500, 3, 40], priority=[5, -3, 0])
    assert run_scheduler(MicrobatchScheduler(limits), asked).batches == [([0, 1, 2], 512)]


def test_rejected_and_expired(requests: Requests, run_scheduler: Run) -> None:
    asked = requests([400, 7, 7], prompt_tokens=[10, 489, 10], deadline_s=[None, None, 399.0])
    log = run_scheduler(MicrobatchScheduler(Limits(kv_tokens=1000), batch_size=1), asked)
    assert log.dropped == {
        1: "rejected: prompt + max_new_tokens (1001) exceeds the KV capacity (1000)",
        2: "expired: its deadline passed while it waited",
    }
    assert log.finished == [0]


def test_bad_options_are_refused(limits: Limits) -> None:
    with pytest.raises(ValueError, match=r"^batch_size: 0 must be at least 1$"):
        MicrobatchScheduler(limits, batch_size=0)


@settings(deadline=None, max_examples=100)
@given(
    prompts=st.lists(st.integers(1, 150), min_size=1, max_size=40),
    arrivals=st.lists(st.floats(0, 500), min_size=40, max_size=40),
    deadlines=st.lists(st.sampled_from([None, None, 10.0, 100.0]), min_size=40, max_size=40),
    batch_size=st.integers(1, 20),
    steps=st.integers(0, 60),
    in_flight=st.booleans(),
)
def test_nothing_is_lost_whenever_it_is_drained(
    prompts: list[int],
    arrivals: list[float],
    deadlines: list[float | None],
    batch_size: int,
    steps: int,
    in_flight: bool,
    requests: Requests,
    executor: type[Any],
) -> None:
    n = len(prompts)
    asked = requests(
        [7] * n, prompt_tokens=prompts, max_new_tokens=20, arrival_s=arrivals[:n], deadline_s=deadlines[:n]
    )
    scheduler = MicrobatchScheduler(Limits(kv_tokens=160), batch_size=batch_size)
    world = executor(scheduler, asked)
    for _ in range(steps):
        work = world.decide()
        if work is None:
            break
        world.carry_out(work)
    if in_flight:
        world.decide()
    ended = [*world.log.finished, *(r.id for work in world.log.works(Drop) for r in work.requests)]
    left = [r.id for r in scheduler.drain(world.now)]
    assert sorted([*ended, *left, *(r.id for r in world.pending)]) == list(range(n))
    assert scheduler.next_work(world.now) is None
