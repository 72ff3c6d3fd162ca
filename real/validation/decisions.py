"""What a scheduler decided, iteration by iteration, in a form in which an engine's own decisions can be put
beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sim.hardware.host import NO_HOST
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.step_cost import StepCost
from sim.kv_blocks import blocks_for
from sim.request import Request
from sim.scenario.policies import make_scheduler
from sim.scenario.scenario import Scenario
from sim.schedulers.base import complete
from sim.work import Iterations, Limits, Outcome, Scheduler, Work

from ..engines.decision import Decision

if TYPE_CHECKING:
    from ..execution.run import Scheduled

FLAT = PiecewiseLinear((1,), (1.0,))
"""Every iteration takes a second, whatever it computes."""


class Recorder:
    """A scheduler that also writes down the decisions of the one it stands for, in `decisions`.

    Its clock counts iterations: each has to take a second, and the executor to go one by one.
    """

    def __init__(self, scheduler: Scheduler, block_size: int, decisions: list[Decision]) -> None:
        self.scheduler, self.block_size, self.decisions = scheduler, block_size, decisions
        self.held: dict[int, int] = {}  # id -> tokens in memory, by admission
        self.incomplete: set[int] = set()  # ids whose prompt is not computed to its end

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def submit(self, request: Request, now: float) -> None:
        """Passed on."""
        self.scheduler.submit(request, now)

    def drain(self, now: float) -> list[Request]:
        """Passed on."""
        return self.scheduler.drain(now)

    def next_work(self, now: float) -> Work | None:
        """What the scheduler decides, written down where it is an iteration."""
        work = self.scheduler.next_work(now)
        if isinstance(work, Iterations):
            self._note(work, now)
        return work

    def _note(self, work: Iterations, now: float) -> None:
        for request in work.evict:
            self.held.pop(request.id, None)  # it may have ended meanwhile
            self.incomplete.discard(request.id)
        paused = {request.id for request in work.pause}
        tokens = {id: 1 for id in self.held if id not in self.incomplete and id not in paused}
        overrun = {request.id: 1 for request in work.overrun}
        reused = {}
        for chunk in work.chunks:
            id = chunk.request.id
            if id not in self.held:
                reused[id] = self.held[id] = chunk.cached
            tokens[id] = chunk.num_tokens
            if chunk.last:
                self.incomplete.discard(id)
            else:
                self.incomplete.add(id)
        for id, num_tokens in tokens.items():
            self.held[id] += num_tokens
        blocks = sum(blocks_for(n, self.block_size) for n in self.held.values())
        if (cache := complete(self.scheduler).prefix_cache) is not None:
            blocks -= cache.shared_tokens // self.block_size
        evicted = tuple(sorted(request.id for request in work.evict))
        self.decisions.append(Decision(round(now), tokens | overrun, reused, evicted, blocks))

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Passed on; what has finished holds nothing any more."""
        for request in outcome.finished:
            self.held.pop(request.id, None)
        self.scheduler.record(work, outcome, now)


def recorded(policy: str, decisions: list[Decision]) -> Callable[[Limits], Recorder]:
    """The policy, whose scheduler writes its decisions down."""
    return lambda limits: Recorder(make_scheduler(policy, limits), limits.block_size, decisions)


class Difference(NamedTuple):
    """The first iteration in which two sequences of decisions differ; None: there is no such iteration."""

    number: int
    one: Decision | None
    other: Decision | None

    def __str__(self) -> str:
        return f"decision {self.number}: {self.one} against {self.other}"


def differences(one: Sequence[Decision], other: Sequence[Decision]) -> Iterator[Difference]:
    """Where the two differ, in order of time; after the first, most follow from it."""
    for number, (left, right) in enumerate(zip_longest(one, other)):
        if left != right:
            yield Difference(number, left, right)


class Comparison(NamedTuple):
    """An engine's decisions beside ours: how many iterations it had, and where the first one differs."""

    num_iterations: int
    first: Difference | None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return {
            "iterations": self.num_iterations,
            "first_difference": None if self.first is None else str(self.first),
        }


def compare(scenario: Scenario, policy: str, scheduled: Scheduled) -> Comparison:
    """What an engine's scheduler decided beside what ours decides of the same requests.

    To ours they come before the same iterations, whatever time these took.
    """
    ours = decide_again(scenario, policy, scheduled)
    theirs: Sequence[Decision] = scheduled.decisions
    if scenario.limits.async_scheduling:
        # Who has ended holds blocks for an iteration more, which is not in what our scheduler hands out.
        ours, theirs = ([d._replace(blocks=0) for d in each] for each in (ours, theirs))
    return Comparison(len(theirs), next(differences(theirs, ours), None))


def decide_again(scenario: Scenario, policy: str, scheduled: Scheduled) -> list[Decision]:
    """What our scheduler decides where each request comes as it came to an engine: after so many iterations,
    and of those that came together in that order. Nobody waits for others any more.
    """
    profile = replace(scenario.profile, step_cost=StepCost(FLAT, 0.0, FLAT, 0.0, 0.0), host=NO_HOST)
    order = np.array(scheduled.order, dtype=np.int64)
    came = np.array(scheduled.arrived, dtype=np.float64)[order]
    trace = replace(scenario.trace, waits_for=None, think_s=None, arrival_s=None).select(order)
    trace = replace(trace, arrival_s=came)
    decisions: list[Decision] = []
    replace(scenario, trace=trace, profile=profile, max_concurrency=None).run(
        recorded(policy, decisions), leap=False
    )
    return [_renamed(decision, scheduled.order) for decision in decisions]


def _renamed(decision: Decision, names: Sequence[int]) -> Decision:
    """The decision, with `names[id]` for each id."""
    return decision._replace(
        tokens={names[id]: tokens for id, tokens in decision.tokens.items()},
        reused={names[id]: tokens for id, tokens in decision.reused.items()},
        preempted=tuple(sorted(names[id] for id in decision.preempted)),
    )
