"""`check_scheduler`: what must hold of a scheduler."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from traces.arguments import checked
from traces.trace import FloatArray, IntArray, Trace

from ..execution.blame import blame
from ..fleet.routers import ROUTERS
from ..perception.predictors import FromTrace
from ..request import Request
from ..scenario.policies import Policy, policy_name, scheduler_maker
from ..scenario.scenario import Scenario
from ..schedulers.base import CompleteScheduler
from ..work import Drop, Limits, Perceive, Scheduler, Work
from . import invariants
from .worlds import FREE_PREDICTORS, World, random_world, reported, require

FAILURES: tuple[dict[str, float], ...] = (
    {},
    {"mtbf_s": 4.0, "mttr_s": 0.5},
    {"mtbf_s": 30.0, "mttr_s": 20.0, "startup_s": 3.0},
)
LABEL = "checked"
ROOM = Limits(kv_tokens=100_000, perception_tokens=44)


@checked
def check_scheduler(
    factory: Policy, *, num_worlds: int = 30, seed: int = 0, is_work_conserving: bool = False
) -> None:
    """What must hold of a scheduler, in worlds `seed`, `seed` + 1, ...

    `factory` is a class or another callable of `Limits`, or a text: `NAME` or `module:Class`, with
    `[:key=value,...]` behind it. Every request ends once; times are in order; memory is never overcommitted,
    and what was taken is given back; nothing depends on the true lengths, on chance or on how often it is
    asked; a replica that fails gives back all its requests; the run gets on. With `is_work_conserving` it
    never idles while a request is there. Raises AssertionError with one line, which names the world, for the
    first of these that fails.
    """
    made = list[CompleteScheduler]()
    make, name = _keeping(scheduler_maker(factory), made), policy_name(factory)
    with reported("check_scheduler", name, seed, "any"), blame(lambda: made):
        _check_source(type(make(ROOM)))
        _check_drain(make)
    for k in range(seed, seed + num_worlds):
        world = random_world(k)
        made.clear()
        with reported("check_scheduler", name, k, world), blame(lambda: made):
            _check_alone(make, world, is_work_conserving)
            _check_fleet(make, world)
            _check_sees_no_lengths(make, world)


def _check_source(kind: type[Scheduler]) -> None:
    """No name in the class's own source is that of a true length."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return  # no source at hand: what it does is checked all the same
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            require(node.attr != "output_tokens", f"reads output_tokens (line {node.lineno} of the class)")


def _check_drain(make: Callable[[Limits], CompleteScheduler]) -> None:
    """A scheduler gives back all requests, those in flight too, and forgets them."""
    for is_in_flight in (False, True):
        scheduler = make(ROOM)
        given = [
            Request(i, 0.0, 10 + i, 100, predicted_tokens=50, predicted_upper_tokens=60) for i in range(5)
        ]
        for request in given:
            scheduler.submit(request, 0.0)
        work = _checked(scheduler.next_work(0.0)) if is_in_flight else None
        left = sorted(request.id for request in scheduler.drain(0.0))
        when = f"with a {type(work).__name__} in flight" if work is not None else "before it decides"
        require(
            isinstance(work, Drop) or left == [0, 1, 2, 3, 4], f"drain {when} gives back {left} of 5 requests"
        )
        again = scheduler.drain(0.0)
        require(not again, f"drain gives {[r.id for r in again]} back twice")
        work = _checked(scheduler.next_work(0.0))
        require(work is None, "finds work after drain gave everything back")


def _checked(work: Work | None) -> Work | None:
    """What `next_work` returned, which is of one of the kinds of Work."""
    is_work = work is None or isinstance(work, get_args(Work))
    require(is_work, f"next_work returned {work!r}, which is no kind of Work")
    return work


def _check_alone(make: Callable[[Limits], CompleteScheduler], world: World, is_work_conserving: bool) -> None:
    """One accelerator."""
    shared, kept = world.scenario(), list[CompleteScheduler]()
    result = shared.run(_keeping(make, kept), LABEL, log=True)
    invariants.check_run(result, [shared.limits.kv_tokens])
    invariants.check_same(result, shared.run(make, LABEL, log=True), "a second run")
    if is_work_conserving and shared.max_concurrency is None:
        invariants.check_work_conserving(result)
    free = world.scenario(predictor=FREE_PREDICTORS[world.seed % len(FREE_PREDICTORS)])
    invariants.check_leap(free.run(make, log=True), free.run(make, log=True, leap=False))
    end_s = max(b.end_s for b in result.batches)
    _check_left_nothing(shared, end_s, kept[0], make(shared.limits))


