"""Vanilla batching: first come, first served micro-batches, padded, run until the longest answer is done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from ..kv_blocks import split_to_fit
from ..request import Request
from ..work import Drop, Limits, Outcome, PaddedBatch, Work
from .admission import expiry, rejection
from .base import BaseScheduler


@dataclass(frozen=True)
class MicrobatchOptions:
    """Options of the `vanilla` policy."""

    batch_size: int = 16
    """Most requests in a batch; at least 1."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size: {self.batch_size} must be at least 1")


class MicrobatchScheduler(BaseScheduler):
    """Takes the first `batch_size` waiting requests whenever the accelerator is free; never waits for a full
    batch.
    """

    Options = MicrobatchOptions

    def __init__(self, limits: Limits, **options: Any) -> None:
        self.limits, self.options = limits, MicrobatchOptions(**options)
        self.waiting: deque[Request] = deque()
        self.drops: deque[Drop] = deque()
        self.in_flight: tuple[Request, ...] = ()
        self.any_deadline = False

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where the KV cache could never hold it."""
        drop = rejection(request, self.limits)
        if drop is not None:
            self.drops.append(drop)
        else:
            self.waiting.append(request)
            self.any_deadline |= request.deadline_s is not None

    def wants(self, request: Request) -> bool:
        """Whether to take it from a queue that others share."""
        return len(self.waiting) < self.options.batch_size

    def next_work(self, now: float) -> Work | None:
        """The next micro-batch, as many rows as fit the KV cache."""
        if self.any_deadline and (late := expiry(self.waiting, now)):
            gone = {r.id for r in late.requests}
            self.waiting = deque(r for r in self.waiting if r.id not in gone)
            self.drops.append(late)
        work: Work | None = None
        if self.drops:
            work = self.drops.popleft()
        elif self.waiting:
            head = [self.waiting[i] for i in range(min(self.options.batch_size, len(self.waiting)))]
            limit = max(r.max_new_tokens for r in head)
            batch = next(split_to_fit(head, limit, self.limits.kv_tokens))
            for _ in batch:
                self.waiting.popleft()
            work = PaddedBatch(tuple(batch), max(r.max_new_tokens for r in batch))
        self.in_flight = work.requests if work is not None else ()
        return work

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Every row has finished: the limit of a batch is its largest `max_new_tokens`."""
        self.in_flight = ()

    def drain(self, now: float) -> list[Request]:
        """All that was queued or running."""
        left = [*self.in_flight, *(r for drop in self.drops for r in drop.requests), *self.waiting]
        self.in_flight = ()
        self.drops.clear()
        self.waiting.clear()
        return left
