"""From arrivals to replicas: a sole accelerator that sees its arrivals coming, or a fleet behind a router.

SimPy processes that send requests, let replicas fail and come back, and keep what nobody can serve yet.
Knows nothing of how a scheduler decides or of what a step costs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

import simpy

from traces.errors import InputError

from ..execution.arrivals import Arrivals, SimProcess
from ..execution.blame import blame
from ..execution.replica import Replica
from ..request import Request
from .outages import Schedules
from .routing import Router

MOST_REROUTES = 1000
"""A request that has met more failures than this would never end."""


class Sole(Arrivals):
    """The source of an accelerator that stands alone: it knows beforehand when the next request comes."""

    def release(self, replica: Replica, now: float) -> None:
        """Submit what is due."""
        if self.due_s <= now:
            replica.num_requests += self.take(now, replica.scheduler.submit)

    def is_busy(self) -> bool:
        """There is no other."""
        return False

    def outlook(self) -> tuple[float, object]:
        """When the next request comes, and which it is."""
        return self.due_s, self.head.id


class Fleet:
    """Many replicas behind a router, or before one queue from which they take (`router` None).

    With a shared queue an arrival goes to the replica with the fewest requests of those that idle or iterate
    with a place left and nobody waiting, else it waits; a replica about to decide takes, first come, first
    served, what its scheduler `wants`. What a failed replica had goes to others at once, before all that
    waits. Where memories differ, a request that does not fit where it is sent goes to where it does, waits
    while all such replicas are down, and is passed over by those that take from a shared queue.
    """

    due_s = math.inf

    def __init__(self, env: simpy.Environment, arrivals: Arrivals, router: Router | None) -> None:
        self.env, self.arrivals, self.router = env, arrivals, router
        self.is_bounded = arrivals.is_bounded
        self.is_open = False  # it opens after those that are down from the start are
        self.replicas: list[Replica] = []
        self.queue: deque[Request] = deque()  # shared, or held back while no replica is up
        self.aside: list[Request] = []  # held back while those that could hold it are down
        # Requests at each replica as of its last decision, until it is sent one; heap of (these, replica).
        self.loads: dict[int, int] = {}
        self.hungry: list[tuple[int, int]] = []
        # Prompt tokens of what each replica left in the queue at its last decision; the same by KV capacity,
        # heaps of (minus these, replica).
        self.declined: dict[int, int] = {}
        self.decliners: dict[int, list[tuple[int, int]]] = {}
        self.down_since: dict[int, float] = {}
        self.num_left = arrivals.ledger.num_requests
        self.all_ended = env.event()

    def run(self, replicas: Sequence[Replica], outages: Schedules) -> None:
        """Serve all requests with these replicas, which fail as `outages` says."""
        self.replicas = list(replicas)
        self.loads = {replica.number: 0 for replica in replicas}
        self.hungry = [(0, number) for number in self.loads]
        capacities = [r.use.kv_capacity_tokens for r in replicas]
        self.largest = max(capacities)
        self.is_mixed = min(capacities) < self.largest
        for number, spans in outages.items():
            self.env.process(self._fail(self.replicas[number], spans))
        self.env.process(self._receive_all())
        try:
            self.env.run(until=self.all_ended)
        except RuntimeError as error:
            # SimPy's own complaint that nothing is left to happen; who was lost, the caller finds out.
            if not isinstance(error.__context__, simpy.core.EmptySchedule):
                raise
        for number, since_s in self.down_since.items():
            self.replicas[number].use.down_s += self.env.now - since_s
        self.replicas = []  # they refer to the fleet

    def release(self, replica: Replica, now: float) -> None:
        """Whoever has arrived by now is sent before the replica decides, though SimPy may only come to that
        arrival later; with a shared queue it takes from that what its scheduler wants.
        """
        if self.is_open and self.arrivals.due_s <= now:
            self.arrivals.take(now, self._receive)
        if self.router is not None:
            return
        number, capacity, has_taken = replica.number, replica.use.kv_capacity_tokens, False
        while (request := self._first_for(capacity)) is not None and replica.wants(request):
            self.queue.remove(request)
            replica.submit(request, now)
            has_taken = True
        most = 64 + 4 * len(self.replicas)  # entries of replicas that have moved on since would pile up
        if self.loads.get(number) != replica.num_requests:
            self.loads[number] = replica.num_requests
            heappush(self.hungry, (replica.num_requests, number))
            if len(self.hungry) > most:
                self.hungry = [(k, n) for n, k in self.loads.items()]
                heapify(self.hungry)
        self.declined.pop(number, None)
        if request is not None:
            self.declined[number] = request.prompt_tokens
            decliners = self.decliners.setdefault(capacity, [])
            heappush(decliners, (-request.prompt_tokens, number))
            if len(decliners) > most:
                decliners[:] = [(k, n) for k, n in set(decliners) if self.declined.get(n) == -k]
                heapify(decliners)
        if has_taken and self.queue:
            self._offer()

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> None:
        """Loads shrink, places fall free; when nobody is left the run is over."""
        if self.router is not None:
            for request in requests:
                self.router.ended(request, replica.number)
        self.arrivals.ended(replica, requests, now)
        self.num_left -= len(requests)
        if not self.num_left:
            self.all_ended.succeed()

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return not self.num_left

    def is_busy(self) -> bool:
        """Whether any replica is at work."""
        return any(r.batch is not None or r.iterations is not None for r in self.replicas)

    def outlook(self) -> tuple[float, object]:
        """When the next request arrives; and which one that is, and how many have not ended."""
        return self.arrivals.due_s, (self.arrivals.head.id, self.num_left)

    def _blame(self) -> blame:
        return blame(lambda: [replica.scheduler for replica in self.replicas])

    def _receive_all(self) -> SimProcess:
        self.is_open = True
        with self._blame():
            yield from self.arrivals.run(self.env, self._receive)

    def _receive(self, request: Request, now: float) -> None:
        """A request has arrived."""
        self.queue.append(request)
        self._pass_on(now)

    def _pass_on(self, now: float) -> None:
        """Send what waits to replicas that can take it."""
        queue = self.queue
        if self.router is None:
            self._feed(now)
        elif len(self.down_since) < len(self.replicas):
            while queue:
                request = queue.popleft()
                number = self._choose(request, self.router)
                if number is None:
                    self.aside.append(request)
                    continue
                replica = self.replicas[number]
                self.router.sent(request, number)
                replica.submit(request, now)
                # Routers see the load of what is to be turned away; what comes back from a failed replica may
                # go before all that waits.
                is_refused = bool(replica.scheduler.drops)
                is_back = request.id in self.arrivals.ledger.reroutes
                replica.notice(surely=is_refused or is_back or request.deadline_s is not None)

    def _feed(self, now: float) -> None:
        """Give from the shared queue to replicas with a place, the one with the fewest requests first."""
        passed: list[tuple[int, int]] = []
        while self.queue and self.hungry:
            count, number = entry = heappop(self.hungry)
            replica = self.replicas[number]
            if self.loads.get(number) != count:
                continue  # it has moved on since
            if count == replica.num_requests and replica.has_place:
                request = self._first_for(replica.use.kv_capacity_tokens)
                if request is None:
                    passed.append(entry)
                    continue
                self.queue.remove(request)
                replica.submit(request, now)
                replica.notice()
            del self.loads[number]
        for entry in passed:
            heappush(self.hungry, entry)

    def _offer(self) -> None:
        """The first in the shared queue is another now: who had no memory for a longer one decides anew, with
        the end of its iteration.
        """
        for capacity, decliners in self.decliners.items():
            first = self._first_for(capacity)
            while decliners and first is not None and -decliners[0][0] > first.prompt_tokens:
                self.replicas[heappop(decliners)[1]].notice()

    def _first_for(self, capacity: int) -> Request | None:
        """The first in the shared queue that a replica of so many KV tokens can hold, or that none can."""
        if not self.is_mixed:
            return self.queue[0] if self.queue else None
        for request in self.queue:
            if not capacity < request.prompt_tokens + request.max_new_tokens <= self.largest:
                return request
        return None

    def _choose(self, request: Request, router: Router) -> int | None:
        """Where the request goes; None where it has to wait for a replica that is down."""
        chosen = router.choose(request)
        need = request.prompt_tokens + request.max_new_tokens
        if not self.is_mixed or need <= self.replicas[chosen].use.kv_capacity_tokens or need > self.largest:
            return chosen
        fits = [
            (r.num_requests, r.number)
            for r in self.replicas
            if r.number not in self.down_since and need <= r.use.kv_capacity_tokens
        ]
        return min(fits)[1] if fits else None

    def _check_progress(self, lost: Sequence[Request]) -> None:
        """InputError where replicas fail so often that a request will never be served."""
        for request in lost:
            if self.arrivals.ledger.reroutes[request.id] > MOST_REROUTES:
                raise InputError(
                    f"failures: a request has met {MOST_REROUTES} of them and is not served; "
                    f"mtbf_s must be longer than what a request takes"
                )

    def _fail(self, replica: Replica, spans: Iterator[tuple[float, float]]) -> SimProcess:
        """The replica is down in these spans of time (from, until)."""
        with self._blame():
            yield from self._take_down(replica, spans)

    def _take_down(self, replica: Replica, spans: Iterator[tuple[float, float]]) -> SimProcess:
        env, number = self.env, replica.number
        for down_s, up_s in spans:
            if down_s > env.now or replica.use.failures:
                # However soon it fails again, its process learns of the repair before.
                yield env.timeout(max(0.0, down_s - env.now))
            self.down_since[number] = env.now
            if self.router is not None:
                self.router.down(number)
            lost = replica.fail()
            self._check_progress(lost)
            self.queue.extendleft(reversed(lost))
            self._pass_on(env.now)
            yield env.timeout(max(0.0, up_s - env.now))
            replica.use.down_s += env.now - self.down_since.pop(number)
            replica.repair()
            if self.router is not None:
                self.router.up(number)
                self.queue.extendleft(reversed(self.aside))
                self.aside.clear()
                self._pass_on(env.now)
