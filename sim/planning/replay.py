"""Fleets tried on the trace itself: its own times, one run at full length, every request counted.

Windows of a trace, each scaled to a rate, know nothing of traffic that comes and goes more slowly than they
are long. What a search over windows has found is therefore held against the trace, and gives way to more
replicas, or a lower rate, until that is met too. Knows nothing of traces: it asks for runs, as every search
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .rate_search import RateRange
from .search import Search
from .slo import Slo
from .verdict import FleetPoint, Run, judge_replay, point_standing, value_text

MOST_REQUESTS = 50_000
"""Requests of a replay; of a longer trace its busiest stretch is replayed."""

VARIES = 1.5
"""How many times the mean the rate in the busiest tenth of a trace is at least, where it varies."""

NOISE = 4.0
"""Standard deviations of a Poisson count that it has to be beyond chance by."""

FAR = 10.0
"""How many times the rate asked for is far enough to say that there is room."""


@dataclass(frozen=True)
class Replay:
    """How a fleet is tried: on `num_requests` of the trace in a row; `seeds`: of what is random beside."""

    num_requests: int
    seeds: tuple[int, ...] = (0,)
    is_all: bool = False
    """Search by replays alone: where the rate varies, windows scaled to the mean say little."""

    def at(self, slo: Slo, replicas: int, rate: float) -> Search[FleetPoint]:
        """A fleet on the trace with its times scaled to that mean rate, all of it and its busiest tenth."""
        runs = [Run(replicas, rate, seed, self.num_requests, is_replay=True) for seed in self.seeds]
        return judge_replay(slo, runs, (yield runs))

    def at_rates(self, slo: Slo, replicas: int, rates: Sequence[float]) -> Search[tuple[FleetPoint, ...]]:
        """The points of a curve of one fleet over several mean rates."""
        points = []
        for rate in rates:
            points.append((yield from self.at(slo, replicas, rate)))
        return tuple(points)

    def fewest_replicas(
        self, slo: Slo, replicas: int, rate: float, max_replicas: int, *, idle: FleetPoint | None = None
    ) -> Search[dict[int, FleetPoint]]:
        """Points by size, from `replicas` on: doubling, then bisection to the fewest that meet the SLO.

        The largest of them fails where `max_replicas` do, or where a fleet that is mostly idle does and so
        does `idle`, a replica with one request at a time.
        """
        hopeless = idle is not None and idle.verdict == "fails"
        points = {replicas: (yield from self.at(slo, replicas, rate))}
        low, high = replicas - 1, replicas
        while points[high].verdict != "meets" and high < max_replicas:
            if hopeless and points[high].backlog < high:
                return points
            low, high = high, min(2 * high, max_replicas)
            points[high] = yield from self.at(slo, high, rate)
        while points[high].verdict == "meets" and high - low > 1:
            middle = (low + high) // 2
            points[middle] = yield from self.at(slo, middle, rate)
            low, high = (low, middle) if points[middle].verdict == "meets" else (middle, high)
        return points

    def highest_rate(self, slo: Slo, replicas: int, start: float, tolerance: float) -> Search[RateRange]:
        """The highest mean rate at which the fleet meets the SLO, to a relative `tolerance`, from `start` on.

        It is not looked for beyond `FAR` times the start, nor below a thousandth of it.
        """
        points: dict[float, FleetPoint] = {}
        low = high = None
        rate, factor = start, 1 + tolerance
        while low is None or high is None:
            points[rate] = yield from self.at(slo, replicas, rate)
            if points[rate].verdict == "meets":
                low = rate
                rate *= factor
            else:
                high = rate
                rate /= factor
            factor = min(factor**2, 2.0)
            if (low is not None and low > FAR * start) or (high is not None and high < start / 1000):
                break
        while low is not None and high is not None and high / low > 1 + tolerance:
            middle = (low * high) ** 0.5
            points[middle] = yield from self.at(slo, replicas, middle)
            low, high = (middle, high) if points[middle].verdict == "meets" else (low, middle)
        reason = "" if low is not None else not_enough(points[min(points)])
        every = tuple(points[rate] for rate in sorted(points))
        return RateRange(low, low, high, reason, every, "unreachable" if low is None else "met")


def not_enough(point: FleetPoint) -> str:
    """Why a fleet does not do on the trace itself."""
    bound = point.binding
    return (
        f"on the trace itself, at {point.rate:.4g} requests/s on average, {point.replicas} replicas reach "
        f"{point_standing(point)}, and the bound is {value_text(bound, bound.limit)}"
    )
