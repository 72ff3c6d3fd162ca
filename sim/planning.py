"""`plan`: from a trace and an SLO to the fewest replicas, or the highest rate, with its interval and cost."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import DEFAULT_MAX_NEW_TOKENS, Trace

from . import sensitivity as sensitivities
from .capacity import Effort, Fleet, Point, RateRange, Search, at_rates, decide, fewest_replicas, highest_rate
from .hardware.profile import Profile
from .hardware.profile import load as load_profile
from .hardware.profile import names as profile_names
from .perception import predictor as make_predictor
from .plan_result import Answer, Assumption, Kind, Plan, Question
from .policies import limits_of, make_scheduler
from .scenario import goodput_bounds
from .slo import RULE, Slo, parse_slo
from .version import __version__
from .worlds import Runs, World, together

DEFAULT_POLICIES = "continuous"
DEFAULT_TOLERANCE = 0.02
HEADROOM_TOLERANCE = 0.05
CURVE = (0.4, 0.6, 0.75, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3)
"""Rates of a curve, as shares of the rate asked for."""

PROVENANCE: Mapping[str, Kind] = {
    "measured": "measured",
    "published": "published",
    "roofline estimate": "estimated",
}


def plan(
    trace: Trace | str,
    *,
    slo: Slo | Iterable[str] | str,
    request_rate: float | str | None = None,
    max_rate: bool = False,
    policies: Sequence[str] | str = DEFAULT_POLICIES,
    profiles: Sequence[str | Profile] | str | Profile | None = None,
    predictor: str = "oracle",
    router: str = "least-requests",
    goodput: Mapping[str, float] | Iterable[str] | None = None,
    replicas: int = 1,
    spare: int = 0,
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
    on_run: Callable[[int], None] | None = None,
) -> Plan:
    """The fewest replicas that meet an SLO at a rate, or with `max_rate` the highest rate of `replicas`.

    `slo`: texts such as `ttft_p99:2000`, `tpot_p99:100`, `attainment:0.99` (the last with `goodput` bounds).
    `request_rate`: requests/s, or a text such as `10x`, so many times the trace's own mean rate; None: its
    own. A trace's own gaps between arrivals are scaled to the rate; with `burstiness`, or where the trace has
    no times, gaps are drawn (1: Poisson). `policies`, `profiles`: one answer for each pair; a text holds them
    with semicolons between them; no profiles: all that are shipped. `spare`: replicas that may fail while the
    rest still meets the SLO. `prices`: USD per hour by profile or GPU, or texts `NAME:USD`.

    Every point is simulated with `num_seeds` seeds of `num_requests` requests, and longer, up to `max_seeds`
    of `max_requests`, while its interval at `confidence` straddles a bound; the answer itself at full length.
    `curves` and `sensitivity` add what the report draws. `state`: a file in which runs are kept, so that a
    plan that was stopped goes on from there. `jobs`: processes, -1 for one per core. `on_run(number)` is told
    of every run.

    Raises InputError for anything that cannot be used. The same arguments give the same plan, byte for byte.
    """
    bounds = goodput_bounds(goodput)
    wanted = parse_slo(slo, bounds)
    names = split(policies)
    machines = _profiles(profiles)
    if not names or len(set(names)) < len(names):
        raise InputError(f"policies: {';'.join(names)!r} must name at least one policy, and none twice")
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
    workload = _workload(trace, seed, num_requests, max_new_tokens, burstiness)
    make_predictor(predictor)
    rate = None if max_rate and request_rate is None else _rate(request_rate, workload)
    price = _prices(prices)
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
    for world in worlds:
        make_scheduler(world.policy, limits_of(world.profile, kv_blocks))
    runs = Runs(wanted, None if state is None else Path(state), jobs, on_run)
    if max_rate:
        found = together(
            [(w, _ask_rate(wanted, replicas, rate or 1.0, effort, tolerance, curves)) for w in worlds], runs
        )
    else:
        assert rate is not None
        found = together(
            [(w, _ask_replicas(wanted, rate, spare, effort, max_replicas, curves)) for w in worlds], runs
        )
    answers = tuple(_answer(w, parts, price, spare) for w, parts in zip(worlds, found, strict=True))
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
        command=_command(locals()),
    )
    made = Plan(question, answers, _assumptions(workload, question, machines, answers, predictor))
    if sensitivity and made.best is not None:
        best = made.best
        world = worlds[made.answers.index(best)]
        assert best.point is not None
        made = replace(
            made,
            sensitivity=sensitivities.sensitivity(world, wanted, best.point, effort, runs),
        )
    return made


@dataclass(frozen=True)
class _Parts:
    """What the searches for one policy and profile found."""

    replicas: int | None
    rate: float | None
    reason: str
    point: Point | None
    rates: RateRange | None
    points: tuple[Point, ...]
    fleet: Fleet | None = None
    normal: Point | None = None
    one_less: Point | None = None
    one_more: Point | None = None
    curve: tuple[Point, ...] = ()


def _ask_replicas(
    slo: Slo, rate: float, spare: int, effort: Effort, max_replicas: int, curves: bool
) -> Search[_Parts]:
    fleet = yield from fewest_replicas(slo, rate, effort, max_replicas)
    k = fleet.replicas
    if k is None:
        return _Parts(None, None, fleet.reason, None, None, fleet.points, fleet)
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
    curve: tuple[Point, ...] = ()
    if curves:
        curve = yield from at_rates(slo, k, [share * rate for share in CURVE], glance)
    return _Parts(k, rate, "", fleet.at(k), rates, fleet.points, fleet, normal, fleet.at(k - 1), more, curve)


def _ask_rate(
    slo: Slo, replicas: int, start: float, effort: Effort, tolerance: float, curves: bool
) -> Search[_Parts]:
    rates = yield from highest_rate(slo, replicas, effort, start=start, tolerance=tolerance)
    if rates.rate is None:
        return _Parts(None, None, rates.reason, None, rates, rates.points)
    at = next(p for p in rates.points if p.rate == rates.rate)
    glance = effort.at_a_glance()
    less = (yield from decide(slo, replicas - 1, rates.rate, glance)) if replicas > 1 else None
    more = yield from decide(slo, replicas + 1, rates.rate, glance)
    curve: tuple[Point, ...] = ()
    if curves:
        curve = yield from at_rates(slo, replicas, [share * rates.rate for share in CURVE], glance)
    return _Parts(replicas, rates.rate, "", at, rates, rates.points, None, None, less, more, curve)


def _answer(world: World, parts: _Parts, prices: Mapping[str, float], spare: int) -> Answer:
    machine = world.profile
    gpu = machine.gpu.name if machine.gpu else ""
    own = getattr(machine, "price_per_hour", None)
    binding = ""
    if parts.point is not None:
        less = parts.one_less
        binding = parts.point.binding.name if less is None else less.binding.name
        if less is not None and less.verdict == "unstable":
            binding = "throughput"
    elif parts.fleet is not None:
        binding = parts.fleet.points[-1].binding.name
    return Answer(
        policy=world.policy,
        profile=machine.name,
        gpu=gpu,
        provenance=machine.provenance.kind,
        replicas=None if parts.replicas is None else parts.replicas + spare,
        spare=spare,
        rate=parts.rate,
        reason=parts.reason,
        binding=binding,
        undecided=parts.fleet.undecided if parts.fleet else (),
        point=parts.point,
        normal=parts.normal,
        one_less=parts.one_less,
        one_more=parts.one_more,
        alone=parts.fleet.alone if parts.fleet else None,
        rates=parts.rates,
        price_per_hour=prices.get(machine.name, prices.get(gpu, own)),
        points=parts.points,
        curve=parts.curve,
    )


def split(texts: Sequence[Any] | str) -> list[Any]:
    """The parts of a text with semicolons between them; what is a list already, as it is."""
    if isinstance(texts, str):
        return [part.strip() for part in texts.split(";") if part.strip()]
    return list(texts)


def _profiles(given: Sequence[str | Profile] | str | Profile | None) -> list[Profile]:
    parts = [given] if isinstance(given, Profile) else split(profile_names() if given is None else given)
    machines = [part if isinstance(part, Profile) else load_profile(part) for part in parts]
    names = [machine.name for machine in machines]
    if not names or len(set(names)) < len(names):
        raise InputError(f"profiles: {';'.join(names)!r} must name at least one profile, and none twice")
    return machines


def _prices(given: Mapping[str, float] | Iterable[str]) -> dict[str, float]:
    """USD per hour by profile or GPU name."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        for text in given:
            name, colon, value = str(text).rpartition(":")
            if not colon or not name:
                raise InputError(f"price: {text!r} is not NAME:USD, as in H200:3.50")
            pairs.append((name, value))
    prices: dict[str, float] = {}
    for name, value in pairs:
        try:
            prices[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"price: {name}:{value} is not a number of USD per hour") from None
        if not 0 <= prices[name] < 1e9:
            raise InputError(f"price: {name}:{value} is not between 0 and 1e9 USD per hour")
    return prices


