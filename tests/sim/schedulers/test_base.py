"""The optional members of a scheduler: what is missing is supplied, what is there stays."""

from __future__ import annotations

from typing import Any

import pytest

from sim.request import Request
from sim.schedulers import SCHEDULERS
from sim.schedulers.base import BaseScheduler, complete
from sim.work import Drop, Limits, Outcome, Work

REQUEST = Request(0, 0.0, 1, 1)
DEFAULTS = {
    "wake_at": None, "upper_quantile": None, "drops": (), "has_place": False,
    "kv_capacity_tokens": None, "kv_peak_tokens": 0,
}  # fmt: skip


class Bare:
    """A class from outside that has what it must have, and no more."""

    def submit(self, request: Request, now: float) -> None: ...
    def next_work(self, now: float) -> Work | None: ...
    def record(self, work: Work, outcome: Outcome, now: float) -> None: ...
    def drain(self, now: float) -> list[Request]:
        return []


# The same without a dict, so that an object of it takes no further attributes.
Slotted = type("Slotted", (), {"__slots__": (), **{k: v for k, v in vars(Bare).items() if k[0] != "_"}})


class Inheriting(Bare, BaseScheduler):
    pass


@pytest.mark.parametrize("cls", [Bare, Slotted, Inheriting])
def test_what_is_missing_gets_its_default(cls: type[Any]) -> None:
    scheduler = cls()
    completed = complete(scheduler)
    assert completed is scheduler and type(completed) is cls
    assert {name: getattr(completed, name) for name in DEFAULTS} == DEFAULTS
    assert completed.wants(REQUEST) is None and completed.sent_elsewhere(REQUEST) is False


def test_what_is_there_stays_and_may_change_later() -> None:
    class Own(Bare):
        upper_quantile = 0.9

        def __init__(self) -> None:
            self.wake_at: float | None = None

        @property
        def has_place(self) -> bool:
            return True

        def submit(self, request: Request, now: float) -> None:
            self.wake_at = now + 1.0
            self.drops = [Drop((request,), "rejected: never")]

        def wants(self, request: Request) -> bool:
            return request.id == 0

    scheduler = complete(Own())
    assert (scheduler.upper_quantile, scheduler.has_place, scheduler.wants(REQUEST)) == (0.9, True, True)
    scheduler.submit(REQUEST, 2.0)
    assert scheduler.wake_at == 3.0
    assert [drop.requests for drop in scheduler.drops] == [(REQUEST,)]


def test_one_object_of_a_class_does_not_speak_for_another() -> None:
    class Wrapper(Bare):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class Peak(Bare):
        kv_peak_tokens = 32

    assert complete(Wrapper(Bare())).kv_peak_tokens == 0
    assert complete(Wrapper(Peak())).kv_peak_tokens == 32


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_projects_own_lack_nothing(name: str) -> None:
    scheduler = SCHEDULERS[name](Limits(1000))
    assert all(hasattr(scheduler, member) for member in (*DEFAULTS, "wants", "sent_elsewhere"))
