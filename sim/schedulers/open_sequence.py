"""Sequence scheduling without groups, for requests that keep arriving: length bins that stay open.

A batch leaves when it is full, when its oldest request has waited `max_wait_s`, or at once when it holds an
important one. Failures wait in the same way. Lengths are asked for when no batch is ready to leave, or when
an important one is unknown.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from ..request import Request
from ..work import Limits, Outcome, Perceive, Work
from .binning import fitted, stopped_by_quantile
from .open_bins import OpenBins
from .sequence import SequenceScheduler


class OpenSequenceScheduler(SequenceScheduler):
    """The policy `sequence` where `max_wait_s` is above 0."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        self.bins = OpenBins(self.options, self.size_of, limits)

    def _enqueue(self, request: Request) -> None:
        """Into its bin where its length is known; else it waits to be asked."""
        if request.predicted_tokens is None:
            super()._enqueue(request)
        else:
            self.bins.add(request)

    def wants(self, request: Request) -> bool:
        """Whether to take it from a queue that others share: a group's worth may wait in the bins."""
        return len(self.bins) + len(self.waiting) < self.options.group_size

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """What was perceived goes into its bin."""
        super().record(work, outcome, now)
        if isinstance(work, Perceive):
            self.forming = []
            for request in work.requests:
                self.bins.add(request)

    def drain(self, now: float) -> list[Request]:
        """All that was running, had failed, was planned or waited, in bins or for its length."""
        return [*super().drain(now), *(self.begun.pop(r.id, r) for r in self.bins.drain())]

    def _fail(self, request: Request, now: float) -> None:
        """What keeps its tokens goes back into a bin."""
        if self.options.requeue:
            self.bins.add(request)
        else:
            super()._fail(request, now)

    def _choose(self, now: float) -> Work | None:
        """Run what is ready, the important first; else ask for lengths; else say when a batch is due."""
        ready = (
            bool(self.plan)
            or self._failures_ready(now)
            or self.bins.leaving(now, self.least_priority) is not None
        )
        if self.waiting and (not ready or self._important(self.waiting[0][-1])):
            return self._ask_some()
        if self._failures_ready(now):
            return self._hand_out(self._recompute())
        if not self.plan and (batch := self.bins.take(now, self.least_priority)) is not None:
            batches = [batch] if self.options.limit_quantile is None else stopped_by_quantile([batch])
            self.plan.extend(fitted(batches, self.limits))
        work = self._run_plan(now)
        if work is None:
            dues = [self.bins.due(), self._failures_due() if self.failed else None]
            self.wake_at = min((due for due in dues if due is not None), default=None)
        return work

    def _ask_some(self) -> Work:
        """Ask for the lengths of the first that wait; what the memory cannot hold goes back."""
        head = [heappop(self.waiting) for _ in range(min(self.options.perceive_batch, len(self.waiting)))]
        work = self._ask([r for *_, r in head])
        assert isinstance(work, Perceive)
        for entry in head[len(work.requests) :]:
            heappush(self.waiting, entry)
        self.forming = list(work.requests)
        return work

    def _failures_ready(self, now: float) -> bool:
        """Whether a batch of failures must leave: with an important one, or full or overdue and nothing
        important.
        """
        if not self.failed or self._important(self.failed[0][-1]):
            return bool(self.failed)
        if self.plan or self.bins.any_below(self.least_priority):
            return False
        return len(self.failed) >= self.options.batch_size or self._failures_due() <= now

    def _failures_due(self) -> float:
        return min(failed_s for *_, failed_s, _ in self.failed) + self.options.max_wait_s
