"""Requests that arrive in wall-clock time, for an executor without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.request import Request
from sim.results.ledger import Ledger


class WallArrivals:
    """Submits requests when they are due, at most `max_concurrency` unfinished at a time.

    `submit(request)` is called for each; a request held back arrives when a place falls free.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        ledger: Ledger,
        max_concurrency: int | None,
        submit: Callable[[Request], None],
    ) -> None:
        self.requests = sorted(requests, key=lambda r: r.arrival_s)
        self.ledger, self.submit = ledger, submit
        self.room = len(requests) if max_concurrency is None else max_concurrency
        self.next = self.num_open = 0  # submitted; of these, not ended
        self.freed_s = 0.0

    @property
    def next_s(self) -> float | None:
        """When the next request is due; None where all have arrived, or the next one waits for a place."""
        if self.room <= 0 or self.next == len(self.requests):
            return None
        return self.requests[self.next].arrival_s

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return self.next == len(self.requests) and not self.num_open

    def is_due(self, now: float) -> bool:
        """Whether a request would be submitted now."""
        return self.next_s is not None and self.next_s <= now

    def release(self, now: float) -> None:
        """Submit every request due by now, as far as there is room."""
        while self.is_due(now):
            request = self.requests[self.next]
            request.arrival_s = max(request.arrival_s, self.freed_s)
            self.ledger.arrival_s[request.id] = request.arrival_s
            self.next += 1
            self.num_open += 1
            self.room -= 1
            self.submit(request)

    def ended(self, num_requests: int, now: float) -> None:
        """Requests have ended: their places fall free; whoever has come meanwhile had one before."""
        self.release(now)
        if self.room == 0:
            self.freed_s = now
        self.room += num_requests
        self.num_open -= num_requests
