"""Searches for what meets an SLO, with common random numbers: one fleet decided, and the fewest replicas.

A search is a generator: it yields the runs that it needs, is sent what they observed, and returns what it
found. It does no I/O and knows nothing of traces, policies or machines, nor of who carries the runs out.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

from traces.errors import InputError

from .slo import Observation, Slo, quantile
from .verdict import (
    BROKEN,
    FleetPoint,
    Run,
    failures_of,
    judge,
    lasting_text,
    long_enough,
    open_text,
    point_standing,
    to_settle,
    value_text,
)

T = TypeVar("T")

REQUESTS_PER_REPLICA = 40
"""Minimum requests per replica, so that a large fleet is not judged on its start-up."""

SEEDS_OF_AN_ANSWER = 5
"""Least seeds behind an answer, where the effort allows for them."""

IDLE_BACKLOG = 0.01
"""Requests in the system below which a replica counts as serving one request at a time."""

SearchOutcome = Literal["met", "undecided", "unreachable"]

Search: TypeAlias = Generator[list[Run], list[Observation], T]


@dataclass(frozen=True)
class Effort:
    """How long to simulate before a point is decided, and when to give up."""

    num_requests: int = 1000
    num_seeds: int = 3
    max_requests: int = 6000
    max_seeds: int = 8
    first_seed: int = 0
    confidence: float = 0.95
    glance: bool = False
    """Stop at a point that is settled, decided or not."""

    def __post_init__(self) -> None:
        for low, name, high in (
            (20, "num_requests", self.max_requests),
            (3, "num_seeds", self.max_seeds),
        ):
            value = getattr(self, name)
            if value < low:
                raise InputError(f"{name}: {value} is below {low}")
            if value > high:
                raise InputError(f"max_{name[4:]}: {high} is below {name}, {value}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence: {self.confidence:g} is not between 0.5 and 1")
        if self.first_seed < 0:
            raise InputError(f"seed: {self.first_seed} must be at least 0")

    def at_length(self) -> Effort:
        """The same effort, beginning with the longest runs: for the answer itself."""
        seeds = min(self.max_seeds, max(self.num_seeds, SEEDS_OF_AN_ANSWER))
        return replace(self, num_requests=self.max_requests, num_seeds=seeds)

    def at_a_glance(self) -> Effort:
        """The same effort, stopping at a settled point: for values that decide nothing."""
        return replace(self, max_seeds=self.num_seeds, glance=True)


def decide(
    slo: Slo, replicas: int, rate: float, effort: Effort, *, patient: bool = False, outages: bool = True
) -> Search[FleetPoint]:
    """One point, simulated longer and with more seeds until it is decided, or named undecided.

    The latter when the effort is spent or, if not `patient`, when after a quarter of it the rest would
    foreseeably leave a bound undecided, or when the longest runs are too short to settle and nothing else
    speaks against the fleet.
    """
    most = effort.max_requests
    n, seeds = min(most, max(effort.num_requests, REQUESTS_PER_REPLICA * replicas)), effort.num_seeds
    while True:
        runs = [Run(replicas, rate, effort.first_seed + k, n, outages) for k in range(seeds)]
        point = judge(slo, runs, (yield runs), effort.confidence)
        if point.verdict != "undecided" or (n >= most and seeds >= effort.max_seeds):
            return point
        if point.settled and (effort.glance or (not patient and _hopeless(point, effort))):
            return point
        if not patient and n >= most and point.may_meet and _too_short(slo, rate, point.lasting_s, effort):
            return point
        if point.settled or n >= most:
            seeds = min(effort.max_seeds, seeds + 2)
        if point.settled:
            n = min(most, 2 * n)
        else:
            n = min(most, max(2 * n, to_settle(slo, rate, point.lasting_s, seeds)))


def _hopeless(point: FleetPoint, effort: Effort) -> bool:
    """Whether the interval of a bound would reach well across it even with all the effort allowed."""
    now, then = point.num_seeds, effort.max_seeds
    if 4 * now * point.num_requests < then * effort.max_requests:
        return False
    shrinks = quantile(then, effort.confidence) / quantile(now, effort.confidence)
    shrinks *= math.sqrt(now * point.num_requests / (then * effort.max_requests))
    return any(
        m.low <= m.limit <= m.high and abs(m.mean - m.limit) < shrinks * (m.high - m.mean) / 2
        for m in point.measured
    )


def _too_short(slo: Slo, rate: float, lasting_s: float, effort: Effort) -> bool:
    """Whether not even all the effort allowed would settle a point."""
    return not long_enough(slo, rate, lasting_s, effort.max_seeds, effort.max_requests)


def idle_point(slo: Slo, mean_e2el_s: float, effort: Effort) -> Search[FleetPoint]:
    """One replica that never fails, with one request at a time: what no number of replicas betters.

    `mean_e2el_s`: how long a request lasts at most; the rate leaves many times that between two of them.
    """
    rate = IDLE_BACKLOG / max(mean_e2el_s, 1e-9)
    return (yield from decide(slo, 1, rate, effort, outages=False))


@dataclass(frozen=True)
class SmallestFleet:
    """The fewest replicas that meet the SLO at a rate; `replicas` is None where no fleet is shown to.

    `points`: every fleet that was tried at the rate, by size. `alone`: one request at a time on one replica.
    `outcome`: `undecided` where that is for want of longer or more runs; `likely` is then the smallest fleet
    that nothing speaks against (None: none was found).
    """

    replicas: int | None
    rate: float
    reason: str
    alone: FleetPoint
    points: tuple[FleetPoint, ...]
    outcome: SearchOutcome
    likely: int | None = None

    def at(self, replicas: int) -> FleetPoint | None:
        """The point of that fleet, if it was tried."""
        return next((p for p in self.points if p.replicas == replicas), None)

    @property
    def undecided(self) -> tuple[int, ...]:
        """Smaller fleets of which it could not be decided whether they meet the SLO."""
        return tuple(
            p.replicas
            for p in self.points
            if p.verdict == "undecided" and (self.replicas is None or p.replicas < self.replicas)
        )


def fewest_replicas(slo: Slo, rate: float, effort: Effort, max_replicas: int = 1024) -> Search[SmallestFleet]:
    """The fewest replicas that meet the SLO at a rate: doubling, then bisection, then a second, longer look.

    The fleet that was found is simulated at full length, and where it fails there, the next larger one is.
    What is undecided is not shown to meet the SLO, so the answer errs towards more replicas. Unreachable
    where one request alone on an idle replica already breaks a bound and a fleet that is mostly idle does
    too, or where `max_replicas` do not suffice. Undecided where nothing settles even on idle replicas, or
    `max_replicas` stay undecided.
    """
    points: dict[int, FleetPoint] = {}
    points[1] = yield from decide(slo, 1, rate, effort)
    idle = yield from idle_point(slo, points[1].mean_e2el_s, effort)
    hasty = idle.verdict != "fails" and _too_short(slo, rate, idle.lasting_s, effort)
    # From the middle of a run on its backlog is watched; by then not even an idle fleet has answered any.
    blind = rate * idle.mean_e2el_s > effort.max_requests / 2
    low, high = 0, 1
    while points[high].verdict != "meets":
        if idle.verdict == "fails" and points[high].backlog < high:
            reason = no_replica_helps(idle, points[high])
            return SmallestFleet(None, rate, reason, idle, _sorted(points), "unreachable")
        if high >= max_replicas or (hasty and (blind or points[high].may_meet)):
            return (yield from _none_found(slo, rate, effort, idle, points, blind))
        low, high = high, min(2 * high, max_replicas)
        points[high] = yield from decide(slo, high, rate, effort)
    while high - low > 1:
        middle = (low + high) // 2
        points[middle] = yield from decide(slo, middle, rate, effort)
        if points[middle].verdict == "meets":
            high = middle
        else:
            low = middle
    sure = effort.at_length()
    while True:
        points[high] = yield from decide(slo, high, rate, sure)
        if points[high].verdict == "meets":
            return SmallestFleet(high, rate, "", idle, _sorted(points), "met")
        if high >= max_replicas:
            return (yield from _none_found(slo, rate, effort, idle, points, blind))
        high += 1


def _none_found(
    slo: Slo, rate: float, effort: Effort, idle: FleetPoint, points: dict[int, FleetPoint], blind: bool
) -> Search[SmallestFleet]:
    """Why the largest fleet tried is not the answer; where it may be, by bisection the smallest that may."""
    last = points[max(points)]
    if last.verdict in BROKEN and not (blind and last.verdict == "unstable"):
        return SmallestFleet(None, rate, _not_enough(last), idle, _sorted(points), "unreachable")
    if not last.may_meet:
        reason = left_open(slo, rate, idle if blind else last, effort)
        return SmallestFleet(None, rate, reason, idle, _sorted(points), "undecided")
    glance = effort.at_a_glance()
    high = min(k for k, point in points.items() if point.may_meet)
    low = max((k for k in points if k < high), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        points[middle] = yield from decide(slo, middle, rate, glance)
        if points[middle].may_meet:
            high = middle
        else:
            low = middle
    reason = left_open(slo, rate, points[high], effort)
    return SmallestFleet(None, rate, reason, idle, _sorted(points), "undecided", high)


def _sorted(points: dict[int, FleetPoint]) -> tuple[FleetPoint, ...]:
    return tuple(points[k] for k in sorted(points))


def no_replica_helps(idle: FleetPoint, tried: FleetPoint) -> str:
    """Why a fleet that is mostly idle cannot do better than one replica with one request at a time."""
    bound = idle.binding
    if idle.failed and math.isinf(bound.mean):
        return f"{failures_of(idle)}, be a replica ever so idle, and {bound.name} counts every request"
    return (
        f"{point_standing(idle)} for one request alone on an idle replica, beyond the bound of "
        f"{value_text(bound, bound.limit)}; more replicas only spread the load ({tried.replicas} of them at "
        f"{tried.rate:.4g} requests/s: {point_standing(tried)})"
    )


def _not_enough(point: FleetPoint) -> str:
    most = point.replicas
    if point.verdict == "unstable":
        return (
            f"at {point.rate:.4g} requests/s the backlog of {most} replicas still grows, by "
            f"{point.drift.mean:.2f} requests per arrival; max_replicas is {most}"
        )
    bound = point.binding
    return (
        f"at {point.rate:.4g} requests/s {most} replicas reach {point_standing(point)}, and the bound is "
        f"{value_text(bound, bound.limit)}; max_replicas is {most}"
    )


def left_open(slo: Slo, rate: float, point: FleetPoint, effort: Effort) -> str:
    """Why the longest runs leave a point undecided at a rate, and what would decide it."""
    if _too_short(slo, rate, point.lasting_s, effort):
        need = to_settle(slo, rate, point.lasting_s, effort.max_seeds)
        need += -need % 10 ** max(len(str(need)) - 2, 0)
        longest = replace(point, num_requests=effort.max_requests, rate=rate)
        return (
            f"at {rate:.4g} requests/s runs of {effort.max_requests:,} requests are too short to settle"
            f"{lasting_text(longest)}; --max-requests {need} would do"
        )
    return f"at {rate:.4g} requests/s {point.replicas} replicas: {open_text(point)}"
