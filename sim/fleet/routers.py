"""The rules by which a router chooses a replica, by name.

One more is a class with a method `choose` and a line in `ROUTERS`; in a module of your own it needs no line:
`--router some.module:Class[:key=value,...]`. Knows nothing of SimPy, schedulers or costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil
from typing import Any, TypeAlias

from traces.registry import Registry

from ..request import Request
from .draws import uniform
from .predicted_latency import PredictedLatency
from .prefix_routers import PrefixAware, Sticky
from .routing import BaseRouter, CheckedRouter, Router, RouterContext

PER_SECOND = 10**9
"""Work is weighed in whole nanoseconds, so that what has come and gone leaves a load of exactly 0."""


class RoundRobin(BaseRouter):
    """One replica after the other."""

    def __init__(self, context: RouterContext) -> None:
        super().__init__(context)
        self.next = 0

    def choose(self, request: Request) -> int:
        """The next that is up."""
        while self.next not in self.place:
            self.next = (self.next + 1) % self.context.num_replicas
        chosen = self.next
        self.next = (chosen + 1) % self.context.num_replicas
        return chosen


class AtRandom(BaseRouter):
    """Any replica, with the same probability."""

    def __init__(self, context: RouterContext) -> None:
        super().__init__(context)
        self.draws = uniform(context.rng)

    def choose(self, request: Request) -> int:
        """Whichever the generator says."""
        return self.members[int(next(self.draws) * len(self.members))]


class LeastLoaded:
    """The replica with the least load, the one with the smallest number where several have it.

    The heap holds an entry for every load that a replica has had since it was looked at last; those that are
    out of date are thrown away when they come up, so that a choice costs O(log n) on average.
    """

    def __init__(self, context: RouterContext) -> None:
        self.work_s = context.work_s
        self.loads = dict.fromkeys(range(context.num_replicas), 0)
        self.weights: dict[int, int] = {}
        self.heap = [(0, k) for k in self.loads]

    def weigh(self, request: Request, replica: int) -> int:
        """The load that the request is to that replica, from its arrival there to its end."""
        raise NotImplementedError

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


class LeastRequests(LeastLoaded):
    """The replica with the fewest unfinished requests."""

    def weigh(self, request: Request, replica: int) -> int:
        """Each counts alike."""
        return 1


class LeastTokens(LeastLoaded):
    """The replica with the fewest prompt tokens among its unfinished requests."""

    def weigh(self, request: Request, replica: int) -> int:
        """Its prompt tokens."""
        return request.prompt_tokens


@dataclass(frozen=True)
class LeastPredictedWorkOptions:
    """Options of `least-predicted-work`."""

    quantile: float | None = None
    """Quantile of the predicted distribution by which an answer counts; default: the predicted length."""

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile <= 1:
            raise ValueError(f"quantile: {self.quantile} must be above 0 and at most 1")


class LeastPredictedWork(LeastLoaded):
    """The replica with the least predicted work: seconds of its own for prompts and predicted answers."""

    Options = LeastPredictedWorkOptions

    def __init__(self, context: RouterContext, **options: Any) -> None:
        super().__init__(context)
        self.quantile = LeastPredictedWorkOptions(**options).quantile
        self.needs = ("length",) if self.quantile is None else ("distribution",)

    def weigh(self, request: Request, replica: int) -> int:
        """Predicted nanoseconds on that replica."""
        tokens = None if self.quantile is None else quantile_tokens(request, self.quantile)
        return round(self.work_s(request, replica, tokens) * PER_SECOND)


def quantile_tokens(request: Request, quantile: float) -> int | None:
    """The least of its predicted lengths that the answer stays within with that probability, cut where any
    answer is; None where no distribution is predicted.
    """
    lengths = request.predicted_lengths
    if lengths is None:
        return None
    rank = max(1, ceil(quantile * len(lengths) - 1e-9))  # 0.55 * 20 is above 11 by rounding
    return min(lengths[rank - 1], request.bound_tokens)


class PowerOfTwo(BaseRouter):
    """The one with fewer requests of two drawn at random (Mitzenmacher, 2001)."""

    def __init__(self, context: RouterContext) -> None:
        super().__init__(context)
        self.draws, self.requests = uniform(context.rng), [0] * context.num_replicas

    def choose(self, request: Request) -> int:
        """The better of two."""
        n = len(self.members)
        first = int(next(self.draws) * n)
        second = int(next(self.draws) * (n - 1))  # of the others, where there are any
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


def shared_queue(context: RouterContext) -> None:
    """No replica on arrival: requests wait in one queue, and a replica with a place takes the first."""


ROUTERS = Registry(
    "router",
    {
        "round-robin": RoundRobin,
        "random": AtRandom,
        "least-requests": LeastRequests,
        "least-tokens": LeastTokens,
        "least-predicted-work": LeastPredictedWork,
        "predicted-latency": PredictedLatency,
        "power-of-two": PowerOfTwo,
        "prefix-aware": PrefixAware,
        "sticky": Sticky,
        "shared-queue": shared_queue,
    },
)
"""Called as `Class(context, **options)`; what returns None sends nothing, and replicas take from a queue."""

DEFAULT_ROUTER = "least-requests"

RouterSpec: TypeAlias = str | Callable[[RouterContext], Router | None]


def router_maker(router: RouterSpec) -> Callable[[RouterContext], Router | None]:
    """Builds routers from `NAME` or `some.module:Class`, `[:key=value,...]` behind it, read once.

    One from outside, or a class or function that is given in place of a text, is checked as it goes: what it
    raises, and a choice that is no replica which is up, is an InputError of one line.
    Raises InputError for an unknown name, a class that cannot be imported, and options it does not take.
    """
    if isinstance(router, str):
        named = ROUTERS.resolve(router)
        make, label, is_outside = named.build, named.label, named.is_outside
    else:
        make, label, is_outside = router, f"router {router_name(router)}", True

    def build(context: RouterContext) -> Router | None:
        built = make(context)
        return built if built is None or not is_outside else CheckedRouter(built, label, context.num_replicas)

    return build


def router_name(router: RouterSpec) -> str:
    """What a result calls the router."""
    return router if isinstance(router, str) else getattr(router, "__name__", type(router).__name__)
