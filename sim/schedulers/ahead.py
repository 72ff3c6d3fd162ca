"""Continuous batching that decides an iteration while the one before it runs, as vLLM's servers do
(asynchronous scheduling): the accelerator never waits for a decision, and every decision knows an iteration
less.

An arrival is seen one iteration later, and a place or a block that falls free is given on one iteration
later. Goes iteration by iteration, without leaps. Knows nothing of the rules themselves.
"""

from __future__ import annotations

from typing import Any

from ..request import Request
from ..work import Drop, Iterations, Limits, Outcome, Work
from .continuous import ContinuousScheduler


class AheadScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` with one decision in hand.

    As each iteration is handed out it is taken to be done, with nobody finished, and the next one is decided.
    Who does finish is believed to run for an iteration more, and holds place and memory for as long.
    """

    __slots__ = ("ahead", "evicted", "finished", "given_up", "over")

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)

    def _clear(self) -> None:
        super()._clear()
        self.ahead: Work | None = None
        self.over: set[int] = set()  # ids that finished in the iteration recorded last
        self.finished: list[Request] = []  # of these, what is still believed to run
        self.evicted: list[Request] = []  # and the executor has not been told yet
        self.given_up: list[Drop] = []  # the same

    def next_work(self, now: float) -> Work | None:
        """What was decided an iteration ago, else what is decided now."""
        if self.given_up:
            return self.given_up.pop()
        work, self.ahead = self.ahead, None
        if work is None:
            work = super().next_work(now)
        if not isinstance(work, Iterations):
            return work
        self._tell_evicted(work)
        evict, self.evicted = self.evicted, []
        self._take_as_done(work, now)
        following = super().next_work(now)
        while isinstance(following, Drop):
            self.given_up.append(following)
            following = super().next_work(now)
        self.ahead = following
        return Iterations(work.chunks, evict, at_most=1, stop_on_arrival=False)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Keep in mind who has finished; all else of an iteration is recorded already."""
        if not isinstance(work, Iterations):
            super().record(work, outcome, now)
            return
        self.over = {request.id for request in outcome.finished}
        self.finished = [request for request in outcome.finished if request.id in self.running]
        evicted = [request for request in outcome.finished if request.id not in self.running]
        self.gone |= {request.id for request in evicted}  # by the decision in hand, so that they wait again
        self._forget(evicted)
        following = self.ahead
        if not isinstance(following, Iterations):
            super().record(work, Outcome(0, self.finished), now)
            self.finished = []
        elif not following.chunks and self.running.keys() <= self.over:
            # Nobody is left to run it: what is next is decided anew.
            self._tell_evicted(following)
            self._take_as_done(following, now)
            self.ahead = None

    def drain(self, now: float) -> list[Request]:
        """All that was running, waited or was to be turned away, but for what has finished."""
        over, given_up = self.over, [request for drop in self.given_up for request in drop.requests]
        return [*(request for request in super().drain(now) if request.id not in over), *given_up]

    def _tell_evicted(self, work: Iterations) -> None:
        self.evicted += [request for request in work.evict if request.id not in self.over]

    def _take_as_done(self, work: Iterations, now: float) -> None:
        super().record(work, Outcome(1, self.finished), now)
        self.finished = []
