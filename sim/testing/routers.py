"""`check_router`: what must hold of a router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from traces.arguments import checked

from ..fleet.routers import RouterSpec, router_maker, router_name
from ..fleet.routing import Machine, Router, RouterContext
from ..request import Request
from . import invariants
from .worlds import random_world, reported, require

STEPS = 120
FAVOURED, SPREAD = 600, 100
"""Requests that all go to one replica at first; short ones, per replica, that show the loads it left."""
CHANCE = 45
"""A router that draws lots may give a replica so many of `SPREAD` more or fewer; five standard deviations."""

Make = Callable[[RouterContext], Router | None]


@checked
def check_router(router: RouterSpec, *, num_worlds: int = 30, seed: int = 0) -> None:
    """What must hold of a router, in worlds `seed`, `seed` + 1, ...

    `router` is a class or another callable of `RouterContext`, or a text `NAME` or `module:Class`,
    `[:key=value,...]` behind it. It chooses only among replicas that are up, whoever comes, goes and fails;
    the same with the same random numbers; when all has ended it spreads requests as evenly as a new one, so
    that no load is left behind; and every request of a simulated fleet ends. Raises AssertionError with one
    line, which names the world, for the first that fails.
    """
    make, name = router_maker(router), router_name(router)
    for k in range(seed, seed + num_worlds):
        rng = np.random.default_rng(np.random.SeedSequence(k, spawn_key=(2,)))
        num_replicas, world = int(rng.integers(1, 7)), random_world(k)
        with reported("check_router", name, k, f"{num_replicas} replicas, {world}"):
            first, second = (_Fleet(make, num_replicas, k) for _ in range(2))
            if first.router is not None:
                first.live(k)
                second.live(k)
                require(first.chosen == second.chosen, "chooses otherwise with the same context.rng")
                _check_forgets(make, first)
            how = ({}, {"mtbf_s": 4.0, "mttr_s": 0.5})[k % 2]
            shared = world.fleet(rng, router=router, predictor="trace", **how)
            result = shared.run("continuous:max_num_seqs=4", log=True)
            invariants.check_run(result, [machine.limits.kv_tokens for machine in shared.machines])


@dataclass
class _Fleet:
    """A router and the replicas as they are: what runs where."""

    make: Make
    num_replicas: int
    seed: int
    chosen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng, n, self.now = np.random.default_rng(self.seed), self.num_replicas, 0.0
        machines = tuple(Machine(_Steps(1 + k % 2), 20_000.0, 64) for k in range(n))
        kv_tokens = (20_000,) * n
        context = RouterContext(n, rng, _prompt_s, kv_tokens, machines, lambda: self.now)
        self.router = self.make(context)
        self.up = set(range(self.num_replicas))
        self.at: dict[int, dict[int, Request]] = {k: {} for k in self.up}
        self.num_requests = 0

    def live(self, seed: int) -> None:
        """Requests come and go, replicas fail and come back; at the end all are up and idle."""
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
        for action in rng.random(STEPS):
            self.now += float(rng.exponential(0.05))
            busy = [k for k in sorted(self.up) if self.at[k]]
            if action < 0.55:
                prompt, predicted = int(rng.integers(1, 500)), int(rng.integers(1, 500))
                self.send(Request(0, self.now, prompt, 512, predicted_tokens=predicted))
            elif action < 0.85 and busy:
                here = self.at[int(rng.choice(busy))]
                self.end(here[int(rng.choice(list(here)))])
            elif action < 0.92 and len(self.up) > 1:
                self.fail(int(rng.choice(sorted(self.up))))
            elif len(self.up) < self.num_replicas:
                self.repair(int(rng.choice(sorted(set(self.at) - self.up))))
        for k in sorted(set(self.at) - self.up):
            self.repair(k)
        self.end_all()

    def send(self, request: Request) -> int:
        """A request arrives; where it goes."""
        assert self.router is not None
        request.id, self.num_requests = self.num_requests, self.num_requests + 1
        replica = self.router.choose(request)
        require(replica in self.up, f"chose {replica}; up are {sorted(self.up)}")
        self.router.sent(request, replica)
        self.at[replica][request.id] = request
        self.chosen.append(replica)
        return replica

    def end(self, request: Request) -> None:
        """A request has ended."""
        assert self.router is not None
        replica = next(k for k, here in self.at.items() if request.id in here)
        del self.at[replica][request.id]
        self.router.ended(request, replica)

    def fail(self, replica: int) -> None:
        """A replica goes, and what it had is sent elsewhere."""
        assert self.router is not None
        lost, self.at[replica] = list(self.at[replica].values()), {}
        self.up.remove(replica)
        self.router.down(replica)
        for request in lost:
            self.send(request)

    def repair(self, replica: int) -> None:
        """It is back, empty."""
        assert self.router is not None
        self.up.add(replica)
        self.router.up(replica)

    def favour_one(self) -> None:
        """All goes to one replica; half of it ends there, the rest elsewhere after a failure."""
        favourite, others = 0, range(1, self.num_replicas)
        for k in others:
            self.fail(k)
        for _ in range(FAVOURED):
            self.send(Request(0, self.now, 50, 512, predicted_tokens=50))
        for request in list(self.at[favourite].values())[::2]:
            self.end(request)
        for k in others:
            self.repair(k)
        if others:
            self.fail(favourite)
            self.repair(favourite)
        self.end_all()

    def end_all(self) -> None:
        """Whatever runs ends."""
        for here in self.at.values():
            for request in list(here.values()):
                self.end(request)

    def spread(self) -> list[int]:
        """How many of many short requests each replica gets while none ends, the most first."""
        for _ in range(SPREAD * self.num_replicas):
            self.send(Request(0, self.now, 1, 1, predicted_tokens=1))
        return sorted((len(here) for here in self.at.values()), reverse=True)


@dataclass(frozen=True)
class _Steps:
    """Iterations of a machine that takes so many times as long as the fastest."""

    slowness: float

    def decode_s(self, num_seqs: int, context_tokens: float) -> float:
        """The weights and the context are read."""
        return self.slowness * (0.01 + 1e-6 * context_tokens)

    def mixed_s(
        self,
        num_decode: int,
        decode_context_tokens: float,
        num_prefill: int,
        prefill_tokens: int,
        prefill_attention: float,
    ) -> float:
        """The same and the prompts' own."""
        own_s = 1e-4 * prefill_tokens + 1e-9 * prefill_attention
        return self.decode_s(num_decode, decode_context_tokens) + self.slowness * own_s


def _prompt_s(request: Request, replica: int, answer_tokens: int | None = None) -> float:
    """Seconds of its prompt alone, on every other replica twice as many."""
    return request.prompt_tokens * 1e-4 * (1 + replica % 2)


def _check_forgets(make: Make, used: _Fleet) -> None:
    """What has ended leaves no load behind: new requests are spread as by a router that has seen nothing.

    Compared is how many each replica gets, whichever it is, so that a rule may remember what it likes (whose
    turn it is, where a user was sent) as long as that is no load.
    """
    like_new = _Fleet(make, used.num_replicas, used.seed).spread()
    biased = _Fleet(make, used.num_replicas, used.seed)
    biased.favour_one()
    for fleet in (used, biased):
        counts = fleet.spread()
        require(
            all(abs(count - new) <= CHANCE for count, new in zip(counts, like_new, strict=True)),
            f"when all has ended, its replicas get {counts} of {sum(counts)} requests, those of a new one "
            f"{like_new}: a load is left behind",
        )
