"""What a plan is asked for, read and checked: workload and rate; and what it assumes.

Knows nothing of searches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from traces import quantities
from traces.arrivals import busiest_tenth
from traces.errors import InputError
from traces.sessions import session_sizes
from traces.trace import Trace

from ..fleet.routers import DEFAULT_ROUTER
from ..results.caps import cap_texts, share_at_cap
from ..results.own_slos import states_bounds
from ..scenario.requests import check_concurrency, requests_of
from ..scenario.settings import DEFAULT_PREDICTOR, Settings
from .answer import Answer, Assumption, Kind
from .replay import MOST_REQUESTS, NOISE, VARIES, Replay
from .slo import RULE, RULE_OF_SESSIONS, Slo
from .units import Unit

PROVENANCE: Mapping[str, Kind] = {
    "measured": "measured",
    "composed from measured kernels": "composed",
    "published": "published",
    "roofline estimate": "estimated",
    "what-if": "what-if",
}


@dataclass(frozen=True)
class Workload:
    """The requests and how they arrive, and figures for the assumptions."""

    name: str
    source: Trace | str
    example: Trace
    burstiness: float | None
    own_rate: float | None
    peak: float | None

    @property
    def varies(self) -> bool:
        """Whether requests come at the trace's own times, and far faster in its busiest tenth.

        By more than chance alone has it: where arrivals are Poisson, tenths of few requests differ too.
        """
        chance = 1 + NOISE / math.sqrt(len(self.example) / 10)
        return self.burstiness is None and self.peak is not None and self.peak >= max(VARIES, chance)

    def replay_at(self, rate: float | None, settings: Settings, num_seeds: int) -> Replay | None:
        """How a plan for that rate (None: for the highest) is held against the trace itself.

        It is where the rate is the trace's own, and where that varies; with several seeds where failures,
        predictions or routes may be random.
        """
        if self.burstiness is None and self.own_rate is not None and (rate == self.own_rate or self.varies):
            of_chance = settings.mtbf_s, settings.router, settings.predictor
            is_random = of_chance != (None, DEFAULT_ROUTER, DEFAULT_PREDICTOR)
            seeds = range(settings.seed, settings.seed + (num_seeds if is_random else 1))
            return Replay(min(len(self.example), MOST_REQUESTS), tuple(seeds), is_all=self.varies)
        return None

    @property
    def states_bounds(self) -> bool:
        """Whether a request has bounds of its own."""
        return bool(states_bounds(self.example.slos).any())

    @property
    def arrivals(self) -> str:
        """How requests arrive, for people."""
        if self.burstiness is None:
            return "the trace's own gaps, scaled to the rate"
        shape = "Poisson" if self.burstiness == 1 else f"gamma, burstiness {self.burstiness:g}"
        return f"drawn ({shape})"


def with_sessions(slo: Slo, workload: Workload) -> Slo:
    """The SLO with the requests of a mean session; InputError where it bounds sessions and there are none."""
    if not slo.bounds_sessions:
        return slo
    sessions = workload.example.sessions
    if sessions is None:
        name = next(bound.name for bound in slo.bounds if bound.is_of_sessions)
        raise InputError(
            f"slo: {name} bounds sessions, and {workload.name} does not say which requests are of one "
            "(session_id, waits_for)"
        )
    return replace(slo, session_requests=float(session_sizes(sessions).mean()))


def workload_of(
    trace: Trace | str, settings: Settings, num_requests: int, burstiness: float | None
) -> Workload:
    """The workload of a Trace, or of what `traces.load` takes.

    A generator draws for every seed anew, unless the settings choose among its requests: then it draws once.
    Of other traces the requests are chosen and scaled here, once for all runs.
    """
    from traces.loading import is_generator

    if burstiness is not None and not 0 < burstiness < 1e6:
        raise InputError(f"burstiness: {burstiness:g} is not above 0 and finite")
    if not 0 < settings.time_scale < math.inf:
        raise InputError(f"time_scale: {settings.time_scale:g} is not above 0 and finite")
    check_concurrency(settings)
    name = trace if isinstance(trace, str) else trace.name
    is_chosen = settings.num_prompts is not None or settings.sample_seed is not None
    if isinstance(trace, str) and is_generator(trace) and not is_chosen:
        drawn = replace(settings, trace=trace, num_prompts=num_requests)
        example = requests_of(drawn, settings.seed, whole_sessions=True)
        return Workload(name, trace, example, 1.0 if burstiness is None else burstiness, None, None)
    whole = requests_of(replace(settings, trace=trace), settings.seed)
    times, mean_rate = whole.arrival_s, whole.mean_rate
    if times is None or mean_rate is None:
        return Workload(
            whole.name,
            replace(whole, arrival_s=None),
            whole,
            1.0 if burstiness is None else burstiness,
            None,
            None,
        )
    own_rate = mean_rate / settings.time_scale
    peak = 10 * len(busiest_tenth(times)) / len(times)
    return Workload(whole.name, whole, whole, burstiness, own_rate, peak)


def check_time_scale(time_scale: float, request_rate: float | str | None, max_rate: bool) -> None:
    """InputError for a time scale where it has no effect: it scales the trace's own rate."""
    is_multiple = request_rate is None or str(request_rate).strip().endswith("x")
    if time_scale != 1 and (max_rate or not is_multiple):
        rate = "max_rate" if max_rate else f"request_rate {request_rate}"
        raise InputError(
            f"time_scale: {time_scale:g} scales the trace's own rate, which {rate} replaces; "
            "only 1 is allowed with it"
        )


