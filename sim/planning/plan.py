"""`plan`: from a trace and an SLO to the fewest replicas, or the highest rate, with its interval and cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from traces.arguments import checked
from traces.errors import InputError
from traces.trace import Trace

from ..fleet.routers import router_maker, router_name
from ..hardware.profile import Profile
from ..parallel.runner import Where, Workers
from ..perception.registry import make_predictor
from ..scenario.machines import outages_of
from ..scenario.policies import limits_of, make_scheduler
from ..scenario.requests import goodput_bounds
from ..scenario.settings import DEFAULT_TRACE, PlanKeywords, Settings, read_settings
from ..scenario.unused import unused
from ..version import __version__
from ..work import Limits
from . import sensitivity as sensitivities
from .answer import Plan, Question
from .answer_search import Parts, answer_of, ask_rate, ask_replicas
from .command import command_of
from .notes import notes_of
from .question import Workload, assumptions_of, check_time_scale, rate_of, with_sessions, workload_of
from .replay import Replay
from .runs import Runs, run_searches
from .search import Effort, Search
from .slo import Slo, parse_slo
from .units import Unit, prices_of, split, units_of, unused_prices
from .unservable import Unservable, ask_nothing, unservable_of_each
from .world import World

DEFAULT_POLICIES = "continuous"
DEFAULT_TOLERANCE = 0.02


@checked
def plan(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    slo: Slo | Iterable[str] | str,
    request_rate: float | str | None = None,
    max_rate: bool = False,
    policies: Sequence[str] | str = DEFAULT_POLICIES,
    profiles: Sequence[str | Profile] | str | Profile | None = None,
    replicas: int | None = None,
    spare: int = 0,
    price: Mapping[str, float] | Iterable[str] = (),
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
    backend: Where = "joblib",
    address: str | None = None,
    on_run: Callable[[int], None] | None = None,
    **settings: Unpack[PlanKeywords],
) -> Plan:
    """The fewest replicas that meet an SLO at a rate, or with `max_rate` the highest rate of `replicas` (1).

    `slo`: texts such as `ttft_p99:2000`, `tpot_p99:100`, `attainment:0.99` (by `goodput` or the trace).
    `request_rate`: requests/s, or a text such as `10x`, so many times the trace's own mean rate; None: its
    own. A trace's own gaps between arrivals are scaled to the rate; where that is its own, or varies, the
    answer is held against a replay of the trace itself. With `burstiness`, or where the trace has
    no times, gaps are drawn (1: Poisson). `policies`, `profiles`: one answer for each pair; a text holds them
    with semicolons between them; no profiles: the default ones. `spare`: replicas that may fail while the
    rest still meets the SLO. `price`: USD per hour, of a replica by the name of its profile or of one
    GPU by its own, or texts `NAME:USD`.

    `settings`: those of `simulate` that `PlanKeywords` names; `seed` is the first of the seeds. With a
    `fleet`, in place of profiles, a replica is one copy of the whole mix. Random outages are, machine by
    machine, the same in fleets of every size; rows of a schedule of `failures` about replicas that a fleet
    tried does not have are left out. Under a bound on concurrency others wait in front of the fleet, and
    their wait counts. `time_scale` changes the trace's own rate.

    Every point is simulated with `num_seeds` seeds of `num_requests` requests, and longer, up to `max_seeds`
    of `max_requests`, while its interval at `confidence` straddles a bound; the answer itself at full length.
    `curves` and `sensitivity` add what the report draws. `state`: a file in which runs are kept, so that a
    plan that was stopped goes on from there. `jobs`: processes on this machine (-1: one per core; 1: this
    one); `backend` "dask" runs on the cluster whose scheduler is at `address`, a `Place` of one's own where
    that runs tasks. `on_run(number)` is called after every run.

    Raises InputError for anything that cannot be used. The same arguments give the same plan, byte for byte.
    """
    given = read_settings(trace, settings)
    slo = slo if isinstance(slo, str | Slo) else list(slo)
    names, units = split(policies), units_of(profiles, given)
    _check_counts(names, replicas, max_rate, spare, max_replicas, tolerance)
    replicas = 1 if replicas is None else replicas
    effort = Effort(num_requests, num_seeds, max_requests, max_seeds, given.seed, confidence)
    workload = workload_of(trace, given, num_requests, burstiness)
    wanted = with_sessions(parse_slo(slo, goodput_bounds(given.goodput), workload.states_bounds), workload)
    check_time_scale(given.time_scale, request_rate, max_rate)
    rate = None if max_rate and request_rate is None else rate_of(request_rate, workload)
    prices = prices_of(price, [m for unit in units for m in (*unit.machines, *unit.bases)])
    pairs = [(policy, unit) for policy in names for unit in units]
    _check_settings(pairs, given)
    worlds = [World(workload.source, p, unit.machines, given, workload.burstiness) for p, unit in pairs]
    limits = {
        "spare": spare,
        "num_seeds": num_seeds,
        "num_requests": num_requests,
        "max_seeds": max_seeds,
        "max_requests": max_requests,
        "max_replicas": max_replicas,
        "confidence": confidence,
        "tolerance": tolerance,
    }
    command = command_of(
        trace=trace if isinstance(trace, str) else workload.name,
        slo=slo,
        goodput=dict(wanted.goodput_ms),
        request_rate=request_rate,
        replicas=replicas if max_rate else None,
        policies=names,
        profiles=[unit.name for unit in units],
        settings=given,
        prices=prices,
        others=_not_default({**limits, "burstiness": burstiness}),
    )
    asked_rate = None if max_rate else rate
    replay = workload.replay_at(asked_rate, given, num_seeds)
    question = _question(
        wanted, workload, pairs, given, request_rate=asked_rate, replicas=replicas, command=command, **limits
    )

    def search_of(lost: Unservable | None) -> Search[Parts]:
        if lost is not None and wanted.bounds_a_latency:
            return ask_nothing(wanted, rate or 1.0, effort, lost)
        if asked_rate is not None:
            return ask_replicas(wanted, asked_rate, spare, effort, max_replicas, curves, replay)
        return ask_rate(wanted, replicas, rate or 1.0, effort, tolerance, curves, replay)

    with Runs(wanted, state, Workers(jobs, backend, address), on_run) as runs:
        never = unservable_of_each(workload.example, pairs, given, runs.runner)
        results = run_searches(list(zip(worlds, map(search_of, never), strict=True)), runs)
        found = zip(pairs, results, strict=True)
        answers = tuple(answer_of(p, unit, parts, unit.price(prices), spare) for (p, unit), parts in found)
        left_out = [] if wanted.bounds_a_latency else never
        about = notes_of(workload, asked_rate, replay, max_requests, answers, left_out)
        notes = (*about, *_unused(workload, pairs, given), *unused_prices(prices, units))
        answer = Plan(question, answers, assumptions_of(workload, given, units, answers), notes)
        by_replay = replay if replay is not None and replay.is_all else None
        return _with_sensitivity(answer, worlds, wanted, effort, runs, by_replay) if sensitivity else answer


def _with_sensitivity(
    answer: Plan, worlds: Sequence[World], slo: Slo, effort: Effort, runs: Runs, replay: Replay | None
) -> Plan:
    """The plan, and what would move its best answer (one of a world each), if there is one."""
    best = answer.best
    if best is None or best.point is None:
        return answer
    world = worlds[answer.answers.index(best)]
    return replace(
        answer, sensitivity=sensitivities.sensitivity(world, slo, best.point, effort, runs, replay)
    )


def _question(
    slo: Slo, workload: Workload, pairs: Sequence[tuple[str, Unit]], settings: Settings, **others: Any
) -> Question:
    """The question in plain values; `others`: its other fields."""
    predictor = settings.predictor
    return Question(
        trace=workload.name,
        slo=tuple(map(str, slo.bounds)),
        goodput=tuple(f"{name} ≤ {limit:g} ms" for name, limit in slo.goodput_ms),
        policies=tuple(dict.fromkeys(policy for policy, _ in pairs)),
        profiles=tuple(dict.fromkeys(unit.label for _, unit in pairs)),
        predictor=predictor if isinstance(predictor, str) else repr(predictor),
        router=router_name(settings.router),
        arrivals=workload.arrivals,
        seed=settings.seed,
        version=__version__,
        **others,
    )


def _unused(workload: Workload, pairs: Sequence[tuple[str, Unit]], settings: Settings) -> tuple[str, ...]:
    """What no policy uses, or has to go by, as sentences."""
    limits = _limits(pairs[0][1].kinds[0], settings)
    schedulers = [make_scheduler(policy, limits) for policy in dict.fromkeys(policy for policy, _ in pairs)]
    return tuple(f"{note}." for note in unused(workload.example, schedulers, settings.router))


def _not_default(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `plan` that differ from their defaults."""
    parameters = inspect.signature(plan).parameters
    return {name: value for name, value in given.items() if value != parameters[name].default}


def _check_counts(
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
        raise InputError(f"replicas: {replicas} needs max_rate; without it their number is the answer")
    for value, what, least in (
        (1 if replicas is None else replicas, "replicas", 1),
        (spare, "spare", 0),
        (max_replicas, "max_replicas", 1),
    ):
        if value < least:
            raise InputError(f"{what}: {value} must be at least {least}")
    if not 0.001 <= tolerance <= 0.5:
        raise InputError(f"tolerance: {tolerance:g} is not between 0.001 and 0.5")


def _check_settings(pairs: Sequence[tuple[str, Unit]], settings: Settings) -> None:
    """InputError for settings that no run could be set up with, before anything runs."""
    make_predictor(settings.predictor)
    router_maker(settings.router)
    replace(outages_of(settings), is_partial=True).schedules(1, np.random.default_rng(0))
    for policy, unit in pairs:
        for machine in unit.kinds:
            make_scheduler(policy, _limits(machine, settings))


def _limits(machine: Profile, settings: Settings) -> Limits:
    return limits_of(machine, settings.kv_blocks, settings.block_size, kv_tier=settings.kv_tier)
