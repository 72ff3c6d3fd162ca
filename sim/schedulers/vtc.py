"""Continuous batching in which clients share an accelerator evenly by counting what each was served: the
Virtual Token Counter (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, arXiv 2401.00588).

Each client has a counter of its service: its prompts' tokens as they are let in, and `OUTPUT_WEIGHT` times
the tokens generated for it, iteration by iteration. Of those who wait, the client with the least goes first,
with its earliest request. Who had nobody in the queue for a while keeps no credit: its counter is lifted to
the least of those that wait, or to that of the last that left the queue. Two clients that always have
somebody waiting differ in service by at most 2 max(L, 2 M), L the longest prompt and M the tokens that memory
holds, whatever their requests are like (theorem 4.4). No length is predicted.

What an eviction loses is computed again free of charge. Knows nothing of clocks or costs.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from math import ceil, inf

from ..request import Request
from ..work import Iterations, Work
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .waiting import Entry

OUTPUT_WEIGHT = 2
"""What a generated token counts for, where one of a prompt counts for 1: the paper's weights, by price."""


class ByClient:
    """A queue whose first entry is the earliest of the client that was served least.

    `served`: each client's counter. `arrived`: those that came since the last look, whose clients' counters
    are not lifted yet.
    """

    __slots__ = ("arrived", "last", "queues", "served")

    def __init__(self) -> None:
        self.served: Counter[str | None] = Counter()
        self.queues: dict[str | None, deque[Entry]] = {}  # none is empty
        self.arrived: list[Entry] = []
        self.last: str | None = None  # the client that left the queue last

    def __len__(self) -> int:
        return len(self.arrived) + sum(map(len, self.queues.values()))

    def __iter__(self) -> Iterator[Entry]:
        for queue in self.queues.values():
            yield from queue
        yield from self.arrived

    def __getitem__(self, place: int) -> Entry:
        """The first; others have no place."""
        assert not place
        return self.queues[self._first()][0]

    def push(self, entry: Entry) -> None:
        """Queue the entry."""
        self.arrived.append(entry)

    def look(self) -> None:
        """Lift the counters of clients that had nobody here, in the order in which they came."""
        for entry in self.arrived:
            client = entry[2].user
            if client not in self.queues:
                least = min((self.served[other] for other in self.queues), default=self.served[self.last])
                self.served[client] = max(self.served[client], least)
                self.queues[client] = deque()
            insort(self.queues[client], entry)
        self.arrived.clear()

    def pop_first(self) -> Entry:
        """Take the first out."""
        client = self._first()
        queue = self.queues[client]
        entry = queue.popleft()
        if not queue:
            del self.queues[client]
            self.last = client
        return entry

    def holds_for(self, rates: Counter[str | None]) -> float:
        """After how many iterations at the earliest another client is first, if each is served so much in
        one.
        """
        first = self._first()
        gaps = [
            (self.served[client] - self.served[first]) / (rates[first] - rates[client])
            for client in self.queues
            if rates[first] > rates[client]
        ]
        return max(1, ceil(min(gaps, default=inf))) if gaps else inf

    def _first(self) -> str | None:
        self.look()
        return min(self.queues, key=lambda client: (self.served[client], self.queues[client][0][:2]))


class VtcScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` that counts what its clients were served."""

    PREEMPTS = True
    """Nobody does, but every arrival matters: counters are lifted then."""
    waiting: ByClient  # type: ignore[assignment]

    def _clear(self) -> None:
        super()._clear()
        self.waiting = ByClient()
        self.charged: set[int] = set()  # ids whose prompts are counted
        self.rates: Counter[str | None] = Counter()  # what each client is served in an iteration
        self.counted = 0  # iterations
        self.on_admission, self.on_end = self._let_in, self._forget_charged
        self.has_end_hooks = True

    def next_work(self, now: float) -> Work | None:
        """What to run, for as long as no other client comes first in the queue."""
        self._count()
        self.waiting.look()
        work = super().next_work(now)
        self._rate()
        if isinstance(work, Iterations):
            work.stop_on_arrival = True
            if self.waiting and len(self.running) < self.max_num_seqs and work.at_most > 1:
                work.at_most = int(min(work.at_most, self.waiting.holds_for(self.rates)))
        return work

    def _leave(self, finished: Sequence[Request]) -> None:
        """Those that have finished are served no more."""
        self._count()
        super()._leave(finished)
        self._rate()

    def _count(self) -> None:
        """Count the tokens generated since this was last done."""
        iterations = self.kv.iteration - self.counted
        self.counted += iterations
        for client, rate in self.rates.items():
            self.waiting.served[client] += iterations * rate

    def _rate(self) -> None:
        """What each client is served in an iteration from now on."""
        running, paused = self.running, self.kv.paused
        going = (running[id][2].user for id in self.kv.births if id not in paused)
        self.rates = Counter({client: OUTPUT_WEIGHT * n for client, n in Counter(going).items()})

    def _let_in(self, request: Request) -> None:
        """Count a prompt, once."""
        if request.id not in self.charged:
            self.charged.add(request.id)
            self.waiting.served[request.user] += request.prompt_tokens

    def _forget_charged(self, request: Request) -> None:
        self.charged.discard(request.id)


class AheadVtcScheduler(AheadScheduler, VtcScheduler):
    """The same, with one decision in hand."""

    _choose = VtcScheduler.next_work

    def _stop_at_limits(self) -> None:
        """Those that reach their token limits with the iteration in flight are served no more."""
        self._count()
        super()._stop_at_limits()
        self._rate()
