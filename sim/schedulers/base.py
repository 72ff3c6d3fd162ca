"""The optional members of a scheduler: what each of them means, and what holds where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, cast

from ..request import Request
from ..work import Drop, Scheduler, TierUse


class PrefixCache(Protocol):
    """What a scheduler says of the beginnings of requests that it found in memory."""

    @property
    def shared_tokens(self) -> int:
        """Tokens in memory that several requests hold, counted for each of them but the first."""

    @property
    def found_tokens(self) -> int:
        """Prompt tokens that were in memory when their request was let in for the first time."""

    @property
    def let_in_tokens(self) -> int:
        """All prompt tokens of the requests that were let in, for the first time likewise."""

    @property
    def recomputed_tokens(self) -> int:
        """Tokens lost by preemptions, less those found when their request came back."""

    @property
    def evicted_tokens(self) -> int:
        """Tokens given up so far that might still have been found."""

    @property
    def tier_use(self) -> TierUse | None:
        """What slower memory was good for; None: there is none."""


Need: TypeAlias = Literal["order", "length", "distribution", "again", "wait"]


class BaseScheduler:
    """Defaults of the optional members, to inherit from; see `CompleteScheduler` for their meaning."""

    wake_at: float | None = None
    upper_quantile: float | None = None
    needs: Sequence[Need] = ()
    drops: Sequence[Drop] = ()
    has_place: bool = False
    kv_capacity_tokens: int | None = None
    kv_peak_tokens: int = 0
    prefix_cache: PrefixCache | None = None

    def wants(self, request: Request) -> bool | None:
        """None: no opinion."""
        return None

    def sent_elsewhere(self, request: Request) -> bool:
        """Nothing is kept for it."""
        return False


class CompleteScheduler(Scheduler, Protocol):
    """A scheduler with all its members, as executors and fleets read them.

    Where replicas share a queue, what a scheduler does not want when iterations begin, it must not want while
    they run.
    """

    @property
    def wake_at(self) -> float | None:
        """When to ask again though nothing was submitted (s); None: only a submit can change the answer."""

    @property
    def upper_quantile(self) -> float | None:
        """The quantile that predictors shall report as `predicted_upper_tokens`; None: not needed."""

    @property
    def needs(self) -> Sequence[Need]:
        """What predictors have to give: an `order` of the requests, a `length` of each, a `distribution` of
        it, answers `again` while it grows, and the `wait` until a turn's next one. A predictor that cannot
        is refused.
        """

    @property
    def drops(self) -> Sequence[Drop]:
        """The Drops that it will hand out next: routers hear of a request at once when it is turned away."""

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, or wait only to be
        asked about. Read while iterations run, where replicas share a queue.
        """

    @property
    def kv_capacity_tokens(self) -> int | None:
        """The most KV memory that it would ever give out (tokens); None: all that its limits allow."""

    @property
    def kv_peak_tokens(self) -> int:
        """The most KV memory that it ever gave out (tokens)."""

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """What requests share in memory; None: each has its own."""

    def wants(self, request: Request) -> bool | None:
        """Whether to take the request from a shared queue; None: only where the replica has none.

        Called just before `next_work`.
        """

    def sent_elsewhere(self, request: Request) -> bool:
        """Another replica serves the request; whether to decide anew, as something was kept for it here.

        Called only where waits are among the `needs`.
        """


DEFAULTS = BaseScheduler()
MEMBERS = (
    "wake_at",
    "upper_quantile",
    "needs",
    "drops",
    "has_place",
    "kv_capacity_tokens",
    "kv_peak_tokens",
    "prefix_cache",
    "wants",
    "sent_elsewhere",
)


def complete(scheduler: Scheduler) -> CompleteScheduler:
    """The same scheduler, given the defaults of those optional members that it lacks.

    They become attributes of the object, or of its class where `__slots__` leaves no room.
    """
    for name in MEMBERS:
        if not hasattr(scheduler, name):
            # No look at `__dict__`: an object that was asked for it finds its attributes more slowly.
            try:
                setattr(scheduler, name, getattr(DEFAULTS, name))
            except AttributeError:
                setattr(type(scheduler), name, getattr(DEFAULTS, name))
    return cast(CompleteScheduler, scheduler)
