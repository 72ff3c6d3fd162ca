"""`plan`: from a trace and an SLO to the fewest replicas, or the highest rate, with its interval and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traces.errors import InputError
from traces.trace import Trace

from ..fleet.routers import DEFAULT_ROUTER
from ..hardware import overrides as changed
from ..hardware.overrides import Overrides
from ..hardware.profile import Profile
from ..parallel.runner import Backend, Workers
from ..perception.predictors import make_predictor
from ..scenario.policies import limits_of, make_scheduler
from ..scenario.requests import goodput_bounds
from ..version import __version__
from . import sensitivity as sensitivities
from .answer import Answer, Plan, Question
from .command import command_of
from .question import assumptions_of, named_profiles, prices_of, profiles_of, rate_of, split, workload_of
from .rate_search import RateRange, at_rates, highest_rate
from .runs import Runs, World, run_searches
from .search import Effort, Search, SearchOutcome, SmallestFleet, decide, fewest_replicas
from .slo import Slo, parse_slo
from .verdict import FleetPoint

DEFAULT_POLICIES = "continuous"
DEFAULT_TOLERANCE = 0.02
HEADROOM_TOLERANCE = 0.05
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
    predictor: str = "oracle",
    router: str = DEFAULT_ROUTER,
    goodput: Mapping[str, float] | Iterable[str] | None = None,
    replicas: int | None = None,
    spare: int = 0,
    set: Overrides = None,
    prices: Mapping[str, float] | Iterable[str] = (),
    burstiness: float | None = None,
    kv_blocks: int | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
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
) -> Plan:
    """The fewest replicas that meet an SLO at a rate, or with `max_rate` the highest rate of `replicas` (1).

    `slo`: texts such as `ttft_p99:2000`, `tpot_p99:100`, `attainment:0.99` (the last with `goodput` bounds).
    `request_rate`: requests/s, or a text such as `10x`, so many times the trace's own mean rate; None: its
    own. A trace's own gaps between arrivals are scaled to the rate; with `burstiness`, or where the trace has
    no times, gaps are drawn (1: Poisson). `policies`, `profiles`: one answer for each pair; a text holds them
    with semicolons between them; no profiles: all that are shipped. `spare`: replicas that may fail while the
    rest still meets the SLO. `set`: what-ifs for every profile, as for `simulate`. `prices`: USD per hour and
    replica by profile or GPU, or texts `NAME:USD`.

    Every point is simulated with `num_seeds` seeds of `num_requests` requests, and longer, up to `max_seeds`
    of `max_requests`, while its interval at `confidence` straddles a bound; the answer itself at full length.
    `curves` and `sensitivity` add what the report draws. `state`: a file in which runs are kept, so that a
    plan that was stopped goes on from there. `jobs`: processes on this machine (-1: one per core; 1: this
    one); `backend` "dask" runs on the cluster whose scheduler is at `address`. `on_run(number)` is called
    after every run.

    Raises InputError for anything that cannot be used. The same arguments give the same plan, byte for byte.
    """
    slo = slo if isinstance(slo, str | Slo) else list(slo)
    bounds = goodput_bounds(goodput)
    wanted = parse_slo(slo, bounds)
    names = split(policies)
    named = named_profiles(profiles)
    bases = profiles_of(named)
    machines = [changed.apply(base, set) for base in bases]
    if not names or len(dict.fromkeys(names)) < len(names):
        raise InputError(f"policies: {';'.join(names)!r} must name at least one policy, and none twice")
    if replicas is not None and not max_rate:
        raise InputError(f"replicas: {replicas} needs --max-rate; without it their number is the answer")
    replicas = 1 if replicas is None else replicas
    for value, what, least in (
        (replicas, "replicas", 1),
        (spare, "spare", 0),
        (max_replicas, "max_replicas", 1),
    ):
        if value < least:
            raise InputError(f"{what}: {value} must be at least {least}")
    if not 0.001 <= tolerance <= 0.5:
        raise InputError(f"tolerance: {tolerance:g} is not between 0.001 and 0.5")
    effort = Effort(num_requests, num_seeds, max_requests, max_seeds, seed, confidence)
    workload = workload_of(trace, seed, num_requests, max_new_tokens, burstiness)
    make_predictor(predictor)
    rate = None if max_rate and request_rate is None else rate_of(request_rate, workload)
    price = prices_of(prices, [*machines, *bases])
    worlds = [
        World(
            source=workload.source,
            policy=policy,
            profile=machine,
            predictor=predictor,
            router=router,
            burstiness=workload.burstiness,
            kv_blocks=kv_blocks,
            max_new_tokens=max_new_tokens,
        )
        for policy in names
        for machine in machines
    ]
    base_names = {machine.name: base.name for machine, base in zip(machines, bases, strict=True)}
    for world in worlds:
        make_scheduler(world.policy, limits_of(world.profile, kv_blocks))
    others: dict[str, object] = {
        "predictor": predictor,
        "router": router,
        "spare": spare,
        "burstiness": burstiness,
        "kv_blocks": kv_blocks,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "num_seeds": num_seeds,
        "num_requests": num_requests,
        "max_seeds": max_seeds,
        "max_requests": max_requests,
        "max_replicas": max_replicas,
        "confidence": confidence,
        "tolerance": tolerance,
    }
    defaults = plan.__kwdefaults__ or {}
    command = command_of(
        trace=trace if isinstance(trace, str) else workload.name,
        slo=slo,
        goodput=dict(wanted.goodput_ms),
        request_rate=request_rate,
        replicas=replicas if max_rate else None,
        policies=names,
        profiles=named,
        changes=set,
        prices=price,
        others={name: value for name, value in others.items() if value != defaults[name]},
    )
    question = Question(
        trace=workload.name,
        request_rate=None if max_rate else rate,
        slo=tuple(map(str, wanted.bounds)),
        goodput=tuple(f"{name} ≤ {limit:g} ms" for name, limit in wanted.goodput_ms),
        policies=tuple(names),
        profiles=tuple(machine.name for machine in machines),
        predictor=predictor,
        router=router,
        arrivals=workload.arrivals,
        replicas=replicas,
        spare=spare,
        seed=seed,
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
            _answer(world, parts, price, base_names[world.profile.name], spare)
            for world, parts in zip(worlds, results, strict=True)
        )
        made = Plan(question, answers, assumptions_of(workload, question, machines, answers, predictor))
        if sensitivity and made.best is not None:
            best = made.best
            world = worlds[made.answers.index(best)]
            assert best.point is not None
            made = replace(
                made, sensitivity=sensitivities.sensitivity(world, wanted, best.point, effort, runs)
            )
    return made


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


def _answer(world: World, parts: _Parts, prices: Mapping[str, float], base: str, spare: int) -> Answer:
    machine = world.profile
    gpu = machine.gpu.name if machine.gpu else ""
    own = machine.price_per_hour
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
        policy=world.policy,
        profile=machine.name,
        gpu=gpu,
        provenance=machine.provenance.kind,
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
        price_per_hour=next((prices[n] for n in (machine.name, base, gpu) if n in prices), own),
        points=parts.points,
        curve=parts.curve,
    )