def _check_left_nothing(
    shared: Scenario, now: float, used: CompleteScheduler, fresh: CompleteScheduler
) -> None:
    """Nothing is left of what has ended: it decides as a new one does, on a request that takes all memory."""
    left = used.drain(now)
    require(not left, f"still has requests {[r.id for r in left]} which have ended")
    limits = shared.limits
    most = limits.kv_tokens - limits.perception_tokens - 2 * limits.block_size
    if most < 2:
        return
    answer = min(shared.max_new_tokens, most // 2)
    decisions = []
    for scheduler in (used, fresh):
        # Behind all that it has seen: some rank a request by what was the least important so far.
        request = Request(0, now, most - answer, answer, 99, None, None, answer, answer)
        scheduler.submit(request, now)
        decisions.append(_decision(scheduler.next_work(now)))
    require(
        decisions[0] == decisions[1],
        f"after a run it answers a request that takes all memory with {decisions[0]}, a new one with "
        f"{decisions[1]}: memory was not given back",
    )


def _check_fleet(make: Callable[[Limits], CompleteScheduler], world: World) -> None:
    """Several accelerators that differ in memory, behind a router, failing now and then."""
    rng = np.random.default_rng(np.random.SeedSequence(world.seed, spawn_key=(1,)))
    how: dict[str, Any] = {"router": str(rng.choice(ROUTERS.names)), **FAILURES[int(rng.integers(3))]}
    how["predictor"] = FREE_PREDICTORS[int(rng.integers(len(FREE_PREDICTORS)))]
    shared, kept = world.fleet(rng, **how), list[CompleteScheduler]()
    result = shared.run(_keeping(make, kept), log=True)
    invariants.check_run(result, [machine.limits.kv_tokens for machine in shared.machines])
    end_s = max(b.end_s for b in result.batches)
    for number, scheduler in enumerate(kept):
        left = scheduler.drain(end_s)
        require(not left, f"replica {number} still has requests {[r.id for r in left]} which have ended")


@dataclass(frozen=True)
class Stated(FromTrace):
    """The trace's predictions, and distributions that are made of these alone."""

    def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> FloatArray:
        """From nothing to twice the prediction, all alike."""
        made: FloatArray = 2 * predicted[:, None] * levels
        return made


def _check_sees_no_lengths(make: Callable[[Limits], CompleteScheduler], world: World) -> None:
    """As long as nothing has run, other true lengths do not change what is decided."""
    if make(ROOM).upper_quantile is not None:
        return  # the upper bounds that it is given are calibrated on the true lengths
    trace, first = world.trace, list[Any]()
    n = len(trace)
    for lengths in (trace.output_tokens, np.roll(trace.output_tokens, 1) % 600 + 1):
        other = replace(trace, output_tokens=lengths, arrival_s=np.zeros(n))
        decided = list[Any]()
        settings = {"predictor": Stated(), "max_new_tokens": 600, "request_rate": None}
        shared = World(world.seed, other, {**world.settings, **settings}).scenario()
        shared.run(lambda limits, decided=decided: _Watched(make(limits), decided))  # type: ignore[misc]
        first.append(decided)
    require(first[0] == first[1], f"decides by the true lengths: {first[0][-1:]} and {first[1][-1:]}")


class _Watched:
    """The same scheduler; `decided` gets its decisions up to the first that tells something of a length."""

    def __init__(self, scheduler: CompleteScheduler, decided: list[Any]) -> None:
        self.scheduler, self.decided, self.is_over = scheduler, decided, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def next_work(self, now: float) -> Work | None:
        """Its decision."""
        work = self.scheduler.next_work(now)
        if work is not None and not self.is_over:
            self.decided.append(_decision(work))
            self.is_over = not isinstance(work, (Drop, Perceive))
        return work


def _decision(work: Work | None) -> Any:
    """What can be compared of a Work."""
    if work is None:
        return None
    chunks = [(c.num_tokens, c.last, c.cached) for c in getattr(work, "chunks", ())]
    ids = [request.id for request in work.requests]
    return type(work).__name__, ids, getattr(work, "token_limit", 0), chunks, getattr(work, "reason", "")


def _keeping(
    make: Callable[[Limits], CompleteScheduler], kept: list[CompleteScheduler]
) -> Callable[[Limits], CompleteScheduler]:
    def build(limits: Limits) -> CompleteScheduler:
        kept.append(make(limits))
        return kept[-1]

    return build
