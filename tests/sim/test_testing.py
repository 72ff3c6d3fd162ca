"""The checks for other people's classes: each thing that they check can fail, and is told in one line."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sim.request import Request
from sim.schedulers import MicrobatchScheduler
from sim.schedulers.base import BaseScheduler
from sim.testing import check_scheduler
from sim.testing.worlds import random_world
from sim.work import Drop, Limits, Outcome, PaddedBatch, Work


class OneAtATime(BaseScheduler):
    """One request at a time, in order of arrival; what can never fit is turned away."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[Request] = []
        self.running: list[Request] = []

    def submit(self, request: Request, now: float) -> None:
        self.waiting.append(request)

    def next_work(self, now: float) -> Work | None:
        if not self.waiting:
            return None
        request = self.waiting.pop(0)
        if request.prompt_tokens + request.max_new_tokens > self.limits.kv_tokens:
            return Drop((request,), "rejected: does not fit")
        self.running = [request]
        return PaddedBatch((request,), request.max_new_tokens)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        self.running = []

    def drain(self, now: float) -> list[Request]:
        left, self.waiting, self.running = [*self.running, *self.waiting], [], []
        return left


def test_a_small_scheduler_passes() -> None:
    check_scheduler(OneAtATime, is_work_conserving=True)
    check_scheduler("vanilla:batch_size=4", num_worlds=3, seed=5, is_work_conserving=True)


class Loses(OneAtATime):
    def submit(self, request: Request, now: float) -> None:
        if request.id != 3:
            super().submit(request, now)


class Overcommits(MicrobatchScheduler):
    def __init__(self, limits: Limits) -> None:
        super().__init__(Limits(10**9))


class Waits(OneAtATime):
    """Idles for a tenth of a second before every request."""

    since: float | None = None

    def next_work(self, now: float) -> Work | None:
        if self.waiting and self.since is None:
            self.since = self.wake_at = now + 0.1
        if self.since is None or now < self.since:
            return None
        self.since = self.wake_at = None
        return super().next_work(now)


class Rolls(OneAtATime):
    """Goes by a die that nobody gave it."""

    def next_work(self, now: float) -> Work | None:
        random.shuffle(self.waiting)
        return super().next_work(now)


class Forgets(OneAtATime):
    """Does not give back what is in flight."""

    def drain(self, now: float) -> list[Request]:
        self.running = []
        return super().drain(now)


class Leaks(OneAtATime):
    """Takes memory for ever."""

    used = 0

    def next_work(self, now: float) -> Work | None:
        work = super().next_work(now)
        if isinstance(work, PaddedBatch):
            if self.used:
                return Drop(work.requests, "rejected: no memory left")
            self.used = 1
        return work


class Keeps(OneAtATime):
    """Gives back what has ended long ago."""

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        pass


class DrainsTwice(OneAtATime):
    def drain(self, now: float) -> list[Request]:
        return [*self.running, *self.waiting]


class Stuck(OneAtATime):
    def next_work(self, now: float) -> Work | None:
        return Drop((), "rejected: nobody") if self.waiting else None


class Raises(OneAtATime):
    def next_work(self, now: float) -> Work | None:
        if self.waiting and self.waiting[0].deadline_s is not None:
            raise ZeroDivisionError("boom")
        return super().next_work(now)


class RaisesAtOnce(OneAtATime):
    """Before any accelerator is there to run it."""

    def next_work(self, now: float) -> Work | None:
        raise ZeroDivisionError("boom")


class HasNoDrain:
    def __init__(self, limits: Limits) -> None:
        pass

    def submit(self, request: Request, now: float) -> None:
        pass

    def next_work(self, now: float) -> Work | None:
        return None

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        pass


class Speaks(OneAtATime):
    def next_work(self, now: float) -> Any:
        return "go"


