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

from ..request import Request
from ..results.ledger import Ledger, column
from ..schedulers.waiting import InOrder
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
        self.out_s = column(np.zeros(ledger.num_requests))  # by request id
        # In the frontend, as (when due, number, request). Few come out before others that were sent earlier.
        self.inside = InOrder()
        self.frees: list[float] = []  # when places fall free that are not free yet
        self.num_sent = self.num_submitted = self.num_over = 0
        self.sent_s = -math.inf  # when the last one was sent
        self.next_sent_s = self._next_sent_s()
        self._look_ahead()

    def take(self, now: float, submit: Submit) -> int:
        """Submit every request that has come through by now; how many these were."""
        if self.next_sent_s <= now:
            self._send(now)
        inside, taken = self.inside, 0
        while inside and inside[0][0] <= now:
            submit(inside.popleft()[2], now)
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
        if self.next_sent_s < now:
            self._send(math.nextafter(now, -math.inf))
        num_ended = len(requests)
        self.num_over += num_ended
        if self.holds_back:
            for request in requests:
                heappush(self.frees, now + self.out_s[request.id])
            self.next_sent_s = self._next_sent_s()
        if self.sessions is not None:
            num_ended += self.sessions.ended(requests, lambda i: now + self.out_s[i])
            self._look_again(self.sessions)
            self.next_sent_s = self._next_sent_s()
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
        self.ledger.record_delivered(np.asarray(self.out_s))

    def _next_sent_s(self) -> float:
        """When the next request is sent, as far as that is known."""
        sent_s = self.head.arrival_s  # never, if nobody is left
        if sent_s < self.sent_s:
            sent_s = self.sent_s
        if self.room:
            return sent_s
        return max(sent_s, self.frees[0]) if self.frees else math.inf

    def _send(self, until_s: float) -> None:
        """Let in what is sent by then, each with its times on the way in and out."""
        frontend = self.frontend
        while (sent_s := self.next_sent_s) <= until_s:
            request = self.head
            if not self.room:
                heappop(self.frees)
                self.room += 1
            self.room -= 1
            if request.arrival_s < sent_s:
                request.arrival_s = self.ledger.arrival_s[request.id] = sent_s
            self.sent_s = sent_s
            self.num_sent = number = self.num_sent + 1
            under_way = number - self.num_over
            self.out_s[request.id] = frontend.out_s(under_way)
            self.inside.push((sent_s + frontend.in_s(under_way), number, request))
            self.head = next(self.coming, NOBODY)
            self.next_sent_s = self._next_sent_s()

    def _look_ahead(self) -> None:
        """When the next one comes out, if nobody ends before it is sent."""
        next_s, inside = self.next_sent_s, self.inside
        due_s = next_s + self.frontend.in_s(self.num_sent - self.num_over + 1)
        if inside and inside[0][0] < due_s:
            due_s = inside[0][0]
        self.due_s = due_s
        if self.env is not None:
            self._set_alarm(self.env, min(next_s, inside[0][0]) if inside else next_s)
