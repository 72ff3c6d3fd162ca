"""`sequence` with requeue=on: going on from what was cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim.request import Request
from sim.scenario.policies import make_scheduler
from sim.schedulers import OpenSequenceScheduler, SequenceScheduler
from sim.work import Limits, Outcome, PaddedBatch

Requests = Callable[..., list[Request]]
Run = Callable[..., Any]


def test_the_rest_of_what_was_cut_off_joins_the_next_group(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([50, 50, 90, 40], arrival_s=[0, 0, 1, 1])
    scheduler = SequenceScheduler(limits, requeue=True)
    log = run_scheduler(scheduler, asked, {0: 170, 1: 50, 2: 90, 3: 40})
    # The rest is taken to be as long as all before: 50 of it, then 100.
    assert log.batches == [([0, 1], 50), ([2, 3, 0], 100), ([0], 150)]
    first, _, last = log.works(PaddedBatch)
    assert last.answered == (150,) and first.answered == ()
    (rest,) = last.requests
    assert (rest.prompt_tokens, rest.max_new_tokens) == (10 + 150, 512 - 150)
    assert log.finished == [1, 2, 3, 0]
    assert not scheduler.begun


@pytest.mark.parametrize("max_wait_s", [0.0, 5.0])
def test_what_is_drained_begins_anew(max_wait_s: float, limits: Limits, requests: Requests) -> None:
    """In flight or, without groups, in a bin."""
    scheduler = make_scheduler(f"sequence:requeue=on,max_wait_s={max_wait_s}", limits)
    assert isinstance(scheduler, SequenceScheduler)
    (request,) = requests([50])
    scheduler.submit(request, 0.0)
    work = scheduler.next_work(max_wait_s)
    assert work is not None
    scheduler.record(work, Outcome(50, unfinished=[request]), 50.0)
    again = scheduler.next_work(50.0)
    if max_wait_s:
        assert again is None
    else:
        assert isinstance(again, PaddedBatch) and again.answered == (50,)
    assert scheduler.drain(54.0) == [request] and not scheduler.begun


def test_without_groups_the_rest_goes_back_into_a_bin(
    limits: Limits, requests: Requests, run_scheduler: Run
) -> None:
    asked = requests([50, 50], arrival_s=[0, 55])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=10, requeue=True), asked, {0: 90, 1: 50})
    # 0 leaves at 10 and is cut off at 60; with 1, which has come meanwhile, it goes on at 65.
    assert list(zip(log.batches, log.starts, strict=True)) == [(([0], 50), 10), (([1, 0], 50), 65)]
