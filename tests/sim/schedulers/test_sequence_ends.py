"""How requests end, and leave, under the sequence scheduler: deadlines, rejections, drain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers import SCHEDULERS, OpenSequenceScheduler, SequenceScheduler
from sim.work import Drop, Limits

Requests = Callable[..., list[Request]]
Run = Callable[..., Any]


# Ends other than completion


def test_requests_expire_while_they_wait(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([300, 40, 40], arrival_s=[0, 1, 1], deadline_s=[None, 299.0, 300.0])
    log = run_scheduler(SequenceScheduler(limits), asked)
    assert log.dropped == {1: "expired: its deadline passed while it waited"}
    assert log.finished == [0, 2]


def test_requests_expire_in_their_bin(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([40, 40], deadline_s=[99.0, None])
    log = run_scheduler(OpenSequenceScheduler(limits, max_wait_s=100), asked)
    assert list(log.dropped) == [0]
    assert log.finished == [1]


def test_planned_requests_expire_too(limits: Limits, requests: Requests, run_scheduler: Run) -> None:
    asked = requests([100, 200, 300], deadline_s=[None, 50.0, None])
    log = run_scheduler(SequenceScheduler(limits, vbs="off", batch_size=1), asked)
    assert list(log.dropped) == [1]
    assert [rows for rows, _ in log.batches] == [[0], [2]]


def test_what_the_memory_can_never_hold_is_rejected(requests: Requests, run_scheduler: Run) -> None:
    log = run_scheduler(
        SequenceScheduler(Limits(kv_tokens=1000)), requests([10, 10], prompt_tokens=[488, 489])
    )
    assert log.dropped == {1: "rejected: prompt + max_new_tokens (1001) exceeds the KV capacity (1000)"}
    assert log.finished == [0]
    first = log[0]
    assert isinstance(first.work, Drop)
    assert first.start_s == first.end_s == 0


# Drain


@st.composite
def days(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 25))

    def per_request(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    return {
        "options": {
            "group_size": draw(st.sampled_from([1, 4, 256])),
            "batch_size": draw(st.sampled_from([1, 3, 16])),
            "vbs": draw(st.sampled_from(["table", "memory", "off"])),
            "fcr": draw(st.booleans()),
            "margin": draw(st.sampled_from([0, 30, 0.9])),
            "max_wait_s": draw(st.sampled_from([0, 7, 500])),
            "perceive_batch": draw(st.sampled_from([2, 128])),
        },
        "kv_tokens": draw(st.sampled_from([200, 400, 2000, 10**6])),
        "predicted": per_request(st.one_of(st.none(), st.integers(0, 150))),
        "true": per_request(st.integers(1, 150)),
        "prompt_tokens": per_request(st.integers(1, 80)),
        "arrival_s": sorted(per_request(st.sampled_from([0.0, 0.0, 1.0, 5.5, 90.0, 300.0]))),
        "priority": per_request(st.sampled_from([0, 0, 0, -1, 2])),
        "deadline_s": per_request(st.sampled_from([None, None, None, 10.0, 200.0])),
    }


def asked_of(day: dict[str, Any], requests: Requests) -> list[Request]:
    columns = {k: day[k] for k in ("prompt_tokens", "arrival_s", "priority", "deadline_s")}
    return requests(day["predicted"], max_new_tokens=100, **columns)


@settings(deadline=None, max_examples=200)
@given(day=days())
def test_every_request_ends_exactly_once(day: dict[str, Any], requests: Requests, run_scheduler: Run) -> None:
    scheduler: Any = SCHEDULERS["sequence"](Limits(day["kv_tokens"], perception_tokens=44), **day["options"])
    log = run_scheduler(scheduler, asked_of(day, requests), dict(enumerate(day["true"])))
    dropped = [r.id for work in log.works(Drop) for r in work.requests]
    assert sorted([*log.finished, *dropped]) == list(range(len(day["true"])))
    assert all(reason.startswith(("rejected", "expired")) for reason in log.dropped.values())
    assert scheduler.drain(1e9) == []


@settings(deadline=None, max_examples=200)
@given(day=days(), steps=st.integers(0, 30), in_flight=st.booleans())
def test_drain_gives_back_all_that_has_not_ended_once(
    day: dict[str, Any], steps: int, in_flight: bool, requests: Requests, executor: type[Any]
) -> None:
    scheduler: Any = SCHEDULERS["sequence"](Limits(day["kv_tokens"], perception_tokens=44), **day["options"])
    world = executor(scheduler, asked_of(day, requests), dict(enumerate(day["true"])))
    for _ in range(steps):
        work = world.decide()
        if work is None:
            break
        world.carry_out(work)
    if in_flight:
        world.decide()
    left = [r.id for r in scheduler.drain(world.now)]
    ended = [*world.log.finished, *(r.id for work in world.log.works(Drop) for r in work.requests)]
    to_come = [r.id for r in world.pending]
    assert sorted([*left, *ended, *to_come]) == list(range(len(day["true"])))
    assert scheduler.drain(world.now) == []
    assert scheduler.next_work(world.now) is None


def test_a_drained_scheduler_starts_afresh(limits: Limits, requests: Requests, executor: type[Any]) -> None:
    scheduler = SequenceScheduler(limits)
    world = executor(scheduler, requests([None] * 5), dict.fromkeys(range(5), 20))
    world.carry_out(world.decide())
    world.decide()
    left = scheduler.drain(world.now)
    assert [r.id for r in left] == [0, 1, 2, 3, 4]
    log = executor(scheduler, left, dict.fromkeys(range(5), 20)).run()
    assert sorted(log.finished) == [0, 1, 2, 3, 4]
