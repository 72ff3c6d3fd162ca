"""One fleet at one rate, over several seeds: its figures and the verdict. Knows nothing of searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .slo import WARM_UP, WARM_UP_E2EL, Bound, Interval, Observation, Slo, interval

Verdict = Literal["meets", "fails", "unstable", "undecided"]

BROKEN: tuple[Verdict, ...] = ("fails", "unstable")

LEAST_DRIFT, LEAST_GROWTH = 0.01, 1.3
"""A backlog counts as growing by at least so many requests per arrival, and so many times in half a run."""

TAIL_REQUESTS = 10
"""A percentile is not decided upon with fewer requests beyond it."""


class Run(NamedTuple):
    """One simulation that a search asks for."""

    replicas: int
    rate: float
    seed: int
    num_requests: int


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
class Point:
    """One fleet at one rate, over several seeds; `failed` is a share of the requests counted.

    `drift`: growth of the backlog per arrival. Where the verdict is `unstable` the measured values describe
    the length of the run and nothing else.
    """

    replicas: int
    rate: float
    num_requests: int
    num_seeds: int
    verdict: Verdict
    measured: tuple[Measured, ...]
    drift: Interval
    backlog: float
    mean_e2el_s: float
    settled: bool
    utilisation: float
    kv_peak: float
    output_tokens: float
    failed: float

    @property
    def binding(self) -> Measured:
        """The bound with the least room."""
        return max(self.measured, key=lambda m: m.pressure)

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


def judge(slo: Slo, asked: Sequence[Run], seen: Sequence[Observation], confidence: float) -> Point:
    """The verdict on one point: `meets` or `fails` only where the intervals leave no doubt.

    Unstable where the backlog grows over the second half of the runs, beyond the noise between seeds. Where
    it seems to grow nothing is met, nor by runs that are too short to settle or to have enough requests
    beyond a percentile.
    """
    run = asked[0]
    n = len(seen)
    drift = interval([o.drift for o in seen], confidence)
    measured = []
    fails = straddles = False
    for k, bound in enumerate(slo.bounds):
        at = interval([o.values[k] for o in seen], confidence)
        measured.append(_measured(bound, at))
        ends = (bound.holds(at.low), bound.holds(at.high))
        fails |= not any(ends)
        straddles |= any(ends) and not all(ends)
    mean_e2el = sum(o.mean_e2el_s for o in seen) / n
    growing = drift.mean >= LEAST_DRIFT and sum(o.growth for o in seen) / n >= LEAST_GROWTH
    unstable = growing and drift.low > 0
    settled = not growing and long_enough(slo, run.rate, mean_e2el, n, run.num_requests)
    meets = settled and not (fails or straddles)
    verdict: Verdict = "unstable" if unstable else "fails" if fails else "meets" if meets else "undecided"
    counted = sum(o.measured for o in seen)
    return Point(
        replicas=run.replicas,
        rate=run.rate,
        num_requests=run.num_requests,
        num_seeds=n,
        verdict=verdict,
        measured=tuple(measured),
        drift=drift,
        backlog=sum(o.backlog for o in seen) / n,
        mean_e2el_s=mean_e2el,
        settled=settled,
        utilisation=sum(o.utilisation for o in seen) / n,
        kv_peak=max(o.kv_peak for o in seen),
        output_tokens=sum(o.output_tokens for o in seen) / n,
        failed=sum(o.failed for o in seen) / counted,
    )


def _measured(bound: Bound, at: Interval) -> Measured:
    # An interval does not reach to where its quantity cannot.
    high = min(at.high, 1.0) if bound.metric == "attainment" else at.high
    return Measured(bound.name, bound.limit, at.mean, max(at.low, 0.0), high, bound.pressure(at.mean))


def to_settle(slo: Slo, rate: float, mean_e2el_s: float, num_seeds: int) -> int:
    """Requests with which the warm-up outlasts the mean request, and percentiles have enough beyond them."""
    need = 1.25 * WARM_UP_E2EL * rate * mean_e2el_s / WARM_UP
    for tail in (bound.tail for bound in slo.bounds):
        if tail:
            need = max(need, 1.25 * TAIL_REQUESTS / (tail * num_seeds * 0.7))
    return math.ceil(min(need, 1e12))


def long_enough(slo: Slo, rate: float, mean_e2el_s: float, num_seeds: int, num_requests: int) -> bool:
    """Whether runs of so many requests settle."""
    return num_requests >= 0.8 * to_settle(slo, rate, mean_e2el_s, num_seeds)


def shown(bound: Measured, value: float) -> str:
    """A value of that bound for people."""
    if bound.name == "attainment":
        return f"{value:.4f}"
    return "never" if math.isinf(value) else f"{value:,.4g} ms" if value < 1e4 else f"{value / 1e3:,.4g} s"


def said(bound: Measured) -> str:
    """The value of that bound with its interval, for people."""
    return f"{bound.name} {shown(bound, bound.mean)} ({ends(bound)})"


def ends(bound: Measured) -> str:
    """The ends of its interval, for people; a unit that both have stands once."""
    low, high = shown(bound, bound.low), shown(bound, bound.high)
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}') if unit else low} to {high}"


def plain(value: Any) -> Any:
    """A value for JSON: infinity, which it lacks, as None; tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
