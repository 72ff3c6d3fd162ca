"""Routers that break a rule are caught."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sim.fleet.routers import LeastRequests, PowerOfTwo
from sim.fleet.routing import BaseRouter, RouterContext
from sim.request import Request
from sim.testing import check_router


class Whatever(BaseRouter):
    """Also those that are down."""

    def choose(self, request: Request) -> int:
        return request.id % self.context.num_replicas


class ByDie(BaseRouter):
    def choose(self, request: Request) -> int:
        return random.choice(self.members)


class NeverEnds(LeastRequests):
    def ended(self, request: Request, replica: int) -> None:
        pass


class ForgetsFailures(LeastRequests):
    """What was on a replica that failed counts for ever."""

    def down(self, replica: int) -> None:
        self.lost = getattr(self, "lost", {}) | {replica: self.loads[replica]}
        super().down(replica)

    def up(self, replica: int) -> None:
        super().up(replica)
        self._set(replica, self.lost[replica])


class EndsHalf(LeastRequests):
    """Every other request that ends counts for ever."""

    def ended(self, request: Request, replica: int) -> None:
        if request.id % 2:
            super().ended(request, replica)


class Sticky(PowerOfTwo):
    """Fewer requests of two drawn; of two alike that which was used last."""

    last = 0

    def choose(self, request: Request) -> int:
        first, second = (self.members[int(next(self.draws) * len(self.members))] for _ in range(2))
        return min((first, second), key=lambda k: (self.requests[k], k != self.last))

    def sent(self, request: Request, replica: int) -> None:
        super().sent(request, replica)
        self.last = replica


class Stays(BaseRouter):
    """All to the replica that was used last, for as long as it is up."""

    last = 0

    def choose(self, request: Request) -> int:
        return self.last if self.last in self.place else self.members[0]

    def sent(self, request: Request, replica: int) -> None:
        self.last = replica


@pytest.mark.parametrize("router", [Sticky, Stays])
def test_a_router_may_remember_what_is_no_load(router: Callable[[RouterContext], Any]) -> None:
    check_router(router)


class Fails(BaseRouter):
    def choose(self, request: Request) -> int:
        raise ZeroDivisionError("boom")


class First(BaseRouter):
    def choose(self, request: Request) -> int:
        return min(self.members)


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (Whatever, "it is down"),
        (ByDie, "chooses otherwise with the same context.rng"),
        (NeverEnds, "a load is left behind"),
        (ForgetsFailures, "a load is left behind"),
        (EndsHalf, "a load is left behind"),
        (Fails, "choose raised ZeroDivisionError: boom (test_testing_routers.py, line"),
    ],
)
def test_a_router_that_breaks_a_rule_is_caught(router: Callable[[RouterContext], Any], message: str) -> None:
    check_router(First)
    with pytest.raises(AssertionError) as caught:
        check_router(router)
    assert message in str(caught.value) and "\n" not in str(caught.value)
