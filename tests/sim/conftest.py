"""A tiny world: a machine, requests, and an executor that carries out Work without SimPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from sim.hardware.kv_memory import KvMemory
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from sim.kv_blocks import padded_tokens
from sim.request import Request
from sim.work import Drop, Limits, Outcome, PaddedBatch, Perceive, Prediction, Work


class Step(NamedTuple):
    """One Work, when it began and ended, and what came of it."""

    start_s: float
    end_s: float
    work: Work
    outcome: Outcome


class Log(list[Step]):
    """What the toy executor did, in order."""

    @property
    def batches(self) -> list[tuple[list[int], int]]:
        """(request ids, token limit) of every padded batch."""
        return [([r.id for r in w.requests], w.token_limit) for w in self.works(PaddedBatch)]

    @property
    def perceived(self) -> list[list[int]]:
        """Request ids of every Perceive."""
        return [[r.id for r in w.requests] for w in self.works(Perceive)]

    @property
    def dropped(self) -> dict[int, str]:
        """Request id -> why it was given up."""
        return {r.id: w.reason for w in self.works(Drop) for r in w.requests}

    @property
    def starts(self) -> list[float]:
        """When each padded batch began."""
        return [step.start_s for step in self if isinstance(step.work, PaddedBatch)]

    @property
    def finished(self) -> list[int]:
        """Request ids in the order in which they finished."""
        return [r.id for step in self for r in step.outcome.finished]

    def works(self, kind: type) -> list[Any]:
        return [step.work for step in self if isinstance(step.work, kind)]


class Executor:
    """A decode iteration takes a second, asking for lengths `perceive_s`, a Drop nothing.

    `lengths` maps ids to true lengths; an answer is as long as predicted where it is not there. `told` maps
    ids to what a Perceive answers, the true length where it is not there.
    """

    def __init__(
        self,
        scheduler: Any,
        requests: Sequence[Request],
        lengths: Mapping[int, int] | None = None,
        told: Mapping[int, Prediction] | None = None,
        perceive_s: float = 1.0,
    ) -> None:
        self.scheduler, self.perceive_s = scheduler, perceive_s
        self.pending = sorted(requests, key=lambda r: r.arrival_s)
        self.lengths, self.told = dict(lengths or {}), dict(told or {})
        self.now, self.log = 0.0, Log()

    def decide(self) -> Work | None:
        """The next work, the clock moved on to it; None where nothing is left to wait for."""
        while True:
            while self.pending and self.pending[0].arrival_s <= self.now:
                self.scheduler.submit(self.pending.pop(0), self.now)
            work: Work | None = self.scheduler.next_work(self.now)
            if work is not None:
                return work
            times = [r.arrival_s for r in self.pending[:1]]
            if self.scheduler.wake_at is not None:
                assert self.scheduler.wake_at > self.now
                times.append(self.scheduler.wake_at)
            if not times:
                return None
            self.now = min(times)

    def carry_out(self, work: Work) -> None:
        start = self.now
        if isinstance(work, Perceive):
            assert work.requests
            question_tokens = padded_tokens(work.requests, self.scheduler.limits.perception_tokens)
            assert question_tokens <= self.scheduler.limits.kv_tokens
            self.now += self.perceive_s
            outcome = Outcome(predictions=[self.prediction(r) for r in work.requests])
        elif isinstance(work, PaddedBatch):
            kv_tokens = padded_tokens(work.requests, work.token_limit)
            assert kv_tokens <= self.scheduler.limits.kv_tokens
            iterations = min(work.token_limit, max(self.length(r) for r in work.requests))
            self.now += iterations
            outcome = Outcome(
                iterations,
                [r for r in work.requests if self.length(r) <= iterations],
                [r for r in work.requests if self.length(r) > iterations],
            )
        else:
            outcome = Outcome()
        self.scheduler.record(work, outcome, self.now)
        self.log.append(Step(start, self.now, work, outcome))

    def run(self, most_steps: int = 10_000) -> Log:
        for _ in range(most_steps):
            work = self.decide()
            if work is None:
                return self.log
            self.carry_out(work)
        raise AssertionError(f"still at work after {most_steps} steps")

    def length(self, request: Request) -> int:
        known = self.lengths.get(request.id, request.predicted_tokens)
        assert known is not None
        cap = request.max_new_tokens + request.answered_tokens
        return min(max(1, known), cap) - request.answered_tokens

    def prediction(self, request: Request) -> Prediction:
        if request.id in self.told:
            return self.told[request.id]
        return Prediction(self.lengths[request.id])


def make_requests(
    predicted: Sequence[int | None],
    *,
    arrival_s: float | Sequence[float] = 0.0,
    prompt_tokens: int | Sequence[int] = 10,
    max_new_tokens: int = 512,
    priority: int | Sequence[int] = 0,
    deadline_s: Sequence[float | None] | None = None,
    upper: Sequence[int] | None = None,
) -> list[Request]:
    """One request per prediction, its id its place."""
    n = len(predicted)

    def column(value: Any) -> Any:
        return value if isinstance(value, Sequence) else [value] * n

    return [
        Request(
            i,
            column(arrival_s)[i],
            column(prompt_tokens)[i],
            max_new_tokens,
            column(priority)[i],
            None,
            column(deadline_s)[i],
            predicted[i],
            column(upper)[i],
        )
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def limits() -> Limits:
    """A machine that holds all that these tests ask of it."""
    return Limits(kv_tokens=1_000_000, perception_tokens=44)


@pytest.fixture(scope="session")
def requests() -> Callable[..., list[Request]]:
    return make_requests


@pytest.fixture(scope="session")
def executor() -> type[Executor]:
    return Executor


@pytest.fixture(scope="session")
def run_scheduler() -> Callable[..., Log]:
    """(scheduler, requests, lengths, told, perceive_s) -> Log; see `Executor`."""

    def run(*args: Any, **settings: Any) -> Log:
        return Executor(*args, **settings).run()

    return run


@pytest.fixture(scope="session")
def cost() -> StepCost:
    """10 to 26 ms a decode iteration, and growth with context."""
    return StepCost(
        decode_base=PiecewiseLinear((1, 64, 256), (0.010, 0.014, 0.026)),
        decode_per_context_s=1e-7,
        mixed_base=PiecewiseLinear((1, 64, 4096), (0.011, 0.012, 0.400)),
        mixed_per_context_s=1e-7,
        mixed_per_attention_s=1e-9,
    )


@pytest.fixture(scope="session")
def profile(cost: StepCost) -> Profile:
    """That cost, and room for 200,000 tokens."""
    return Profile(
        name="tiny",
        model=None,
        gpu=None,
        engine="made up",
        step_cost=cost,
        memory=KvMemory(200_000, 1.0, 0, 0, 1),
        provenance=Provenance("measured", "2026-01-01", "made up for tests"),
    )
