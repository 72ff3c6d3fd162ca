"""The search behind one answer: for the fewest replicas or the highest rate, with the points around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..scenario.machines import provenance_of
from .answer import Answer
from .rate_search import RateRange, at_rates, highest_rate
from .replay import Replay, not_enough
from .search import (
    Effort,
    Search,
    SearchOutcome,
    SmallestFleet,
    decide,
    fewest_replicas,
    idle_point,
    no_replica_helps,
)
from .slo import Slo
from .units import Unit
from .verdict import FleetPoint

HEADROOM_TOLERANCE = 0.05
CURVE = (0.4, 0.6, 0.75, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3)
"""Rates of a curve, as shares of the rate asked for."""


@dataclass(frozen=True)
class Parts:
    """The results of the searches for one policy and unit."""

    replicas: int | None
    rate: float | None
    reason: str
    point: FleetPoint | None
    rates: RateRange | None
    points: tuple[FleetPoint, ...]
    outcome: SearchOutcome
    fleet: SmallestFleet | None = None
    replay: FleetPoint | None = None
    normal: FleetPoint | None = None
    one_less: FleetPoint | None = None
    one_more: FleetPoint | None = None
    curve: tuple[FleetPoint, ...] = ()


def ask_replicas(
    slo: Slo,
    rate: float,
    spare: int,
    effort: Effort,
    max_replicas: int,
    curves: bool,
    replay: Replay | None = None,
) -> Search[Parts]:
    """The fewest replicas at a rate, `spare` of them aside, and what surrounds the answer: the next sizes,
    the highest rate, and with `curves` points at other rates. With `replay` they meet the SLO on the trace
    itself too, and so they do at the highest rate.
    """
    if replay is not None and replay.is_all:
        first = yield from replay.at(slo, 1, rate)
        idle = yield from idle_point(slo, first.mean_e2el_s, effort)
        unknown = SmallestFleet(None, rate, "", idle, (), "unreachable")
        return (yield from _on_the_trace(slo, rate, spare, unknown, 1, max_replicas, curves, replay))
    fleet = yield from fewest_replicas(slo, rate, effort, max_replicas)
    k = fleet.replicas
    if k is None:
        reason = fleet.reason
        if fleet.likely is not None:
            spares = f", {spare} of them spare" if spare else ""
            number = fleet.likely + spare
            what = "replica" if number == 1 else "replicas"
            reason += f"; the smallest fleet that may do has {number} {what}{spares}"
        return Parts(None, None, reason, None, None, fleet.points, fleet.outcome, fleet)
    if replay is not None:
        return (yield from _on_the_trace(slo, rate, spare, fleet, k, max_replicas, curves, replay))
    point, glance = fleet.at(k), effort.at_a_glance()
    assert point is not None
    # As many runs as the answer itself had, so that the sizes compare.
    alike = replace(
        glance, num_seeds=point.num_seeds, max_seeds=point.num_seeds, num_requests=point.num_requests
    )
    more = fleet.at(k + 1) or (yield from decide(slo, k + 1, rate, alike))
    normal = None
    if spare:
        normal = fleet.at(k + spare) or (yield from decide(slo, k + spare, rate, alike))
    rates = yield from highest_rate(
        slo,
        k,
        replace(glance, num_requests=effort.max_requests),
        start=rate,
        tolerance=HEADROOM_TOLERANCE,
        step=1.02 * k / (k - 1) if k > 1 else 2.0,
        bracket=False,
    )
    curve: tuple[FleetPoint, ...] = ()
    if curves:
        curve = yield from at_rates(slo, k, [share * rate for share in CURVE], glance)
    less, points = fleet.at(k - 1), fleet.points
    return Parts(k, rate, "", fleet.at(k), rates, points, "met", fleet, None, normal, less, more, curve)


def _on_the_trace(
    slo: Slo,
    rate: float,
    spare: int,
    fleet: SmallestFleet,
    found: int,
    max_replicas: int,
    curves: bool,
    replay: Replay,
) -> Search[Parts]:
    """What `found` replicas, the fewest by windows, or more of them do on the trace itself."""
    tried = yield from replay.fewest_replicas(slo, found, rate, max_replicas, idle=fleet.alone)
    meeting = [k for k, point in tried.items() if point.verdict == "meets"]
    replays = tuple(tried[k] for k in sorted(tried))
    points = (*fleet.points, *replays)
    if not meeting:
        last = replays[-1]
        reason = f"{not_enough(last)}; max_replicas is {max_replicas}"
        if last.replicas < max_replicas:
            reason = no_replica_helps(fleet.alone, last)
        return Parts(None, None, reason, last, None, points, "unreachable", fleet, last)
    k = min(meeting)
    more = tried.get(k + 1) or (yield from replay.at(slo, k + 1, rate))
    normal = None
    if spare:
        normal = tried.get(k + spare) or (yield from replay.at(slo, k + spare, rate))
    less = tried.get(k - 1) or (yield from replay.at(slo, k - 1, rate)) if k > 1 else None
    rates = yield from replay.highest_rate(slo, k, rate, HEADROOM_TOLERANCE)
    curve = (yield from replay.at_rates(slo, k, [share * rate for share in CURVE])) if curves else ()
    # The interval over windows speaks where these find the same fleet.
    point = fleet.at(k) or tried[k]
    return Parts(k, rate, "", point, rates, points, "met", fleet, tried[k], normal, less, more, curve)


def ask_rate(
    slo: Slo,
    replicas: int,
    start: float,
    effort: Effort,
    tolerance: float,
    curves: bool,
    replay: Replay | None = None,
) -> Search[Parts]:
    """The highest rate of so many replicas, searched from `start`, and the next sizes at it.

    With `replay` it is the highest mean rate at which they meet the SLO on the trace itself.
    """
    if replay is not None:
        return (yield from _rate_on_the_trace(slo, replicas, start, tolerance, curves, replay))
    rates = yield from highest_rate(slo, replicas, effort, start=start, tolerance=tolerance)
    if rates.rate is None:
        return Parts(None, None, rates.reason, None, rates, rates.points, rates.outcome)
    at = next(p for p in rates.points if p.rate == rates.rate)
    glance = effort.at_a_glance()
    less = (yield from decide(slo, replicas - 1, rates.rate, glance)) if replicas > 1 else None
    more = yield from decide(slo, replicas + 1, rates.rate, glance)
    curve: tuple[FleetPoint, ...] = ()
    if curves:
        curve = yield from at_rates(slo, replicas, [share * rates.rate for share in CURVE], glance)
    found = Parts(replicas, rates.rate, "", at, rates, rates.points, "met")
    return replace(found, one_less=less, one_more=more, curve=curve)


def _rate_on_the_trace(
    slo: Slo, replicas: int, start: float, tolerance: float, curves: bool, replay: Replay
) -> Search[Parts]:
    """The highest mean rate at which they meet the SLO on the trace itself, searched from `start`."""
    rates = yield from replay.highest_rate(slo, replicas, start, tolerance)
    if rates.rate is None:
        return Parts(None, None, rates.reason, rates.points[0], rates, rates.points, "unreachable")
    at = next(point for point in rates.points if point.rate == rates.rate)
    less = (yield from replay.at(slo, replicas - 1, rates.rate)) if replicas > 1 else None
    more = yield from replay.at(slo, replicas + 1, rates.rate)
    curve = (
        (yield from replay.at_rates(slo, replicas, [share * rates.rate for share in CURVE])) if curves else ()
    )
    found = Parts(replicas, rates.rate, "", at, rates, rates.points, "met")
    return replace(found, replay=at, one_less=less, one_more=more, curve=curve)


def _undecided(parts: Parts, spare: int) -> tuple[int, ...]:
    """Smaller fleets that may do, spares included; none where the next smaller one fails on the trace."""
    if parts.fleet is None or (parts.replay and parts.one_less and parts.one_less.verdict == "fails"):
        return ()
    return tuple(k + spare for k in parts.fleet.undecided)


def answer_of(policy: str, unit: Unit, parts: Parts, price_per_hour: float | None, spare: int) -> Answer:
    """The answer for one policy and unit; `price_per_hour`: USD, of one unit."""
    binding = ""
    if parts.point is not None:
        less = parts.one_less
        binding = parts.point.binding.name if less is None else less.binding.name
        if less is not None and less.verdict == "unstable":
            binding = "throughput"
    elif parts.fleet is not None:
        binding = parts.fleet.points[-1].binding.name
    likely = parts.fleet.likely if parts.fleet else None
    return Answer(
        policy=policy,
        profile=unit.label,
        gpu=unit.gpu,
        num_gpus=unit.num_gpus,
        provenance=provenance_of(unit.machines),
        replicas=None if parts.replicas is None else parts.replicas + spare,
        spare=spare,
        rate=parts.rate,
        outcome=parts.outcome,
        likely=None if likely is None else likely + spare,
        reason=parts.reason,
        binding=binding,
        undecided=_undecided(parts, spare),
        point=parts.point,
        normal=parts.normal,
        one_less=parts.one_less,
        one_more=parts.one_more,
        alone=parts.fleet.alone if parts.fleet else None,
        rates=parts.rates,
        price_per_hour=price_per_hour,
        points=parts.points,
        curve=parts.curve,
        replay=parts.replay,
    )
