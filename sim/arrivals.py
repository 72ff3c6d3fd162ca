"""A SimPy process that submits requests when they are due; knows nothing of what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import simpy

from .metrics import Ledger
from .request import Request

SimProcess = Generator[simpy.Event, Any, None]

Progress = Callable[[int, int], None]
"""Told now and then how many requests have ended, and how many there are."""


class Receiver(Protocol):
    """Whoever takes requests that have arrived."""

    def submit(self, request: Request) -> None:
        """Take a request, now."""


class Arrivals:
    """Submits requests to a scheduler when they are due, at most `max_concurrency` of them unfinished at a
    time.

    A request held back by that bound arrives when a place falls free (vLLM's benchmark client does the same).
    """

    def __init__(
        self,
        env: simpy.Environment,
        requests: Sequence[Request],
        ledger: Ledger,
        max_concurrency: int | None,
        on_progress: Progress | None = None,
    ) -> None:
        self.env, self.requests, self.ledger = env, requests, ledger
        self.room = max_concurrency if max_concurrency is not None else len(requests)
        self.next = 0
        self.num_ended, self.on_progress = 0, on_progress
        self.told_at = self.step = max(1, len(requests) // 200)
        self.freed_s = 0.0
        self.freed: simpy.Event | None = None
        self.receiver: Receiver | None = None

    def run(self) -> SimProcess:
        """Submit each request when it is due; where there is no room, when there is."""
        env, requests = self.env, self.requests
        while self.next < len(requests):
            wait_s = requests[self.next].arrival_s - env.now
            if wait_s > 0:
                yield env.timeout(wait_s)
            elif self.room > 0:
                self.release(env.now)
            else:
                self.freed = env.event()
                yield self.freed

    def release(self, now: float) -> None:
        """Submit every request due by now, as far as there is room."""
        assert self.receiver is not None
        requests = self.requests
        while self.room > 0 and self.next < len(requests) and requests[self.next].arrival_s <= now:
            request = requests[self.next]
            if request.arrival_s < self.freed_s:
                request.arrival_s = self.freed_s
            self.ledger.arrival_s[request.id] = request.arrival_s
            self.next += 1
            self.room -= 1
            self.receiver.submit(request)

    def ended(self, num_requests: int, now: float) -> None:
        """Requests have ended: their places are free from now on."""
        if self.room == 0 and num_requests:
            self.freed_s = now
            if self.freed is not None and not self.freed.triggered:
                self.freed.succeed()
        self.room += num_requests
        self.num_ended += num_requests
        if self.on_progress is not None and self.num_ended >= self.told_at:
            self.told_at += self.step
            self.on_progress(self.num_ended, len(self.requests))