def rate_of(given: float | str | None, workload: Workload) -> float:
    """Requests per second of a number, of a text such as `60/min` or `10x`, or of the trace itself."""
    own = workload.own_rate
    text = "1x" if given is None else str(given).strip()
    times = text.endswith("x")
    try:
        rate = float(text[:-1]) if times else quantities.per_second(text)
    except ValueError:
        raise InputError(
            f"request_rate: {text!r} is neither requests per second (or {quantities.RATE_UNITS}) nor a "
            "multiple such as 10x"
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


def assumptions_of(
    workload: Workload, settings: Settings, units: Sequence[Unit], answers: Sequence[Answer]
) -> tuple[Assumption, ...]:
    """What the answers rest on, and where each of it comes from."""
    predictor = settings.predictor
    rule = f"{RULE} {RULE_OF_SESSIONS}" if workload.example.is_waiting.any() else RULE
    return (
        *_about_requests(workload),
        *_about_machines(units),
        Assumption("Length predictor", predictor if isinstance(predictor, str) else repr(predictor), "given"),
        *_about_the_fleet(settings, units),
        *_about_prices(answers),
        Assumption("What is counted", rule, "given"),
        *(Assumption("Note on the trace", note, "given") for note in workload.example.notes),
    )


def _about_requests(workload: Workload) -> list[Assumption]:
    trace = workload.example
    prompt, output = trace.prompt_tokens.mean(), trace.output_tokens.mean()
    drawn = isinstance(workload.source, str)
    lengths = (
        f"{len(trace):,} requests of {workload.name}, mean prompt {prompt:,.0f} and mean output "
        f"{output:,.0f} tokens"
    )
    arrivals = workload.arrivals
    if workload.peak is not None and workload.own_rate is not None:
        arrivals += (
            f"; the trace's own mean is {workload.own_rate:.3g}/s, and its busiest tenth runs at "
            f"{workload.peak:.2f} times that"
        )
    about = [
        Assumption("Requests", lengths, "drawn" if drawn else "given"),
        Assumption("Arrivals", arrivals, "drawn" if workload.burstiness is not None else "given"),
    ]
    if trace.max_tokens is not None:
        tells = cap_texts({"share_at_cap": share_at_cap(trace.max_tokens, trace.output_tokens)})
        about.append(Assumption("Caps", " ".join(["each request's own.", *tells]), "given"))
    if not drawn:
        text = (
            "each seed replays another window of the trace from a start of its own, going round at its end, "
            "scaled to the rate; long windows of many seeds overlap, so the intervals speak of this trace"
        )
        about.append(Assumption("Replications", text, "given"))
    return about


def _about_machines(units: Sequence[Unit]) -> Iterator[Assumption]:
    for machine in {machine.name: machine for unit in units for machine in unit.machines}.values():
        provenance = machine.provenance
        source = f" ({provenance.source})" if provenance.source else ""
        text = f"{machine.name}: {provenance.description}{source}"
        yield Assumption("Step times and memory", text, PROVENANCE[provenance.kind])


def _about_the_fleet(settings: Settings, units: Sequence[Unit]) -> Iterator[Assumption]:
    mixed = next((unit for unit in units if len(unit.machines) > 1), None)
    alike = "identical replicas" if mixed is None else f"every replica a copy of the mix {mixed.label}"
    yield Assumption("Routing", f"{settings.router}, {alike}", "given")
    startup = f", then {settings.startup_s:g} s to load the weights" if settings.startup_s else ""
    if settings.failures is not None:
        text = (
            f"by the schedule {settings.failures}{startup}, counted from the start of every run; its rows "
            "about replicas that a fleet tried does not have are left out"
        )
        yield Assumption("Outages", text, "given")
    elif settings.mtbf_s is not None:
        text = (
            f"each machine fails after {settings.mtbf_s:g} s and is repaired in {settings.mttr_s:g} s, on "
            f"average{startup}; a machine fails at the same times in fleets of every size"
        )
        yield Assumption("Outages", text, "drawn")
    if settings.max_concurrency is not None:
        text = f"at most {settings.max_concurrency} in the fleet; others wait in front of it, which counts"
        yield Assumption("Concurrency", text, "given")


def _about_prices(answers: Sequence[Answer]) -> Iterator[Assumption]:
    for answer in {answer.profile: answer for answer in answers}.values():
        price, gpus = answer.price_per_hour, answer.num_gpus
        text = "not known" if price is None else f"{price:,.2f} USD per replica and hour"
        if price is not None and gpus > 1:
            text += f", a replica being {gpus} GPUs"
        yield Assumption("Price", f"{answer.profile}: {text}", "given")
