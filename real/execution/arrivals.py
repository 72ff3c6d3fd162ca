"""Requests that arrive in wall-clock time, for an executor without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sim.execution.sessions import Sessions
from sim.request import Request
from sim.results.ledger import Ledger


class WallArrivals:
    """Submits requests when they are due, at most `max_concurrency` unfinished at a time.

    `coming` are those of the ledger by rising arrival; of `Sessions` the next one may change as others end,
    and some may never come. `submit(request)` is called for each; a request held back arrives when a place
    falls free.
    """

    def __init__(
        self,
        coming: Iterator[Request],
        ledger: Ledger,
        max_concurrency: int | None,
        submit: Callable[[Request], None],
    ) -> None:
        self.coming, self.ledger, self.submit = coming, ledger, submit
        self.sessions = coming if isinstance(coming, Sessions) else None
        self.head = next(coming, None)
        self.room = ledger.num_requests if max_concurrency is None else max_concurrency
        self.num_left = ledger.num_requests  # that may still come
        self.num_open = 0  # submitted, not ended
        self.freed_s = 0.0

    @property
    def next_s(self) -> float | None:
        """When the next request is due; None where that waits for a place or for others, or none is left."""
        return None if self.room <= 0 or self.head is None else self.head.arrival_s

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return not self.num_left and not self.num_open

    def is_due(self, now: float) -> bool:
        """Whether a request would be submitted now."""
        return self.next_s is not None and self.next_s <= now

    def release(self, now: float) -> None:
        """Submit every request due by now, as far as there is room."""
        while self.is_due(now):
            assert self.head is not None
            request, self.head = self.head, next(self.coming, None)
            request.arrival_s = max(request.arrival_s, self.freed_s)
            self.ledger.arrival_s[request.id] = request.arrival_s
            self.num_left -= 1
            self.num_open += 1
            self.room -= 1
            self.submit(request)

    def ended(self, requests: Sequence[Request], now: float) -> None:
        """Requests have ended: their places fall free, and who waits for them comes, or never will.

        Whoever has come meanwhile had a place before.
        """
        self.release(now)
        if self.room == 0 and requests:
            self.freed_s = now
        self.room += len(requests)
        self.num_open -= len(requests)
        if self.sessions is not None:
            self.num_left -= self.sessions.ended(requests, self.ledger.finish_s.__getitem__)
            self._look_again(self.sessions)

    def _look_again(self, sessions: Sessions) -> None:
        """Who comes next may be another now."""
        if self.head is not None:
            sessions.put_back(self.head)
        self.head = next(sessions, None)
