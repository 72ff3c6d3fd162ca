"""The search for the highest rate that a fleet carries within an SLO, and the curves around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .search import IDLE_BACKLOG, Effort, Search, SearchOutcome, decide, left_open
from .slo import Slo
from .verdict import BROKEN, FleetPoint, SloVerdict, point_standing, value_text

WIDEN, WIDENINGS = 1.1, 12
"""Factor per step, and most steps, from an undecided rate to a decided one."""


@dataclass(frozen=True)
class RateRange:
    """The highest rate at which a fleet meets the SLO; None where none is shown to.

    `rate` is the best estimate. `low` is the highest rate shown to meet the SLO (None: none was), `high` the
    lowest shown to break it; what lies between is undecided. `outcome`: `undecided` where for want of longer
    or more runs `rate` is None, or no more than the highest that sessions let them show.
    """

    rate: float | None
    low: float | None
    high: float | None
    reason: str
    points: tuple[FleetPoint, ...]
    outcome: SearchOutcome


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
    it; undecided where only sessions that outlast the warm-up of its runs speak against the next rate.
    """
    search = _RateSearch(slo, replicas, effort)
    low, high = yield from search.enclose(start, step)
    if low is None:
        return search.none_passes(high)
    while high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        if (yield from search.passes(middle)):
            low = middle
        else:
            high = middle
    if bracket:
        low = yield from search.show_both_sides(low, high, tolerance)
    points = search.points
    most = max((rate for rate, point in points.items() if point.verdict == "meets"), default=None)
    high = min(rate for rate, point in points.items() if rate > low and not point.meets_by_mean)
    if not points[high].is_cut_short:
        return RateRange(low, most, _lowest_broken(points), "", _by_rate(points), "met")
    met = "" if most is None else f"; {most:.3g}/s are shown to meet it"
    reason = f"{left_open(slo, high, points[high], effort)}, and more for higher rates{met}"
    rate = None if bracket else low
    return RateRange(rate, most, _lowest_broken(points), reason, _by_rate(points), "undecided")


class _RateSearch:
    """The points of one fleet that a search for its highest rate has seen so far, by rate."""

    def __init__(self, slo: Slo, replicas: int, effort: Effort) -> None:
        self.slo, self.replicas, self.effort = slo, replicas, effort
        self.points: dict[float, FleetPoint] = {}

    def passes(self, rate: float, effort: Effort | None = None) -> Search[bool]:
        """Whether the fleet meets the SLO at a rate; where that stays undecided, by its mean."""
        point = yield from decide(self.slo, self.replicas, rate, effort or self.effort, patient=True)
        self.points[rate] = point
        return point.meets_by_mean

    def enclose(self, start: float, step: float) -> Search[tuple[float | None, float]]:
        """A rate that passes and a higher one that does not; None and the lowest where none passes."""
        low = high = start
        factor = step
        if (yield from self.passes(start)):
            while True:
                high = low * factor
                if not (yield from self.passes(high)):
                    return low, high
                low, factor = high, min(factor**2, 2.0)
        while True:
            low = high / factor
            if (yield from self.passes(low)):
                return low, high
            if self.points[low].backlog < IDLE_BACKLOG and self.points[low].verdict != "unstable":
                return None, low
            high, factor = low, min(2.0 * factor, 16.0)

    def none_passes(self, lowest: float) -> RateRange:
        """The end of a search in which not even one request at a time meets the SLO."""
        point = self.points[lowest]
        outcome: SearchOutcome = "unreachable"
        if point.verdict == "undecided":
            outcome = "undecided"
            reason = f"even one request at a time, {left_open(self.slo, lowest, point, self.effort)}"
        else:
            bound = point.binding
            reason = (
                f"even at {lowest:.3g} requests/s, one request at a time, {point_standing(point)}, beyond "
                f"the bound of {value_text(bound, bound.limit)}"
            )
        return RateRange(None, None, _lowest_broken(self.points), reason, _by_rate(self.points), outcome)

    def show_both_sides(self, low: float, high: float, tolerance: float) -> Search[float]:
        """Simulate the answer at full length, then widen until a rate is shown to meet and one to break.

        Returns the answer, which is lower than `low` where that does not hold at full length.
        """
        for _ in range(WIDENINGS):
            if (yield from self.passes(low, self.effort.at_length())):
                break
            high, low = low, low / (1 + tolerance)
        else:
            yield from self.passes(low, self.effort.at_length())
        sides: tuple[tuple[float, float, tuple[SloVerdict, ...]], ...] = (
            (low, 1 / WIDEN, ("meets",)),
            (high, WIDEN, BROKEN),
        )
        for rate, factor, verdicts in sides:
            for _ in range(WIDENINGS):
                if any(point.verdict in verdicts for point in self.points.values()):
                    break
                rate *= factor
                yield from self.passes(rate)
        return low


def _by_rate(points: dict[float, FleetPoint]) -> tuple[FleetPoint, ...]:
    return tuple(points[r] for r in sorted(points))


def _lowest_broken(points: dict[float, FleetPoint]) -> float | None:
    return min((r for r, p in points.items() if p.verdict in BROKEN), default=None)


def at_rates(
    slo: Slo, replicas: int, rates: Sequence[float], effort: Effort
) -> Search[tuple[FleetPoint, ...]]:
    """The points of a curve of one fleet over several rates, with the same effort for each."""
    points: list[FleetPoint] = []
    for rate in rates:
        points.append((yield from decide(slo, replicas, rate, effort)))
    return tuple(points)
