"""The verdict on one fleet at one rate, over several seeds. Knows nothing of searches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ..results.backlog import LEAST_DRIFT, LEAST_GROWTH
from ..results.failures import share_text
from ..results.slo_metrics import shares_text
from .slo import (
    TAIL_REQUESTS,
    WARM_UP,
    WARM_UP_E2EL,
    Bound,
    Interval,
    Observation,
    Slo,
    interval,
    is_left_out,
)

SloVerdict = Literal["meets", "fails", "unstable", "undecided"]

BROKEN: tuple[SloVerdict, ...] = ("fails", "unstable")


class Run(NamedTuple):
    """One simulation that a search asks for; `outages`: whether replicas fail as the question says.

    `is_replay`: of the trace with its own times, scaled to the rate as a whole, in place of a window.
    """

    replicas: int
    rate: float
    seed: int
    num_requests: int
    outages: bool = True
    is_replay: bool = False


@dataclass(frozen=True)
class Measured:
    """A bound and where the fleet stands to it, as mean over seeds with its confidence interval."""

    name: str
    limit: float
    mean: float
    low: float
    high: float
    pressure: float


@dataclass(frozen=True)
class FleetPoint:
    """One fleet at one rate, over several seeds.

    `failed`: the share of the requests counted that did not complete; `failed_reason`: why the first did not.
    `is_replay`: of the trace itself, in place of windows of it. `slo_attainment`: the share of the requests
    that are within their own bounds, and the same by class; None where none states any.

    `mean_session_s`: how long a session lasts, think times included, and `mean_away_s` how much of it none of
    its requests is here; None where no request waits for others of its session and no session is bounded.

    `drift`: growth of the backlog per arrival. Where the verdict is `unstable` the measured values describe
    the length of the run and nothing else.
    """

    replicas: int
    rate: float
    num_requests: int
    num_seeds: int
    verdict: SloVerdict
    measured: tuple[Measured, ...]
    drift: Interval
    backlog: float
    mean_e2el_s: float
    settled: bool
    utilisation: float
    kv_peak: float
    output_tokens: float
    failed: float
    failed_reason: str = ""
    is_replay: bool = False
    slo_attainment: Mapping[str, float] | None = None
    mean_session_s: float | None = None
    mean_away_s: float | None = None

    @property
    def lasting_s(self) -> float:
        """What a warm-up has to outlast: the mean session where there are any, else the mean request."""
        return self.mean_e2el_s if self.mean_session_s is None else self.mean_session_s

    @property
    def outlasted_s(self) -> float | None:
        """How long its warm-up lasts, where the sessions outlast it."""
        return self.warm_up_s if self.warm_up_s < WARM_UP_E2EL * (self.mean_session_s or 0.0) else None

    @property
    def warm_up_s(self) -> float:
        """How long its warm-up lasts, at its rate."""
        return WARM_UP * self.num_requests / self.rate

    @property
    def is_rising(self) -> bool:
        """Whether more and more sessions are under way, so that a backlog grows however short the queues."""
        return self.warm_up_s < WARM_UP_E2EL * (self.mean_away_s or 0.0)

    @property
    def binding(self) -> Measured:
        """The bound with the least room."""
        return max(self.measured, key=lambda m: m.pressure)

    def value(self, bound: str) -> float:
        """The mean of that bound."""
        return next(m.mean for m in self.measured if m.name == bound)

    @property
    def across(self) -> Measured | None:
        """A bound that lies within the interval of what was measured."""
        return next((m for m in self.measured if m.low <= m.limit <= m.high), None)

    @property
    def may_grow(self) -> bool:
        """Whether the backlog seems to grow, be it beyond the noise or not."""
        return self.drift.mean >= LEAST_DRIFT

    @property
    def is_cut_short(self) -> bool:
        """Whether all that speaks against it is that sessions outlast the warm-up of its runs."""
        return self.verdict == "undecided" and self.outlasted_s is not None and self.may_meet

    @property
    def meets_by_mean(self) -> bool:
        """The better guess where nothing is decided."""
        return self.verdict == "meets" or (
            self.verdict == "undecided" and self.settled and all(m.pressure <= 1 for m in self.measured)
        )

    @property
    def may_meet(self) -> bool:
        """Whether nothing speaks against it, be the runs long enough to settle or not."""
        return self.verdict not in BROKEN and all(m.pressure <= 1 for m in self.measured)


def judge(
    slo: Slo, runs: Sequence[Run], observations: Sequence[Observation], confidence: float
) -> FleetPoint:
    """The verdict on one fleet at one rate: `meets` or `fails` only where the intervals leave no doubt.

    `runs`: one per seed, alike in everything else; `observations`: what they observed, in the same order.

    Unstable where the backlog grows over the second half of the runs, beyond the noise between seeds, and not
    because ever more sessions come back. Where it seems to grow nothing is met, nor by runs that are too
    short to settle or to have enough requests beyond a percentile.
    """
    run = runs[0]
    n = len(observations)
    drift = interval([o.drift for o in observations], confidence)
    measured = []
    fails = straddles = False
    for k, bound in enumerate(slo.bounds):
        at = interval([o.values[k] for o in observations], confidence)
        measured.append(_measured(bound, at))
        # One seed in which requests fail breaks a latency bound, however the others went.
        low = math.inf if math.isinf(at.mean) else at.low
        ends = (bound.holds(low), bound.holds(at.high))
        fails |= not any(ends)
        straddles |= any(ends) and not all(ends)
    growing = drift.mean >= LEAST_DRIFT and sum(o.growth for o in observations) / n >= LEAST_GROWTH
    counted = sum(o.measured for o in observations)
    point = FleetPoint(
        replicas=run.replicas,
        rate=run.rate,
        num_requests=run.num_requests,
        num_seeds=n,
        verdict="undecided",
        measured=tuple(measured),
        drift=drift,
        backlog=sum(o.backlog for o in observations) / n,
        mean_e2el_s=sum(o.mean_e2el_s for o in observations) / n,
        settled=False,
        utilisation=sum(o.utilisation for o in observations) / n,
        kv_peak=max(o.kv_peak for o in observations),
        output_tokens=sum(o.output_tokens for o in observations) / n,
        failed=sum(o.failed for o in observations) / counted,
        failed_reason=next((o.failed_reason for o in observations if o.failed_reason), ""),
        slo_attainment=_mean_attainment(observations),
        mean_session_s=_mean_of([o.mean_session_s for o in observations]),
        mean_away_s=_mean_of([o.mean_away_s for o in observations]),
    )
    unstable = growing and drift.low > 0 and not point.is_rising
    settled = not growing and long_enough(slo, run.rate, point.lasting_s, n, run.num_requests)
    meets = settled and not (fails or straddles)
    verdict: SloVerdict = "unstable" if unstable else "fails" if fails else "meets" if meets else "undecided"
    return replace(point, verdict=verdict, settled=settled)


def judge_replay(slo: Slo, runs: Sequence[Run], observations: Sequence[Observation]) -> FleetPoint:
    """The verdict on one fleet by replays of the trace: `meets` where the worst of them does, else `fails`.

    `runs`: one per seed, alike in everything else; longer ones are not to be had.
    """
    values = [
        (min if bound.metric == "attainment" else max)(o.values[k] for o in observations)
        for k, bound in enumerate(slo.bounds)
    ]
    holds = all(bound.holds(value) for bound, value in zip(slo.bounds, values, strict=True))
    verdict: SloVerdict = "meets" if holds else "fails"
    measured = tuple(
        _measured(bound, Interval(value, value, value))
        for bound, value in zip(slo.bounds, values, strict=True)
    )
    drift = max(o.drift for o in observations)
    return replace(
        judge(slo, runs, observations, 0.95),
        verdict=verdict,
        measured=measured,
        drift=Interval(drift, drift, drift),
        settled=True,
        is_replay=True,
    )


def _measured(bound: Bound, at: Interval) -> Measured:
    # An interval does not reach to where its quantity cannot.
    high = min(at.high, 1.0) if bound.metric == "attainment" else at.high
    return Measured(bound.name, bound.limit, at.mean, max(at.low, 0.0), high, bound.pressure(at.mean))


def _mean_of(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_attainment(observations: Sequence[Observation]) -> dict[str, float] | None:
    """Over the seeds, of each class over those in which it comes."""
    each = [o.slo_attainment for o in observations if o.slo_attainment is not None]
    names = dict.fromkeys(name for seed in each for name in seed)
    values = {name: [seed[name] for seed in each if name in seed] for name in names}
    return {name: sum(shares) / len(shares) for name, shares in values.items()} or None


def attainment_text(point: FleetPoint) -> str:
    """Which share of the requests is within its own bounds, for people; empty where none states any."""
    if point.slo_attainment is None:
        return ""
    return f"within their own bounds: {shares_text(point.slo_attainment)} of the requests"


def to_settle(slo: Slo, rate: float, lasting_s: float, num_seeds: int) -> int:
    """Requests with which the warm-up outlasts the mean request or session, and percentiles have enough
    beyond them.
    """
    need = 1.25 * WARM_UP_E2EL * rate * lasting_s / WARM_UP
    for bound in slo.bounds:
        if tail := bound.tail:
            requests = slo.session_requests if bound.is_of_sessions else 1.0
            need = max(need, 1.25 * TAIL_REQUESTS * requests / (tail * num_seeds * 0.7))
    return math.ceil(min(need, 1e12))


def long_enough(slo: Slo, rate: float, lasting_s: float, num_seeds: int, num_requests: int) -> bool:
    """Whether runs of so many requests settle."""
    return num_requests >= 0.8 * to_settle(slo, rate, lasting_s, num_seeds)


def value_text(bound: Measured, value: float) -> str:
    """A value of that bound in words, with its unit."""
    if bound.name == "attainment":
        return f"{value:.4f}"
    return "never" if math.isinf(value) else f"{value:,.4g} ms" if value < 1e4 else f"{value / 1e3:,.4g} s"


def standing_text(bound: Measured) -> str:
    """Where a fleet stands to that bound: the mean and its interval."""
    return f"{bound.name} {value_text(bound, bound.mean)} ({interval_text(bound)})"


def failures_of(point: FleetPoint) -> str:
    """Which share of the requests did not complete there, and why the first did not."""
    why = f" ({point.failed_reason})" if point.failed_reason else ""
    return f"{share_text(point.failed)} of the requests do not complete{why}"


def point_standing(point: FleetPoint, bound: Measured | None = None) -> str:
    """Where a fleet stands to a bound (None: the one with the least room), and what that leaves out."""
    at = point.binding if bound is None else bound
    if math.isinf(at.mean):
        return f"{at.name} not kept, as {failures_of(point)}"
    # A trace is what it is, so that a replay has no interval.
    text = standing_text(at) if not point.is_replay else f"{at.name} {value_text(at, at.mean)}"
    return f"{text}, and {failures_of(point)}" if point.failed else text


def open_text(point: FleetPoint) -> str:
    """Why that point is undecided."""
    runs = f"{point.num_seeds} seeds of {point.num_requests:,} requests"
    bound = point.across
    if bound is not None:
        limit = value_text(bound, bound.limit)
        return f"{point_standing(point, bound)}, across the bound of {limit}, with {runs}"
    if point.may_grow and point.outlasted_s is None:
        return f"the backlog seems to grow, but not beyond the noise between {runs}"
    return f"{point_standing(point)}, but {runs} are too short to settle{lasting_text(point)}"


def lasting_text(point: FleetPoint) -> str:
    """Why its runs do not settle, where that is for sessions that last; else nothing."""
    if point.outlasted_s is None:
        return ""
    return (
        f" (their warm-up of {point.outlasted_s:,.3g} s is not {WARM_UP_E2EL:g} times as long as the "
        f"sessions, of {point.mean_session_s:,.3g} s on average: fewer are under way than there will be)"
    )


def interval_text(bound: Measured) -> str:
    """The ends of the interval in words; a unit that both have stands once."""
    low, high = value_text(bound, bound.low), value_text(bound, bound.high)
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def json_value(value: Any) -> Any:
    """A value for JSON: infinity, which it lacks, as None; tuples as lists. Where there are no sessions, or
    no request states a bound of its own, nothing is said of such.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        has = [(key, item) for key, item in value.items() if not is_left_out(key, item)]
        return {key: json_value(item) for key, item in has}
    return [json_value(item) for item in value] if isinstance(value, (list, tuple)) else value