@dataclass(frozen=True)
class _Workload:
    """The requests and how they arrive, with what has to be said of them."""

    name: str
    source: Trace | str
    example: Trace
    burstiness: float | None
    own_rate: float | None
    peak: float | None

    @property
    def arrivals(self) -> str:
        """How requests arrive, for people."""
        if self.burstiness is None:
            return "the trace's own gaps, scaled to the rate"
        shape = "Poisson" if self.burstiness == 1 else f"gamma, burstiness {self.burstiness:g}"
        return f"drawn ({shape})"


def _workload(
    trace: Trace | str, seed: int, num_requests: int, max_new_tokens: int | None, burstiness: float | None
) -> _Workload:
    from traces import load, synthetic

    if burstiness is not None and not 0 < burstiness < 1e6:
        raise InputError(f"burstiness: {burstiness:g} is not above 0 and finite")
    name = trace if isinstance(trace, str) else trace.name
    if isinstance(trace, str) and trace.partition(":")[0] in synthetic.names() and not Path(trace).suffix:
        example = load(trace, seed=seed, num_prompts=num_requests, max_new_tokens=max_new_tokens)
        return _Workload(name, trace, example, 1.0 if burstiness is None else burstiness, None, None)
    whole = load(trace, seed=seed, max_new_tokens=max_new_tokens) if isinstance(trace, str) else trace
    cap = max_new_tokens or whole.max_new_tokens
    cap = cap or max(DEFAULT_MAX_NEW_TOKENS, int(whole.output_tokens.max()))
    whole = whole.with_output_cap(cap)
    times = whole.arrival_s
    span = 0.0 if times is None else float(times[-1] - times[0])
    if times is None or not span > 0:
        return _Workload(
            whole.name,
            replace(whole, arrival_s=None),
            whole,
            1.0 if burstiness is None else burstiness,
            None,
            None,
        )
    counts = np.histogram(times, bins=10)[0]
    own_rate = (len(whole) - 1) / span
    return _Workload(whole.name, whole, whole, burstiness, own_rate, float(counts.max() / counts.mean()))


