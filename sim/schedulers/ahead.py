"""Continuous batching with asynchronous scheduling, as vLLM's servers do it: an iteration is decided while
the one before it runs, so that the accelerator never waits for a decision.

Every decision knows an iteration less: an arrival is seen one iteration later, and a place or a block that
falls free is given away one iteration later. Goes iteration by iteration, without leaps.
"""

from __future__ import annotations

from ..request import Request
from ..work import Drop, Iterations, Outcome, Work
from .continuous import ContinuousScheduler


class AheadScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` with one decision in hand.

    An iteration is recorded as done when it is handed out, with nobody finished, and the next one is decided.
    A request that does finish counts as running for one more iteration, and keeps its place and its memory
    until then.
    """

    __slots__ = ("believed_running", "decided", "evictions", "finished_ids", "pending_drops")

    def _clear(self) -> None:
        super()._clear()
        self.decided: Work | None = None
        self.finished_ids: set[int] = set()  # in the iteration recorded last
        self.believed_running: list[Request] = []  # of these, those still counted as running
        self.evictions: list[Request] = []  # that the executor does not know of yet
        self.pending_drops: list[Drop] = []  # likewise

    def next_work(self, now: float) -> Work | None:
        """The decision taken an iteration ago, or a new one where there is none."""
        if self.pending_drops:
            return self.pending_drops.pop()
        work, self.decided = self.decided, None
        if work is None:
            work = super().next_work(now)
        if not isinstance(work, Iterations):
            return work
        self._note_evictions(work)
        evict, self.evictions = self.evictions, []
        self._record_as_done(work, now)
        following = super().next_work(now)
        while isinstance(following, Drop):
            self.pending_drops.append(following)
            following = super().next_work(now)
        self.decided = following
        return Iterations(work.chunks, evict, at_most=1, stop_on_arrival=False)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Note who has finished; everything else of an iteration was recorded when it was handed out."""
        if not isinstance(work, Iterations):
            super().record(work, outcome, now)
            return
        self.finished_ids = {request.id for request in outcome.finished}
        self.believed_running = [request for request in outcome.finished if request.id in self.running]
        evicted = [request for request in outcome.finished if request.id not in self.running]
        # The decision in hand has put these back into the queue.
        self.withdrawn |= {request.id for request in evicted}
        self._forget(evicted)
        following = self.decided
        if not isinstance(following, Iterations):
            super().record(work, Outcome(0, self.believed_running), now)
            self.believed_running = []
        elif not following.chunks and self.running.keys() <= self.finished_ids:
            # Nobody is left to run it: what is next is decided anew.
            self._note_evictions(following)
            self._record_as_done(following, now)
            self.decided = None

    def drain(self, now: float) -> list[Request]:
        """Everything submitted that has not ended."""
        finished_ids = self.finished_ids
        dropped = [request for drop in self.pending_drops for request in drop.requests]
        return [*(request for request in super().drain(now) if request.id not in finished_ids), *dropped]

    def _note_evictions(self, work: Iterations) -> None:
        self.evictions += [request for request in work.evict if request.id not in self.finished_ids]

    def _record_as_done(self, work: Iterations, now: float) -> None:
        super().record(work, Outcome(1, self.believed_running), now)
        self.believed_running = []
