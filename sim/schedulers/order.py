"""Queue disciplines: in which order waiting requests are admitted, and from whose end running ones are
evicted.

A discipline is a function that gives a request its rank once, when it joins the queue; the smallest rank goes
first. The clock enters through the arrival time alone: ageing, for one, is a rank that grows with it, since
then all ranks grow older together. Knows nothing of memory, batches or costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from ..request import Request

Order: TypeAlias = Literal["fcfs", "shortest-predicted", "shortest-remaining", "priority", "fair"]
ORDERS: tuple[str, ...] = get_args(Order)

Rank: TypeAlias = Callable[[Request, int], float]
"""(request, tokens it has generated already) -> its rank; the smallest goes first, ties by submission."""

PREDICTED_ORDERS = ("shortest-predicted", "shortest-remaining")
"""Disciplines that need to know how long answers will be."""


def fcfs(request: Request, generated: int) -> float:
    """First come, first served."""
    return request.arrival_s


def shortest_predicted(request: Request, generated: int) -> float:
    """The shortest predicted answer first."""
    return float(request.predicted_tokens or 0)


def shortest_remaining(request: Request, generated: int) -> float:
    """The shortest rest of the predicted answer first; what outlived its prediction ranks by its excess."""
    return float(abs((request.predicted_tokens or 0) - generated))


def by_priority(aging_s: float) -> Rank:
    """The lowest priority number first; a request gains one level for every `aging_s` seconds it waits."""

    def rank(request: Request, generated: int) -> float:
        return request.priority + (request.arrival_s / aging_s if aging_s > 0 else 0.0)

    return rank


class FairShare:
    """Users share the accelerator evenly: start-time fair queueing over the work of their requests.

    A request starts, in virtual time, where the last one of its user ends, though never before what is being
    served. Its work is its prompt and the answer that is predicted, or else allowed (tokens).
    """

    def __init__(self) -> None:
        self.served = 0.0
        self.ends: dict[str | None, float] = {}
        self.starts: dict[int, float] = {}

    def __call__(self, request: Request, generated: int) -> float:
        """The virtual time at which the request may start."""
        if request.id not in self.starts:
            start = max(self.served, self.ends.get(request.user, 0.0))
            answer = request.predicted_tokens or request.max_new_tokens
            self.starts[request.id], self.ends[request.user] = start, start + request.prompt_tokens + answer
        return self.starts[request.id]

    def admitted(self, request: Request) -> None:
        """Virtual time moves on to what is served now."""
        self.served = max(self.served, self.starts[request.id])

    def ended(self, request: Request) -> None:
        """The request needs no rank any more."""
        self.starts.pop(request.id, None)


def discipline(order: Order, aging_s: float) -> Rank:
    """The rank function of an order's name."""
    if order == "priority":
        return by_priority(aging_s)
    if order == "fair":
        return FairShare()
    return {"fcfs": fcfs, "shortest-predicted": shortest_predicted, "shortest-remaining": shortest_remaining}[
        order
    ]