def _rate(given: float | str | None, workload: _Workload) -> float:
    """Requests per second of a number, of a text such as `10x`, or of the trace itself."""
    own = workload.own_rate
    text = "1x" if given is None else str(given).strip()
    times = text.endswith("x")
    try:
        rate = float(text[:-1] if times else text)
    except ValueError:
        raise InputError(
            f"request_rate: {text!r} is neither requests per second nor a multiple such as 10x"
        ) from None
    if times and own is None:
        raise InputError(
            f"request_rate: {workload.name} has no arrival times, and so no rate of its own; give requests "
            "per second"
        )
    rate = rate * own if times and own is not None else rate
    if not 0 < rate < 1e9:
        raise InputError(f"request_rate: {text} is not above 0 and below 1e9 requests per second")
    return rate


def _assumptions(
    workload: _Workload,
    question: Question,
    machines: Sequence[Profile],
    answers: Sequence[Answer],
    predictor: str,
) -> tuple[Assumption, ...]:
    trace = workload.example
    prompt, output = trace.prompt_tokens.mean(), trace.output_tokens.mean()
    drawn = isinstance(workload.source, str)
    lengths = (
        f"{len(trace):,} requests of {workload.name}, mean prompt {prompt:,.0f} and mean output "
        f"{output:,.0f} tokens"
    )
    made = [Assumption("Requests", lengths, "drawn" if drawn else "given")]
    arrivals = workload.arrivals
    if workload.peak is not None and workload.own_rate is not None:
        arrivals += (
            f"; the trace's own mean is {workload.own_rate:.3g}/s, and its busiest tenth runs at "
            f"{workload.peak:.2f} times that, which has to be part of the rate asked for"
        )
    made.append(Assumption("Arrivals", arrivals, "drawn" if workload.burstiness is not None else "given"))
    if not drawn:
        made.append(
            Assumption(
                "Replications",
                "each seed replays another window of the trace from a start of its own, going round at its "
                "end, scaled to the rate; long windows of many seeds overlap, so the intervals speak of this "
                "trace",
                "given",
            )
        )
    for machine in machines:
        said = machine.provenance
        text = f"{machine.name}: {said.description}" + (f" ({said.source})" if said.source else "")
        made.append(Assumption("Step times and memory", text, PROVENANCE[said.kind]))
    made.append(Assumption("Length predictor", predictor, "given"))
    made.append(Assumption("Routing", f"{question.router}, identical replicas", "given"))
    for answer in {a.profile: a for a in answers}.values():
        price = answer.price_per_hour
        text = "not known" if price is None else f"{price:,.2f} USD per replica and hour"
        made.append(Assumption("Price", f"{answer.profile}: {text}", "given"))
    made.append(Assumption("What is counted", RULE, "given"))
    made += [Assumption("Note on the trace", note, "given") for note in trace.notes]
    return tuple(made)


def _command(given: Mapping[str, Any]) -> str:
    """The command line that gives the same plan."""
    workload, wanted = given["workload"], given["wanted"]
    words = ["seqsched", "plan", "--trace", workload.name, "--slo"]
    words += [f"{b.name}:{b.limit:g}" for b in wanted.bounds]
    if wanted.goodput_ms:
        words += ["--goodput", *(f"{name}:{limit:g}" for name, limit in wanted.goodput_ms)]
    if given["request_rate"] is not None:
        words += ["--request-rate", str(given["request_rate"])]
    if given["max_rate"]:
        words += ["--max-rate", "--replicas", str(given["replicas"])]
    words += ["--policies", ";".join(given["names"])]
    words += ["--profiles", ";".join(machine.name for machine in given["machines"])]
    defaults = plan.__kwdefaults__ or {}
    for name in (
        "predictor",
        "router",
        "spare",
        "burstiness",
        "kv_blocks",
        "max_new_tokens",
        "seed",
        "num_seeds",
        "num_requests",
        "max_seeds",
        "max_requests",
        "max_replicas",
        "confidence",
        "tolerance",
    ):
        if given[name] != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(given[name])]
    if given["price"]:
        words += ["--price", *(f"{name}:{usd:g}" for name, usd in given["price"].items())]
    return shlex.join(words)
