"""Service-level objectives: how they are written, and what one run says about them.

Takes the per-request columns of a Result; knows nothing of simulations, fleets or searches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traces import quantities
from traces.arrivals import busiest_tenth
from traces.errors import InputError

from ..results.backlog import backlog
from ..results.metric_kinds import good_requests
from ..results.metrics import request_latencies
from ..results.own_slos import bounds_of
from ..results.session_metrics import SESSION_BOUNDS
from ..results.slo_metrics import attainments
from .session_bounds import SessionValues

FloatArray = npt.NDArray[np.float64]

WARM_UP, COOL_DOWN = 0.2, 0.1
"""Shares of a run's requests, in order of arrival, that are simulated and not counted: the first meet an
empty fleet, the last one that empties. Fixed beforehand, so that two fleets are judged on the same requests.
"""

WARM_UP_E2EL = 1.5
"""How many times as long as the mean request a warm-up has to last, or as the mean session of requests that
wait for each other.
"""

TAIL_REQUESTS = 10
"""Requests beyond a percentile that it takes to decide on it."""

MANY = 100
"""Requests that it takes for a mean over a part of a trace."""

RULE = (
    f"Of every run the first {WARM_UP:.0%} and the last {COOL_DOWN:.0%} of the requests, in order of "
    "arrival, are simulated and not counted; no SLO is called met before the warm-up lasts "
    f"{WARM_UP_E2EL:g} times as long as the mean request, nor while the backlog seems to grow. A mean or a "
    "percentile is met only where every request that counts completes; attainment may leave a share of them."
)

RULE_OF_SESSIONS = (
    "Sessions are run to their ends; what comes when none starts any more is not counted, either. The "
    f"warm-up has to last {WARM_UP_E2EL:g} times as long as the mean session, think times included: before, "
    "fewer are under way than there will be, so that a backlog may well grow."
)


@dataclass(frozen=True)
class Bound:
    """One bound: a statistic of a latency in ms that must not be exceeded, or the least share of good
    requests.

    `metric`: one of `request_latencies` or of `SESSION_BOUNDS`, or attainment. `statistic`: mean, pNN, or
    share for attainment.
    """

    metric: str
    statistic: str
    limit: float

    @property
    def name(self) -> str:
        """As it is written on the command line, such as `ttft_p99`."""
        return self.metric if self.metric == "attainment" else f"{self.metric}_{self.statistic}"

    @property
    def is_of_sessions(self) -> bool:
        """Whether sessions are bounded, not requests."""
        return self.metric in SESSION_BOUNDS

    @property
    def tail(self) -> float | None:
        """The share of requests that decides: 0.01 for a p99; None for a mean."""
        if self.metric == "attainment":
            return 1 - self.limit
        return None if self.statistic == "mean" else 1 - float(self.statistic[1:]) / 100

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return value >= self.limit if self.metric == "attainment" else value <= self.limit

    def pressure(self, value: float) -> float:
        """How much of the bound a value uses up: 1 is at the bound, above 1 beyond it."""
        if self.metric != "attainment":
            return value / self.limit
        return (1 - value) / (1 - self.limit) if self.limit < 1 else (1.0 if value >= 1 else math.inf)

    def __str__(self) -> str:
        if self.metric == "attainment":
            return f"attainment ≥ {self.limit:g}"
        return f"{self.name} ≤ {self.limit:g} ms"


@dataclass(frozen=True)
class Slo:
    """All bounds, and the latencies in ms that make a request a good one (for `attainment`).

    `session_requests`: requests of a mean session, of which it takes more where sessions are bounded.
    """

    bounds: tuple[Bound, ...]
    goodput_ms: tuple[tuple[str, float], ...] = ()
    session_requests: float = 1.0

    @property
    def bounds_sessions(self) -> bool:
        """Whether a bound is one on sessions."""
        return any(bound.is_of_sessions for bound in self.bounds)

    @property
    def bounds_a_latency(self) -> bool:
        """Whether a bound is met only where every request completes."""
        return any(bound.metric != "attainment" for bound in self.bounds)

    def __str__(self) -> str:
        return ", ".join(map(str, self.bounds))


def parse_slo(
    slo: Slo | Iterable[str] | str, goodput_ms: Mapping[str, float] | None = None, has_own: bool = False
) -> Slo:
    """The bounds of texts such as `ttft_p99:2000`, `e2el_mean:30000`, `attainment:0.99`.

    `session_p95:60s` bounds how long sessions take, `session_wait_mean` what they lose in queues. Bounds
    are in ms, or as `2s` in another unit, and attainment may be `99%`; statistics are mean,
    median, p90, p99 or any pNN. Raises InputError for anything else, for a bound given twice, and for
    attainment where nothing says what is good: `goodput_ms`, or requests themselves (`has_own`).
    """
    if isinstance(slo, Slo):
        return slo
    texts = slo.split() if isinstance(slo, str) else [str(text) for text in slo]
    bounds = tuple(_bound(text) for text in texts)
    names = [bound.name for bound in bounds]
    if not bounds:
        raise InputError("slo: at least one bound is needed, such as ttft_p99:2000 (0 given)")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"slo: {' '.join(texts)!r} bounds {name} more than once")
    if "attainment" in names and not goodput_ms and not has_own:
        raise InputError(
            "slo: attainment needs bounds in goodput, such as ttft:2000 tpot:100, or in the trace "
            "(ttft_slo_ms, tpot_slo_ms, e2el_slo_ms; slo_classes)"
        )
    return Slo(bounds, tuple(sorted((goodput_ms or {}).items())))


def _bound(text: str) -> Bound:
    name, _, number = text.partition(":")
    metric, _, statistic = name.rpartition("_")
    percentile = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", "p50" if statistic == "median" else statistic)
    latencies = (*request_latencies(), *SESSION_BOUNDS)
    known = metric in latencies and (statistic == "mean" or (percentile and float(percentile[1]) > 0))
    if not known and name != "attainment":
        raise InputError(
            f"slo: {text!r} is not METRIC_STATISTIC:MS with METRIC one of {', '.join(latencies)} and "
            "STATISTIC mean, median or pNN, such as ttft_p99:2000 or ttft_p99:2s, nor attainment:SHARE"
        )
    example = 0.99 if name == "attainment" else 2000
    try:
        limit = quantities.share(number) if name == "attainment" else quantities.milliseconds(number)
    except ValueError:
        units = (
            "" if name == "attainment" else f" of milliseconds or with a unit ({quantities.DURATION_UNITS})"
        )
        raise InputError(
            f"slo: {text!r} needs a number{units} behind a colon, such as {name}:{example}"
        ) from None
    if name == "attainment":
        if not 0 < limit <= 1:
            raise InputError(f"slo: attainment {limit:g} is not above 0 and at most 1")
        return Bound("attainment", "share", limit)
    if not 0 < limit < math.inf:
        raise InputError(f"slo: {name} {limit:g} ms is not above 0 and finite")
    return Bound(metric, f"p{float(percentile[1]):g}" if percentile else "mean", limit)


@dataclass(frozen=True)
class Observation:
    """What one run says, in plain numbers.

    `values`: per bound, in the order of the SLO; those of latencies are inf where a request did not complete.
    `failed_reason`: why the first of these did not.
    `mean_session_s`: from a session's first arrival to its last finish; `mean_away_s`: of that, while none of
    its requests is here. None where no request waits for others of its session and no session is bounded.
    `slo_attainment`: the share of the requests that are within their own bounds, of those that state any, and
    the same by class; None where none states any.
    `drift`: by how many requests the backlog grew per arrival over the second half of the run; `growth`: how
    many times as large it was at the end of that half as at its beginning.
    """

    values: tuple[float, ...]
    drift: float
    growth: float
    backlog: float
    mean_e2el_s: float
    measured: int
    failed: int
    output_tokens: float
    utilisation: float
    kv_peak: float
    failed_reason: str = ""
    slo_attainment: Mapping[str, float] | None = None
    mean_session_s: float | None = None
    mean_away_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; infinity, which JSON lacks, as null. Where there are no sessions, or no
        request states a bound of its own, nothing is said of such.
        """
        plain = {name: value for name, value in asdict(self).items() if not is_left_out(name, value)}
        plain["values"] = [None if math.isinf(v) else v for v in self.values]
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """The observation that `to_json` wrote, to the last bit."""
        return cls(**{**data, "values": tuple(math.inf if v is None else float(v) for v in data["values"])})


