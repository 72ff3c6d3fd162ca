"""The search behind one answer: for the fewest replicas or the highest rate, with the points around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..scenario.machines import provenance_of
from .answer import Answer
from .rate_search import RateRange, at_rates, highest_rate
from .search import Effort, Search, SearchOutcome, SmallestFleet, decide, fewest_replicas
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
    normal: FleetPoint | None = None
    one_less: FleetPoint | None = None
    one_more: FleetPoint | None = None
    curve: tuple[FleetPoint, ...] = ()


def ask_replicas(
    slo: Slo, rate: float, spare: int, effort: Effort, max_replicas: int, curves: bool
) -> Search[Parts]:
    """The fewest replicas at a rate, `spare` of them aside, and what surrounds the answer: the next sizes,
    the highest rate, and with `curves` points at other rates.
    """
    fleet = yield from fewest_replicas(slo, rate, effort, max_replicas)
    k = fleet.replicas
    if k is None:
        reason = fleet.reason
        if fleet.likely is not None:
            spares = f", {spare} of them spare" if spare else ""
            reason += f"; the smallest fleet that may do has {fleet.likely + spare} replicas{spares}"
        return Parts(None, None, reason, None, None, fleet.points, fleet.outcome, fleet)
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
    return Parts(k, rate, "", fleet.at(k), rates, points, "met", fleet, normal, less, more, curve)


def ask_rate(
    slo: Slo, replicas: int, start: float, effort: Effort, tolerance: float, curves: bool
) -> Search[Parts]:
    """The highest rate of so many replicas, searched from `start`, and the next sizes at it."""
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
    return Parts(replicas, rates.rate, "", at, rates, rates.points, "met", None, None, less, more, curve)


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
        undecided=tuple(k + spare for k in parts.fleet.undecided) if parts.fleet else (),
        point=parts.point,
        normal=parts.normal,
        one_less=parts.one_less,
        one_more=parts.one_more,
        alone=parts.fleet.alone if parts.fleet else None,
        rates=parts.rates,
        price_per_hour=price_per_hour,
        points=parts.points,
        curve=parts.curve,
    )
