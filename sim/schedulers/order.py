"""Queue disciplines: in which order waiting requests are admitted, and from whose end running ones are
evicted.

A discipline is a function that gives a request its rank once, when it joins the queue; the smallest rank goes
first. The clock enters through the arrival time alone: ageing, for one, is a rank that grows with it, since
then all ranks grow older together. Knows nothing of memory, batches or costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import floor, inf
from typing import Literal, TypeAlias, get_args

from ..request import Request
from .base import Need
from .retention import Retention

Order: TypeAlias = Literal[
    "fcfs",
    "shortest-predicted",
    "shortest-remaining",
    "priority",
    "fair",
    "shortest-prompt",
    "ltr",
    "gittins",
    "tie",
    "lower-bound",
    "mlfq",
    "memory-time",
    "deadline",
    "least-laxity",
    "longest-prefix-match",
    "shortest-uncached",
    "vtc",
]
ORDERS: tuple[str, ...] = get_args(Order)

Rank: TypeAlias = Callable[[Request, int], float]
"""(request, tokens it has generated already) -> its rank; the smallest goes first, ties by submission."""

NEEDS: Mapping[str, Need] = {
    "shortest-predicted": "order",
    "ltr": "order",
    "shortest-remaining": "length",
    "memory-time": "length",
    "least-laxity": "length",
    "tie": "distribution",
    "gittins": "distribution",
    "lower-bound": "distribution",
}
"""Disciplines that need to know how long answers will be, and what of it."""

PREEMPTING = ("ltr", "gittins", "lower-bound", "mlfq")
"""Disciplines under which a waiting request that ranks before a running one takes its place, unless said
otherwise.
"""

BY_DEADLINE = ("deadline", "least-laxity")
"""Disciplines that go by the bounds that requests state, and by nothing where none does."""

BY_MEMORY = ("longest-prefix-match", "shortest-uncached")
"""Disciplines that go by what memory holds of a prompt. The rank below, which knows nothing of it, decides
between equals, in a long queue, and who is evicted.
"""


LONG = 1 << 40
"""Tokens that no answer has."""


def tokens_up_to(bound: float) -> int:
    """The whole tokens up to a rank, which may be infinite."""
    return LONG if bound == inf else floor(bound)


def fcfs(request: Request, generated: int) -> float:
    """First come, first served."""
    return request.arrival_s


def shortest_predicted(request: Request, generated: int) -> float:
    """The shortest predicted answer first."""
    return float(request.predicted_tokens or 0)


class ShortestRemaining:
    """The shortest rest of the predicted answer first; what outlived its prediction ranks by its excess."""

    def __call__(self, request: Request, generated: int) -> float:
        """The rest, or the excess (tokens)."""
        return float(abs((request.predicted_tokens or 0) - generated))

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """It rises once the prediction is outlived."""
        return max(1, (request.predicted_tokens or 0) + tokens_up_to(bound) + 1 - generated)


class MemoryTime:
    """The least memory over time first: the tokens held, summed over the iterations of the predicted rest
    (LAMPS, arXiv 2410.18248). What outlived its prediction is taken to end with the next token.

    With `retention` the memory that it takes while its session waits for the next turn is added, as it is
    held, moved or computed again. Without, a turn is a request of its own, which gives its memory up when it
    ends.
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self.retention = retention

    def __call__(self, request: Request, generated: int) -> float:
        """Tokens times iterations."""
        rest = max(1, (request.predicted_tokens or 0) - generated)
        held = request.prompt_tokens + generated
        rank = rest * held + rest * (rest + 1) / 2
        return rank if self.retention is None else rank + self.retention.memory_time(request, held + rest)

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """It rises once the prediction is outlived, by one a token."""
        outlived = max(request.predicted_tokens or 0, tokens_up_to(bound) - request.prompt_tokens)
        return max(1, outlived - generated)


def shortest_prompt(request: Request, generated: int) -> float:
    """The shortest prompt first: what can be known without any prediction."""
    return float(request.prompt_tokens)


def by_priority(aging_s: float) -> Rank:
    """The lowest priority number first; a request gains one level for every `aging_s` seconds it waits."""

    def rank(request: Request, generated: int) -> float:
        return request.priority + (request.arrival_s / aging_s if aging_s > 0 else 0.0)

    return rank


class FairShare:
    """Users share the accelerator evenly: start-time fair queueing over the work of their requests.

    A request starts, in virtual time, where the last one of its user ends, though never before what is being
    served. Its work is its prompt and the answer that is predicted, or else allowed to any request (tokens).
    What was not admitted by its deadline does not count for what its user sends afterwards.
    """

    def __init__(self) -> None:
        self.served = 0.0
        self.ends: dict[str | None, float] = {}
        self.starts: dict[int, float] = {}
        self.patience: list[tuple[float, int, Request]] = []  # heap of deadlines
        self.in_time: set[int] = set()  # ids with a deadline that were admitted

    def __call__(self, request: Request, generated: int) -> float:
        """The virtual time at which the request may start."""
        if request.id not in self.starts:
            self._forget_the_late(request.arrival_s)
            if request.deadline_s is not None:
                heappush(self.patience, (request.deadline_s, request.id, request))
            start = max(self.served, self.ends.get(request.user, 0.0))
            self.starts[request.id], self.ends[request.user] = start, start + self._work(request)
        return self.starts[request.id]

    def admitted(self, request: Request) -> None:
        """Virtual time moves on to what is served now."""
        self.served = max(self.served, self.starts[request.id])
        if request.deadline_s is not None:
            self.in_time.add(request.id)

    def ended(self, request: Request) -> None:
        """The request needs no rank any more."""
        self.starts.pop(request.id, None)

    def _forget_the_late(self, now: float) -> None:
        while self.patience and self.patience[0][0] < now:
            _, id, request = heappop(self.patience)
            if id not in self.in_time:
                self.ends[request.user] -= self._work(request)
            self.in_time.discard(id)

    def _work(self, request: Request) -> int:
        """Tokens."""
        return request.prompt_tokens + (request.predicted_tokens or request.bound_tokens)


STATIC: Mapping[str, Rank] = {
    "fcfs": fcfs,
    "shortest-predicted": shortest_predicted,
    "ltr": shortest_predicted,
    "shortest-prompt": shortest_prompt,
    "longest-prefix-match": fcfs,
    "shortest-uncached": shortest_prompt,
    "vtc": fcfs,
}
"""Disciplines without options, whose ranks do not change."""