def observe(
    slo: Slo,
    columns: Mapping[str, np.ndarray[Any, Any]],
    summary: Mapping[str, Any],
    *,
    is_replay: bool = False,
) -> Observation:
    """One run as the SLO sees it, warm-up and cool-down cut off.

    `columns`: arrival_s, finish_s, output_tokens and the latencies that are bounded (`ttft_ms`, …), in any
    order; `session_id` and `is_waiting` where requests wait for others of their session. A request that did
    not complete is not good, and leaves no mean and no percentile within a bound.
    `is_replay`: of the trace itself, of which all counts: each value is the worse of that over all requests
    and that over the busiest tenth, where enough of them decide.
    """
    order = np.argsort(columns["arrival_s"], kind="stable")
    n = len(order)
    arrival, finish = columns["arrival_s"][order], columns["finish_s"][order]
    first, end = (0, n) if is_replay else (int(n * WARM_UP), n - int(n * COOL_DOWN))
    level = n if is_replay or "is_waiting" not in columns else _starts_end(columns["is_waiting"][order])
    counted = order[first : max(min(end, level), first + 1)]
    parts = [counted]
    if is_replay:
        parts.append(order[busiest_tenth(arrival)])
    done = ~np.isnan(columns["finish_s"])
    e2el_s = (columns["finish_s"] - columns["arrival_s"])[counted][done[counted]]
    queue = backlog(arrival[:level], finish[:level])
    sessions = SessionValues(columns) if slo.bounds_sessions or "is_waiting" in columns else None
    session_s, away_s = (None, None) if sessions is None else sessions.means_s(counted)
    return Observation(
        values=tuple(
            _worst_of_sessions(bound, sessions, parts)
            if sessions is not None and bound.is_of_sessions
            else _worst(bound, slo.goodput_ms, columns, parts, done)
            for bound in slo.bounds
        ),
        drift=queue.drift,
        growth=queue.growth,
        backlog=queue.mean,
        mean_e2el_s=float(e2el_s.mean()) if len(e2el_s) else 0.0,
        measured=len(counted),
        failed=int((~done[counted]).sum()),
        output_tokens=float(np.where(done, columns["output_tokens"], 0)[counted].mean()),
        utilisation=float(summary.get("gpu_busy_fraction") or 0.0),
        kv_peak=float(summary.get("kv_peak_fraction") or 0.0),
        failed_reason="" if done[counted].all() else summary.get("failed_reason") or "",
        slo_attainment=attainments(columns, done, counted),
        mean_session_s=session_s,
        mean_away_s=away_s,
    )


