"""Searches for the fewest replicas and for the highest rate that meet an SLO, with common random numbers.

A search is a generator: it yields the runs that it needs, is sent what they observed, and returns what it
found. It does no I/O and knows nothing of traces, policies or machines, nor of who carries the runs out.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

from traces.errors import InputError

from .slo import Observation, Slo, quantile
from .verdict import BROKEN, Point, Run, judge, long_enough, said, shown, to_settle

T = TypeVar("T")

REQUESTS_PER_REPLICA = 40
"""A run has at least so many, that a large fleet is not judged by its first minute."""

SEEDS_OF_AN_ANSWER = 5
"""No fleet is the answer with fewer, where the effort allows for them."""

WIDEN, WIDENINGS = 1.1, 12
"""Steps, and their most, from an undecided rate to one that is decided."""

IDLE_BACKLOG = 0.01
"""Requests in the system at which a replica counts as serving one request alone."""


Outcome = Literal["met", "undecided", "unreachable"]

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
    """Be content with a point that is settled, decided or not."""

    def __post_init__(self) -> None:
        for low, name, high in (
            (20, "num_requests", self.max_requests),
            (3, "num_seeds", self.max_seeds),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name}: {value} is not between {low} and max_{name[4:]} ({high})")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence: {self.confidence:g} is not between 0.5 and 1")
        if self.first_seed < 0:
            raise InputError(f"seed: {self.first_seed} must be at least 0")

    def at_length(self) -> Effort:
        """The same, beginning with the longest runs: for the answer itself."""
        seeds = min(self.max_seeds, max(self.num_seeds, SEEDS_OF_AN_ANSWER))
        return replace(self, num_requests=self.max_requests, num_seeds=seeds)

    def at_a_glance(self) -> Effort:
        """The same, content with a point that is settled: for values that decide nothing."""
        return replace(self, max_seeds=self.num_seeds, glance=True)


def decide(slo: Slo, replicas: int, rate: float, effort: Effort, *, patient: bool = False) -> Search[Point]:
    """One point, simulated longer and with more seeds until it is decided, or named undecided.

    The latter when the effort is spent or, if not `patient`, when after a quarter of it the rest would
    foreseeably leave a bound undecided, or when the longest runs are too short to settle and nothing else
    speaks against the fleet.
    """
    most = effort.max_requests
    n, seeds = min(most, max(effort.num_requests, REQUESTS_PER_REPLICA * replicas)), effort.num_seeds
    while True:
        asked = [Run(replicas, rate, effort.first_seed + k, n) for k in range(seeds)]
        point = judge(slo, asked, (yield asked), effort.confidence)
        if point.verdict != "undecided" or (n >= most and seeds >= effort.max_seeds):
            return point
        if point.settled and (effort.glance or (not patient and _hopeless(point, effort))):
            return point
        if not patient and n >= most and point.may_meet and _too_short(slo, rate, point.mean_e2el_s, effort):
            return point
        if point.settled or n >= most:
            seeds = min(effort.max_seeds, seeds + 2)
        if point.settled:
            n = min(most, 2 * n)
        else:
            n = min(most, max(2 * n, to_settle(slo, rate, point.mean_e2el_s, seeds)))


def _hopeless(point: Point, effort: Effort) -> bool:
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


def _too_short(slo: Slo, rate: float, mean_e2el_s: float, effort: Effort) -> bool:
    """Whether not even all the effort allowed would settle a point."""
    return not long_enough(slo, rate, mean_e2el_s, effort.max_seeds, effort.max_requests)


def alone(slo: Slo, mean_e2el_s: float, effort: Effort) -> Search[Point]:
    """One replica with one request at a time: what no number of replicas betters.

    `mean_e2el_s`: how long a request lasts at most; the rate leaves many times that between two of them.
    """
    rate = IDLE_BACKLOG / max(mean_e2el_s, 1e-9)
    return (yield from decide(slo, 1, rate, effort))


@dataclass(frozen=True)
class Fleet:
    """What the search for replicas found: `replicas` is None where none of them is shown to meet the SLO.

    `points`: every fleet that was tried at the rate, by size. `alone`: one request at a time on one replica.
    `outcome`: `undecided` where that is for want of longer or more runs; `likely` is then the smallest fleet
    that nothing speaks against (None: none was found).
    """

    replicas: int | None
    rate: float
    reason: str
    alone: Point
    points: tuple[Point, ...]
    outcome: Outcome
    likely: int | None = None

    def at(self, replicas: int) -> Point | None:
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


def fewest_replicas(slo: Slo, rate: float, effort: Effort, max_replicas: int = 1024) -> Search[Fleet]:
    """The fewest replicas that meet the SLO at a rate: doubling, then bisection, then a second, longer look.

    The fleet that was found is simulated at full length, and where it fails there, the next larger one is.
    What is undecided is not shown to meet the SLO, so the answer errs towards more replicas. Unreachable
    where one request alone on an idle replica already breaks a bound and a fleet that is mostly idle does
    too, or where `max_replicas` do not suffice. Undecided where nothing settles even on idle replicas, or
    `max_replicas` stay undecided.
    """
    points: dict[int, Point] = {}
    points[1] = yield from decide(slo, 1, rate, effort)
    idle = yield from alone(slo, points[1].mean_e2el_s, effort)
    hasty = idle.verdict != "fails" and _too_short(slo, rate, idle.mean_e2el_s, effort)
    # From the middle of a run on its backlog is watched; by then not even an idle fleet has answered any.
    blind = rate * idle.mean_e2el_s > effort.max_requests / 2
    low, high = 0, 1
    while points[high].verdict != "meets":
        if idle.verdict == "fails" and points[high].backlog < high:
            reason = _no_replica_helps(idle, points[high])
            return Fleet(None, rate, reason, idle, _sorted(points), "unreachable")
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
            return Fleet(high, rate, "", idle, _sorted(points), "met")
        if high >= max_replicas:
            return (yield from _none_found(slo, rate, effort, idle, points, blind))
        high += 1


def _none_found(
    slo: Slo, rate: float, effort: Effort, idle: Point, points: dict[int, Point], blind: bool
) -> Search[Fleet]:
    """Why the largest fleet tried is not the answer; where it may be, by bisection the smallest that may."""
    last = points[max(points)]
    if last.verdict in BROKEN and not (blind and last.verdict == "unstable"):
        return Fleet(None, rate, _not_enough(last), idle, _sorted(points), "unreachable")
    if not last.may_meet:
        reason = _left_open(slo, rate, idle if blind else last, effort)
        return Fleet(None, rate, reason, idle, _sorted(points), "undecided")
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
    reason = _left_open(slo, rate, points[high], effort)
    return Fleet(None, rate, reason, idle, _sorted(points), "undecided", high)


def _sorted(points: dict[int, Point]) -> tuple[Point, ...]:
    return tuple(points[k] for k in sorted(points))


def _no_replica_helps(idle: Point, tried: Point) -> str:
    bound = idle.binding
    return (
        f"{said(bound)} for one request alone on an idle replica, beyond the bound of "
        f"{shown(bound, bound.limit)}; more replicas only spread the load ({tried.replicas} of them at "
        f"{tried.rate:.4g} requests/s: {said(tried.binding)})"
    )


def _not_enough(point: Point) -> str:
    most = point.replicas
    if point.verdict == "unstable":
        return (
            f"at {point.rate:.4g} requests/s the backlog of {most} replicas still grows, by "
            f"{point.drift.mean:.2f} requests per arrival; max_replicas is {most}"
        )
    bound = point.binding
    return (
        f"at {point.rate:.4g} requests/s {most} replicas reach {said(bound)}, and the bound is "
        f"{shown(bound, bound.limit)}; max_replicas is {most}"
    )


def _left_open(slo: Slo, rate: float, point: Point, effort: Effort) -> str:
    """Why a point is undecided at a rate, and what would decide it."""
    longest, seeds = effort.max_requests, effort.max_seeds
    if _too_short(slo, rate, point.mean_e2el_s, effort):
        need = to_settle(slo, rate, point.mean_e2el_s, seeds)
        need += -need % 10 ** max(len(str(need)) - 2, 0)
        return (
            f"at {rate:.4g} requests/s runs of {longest:,} requests are too short to settle; "
            f"--max-requests {need} would do"
        )
    across = [m for m in point.measured if m.low <= m.limit <= m.high]
    if across:
        return (
            f"at {rate:.4g} requests/s {point.replicas} replicas reach {said(across[0])}, across the bound "
            f"of {shown(across[0], across[0].limit)}, with {seeds} seeds of {longest:,} requests"
        )
    return (
        f"at {rate:.4g} requests/s the backlog of {point.replicas} replicas seems to grow, but not beyond "
        f"the noise between {seeds} seeds of {longest:,} requests"
    )


@dataclass(frozen=True)
class RateRange:
    """The highest rate at which a fleet meets the SLO; None where none is shown to.

    `rate` is the best estimate. `low` is the highest rate shown to meet the SLO (None: none was), `high` the
    lowest shown to break it; what lies between is undecided. `outcome`: `undecided` where `rate` is None for
    want of longer or more runs.
    """

    rate: float | None
    low: float | None
    high: float | None
    reason: str
    points: tuple[Point, ...]
    outcome: Outcome


def highest_rate(
    slo: Slo,
    replicas: int,
    effort: Effort,
    *,
    start: float,
    tolerance: float = 0.02,
    step: float = 2.0,
    bracket: bool = True,
) -> Search[RateRange]:
    """The highest rate that `replicas` carry within the SLO, by bisection to a relative `tolerance`.

    From `start` the rate is multiplied or divided by `step` and more until two rates bracket the answer. A
    rate that stays undecided counts by its mean. With common random numbers every rate sees the same pattern
    of arrivals, so that the curve being bisected is one curve. With `bracket` the answer is simulated at
    full length, and the search goes on to either side until a rate is shown to meet the SLO and one to break
    it.
    """
    points: dict[float, Point] = {}

    def passes(rate: float) -> Search[bool]:
        points[rate] = yield from decide(slo, replicas, rate, effort, patient=True)
        return points[rate].meets_by_mean

    low = high = start
    factor = step
    if (yield from passes(start)):
        while True:
            high = low * factor
            if not (yield from passes(high)):
                break
            low, factor = high, min(factor**2, 2.0)
    else:
        while True:
            low = high / factor
            if (yield from passes(low)):
                break
            if points[low].backlog < IDLE_BACKLOG and points[low].verdict != "unstable":
                if points[low].verdict == "undecided":
                    reason = f"even one request at a time, {_left_open(slo, low, points[low], effort)}"
                    broken = _lowest_broken(points)
                    return RateRange(None, None, broken, reason, _by_rate(points), "undecided")
                bound = points[low].binding
                reason = (
                    f"even at {low:.3g} requests/s, one request at a time, {said(bound)} is beyond the bound "
                    f"of {shown(bound, bound.limit)}"
                )
                broken = _lowest_broken(points)
                return RateRange(None, None, broken, reason, _by_rate(points), "unreachable")
            high, factor = low, min(2.0 * factor, 16.0)
    while high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        if (yield from passes(middle)):
            low = middle
        else:
            high = middle
    for _ in range(WIDENINGS if bracket else 0):
        points[low] = yield from decide(slo, replicas, low, effort.at_length(), patient=True)
        if points[low].meets_by_mean:
            break
        high, low = low, low / (1 + tolerance)
    for factor, verdicts in ((1 / WIDEN, ("meets",)), (WIDEN, BROKEN)) if bracket else ():
        rate = low if factor < 1 else high
        for _ in range(WIDENINGS):
            if any(p.verdict in verdicts for p in points.values()):
                break
            rate *= factor
            yield from passes(rate)
    shown_to_meet = [r for r, p in points.items() if p.verdict == "meets"]
    most = max(shown_to_meet, default=None)
    return RateRange(low, most, _lowest_broken(points), "", _by_rate(points), "met")


def _by_rate(points: dict[float, Point]) -> tuple[Point, ...]:
    return tuple(points[r] for r in sorted(points))


def _lowest_broken(points: dict[float, Point]) -> float | None:
    return min((r for r, p in points.items() if p.verdict in BROKEN), default=None)


def at_rates(slo: Slo, replicas: int, rates: Sequence[float], effort: Effort) -> Search[tuple[Point, ...]]:
    """The points of a curve of one fleet over several rates, with the same effort for each."""
    made: list[Point] = []
    for rate in rates:
        made.append((yield from decide(slo, replicas, rate, effort)))
    return tuple(made)
