"""Requests of which some wait for others of their session; knows nothing of replicas, nor of what is served.

A request comes its think time after the last of those that it waits for has ended. Where one of them was
given up, the rest of the session is cancelled: nobody asks a second question who got no answer to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

from traces import sessions
from traces.trace import FloatArray, IntArray

from ..request import Request
from ..results.ledger import Ledger

CANCELLED = "cancelled"
"""What the reason of a request begins with that never came, since one that it waited for was given up."""


class Sessions:
    """The requests of a run, an iterator over those that may come; in which order, their ends decide.

    `requests` come by rising arrival, `waits_for` of shape (n, k) and `think_s` of shape (n,) are those of
    the trace, by request id. Every end has to be told (`ended`), before or at the time at which a follower
    may come.
    """

    def __init__(
        self, requests: Iterator[Request], waits_for: IntArray, think_s: FloatArray, ledger: Ledger
    ) -> None:
        is_waiting = sessions.is_waiting(waits_for)
        everyone = list(requests)
        self.ledger = ledger
        self.think_s: list[float] = think_s.tolist()
        self.followers = sessions.followers_of(waits_for)
        self.missing: list[int] = (waits_for >= 0).sum(axis=1).tolist()  # parents that have not ended
        self.known_s: dict[int, float] = {}  # when the client knew the last end so far, of those that wait
        self.waiting = {request.id: request for request in everyone if is_waiting[request.id]}
        # What may come: (when, id, request); those that wait for nobody, the next one first, and the others.
        self.first = iter([(r.arrival_s, r.id, r) for r in everyone if not is_waiting[r.id]])
        self.ready: list[tuple[float, int, Request]] = []
        self._fetch()

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if not self.ready:
            raise StopIteration
        entry = heappop(self.ready)
        if entry is self.next_first:
            self._fetch()
        return entry[2]

    def put_back(self, request: Request) -> None:
        """The request has not come yet: another may come before."""
        heappush(self.ready, (request.arrival_s, request.id, request))

    def ended(self, requests: Sequence[Request], end_s: Callable[[int], float]) -> int:
        """These have ended, for their clients at `end_s(id)`: who waits for them comes, or is cancelled.

        Returns how many were cancelled.
        """
        followers, num_cancelled = self.followers, 0
        for request in requests:
            if request.id not in followers:
                continue
            if request.id in self.ledger.reason:
                num_cancelled += self._cancel(request.id)
                continue
            now = end_s(request.id)
            for follower in followers[request.id]:
                self.missing[follower] -= 1
                # An answer that ends before another may reach its client after it.
                known_s = max(now, self.known_s.pop(follower, now))
                if self.missing[follower]:
                    self.known_s[follower] = known_s
                elif follower in self.waiting:
                    self._let_come(self.waiting.pop(follower), known_s)
        return num_cancelled

    def _fetch(self) -> None:
        """Add the next one of those that wait for nobody."""
        self.next_first = next(self.first, None)
        if self.next_first is not None:
            heappush(self.ready, self.next_first)

    def _let_come(self, request: Request, now: float) -> None:
        due_s = now + self.think_s[request.id]
        if request.deadline_s is not None:
            request.deadline_s += due_s - request.arrival_s
        request.arrival_s = due_s
        self._write(request.id, due_s)
        heappush(self.ready, (due_s, request.id, request))

    def _cancel(self, root: int) -> int:
        """Cancel all that waits for a request which was given up, and so on; how many these were.

        They are written down as of the arrival of that one: when it was given up may be found out late.
        """
        why = (
            f"{CANCELLED}: an earlier request of its session was {self.ledger.reason[root].partition(':')[0]}"
        )
        lost = [root]
        for parent in lost:  # grows
            for follower in self.followers.get(parent, ()):
                if self.waiting.pop(follower, None) is not None:
                    self.ledger.reason[follower] = why
                    self._write(follower, self.ledger.arrival_s[root])
                    lost.append(follower)
        return len(lost) - 1

    def _write(self, request_id: int, due_s: float) -> None:
        self.ledger.arrival_s[request_id] = self.ledger.due_s[request_id] = due_s