def is_left_out(name: str, value: object) -> bool:
    """Whether nothing is said of this field in JSON: where there is nothing of its kind."""
    return value is None and name in ("slo_attainment", "mean_session_s", "mean_away_s")


def _starts_end(is_waiting: npt.NDArray[np.bool_]) -> int:
    """How many requests, in order of arrival, come before the load falls, since no session starts any more;
    all where that is sooner than half of them have: the load has no level then.
    """
    until = len(is_waiting) - int((~is_waiting[::-1]).argmax())
    return until if 2 * until > len(is_waiting) else len(is_waiting)


def _worst(
    bound: Bound,
    goodput_ms: Sequence[tuple[str, float]],
    columns: Mapping[str, np.ndarray[Any, Any]],
    parts: Sequence[npt.NDArray[np.intp]],
    done: npt.NDArray[np.bool_],
) -> float:
    """The value of the part, among the first and those with enough requests, that is worst."""
    enough = MANY if bound.tail is None else TAIL_REQUESTS / max(bound.tail, 1e-9)
    values = [
        _value(bound, goodput_ms, columns, part, done[part])
        for k, part in enumerate(parts)
        if not k or len(part) >= enough
    ]
    return min(values) if bound.metric == "attainment" else max(values)


def _worst_of_sessions(bound: Bound, sessions: SessionValues, parts: Sequence[npt.NDArray[np.intp]]) -> float:
    """The same over sessions, each in the part in which it began; inf where one did not complete."""
    enough = MANY if bound.tail is None else TAIL_REQUESTS / max(bound.tail, 1e-9)
    worst = 0.0
    for k, part in enumerate(parts):
        chosen = sessions.of(part)
        if not k or chosen.sum() >= enough:
            values = sessions.values_ms[bound.metric][chosen]
            worst = max(worst, _statistic(bound, values) if sessions.completed[chosen].all() else math.inf)
    return worst


def _value(
    bound: Bound,
    goodput_ms: Sequence[tuple[str, float]],
    columns: Mapping[str, np.ndarray[Any, Any]],
    counted: npt.NDArray[np.intp],
    done: npt.NDArray[np.bool_],
) -> float:
    if bound.metric == "attainment":
        part = {name: values[counted] for name, values in columns.items() if name.endswith("_ms")}
        return float(good_requests(part, done, bounds_of(part, dict(goodput_ms))).mean())
    if not done.all():
        return math.inf
    values = np.asarray(columns[f"{bound.metric}_ms"][counted], dtype=float)
    return _statistic(bound, values[~np.isnan(values)])


def _statistic(bound: Bound, values: FloatArray) -> float:
    """The mean or the percentile that is bounded; 0 of nothing."""
    if not len(values):
        return 0.0
    if bound.statistic == "mean":
        return float(values.mean())
    return float(np.percentile(values, float(bound.statistic[1:])))


@dataclass(frozen=True)
class Interval:
    """A mean over replications and its confidence interval."""

    mean: float
    low: float
    high: float


def quantile(num_seeds: int, confidence: float) -> float:
    """Half an interval's width in standard errors of the mean (Student's t)."""
    from scipy.special import stdtrit

    return float(stdtrit(num_seeds - 1, 0.5 + confidence / 2))


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent replications; of one alone, without end.

    Where replications are infinite the mean is, and the interval reaches from the least of them to infinity.
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(mean, -math.inf, math.inf)
    if math.isinf(mean):
        return Interval(math.inf, float(data.min()), math.inf)
    half = quantile(len(data), confidence) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean, mean - half, mean + half)
