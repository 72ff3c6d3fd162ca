"""Sequence scheduling (arXiv 2305.13144): predict response lengths, batch similar ones, recompute what
failed.

Groups are perceived, sorted, binned and run; what outlives its batch's limit is recomputed at the group's end
(FCR). Beyond the paper, requests that matter more (a lower priority number) go first. Without groups, for
requests that keep arriving: `open_sequence`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from ..kv_blocks import split_to_fit
from ..request import Request
from ..work import Drop, Limits, Outcome, PaddedBatch, Perceive, Work, tell
from .admission import expiry, rejection
from .base import BaseScheduler, Need
from .binning import (
    Batch,
    batches_by_bin,
    batches_by_rank,
    batches_of_least_time,
    capped,
    expected_tokens,
    fitted,
    memory_size,
    rest_of,
    stopped_by_quantile,
    table_size,
)
from .sequence_options import SequenceOptions


class SequenceScheduler(BaseScheduler):
    """Perceive a group, sort it, batch it, run it, recompute what failed; then the next group.

    Does not read `max_wait_s`: where that is above 0, the policy `sequence` is an `OpenSequenceScheduler`.
    """

    Options = SequenceOptions
    needs: Sequence[Need] = ("length",)

    def __init__(self, limits: Limits, **options: Any) -> None:
        o = SequenceOptions(**options)
        self.limits, self.options = limits, o
        self.upper_quantile = o.upper_quantile
        sizes = {"table": table_size(o.batch_size), "memory": memory_size(limits, o.fcr), "off": None}
        self.size_of = sizes[o.vbs]
        self.waiting: list[tuple[int, int, Request]] = []  # heap by (priority, order of submission)
        self.forming: list[Request] = []  # taken from the queue, lengths not yet known to all
        self.plan: deque[Batch] = deque()
        self.failed: list[tuple[int, int, float, Request]] = []  # heap by (priority, order); when, who
        self.drops: deque[Drop] = deque()
        self.in_flight: tuple[Request, ...] = ()
        self.begun: dict[
            int, Request
        ] = {}  # by id: as it was before it was cut off, while its rest is queued
        self.num_submitted = self.num_failed = 0
        self.least_priority = 0  # the largest number seen; a request with a smaller one is important
        self.any_deadline = False

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where the KV cache could never hold it."""
        drop = rejection(request, self.limits, question=True)
        if drop is not None:
            self.drops.append(drop)
            return
        self.least_priority = max(self.least_priority, request.priority)
        self.any_deadline |= request.deadline_s is not None
        self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        heappush(self.waiting, (request.priority, self.num_submitted, request))
        self.num_submitted += 1

    def wants(self, request: Request) -> bool:
        """Whether to take it from a queue that others share."""
        return len(self.waiting) + len(self.forming) < self.options.group_size

    def next_work(self, now: float) -> Work | None:
        """Turn away what cannot or need not be served any more; else what the mode chooses."""
        self.wake_at = None
        if self.any_deadline:
            self._expire_waiting(now)
        if self.drops:
            return self._hand_out(self.drops.popleft())
        return self._choose(now)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Keep predictions on their requests, and failures for recomputation."""
        self.in_flight = ()
        if isinstance(work, Perceive):
            for request, prediction in zip(work.requests, outcome.predictions, strict=True):
                tell(request, prediction)
        else:
            for request in outcome.finished:
                self.begun.pop(request.id, None)
            for request in outcome.unfinished:
                self._fail(self._rest(request, outcome, now) if self.options.requeue else request, now)

    def drain(self, now: float) -> list[Request]:
        """All that was running, had failed, was planned or waited."""
        left = [*self.in_flight, *(r for *_, r in sorted(self.failed))]
        left += [r for batch in self.plan for r in batch.requests]
        left += [r for drop in self.drops for r in drop.requests]
        left += [*self.forming, *(r for *_, r in sorted(self.waiting))]
        self.in_flight, self.failed, self.forming, self.waiting = (), [], [], []
        self.plan.clear()
        self.drops.clear()
        return [self.begun.pop(r.id, r) for r in left]

    def _fail(self, request: Request, now: float) -> None:
        """Keep a request that was cut off until its turn comes again."""
        heappush(self.failed, (request.priority, self.num_failed, now, request))
        self.num_failed += 1

    def _rest(self, request: Request, outcome: Outcome, now: float) -> Request:
        """What is left of a request that was cut off."""
        self.begun.setdefault(request.id, request)
        return rest_of(request, outcome.iterations, now)

    def _choose(self, now: float) -> Work | None:
        """Perceive, recompute what may not wait, plan, run the plan: whichever is there first."""
        self._take()
        unknown = sorted((r for r in self.forming if r.predicted_tokens is None), key=lambda r: r.priority)
        if unknown:
            return self._ask(unknown[: self.options.perceive_batch])
        urgent = bool(self.failed) and self._important(self.failed[0][-1])
        if urgent or (self.failed and not (self.plan or self.forming)):
            return self._hand_out(self._recompute())
        if self.forming:
            self._plan()
        return self._run_plan(now)

    def _take(self) -> None:
        """Move the next group from the queue where none is in work; the important join at any time."""
        free, room = not (self.forming or self.plan), self.options.group_size
        queues: list[list[Any]] = [self.failed, self.waiting]
        if not self.options.requeue:
            free &= not self.failed
            del queues[0]
        for queue in queues:
            while queue and ((free and room > 0) or self._important(queue[0][-1])):
                self.forming.append(heappop(queue)[-1])
                room -= 1

    def _ask(self, unknown: list[Request]) -> Work:
        """Ask for lengths, as many as the KV cache allows at a time."""
        return Perceive(
            tuple(next(split_to_fit(unknown, self.limits.perception_tokens, self.limits.kv_tokens)))
        )

    def _plan(self) -> None:
        """Cut the group formed into batches, the important before all that was planned."""
        group, self.forming = self.forming, []
        levels = sorted({r.priority for r in group if self._important(r)})
        first = [b for p in levels for b in self._batches([r for r in group if r.priority == p])]
        self.plan.extendleft(reversed(first))
        self.plan.extend(self._batches([r for r in group if not self._important(r)]))

    def _batches(self, requests: list[Request]) -> list[Batch]:
        o = self.options
        ordered = sorted(((expected_tokens(r, o.margin), r) for r in requests), key=lambda pair: pair[0])
        if self.size_of is None:
            batches = batches_by_rank(ordered, o.batch_size, o.fcr, self.limits.kv_tokens)
        elif o.bins == "least-time":
            batches = batches_of_least_time(ordered, o.bin_width, o.fcr, self.limits)
        else:
            batches = batches_by_bin(ordered, o.bin_width, self.size_of, o.fcr)
        if o.limit_quantile is not None:
            batches = stopped_by_quantile(batches)
        return fitted(batches, self.limits)

    def _run_plan(self, now: float) -> Work | None:
        """The next planned batch, without those whose deadline has passed."""
        if not self.plan:
            return None
        batch = self.plan.popleft()
        fresh = (r for r in batch.requests if r.id not in self.begun)
        late = expiry(fresh, now) if self.any_deadline else None
        if late is None:
            return self._hand_out(PaddedBatch(tuple(batch.requests), batch.token_limit))
        kept = [r for r in batch.requests if r not in late.requests]
        if kept:
            self.plan.appendleft(Batch(kept, batch.token_limit))
        return self._hand_out(late)

    def _recompute(self) -> PaddedBatch:
        """The next batch of failures: the important first, else in the order in which they failed."""
        head = [heappop(self.failed) for _ in range(min(self.options.batch_size, len(self.failed)))]
        requests = [r for *_, r in head]
        rows = tuple(next(split_to_fit(requests, capped(requests, None), self.limits.kv_tokens)))
        for entry in head[len(rows) :]:
            heappush(self.failed, entry)
        return PaddedBatch(rows, capped(rows, None))

    def _important(self, request: Request) -> bool:
        return request.priority < self.least_priority

    def _hand_out(self, work: PaddedBatch | Drop) -> Work:
        self.in_flight = work.requests
        return work

    def _expire_waiting(self, now: float) -> None:
        late = expiry((r for *_, r in self.waiting), now)
        if late is not None:
            gone = {r.id for r in late.requests}
            self.waiting = sorted(entry for entry in self.waiting if entry[-1].id not in gone)
            self.drops.append(late)
