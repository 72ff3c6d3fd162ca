"""A fleet behind a router, which sends every request to a replica as it arrives."""

from __future__ import annotations

from collections.abc import Sequence

from ..execution.arrivals import Arrivals
from ..execution.environment import Environment
from ..execution.replica import Replica
from ..request import Request
from .fleet import Fleet
from .routing import Router


class RoutedFleet(Fleet):
    """Each request goes where the router says; what no replica can have now waits in `queue`.

    Where memories differ, a request that does not fit where it is sent goes to where it does, and waits while
    all such replicas are down.
    """

    def __init__(self, env: Environment, arrivals: Arrivals, router: Router) -> None:
        super().__init__(env, arrivals)
        self.router = router
        self.aside: list[Request] = []  # held back while those that could hold it are down

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> None:
        """Loads shrink, too."""
        for request in requests:
            self.router.ended(request, replica.number)
        super().ended(replica, requests, now)

    def _open(self) -> None:
        pass

    def _pass_on(self, now: float) -> None:
        """Send what waits, unless no replica is up."""
        if len(self.down_since) == len(self.replicas):
            return
        queue = self.queue
        while queue:
            request = queue.popleft()
            number = self._choose(request)
            if number is None:
                self.aside.append(request)
                continue
            replica = self.replicas[number]
            self.router.sent(request, number)
            replica.submit(request, now)
            if self.keeping:
                self._say_it_is_elsewhere(request, number)
            # Routers see the load of what is to be turned away; what comes back from a failed replica may go
            # before all that waits.
            is_refused = bool(replica.scheduler.drops)
            is_back = request.id in self.arrivals.ledger.reroutes
            replica.notice(surely=is_refused or is_back or request.deadline_s is not None)

    def _went_down(self, replica: Replica) -> None:
        self.router.down(replica.number)

    def _came_up(self, replica: Replica) -> None:
        self.router.up(replica.number)
        self.queue.extendleft(reversed(self.aside))
        self.aside.clear()
        self._pass_on(self.env.now)

    def _choose(self, request: Request) -> int | None:
        """Where the request goes; None where it has to wait for a replica that is down."""
        chosen = self.router.choose(request)
        need = request.prompt_tokens + request.max_new_tokens
        if not self.is_mixed or need <= self.replicas[chosen].use.kv_capacity_tokens or need > self.largest:
            return chosen
        fits = [
            (r.num_requests, r.number)
            for r in self.replicas
            if r.number not in self.down_since and need <= r.use.kv_capacity_tokens
        ]
        return min(fits)[1] if fits else None
