"""`plan`: from a trace and an SLO to the fewest replicas, or the highest rate, with its interval and cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np

from traces.errors import InputError
from traces.trace import Trace

from ..fleet.routers import router_maker, router_name
from ..hardware.profile import Profile
from ..parallel.runner import Backend, Workers
from ..perception.predictors import make_predictor
from ..scenario.machines import outages_of, provenance_of
from ..scenario.policies import limits_of, make_scheduler
from ..scenario.requests import goodput_bounds
from ..scenario.settings import PlanKeywords, Settings, check_names, read_settings
from ..version import __version__
from . import sensitivity as sensitivities
from .answer import Answer, Plan, Question
from .command import command_of
from .question import assumptions_of, check_time_scale, rate_of, workload_of
from .rate_search import RateRange, at_rates, highest_rate
from .runs import Runs, run_searches
from .search import Effort, Search, SearchOutcome, SmallestFleet, decide, fewest_replicas
from .slo import Slo, parse_slo
from .units import Unit, prices_of, split, units_of
from .verdict import FleetPoint
from .world import World

DEFAULT_POLICIES = "continuous"
DEFAULT_TOLERANCE = 0.02
HEADROOM_TOLERANCE = 0.05
IN_THE_COMMAND = (
    "spare", "burstiness", "num_seeds", "num_requests", "max_seeds", "max_requests", "max_replicas",
    "confidence", "tolerance",
)  # fmt: skip
"""Arguments of `plan` that the command that asks again says as they are."""
CURVE = (0.4, 0.6, 0.75, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3)
"""Rates of a curve, as shares of the rate asked for."""


def plan(
    trace: Trace | str,
    *,
    slo: Slo | Iterable[str] | str,
    request_rate: float | str | None = None,
    max_rate: bool = False,
    policies: Sequence[str] | str = DEFAULT_POLICIES,
    profiles: Sequence[str | Profile] | str | Profile | None = None,
    replicas: int | None = None,
    spare: int = 0,
    prices: Mapping[str, float] | Iterable[str] = (),
    burstiness: float | None = None,
    num_seeds: int = 3,
    num_requests: int = 1000,
    max_seeds: int = 8,
    max_requests: int = 6000,
    max_replicas: int = 1024,
    confidence: float = 0.95,
    tolerance: float = DEFAULT_TOLERANCE,
    curves: bool = False,
    sensitivity: bool = False,
    state: str | Path | None = None,
    jobs: int = -1,
    backend: Backend = "joblib",
    address: str | None = None,
    on_run: Callable[[int], None] | None = None,
    **settings: Unpack[PlanKeywords],
) -> Plan:
    """The fewest replicas that meet an SLO at a rate, or with `max_rate` the highest rate of `replicas` (1).

    `slo`: texts such as `ttft_p99:2000`, `tpot_p99:100`, `attainment:0.99` (the last with `goodput` bounds).
    `request_rate`: requests/s, or a text such as `10x`, so many times the trace's own mean rate; None: its
    own. A trace's own gaps between arrivals are scaled to the rate; with `burstiness`, or where the trace has
    no times, gaps are drawn (1: Poisson). `policies`, `profiles`: one answer for each pair; a text holds them
    with semicolons between them; no profiles: all that are shipped. `spare`: replicas that may fail while the
    rest still meets the SLO. `prices`: USD per hour and replica by profile or GPU, or texts `NAME:USD`.

    `settings`: those of `simulate` that `PlanKeywords` names; `seed` is the first of the seeds. With a
    `fleet`, in place of profiles, a replica is one copy of the whole mix. Random outages are, machine by
    machine, the same in fleets of every size; rows of a schedule of `failures` about replicas that a fleet
    tried does not have are left out. Under a bound on concurrency others wait in front of the fleet, and
    their wait counts. `time_scale` changes the trace's own rate.

    Every point is simulated with `num_seeds` seeds of `num_requests` requests, and longer, up to `max_seeds`
    of `max_requests`, while its interval at `confidence` straddles a bound; the answer itself at full length.
    `curves` and `sensitivity` add what the report draws. `state`: a file in which runs are kept, so that a
    plan that was stopped goes on from there. `jobs`: processes on this machine (-1: one per core; 1: this
    one); `backend` "dask" runs on the cluster whose scheduler is at `address`. `on_run(number)` is called
    after every run.

    Raises InputError for anything that cannot be used. The same arguments give the same plan, byte for byte.
    """
    own = {name: value for name, value in locals().items() if name in IN_THE_COMMAND}
    check_names(settings, plan, PlanKeywords)
    given = read_settings(trace, settings)
    slo = slo if isinstance(slo, str | Slo) else list(slo)
    wanted = parse_slo(slo, goodput_bounds(given.goodput))
    names = split(policies)
    units = units_of(profiles, given)
    _check(names, replicas, max_rate, spare, max_replicas, tolerance)
    replicas = 1 if replicas is None else replicas
    effort = Effort(num_requests, num_seeds, max_requests, max_seeds, given.seed, confidence)
    workload = workload_of(trace, given, num_requests, burstiness)
    make_predictor(given.predictor)
    router_maker(given.router)
    check_time_scale(given.time_scale, request_rate, max_rate)
    rate = None if max_rate and request_rate is None else rate_of(request_rate, workload)
    price = prices_of(prices, [m for unit in units for m in (*unit.machines, *unit.bases)])
    pairs = [(policy, unit) for policy in names for unit in units]
    worlds = [World(workload.source, p, unit.machines, given, workload.burstiness) for p, unit in pairs]
    _check_outages(given)
    for policy, unit in pairs:
        for machine in unit.kinds:
            make_scheduler(policy, limits_of(machine, given.kv_blocks))
    defaults = {name: parameter.default for name, parameter in inspect.signature(plan).parameters.items()}
    command = command_of(
        trace=trace if isinstance(trace, str) else workload.name,
        slo=slo,
        goodput=dict(wanted.goodput_ms),
        request_rate=request_rate,
        replicas=replicas if max_rate else None,
        policies=names,
        profiles=[unit.name for unit in units],
        settings=given,
        prices=price,
        others={name: value for name, value in own.items() if value != defaults[name]},
    )
    predictor = given.predictor
    question = Question(
        trace=workload.name,
        request_rate=None if max_rate else rate,
        slo=tuple(map(str, wanted.bounds)),
        goodput=tuple(f"{name} ≤ {limit:g} ms" for name, limit in wanted.goodput_ms),
        policies=tuple(names),
        profiles=tuple(unit.label for unit in units),
        predictor=predictor if isinstance(predictor, str) else repr(predictor),
        router=router_name(given.router),
        arrivals=workload.arrivals,
        replicas=replicas,
        spare=spare,
        seed=given.seed,
        num_seeds=num_seeds,
        num_requests=num_requests,
        max_seeds=max_seeds,
        max_requests=max_requests,
        max_replicas=max_replicas,
        confidence=confidence,
        tolerance=tolerance,
        version=__version__,
        command=command,
    )
    searches: list[Search[_Parts]]
    if max_rate:
        searches = [_ask_rate(wanted, replicas, rate or 1.0, effort, tolerance, curves) for _ in worlds]
    else:
        assert rate is not None
        searches = [_ask_replicas(wanted, rate, spare, effort, max_replicas, curves) for _ in worlds]
    with Runs(wanted, state, Workers(jobs, backend, address), on_run) as runs:
        results = run_searches(list(zip(worlds, searches, strict=True)), runs)
        answers = tuple(
            _answer(policy, unit, parts, unit.price(price), spare)
            for (policy, unit), parts in zip(pairs, results, strict=True)
        )
        answer = Plan(question, answers, assumptions_of(workload, given, units, answers))
        best = answer.best
        if sensitivity and best is not None:
            world = worlds[answers.index(best)]
            assert best.point is not None
            moved = sensitivities.sensitivity(world, wanted, best.point, effort, runs)
            answer = replace(answer, sensitivity=moved)
    return answer


def _check(
    policies: Sequence[str],
    replicas: int | None,
    max_rate: bool,
    spare: int,
    max_replicas: int,
    tolerance: float,
) -> None:
    """InputError for policies and counts that cannot be used."""
    if not policies or len(dict.fromkeys(policies)) < len(policies):
        raise InputError(f"policies: {';'.join(policies)!r} must name at least one policy, and none twice")
    if replicas is not None and not max_rate:
        raise InputError(f"replicas: {replicas} needs --max-rate; without it their number is the answer")
    for value, what, least in (
        (1 if replicas is None else replicas, "replicas", 1),
        (spare, "spare", 0),
        (max_replicas, "max_replicas", 1),
    ):
        if value < least:
            raise InputError(f"{what}: {value} must be at least {least}")
    if not 0.001 <= tolerance <= 0.5:
        raise InputError(f"tolerance: {tolerance:g} is not between 0.001 and 0.5")


def _check_outages(settings: Settings) -> None:
    """InputError for outages that cannot be, before anything runs."""
    outages = outages_of(settings)
    replace(outages, is_partial=True).schedules(1, np.random.default_rng(0))


@dataclass(frozen=True)
class _Parts:
    """What the searches for one policy and profile found."""

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


def _ask_replicas(
    slo: Slo, rate: float, spare: int, effort: Effort, max_replicas: int, curves: bool
) -> Search[_Parts]:
    fleet = yield from fewest_replicas(slo, rate, effort, max_replicas)
    k = fleet.replicas
    if k is None:
        reason = fleet.reason
        if fleet.likely is not None:
            spares = f", {spare} of them spare" if spare else ""
            reason += f"; the smallest fleet that may do has {fleet.likely + spare} replicas{spares}"
        return _Parts(None, None, reason, None, None, fleet.points, fleet.outcome, fleet)
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
    return _Parts(k, rate, "", fleet.at(k), rates, points, "met", fleet, normal, less, more, curve)


def _ask_rate(
    slo: Slo, replicas: int, start: float, effort: Effort, tolerance: float, curves: bool
) -> Search[_Parts]:
    rates = yield from highest_rate(slo, replicas, effort, start=start, tolerance=tolerance)
    if rates.rate is None:
        return _Parts(None, None, rates.reason, None, rates, rates.points, rates.outcome)
    at = next(p for p in rates.points if p.rate == rates.rate)
    glance = effort.at_a_glance()
    less = (yield from decide(slo, replicas - 1, rates.rate, glance)) if replicas > 1 else None
    more = yield from decide(slo, replicas + 1, rates.rate, glance)
    curve: tuple[FleetPoint, ...] = ()
    if curves:
        curve = yield from at_rates(slo, replicas, [share * rates.rate for share in CURVE], glance)
    return _Parts(replicas, rates.rate, "", at, rates, rates.points, "met", None, None, less, more, curve)


def _answer(policy: str, unit: Unit, parts: _Parts, price_per_hour: float | None, spare: int) -> Answer:
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
