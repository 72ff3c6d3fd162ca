"""What a router is: it chooses a replica for a request, and never sees how long the answer will be.

It looks at what a router in front of the replicas can know: what it has sent where, and what has come back.
Knows nothing of SimPy, schedulers or costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from traces.errors import InputError, raised_outside

from ..request import Request

NEEDS = ("order", "length", "distribution")
"""What a router may need of predictors, as schedulers do."""


class PredictedWork(Protocol):
    """Seconds of accelerator time that a request is predicted to take on a replica."""

    def __call__(self, request: Request, replica: int, answer_tokens: int | None = None, /) -> float:
        """With an answer of `answer_tokens`; by default as long as predicted, or as an answer may be."""


class StepTimes(Protocol):
    """Seconds of an iteration on a replica, by its profile."""

    def decode_s(self, num_seqs: int, context_tokens: float) -> float:
        """One in which `num_seqs` sequences decode, with so many tokens of context in all."""

    def mixed_s(
        self,
        num_decode: int,
        decode_context_tokens: float,
        num_prefill: int,
        prefill_tokens: int,
        prefill_attention: float,
    ) -> float:
        """One that also computes so many tokens of so many prompts; attention: the sum over these tokens of
        what each reads.
        """


@dataclass(frozen=True)
class Machine:
    """What is known of how a replica serves; infinity where there is no bound."""

    steps: StepTimes
    kv_tokens: float = math.inf
    max_num_seqs: float = math.inf
    """Requests that run at a time."""
    max_num_batched_tokens: float = math.inf
    """Tokens of an iteration."""
    shares_prefixes: bool = False
    """Whether a prompt is computed only from where it differs from all that were there before."""
    decides_ahead: bool = False
    """Whether who comes misses the next iteration, too, which is decided while the one before it runs."""


def no_clock() -> float:
    """Time stands still."""
    return 0.0


@dataclass(frozen=True)
class RouterContext:
    """What a router is built with; its class is called as `Class(context, **options)`."""

    num_replicas: int
    """Replicas are numbered from 0; all are up at first."""
    rng: np.random.Generator
    """The stream of random numbers for routing."""
    work_s: PredictedWork
    """(request, replica[, answer_tokens]) -> accelerator seconds that it is predicted to take there."""
    kv_tokens: tuple[int, ...] = ()
    """KV tokens that each replica holds; empty where that is not known."""
    machines: tuple[Machine, ...] = ()
    """How each replica serves; empty where that is not known."""
    now: Callable[[], float] = no_clock
    """The time in seconds, on the clock of `Request.arrival_s`."""


class Router(Protocol):
    """Chooses among the replicas that are up; it is told who comes, who goes, and what each is sent.

    One that has `needs`, a sequence of `NEEDS`, is given requests with that on them, unless the model itself
    is asked (`charge=on`); a predictor that cannot give it is refused.
    """

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


class BaseRouter:
    """Keeps the replicas that are up, and ignores loads: what a rule needs beside `choose`.

    `members` has their numbers in no order, so that one can be drawn, and replaced, in O(1); `place` maps a
    number to its index there.
    """

    def __init__(self, context: RouterContext) -> None:
        self.context = context
        self.members = list(range(context.num_replicas))
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


def needs_of(router: Router | None) -> Sequence[str]:
    """What predictors have to give for it."""
    needs: Sequence[str] = getattr(router, "needs", ())
    return needs


class CheckedRouter:
    """A router from outside: InputError where a method fails or the choice is no replica that is up."""

    def __init__(self, router: Any, label: str, num_replicas: int) -> None:
        self.router, self.label = router, label
        self.num_replicas, self.members = num_replicas, set(range(num_replicas))
        self.needs = needs_of(router)
        if isinstance(self.needs, str) or not set(self.needs) <= {*NEEDS}:
            raise InputError(f"{label}: needs is {self.needs!r}, not a sequence of {', '.join(NEEDS)}")

    def choose(self, request: Request) -> int:
        """Its choice, which is up."""
        chosen = self._call("choose", request)
        if not isinstance(chosen, (int, np.integer)) or isinstance(chosen, bool):
            raise InputError(f"{self.label}: choose returned {chosen!r}, not the number of a replica")
        if chosen not in self.members:
            there = f"replicas are 0 to {self.num_replicas - 1}"
            wrong = "it is down" if 0 <= chosen < self.num_replicas else there
            raise InputError(f"{self.label}: choose returned {chosen}; {wrong}")
        return int(chosen)

    def sent(self, request: Request, replica: int) -> None:
        """The request goes there."""
        self._call("sent", request, replica)

    def ended(self, request: Request, replica: int) -> None:
        """The request has ended there."""
        self._call("ended", request, replica)

    def up(self, replica: int) -> None:
        """The replica is there, empty."""
        self.members.add(replica)
        self._call("up", replica)

    def down(self, replica: int) -> None:
        """The replica is gone with all its load."""
        self.members.remove(replica)
        self._call("down", replica)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.router, method)(*arguments)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise raised_outside(f"{self.label}: {method}", error) from error
