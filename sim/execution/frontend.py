"""What stands between clients and schedulers: an HTTP server and a tokeniser, which take their time.

Knows nothing of replicas, costs or profiles. The time that a request takes on its way in and that its tokens
take on their way out are decided as it is sent, by how many requests have not ended then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from ..request import Request
from ..results.ledger import Ledger
from .arrivals import NOBODY, Arrivals, Progress, SimProcess, Submit
from .environment import Environment


@dataclass(frozen=True)
class Frontend:
    """Seconds on the way in and on the way out, for `num_replicas` servers that share the load evenly."""

    before_s: float = 0.0
    before_per_request_s: float = 0.0
    after_s: float = 0.0
    after_per_request_s: float = 0.0
    num_replicas: int = 1

    @property
    def is_shared(self) -> bool:
        """Whether requests under way slow each other down."""
        return bool(self.before_per_request_s or self.after_per_request_s)

    def in_s(self, num_requests: int) -> float:
        """From the client to the scheduler, with so many requests under way, this one included."""
        return self.before_s + self.before_per_request_s * num_requests / self.num_replicas

    def out_s(self, num_requests: int) -> float:
        """From the end of an iteration to the client, likewise."""
        return self.after_s + self.after_per_request_s * num_requests / self.num_replicas


class FrontedArrivals(Arrivals):
    """Requests that pass a frontend: they are due when they come out of it.

    A client that waits for another's place (`max_concurrency`) sends when that one has its last token. What
    arrives as another ends counts as sent after it. `may_drop`: schedulers may give requests up.
    """

    def __init__(
        self,
        frontend: Frontend,
        requests: Iterator[Request],
        ledger: Ledger,
        max_concurrency: int | None = None,
        on_progress: Progress | None = None,
        *,
        may_drop: bool = True,
    ) -> None:
        super().__init__(requests, ledger, max_concurrency, on_progress)
        self.frontend, self.holds_back = frontend, self.is_bounded
        # How many are under way depends on when a request is dropped, so every arrival has to be noticed.
        self.is_bounded = self.is_bounded or (frontend.is_shared and may_drop)
        self.out_s: npt.NDArray[np.float64] = np.zeros(ledger.num_requests)  # by request id
        self.inside: list[tuple[float, int, Request]] = []  # in the frontend: (when due, number, request)
        self.frees: list[float] = []  # when places fall free that are not free yet
        self.num_sent = self.num_submitted = self.num_over = 0
        self.sent_s = -math.inf  # when the last one was sent
        self._look_ahead()

    def take(self, now: float, submit: Submit) -> int:
        """Submit every request that has come through by now; how many these were."""
        self._send(now)
        taken = 0
        while self.inside and self.inside[0][0] <= now:
            _, _, request = heappop(self.inside)
            submit(request, now)
            taken += 1
        self.num_submitted += taken
        self._look_ahead()
        return taken

    @property
    def is_done(self) -> bool:
        """Whether no request is left."""
        return self.head is NOBODY and not self.inside

    def outlook(self) -> tuple[float, object]:
        """When the next request comes out, and how many have."""
        return self.due_s, self.num_submitted

    def is_empty(self, num_left: int) -> bool:
        """Whether every request that was submitted has ended."""
        return self.num_submitted == self.num_over

    def ended(self, replica: object, requests: Sequence[Request], now: float) -> int:
        """Requests have ended, wherever; their places are free, and who waits for them comes, when their
        clients know. How many have ended with them.
        """
        self._send(math.nextafter(now, -math.inf))
        self.num_over += len(requests)
        if self.holds_back:
            for request in requests:
                heappush(self.frees, now + float(self.out_s[request.id]))
        num_ended = len(requests)
        if self.sessions is not None:
            num_ended += self.sessions.ended(requests, lambda i: now + float(self.out_s[i]))
            self._look_again(self.sessions)
        self._look_ahead()
        if self.on_progress is not None:
            self._report(num_ended)
        return num_ended

    def run(self, env: Environment, submit: Submit) -> SimProcess:
        """Submit each request when it comes out."""
        self.env = env
        while True:
            self.take(env.now, submit)
            if self.is_done and self.sessions is None:
                return
            self.alarm = env.event()
            yield self.alarm
            self.alarm_s = math.inf

    def close(self) -> None:
        """The run is over: what clients see comes later than the ends of iterations."""
        self.ledger.record_delivered(self.out_s)

    def _next_sent_s(self) -> float:
        """When the next request is sent, as far as that is known."""
        if self.head is NOBODY:
            return math.inf
        sent_s = max(self.head.arrival_s, self.sent_s)
        if self.room:
            return sent_s
        return max(sent_s, self.frees[0]) if self.frees else math.inf

    def _send(self, until_s: float) -> None:
        """Let in what is sent by then, each with its times on the way in and out."""
        while (sent_s := self._next_sent_s()) <= until_s:
            request = self.head
            if not self.room:
                heappop(self.frees)
                self.room += 1
            self.room -= 1
            if request.arrival_s < sent_s:
                request.arrival_s = self.ledger.arrival_s[request.id] = sent_s
            self.sent_s = sent_s
            self.num_sent += 1
            under_way = self.num_sent - self.num_over
            self.out_s[request.id] = self.frontend.out_s(under_way)
            heappush(self.inside, (sent_s + self.frontend.in_s(under_way), self.num_sent, request))
            self.head = next(self.coming, NOBODY)

    def _look_ahead(self) -> None:
        """When the next one comes out, if nobody ends before it is sent."""
        coming_s = self._next_sent_s() + self.frontend.in_s(self.num_sent - self.num_over + 1)
        self.due_s = min(self.inside[0][0], coming_s) if self.inside else coming_s
        if self.env is not None:
            self._set_alarm(
                self.env, min(self._next_sent_s(), self.inside[0][0] if self.inside else math.inf)
            )
