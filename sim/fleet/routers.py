"""Which replica serves a request: rules that see loads, and never how long an answer will be.

A rule looks at what a router in front of the replicas can know: what it has sent where, and what has come
back. Knows nothing of SimPy, schedulers or costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from traces.errors import InputError

from ..request import Request

RouterName: TypeAlias = Literal[
    "round-robin",
    "random",
    "least-requests",
    "least-tokens",
    "least-predicted-work",
    "power-of-two",
    "shared-queue",
]
ROUTERS: tuple[str, ...] = get_args(RouterName)
DEFAULT_ROUTER = "least-requests"

Weigh: TypeAlias = Callable[[Request, int], int]
"""(request, replica) -> the load that the request is to that replica, from its arrival there to its end."""

PER_SECOND = 10**9
"""Work is weighed in whole nanoseconds, so that what has come and gone leaves a load of exactly 0."""


class Router(Protocol):
    """Chooses among the replicas that are up; it is told who comes, who goes, and what each is sent."""

    def choose(self, request: Request) -> int:
        """The replica to serve the request; at least one is up."""

    def sent(self, request: Request, replica: int) -> None:
        """The request goes there."""

    def ended(self, request: Request, replica: int) -> None:
        """The request has ended there."""

    def up(self, replica: int) -> None:
        """The replica is there, empty."""

    def down(self, replica: int) -> None:
        """The replica is gone with all its load."""


class UpReplicas:
    """The replicas that are up: members by place, so that one can be drawn, and replaced, in O(1)."""

    def __init__(self, num_replicas: int) -> None:
        self.members = list(range(num_replicas))
        self.place = {k: k for k in self.members}

    def up(self, replica: int) -> None:
        """The replica is there."""
        self.place[replica] = len(self.members)
        self.members.append(replica)

    def down(self, replica: int) -> None:
        """The replica is gone; the last member takes its place."""
        place, last = self.place.pop(replica), self.members.pop()
        if last != replica:
            self.members[place], self.place[last] = last, place

    def sent(self, request: Request, replica: int) -> None:
        """Loads do not matter."""

    def ended(self, request: Request, replica: int) -> None:
        """Loads do not matter."""


class RoundRobin(UpReplicas):
    """One after the other."""

    def __init__(self, num_replicas: int) -> None:
        super().__init__(num_replicas)
        self.num_replicas, self.next = num_replicas, 0

    def choose(self, request: Request) -> int:
        """The next that is up."""
        while self.next not in self.place:
            self.next = (self.next + 1) % self.num_replicas
        chosen = self.next
        self.next = (chosen + 1) % self.num_replicas
        return chosen


class AtRandom(UpReplicas):
    """Any of them with the same probability."""

    def __init__(self, num_replicas: int, rng: np.random.Generator) -> None:
        super().__init__(num_replicas)
        self.drawn = drawn(rng)

    def choose(self, request: Request) -> int:
        """Whichever the generator says."""
        return self.members[int(next(self.drawn) * len(self.members))]


class LeastLoaded:
    """The replica with the least load, the one with the smallest number where several have it.

    The heap holds an entry for every load that a replica has had since it was looked at last; those that are
    out of date are thrown away when they come up, so that a choice costs O(log n) on average.
    """

    def __init__(self, num_replicas: int, weigh: Weigh) -> None:
        self.weigh = weigh
        self.loads = dict.fromkeys(range(num_replicas), 0)
        self.weights: dict[int, int] = {}
        self.heap = [(0, k) for k in self.loads]

    def choose(self, request: Request) -> int:
        """The least loaded."""
        while self.loads.get(self.heap[0][1]) != self.heap[0][0]:
            heappop(self.heap)
        return self.heap[0][1]

    def sent(self, request: Request, replica: int) -> None:
        """Its load grows."""
        self.weights[request.id] = weight = self.weigh(request, replica)
        self._set(replica, self.loads[replica] + weight)

    def ended(self, request: Request, replica: int) -> None:
        """Its load shrinks again by as much."""
        self._set(replica, self.loads[replica] - self.weights.pop(request.id))

    def up(self, replica: int) -> None:
        """It comes back without load."""
        self._set(replica, 0)

    def down(self, replica: int) -> None:
        """It is no candidate."""
        del self.loads[replica]

    def _set(self, replica: int, load: int) -> None:
        self.loads[replica] = load
        heappush(self.heap, (load, replica))
        if len(self.heap) > 64 + 4 * len(self.loads):
            self.heap = [(load, k) for k, load in self.loads.items()]
            heapify(self.heap)


class PowerOfTwo(UpReplicas):
    """The one with fewer requests of two drawn at random (Mitzenmacher, 2001)."""

    def __init__(self, num_replicas: int, rng: np.random.Generator) -> None:
        super().__init__(num_replicas)
        self.drawn, self.requests = drawn(rng), [0] * num_replicas

    def choose(self, request: Request) -> int:
        """The better of two."""
        n = len(self.members)
        first = int(next(self.drawn) * n)
        second = int(next(self.drawn) * (n - 1))  # of the others, where there are any
        a, b = self.members[first], self.members[min(second + (second >= first), n - 1)]
        return b if self.requests[b] < self.requests[a] else a

    def sent(self, request: Request, replica: int) -> None:
        """One more."""
        self.requests[replica] += 1

    def ended(self, request: Request, replica: int) -> None:
        """One fewer."""
        self.requests[replica] -= 1

    def down(self, replica: int) -> None:
        """It is gone with its requests."""
        super().down(replica)
        self.requests[replica] = 0


def drawn(rng: np.random.Generator, at_a_time: int = 4096) -> Iterator[float]:
    """Uniform numbers in [0, 1) without end; drawing many at a time is what makes them cheap."""
    while True:
        yield from rng.random(at_a_time).tolist()


def router(
    name: str, num_replicas: int, rng: np.random.Generator, work_s: Callable[[Request, int], float]
) -> Router | None:
    """The rule of that name; None for `shared-queue`, which sends nothing: replicas take from it.

    `work_s(request, replica)`: seconds of accelerator time that the request is predicted to take there.
    Raises InputError for an unknown name.
    """
    if name == "round-robin":
        return RoundRobin(num_replicas)
    if name == "random":
        return AtRandom(num_replicas, rng)
    if name == "power-of-two":
        return PowerOfTwo(num_replicas, rng)
    if name == "least-requests":
        return LeastLoaded(num_replicas, lambda request, replica: 1)
    if name == "least-tokens":
        return LeastLoaded(num_replicas, lambda request, replica: request.prompt_tokens)
    if name == "least-predicted-work":
        return LeastLoaded(
            num_replicas, lambda request, replica: round(work_s(request, replica) * PER_SECOND)
        )
    if name == "shared-queue":
        return None
    raise InputError(f"router: {name!r} is not one of {', '.join(ROUTERS)}")