class Reads(OneAtATime):
    def next_work(self, now: float) -> Work | None:
        self.waiting.sort(key=lambda r: getattr(r, "id", 0) or r.output_tokens)  # type: ignore[attr-defined]
        return super().next_work(now)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Loses, "drain before it decides gives back [0, 1, 2, 4] of 5 requests"),
        (Overcommits, "KV tokens, the capacity is"),
        (Waits, "idles from"),
        (Rolls, "a second run decides otherwise"),
        (Forgets, "drain with a PaddedBatch in flight gives back [1, 2, 3, 4] of 5 requests"),
        (Leaks, "a new one with"),
        (Keeps, "which have ended"),
        (DrainsTwice, "back twice"),
        (Stuck, "Stuck makes no progress"),
        (Raises, "policy Raises.next_work raised ZeroDivisionError: boom (test_testing.py, line"),
        (RaisesAtOnce, "policy RaisesAtOnce.next_work raised ZeroDivisionError: boom (test_testing.py, line"),
        (HasNoDrain, "policy HasNoDrain raised AttributeError: 'HasNoDrain' object has no attribute 'drain'"),
        (Speaks, "next_work returned 'go', which is no kind of Work"),
        (Reads, "reads output_tokens (line"),
    ],
)
def test_a_scheduler_that_breaks_a_rule_is_caught(scheduler: Any, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_scheduler(scheduler, is_work_conserving=True)
    line = str(caught.value)
    assert message in line and "\n" not in line
    assert line.startswith(f"{scheduler.__name__}: ") and "[world " in line
    assert "raised AssertionError" not in line  # what a check found is not laid to a method


def test_a_scheduler_that_knows_the_true_lengths_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.scenario.scenario import Scenario

    lengths: list[list[int]] = []
    run = Scenario.run

    def spied(self: Scenario, *given: Any, **more: Any) -> Any:
        lengths.append(self.trace.output_tokens.tolist())
        return run(self, *given, **more)

    class Cheats(OneAtATime):
        def next_work(self, now: float) -> Work | None:
            if lengths and all(r.id < len(lengths[-1]) for r in self.waiting):
                self.waiting.sort(key=lambda r: lengths[-1][r.id])
            return super().next_work(now)

    monkeypatch.setattr(Scenario, "run", spied)
    with pytest.raises(AssertionError, match="decides by the true lengths"):
        check_scheduler(Cheats)


def test_the_line_says_how_to_run_the_world_again() -> None:
    with pytest.raises(AssertionError) as caught:
        check_scheduler(Raises, num_worlds=50)
    world = str(caught.value).partition("[world ")[2].partition(":")[0]
    with pytest.raises(AssertionError) as again:
        check_scheduler(Raises, seed=int(world), num_worlds=1)
    assert str(again.value) == str(caught.value)
    assert f"check_scheduler(..., seed={world}, num_worlds=1) runs it again" in str(again.value)


def test_worlds_are_those_of_their_seeds() -> None:
    first, second = random_world(7), random_world(7)
    assert first.settings == second.settings and str(first) == str(second)
    assert (first.trace.prompt_tokens == second.trace.prompt_tokens).all()
    assert len({str(random_world(k)) for k in range(40)}) > 30


def test_who_is_turned_away_on_arrival_has_not_waited() -> None:
    """In this world three requests that can never fit arrive while the machine is idle."""
    check_scheduler("vanilla", seed=1004, num_worlds=1, is_work_conserving=True)


def test_some_worlds_have_requests_with_caps_of_their_own() -> None:
    worlds = [random_world(seed) for seed in range(60)]
    own = [world for world in worlds if world.trace.max_tokens is not None]
    assert 10 <= len(own) <= 30
    assert all("caps of their own" in str(world) for world in own)
    gaps = np.concatenate([world.trace.max_tokens - world.trace.output_tokens for world in own])
    assert (gaps < 0).any() and (gaps == 0).any() and (gaps > 0).any()
    for world in own:
        seen = world.scenario().trace
        assert seen.max_tokens is not None and (seen.output_tokens <= seen.max_tokens).all()


class AllCapsAlike(OneAtATime):
    """Keeps the cap of the first request for all that follow."""

    cap = 0

    def next_work(self, now: float) -> Work | None:
        work = super().next_work(now)
        if not isinstance(work, PaddedBatch):
            return work
        self.cap = self.cap or work.token_limit
        return PaddedBatch(work.requests, self.cap)


def test_a_scheduler_that_takes_all_caps_for_alike_is_found() -> None:
    with pytest.raises(AssertionError, match=r"caps of their own"):
        check_scheduler(AllCapsAlike)
