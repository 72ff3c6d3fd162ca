"""From arrivals to replicas: a sole accelerator that sees its arrivals coming, or a fleet behind a router.

SimPy processes that send requests, let replicas fail and come back, and keep what nobody can serve yet.
Knows nothing of how a scheduler decides or of what a step costs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

import simpy

from .arrivals import Arrivals, SimProcess
from .outages import Schedules
from .replica import Replica
from .request import Request
from .routers import Router
from .work import SchedulingError


class Sole(Arrivals):
    """The source of an accelerator that stands alone: it knows beforehand when the next request comes."""

    def release(self, replica: Replica, now: float) -> None:
        """Submit what is due."""
        if self.due_s <= now:
            replica.num_requests += self.take(now, replica.scheduler.submit)

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> None:
        """Their places are free."""
        self.leave(len(requests), now)


class Fleet:
    """Many replicas behind a router, or before one queue from which they take (`router` None).

    With a shared queue an arrival goes to the replica with the fewest requests of those that idle or iterate
    with a place left and nobody waiting, else it waits; a replica about to decide takes, first come, first
    served, what its scheduler `wants`. What a failed replica had goes to others at once, before all that
    waits. Where memories differ, a request that does not fit where it is sent goes to where it does.
    """

    due_s = math.inf

    def __init__(self, env: simpy.Environment, arrivals: Arrivals, router: Router | None) -> None:
        self.env, self.arrivals, self.router = env, arrivals, router
        self.is_bounded = arrivals.is_bounded
        self.replicas: list[Replica] = []
        self.queue: deque[Request] = deque()  # shared, or held back while no replica is up
        self.hungry: list[tuple[int, int]] = []  # heap of (requests, replica) as of its last decision
        self.down_since: dict[int, float] = {}
        self.num_left = arrivals.ledger.num_requests
        self.all_ended = env.event()

    def run(self, replicas: Sequence[Replica], outages: Schedules) -> None:
        """Serve all requests with these replicas, which fail as `outages` says."""
        self.replicas = list(replicas)
        self.hungry = [(0, replica.number) for replica in replicas]
        capacities = [r.use.kv_capacity_tokens for r in replicas]
        self.is_mixed = min(capacities) < max(capacities)
        for number, spans in outages.items():
            self.env.process(self._fail(self.replicas[number], spans))
        self.env.process(self.arrivals.run(self.env, self._receive))
        try:
            self.env.run(until=self.all_ended)
        except RuntimeError as error:
            # SimPy's own complaint that nothing is left to happen; who was lost, the caller finds out.
            if isinstance(error, SchedulingError) or self.env.peek() < math.inf:
                raise
        for number, since_s in self.down_since.items():
            self.replicas[number].use.down_s += self.env.now - since_s

    def release(self, replica: Replica, now: float) -> None:
        """With a shared queue the replica takes from it what its scheduler wants."""
        if self.router is not None:
            return
        queue = self.queue
        while queue and replica.wants(queue[0]):
            replica.submit(queue.popleft(), now)
        heappush(self.hungry, (replica.num_requests, replica.number))

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> None:
        """Loads shrink, places fall free; when nobody is left the run is over."""
        if self.router is not None:
            for request in requests:
                self.router.ended(request, replica.number)
        self.arrivals.leave(len(requests), now)
        self.num_left -= len(requests)
        if not self.num_left:
            self.all_ended.succeed()

    def _receive(self, request: Request, now: float) -> None:
        """A request has arrived."""
        self.queue.append(request)
        self._pass_on(now)

    def _pass_on(self, now: float) -> None:
        """Send what waits to replicas that can take it."""
        queue = self.queue
        if self.router is None:
            while queue and self.hungry:
                count, number = heappop(self.hungry)
                replica = self.replicas[number]
                if count == replica.num_requests and replica.has_place:
                    replica.submit(queue.popleft(), now)
                    replica.notice()
        elif len(self.down_since) < len(self.replicas):
            while queue:
                request = queue.popleft()
                number = self._choose(request, self.router)
                self.router.sent(request, number)
                self.replicas[number].submit(request, now)
                self.replicas[number].notice()

    def _choose(self, request: Request, router: Router) -> int:
        chosen = router.choose(request)
        if self.is_mixed:
            need = request.prompt_tokens + request.max_new_tokens
            if need > self.replicas[chosen].use.kv_capacity_tokens:
                fits = [
                    (r.num_requests, r.number)
                    for r in self.replicas
                    if r.number not in self.down_since and need <= r.use.kv_capacity_tokens
                ]
                return min(fits)[1] if fits else chosen
        return chosen

    def _fail(self, replica: Replica, spans: Iterator[tuple[float, float]]) -> SimProcess:
        """The replica is down in these spans of time (from, until)."""
        env, number = self.env, replica.number
        for down_s, up_s in spans:
            if down_s > env.now:
                yield env.timeout(down_s - env.now)
            self.down_since[number] = env.now
            if self.router is not None:
                self.router.down(number)
            self.queue.extendleft(reversed(replica.fail()))
            self._pass_on(env.now)
            yield env.timeout(up_s - env.now)
            replica.use.down_s += env.now - self.down_since.pop(number)
            replica.repair()
            if self.router is not None:
                self.router.up(number)
                self._pass_on(env.now)
