"""What a plan is asked for, read and checked: workload, rate, machines, prices; and what it assumes.

Knows nothing of searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import DEFAULT_MAX_NEW_TOKENS, Trace

from ..hardware.datasheets import GPUS
from ..hardware.profile import Profile
from ..hardware.profile import load as load_profile
from ..hardware.profile import names as profile_names
from .answer import Answer, Assumption, Kind, Question
from .slo import RULE

PROVENANCE: Mapping[str, Kind] = {
    "measured": "measured",
    "published": "published",
    "roofline estimate": "estimated",
    "what-if": "what-if",
}


def split(texts: Sequence[Any] | str) -> list[Any]:
    """The parts of a text with semicolons between them; what is a list already, as it is."""
    if isinstance(texts, str):
        return [part.strip() for part in texts.split(";") if part.strip()]
    return list(texts)


def named_profiles(given: Sequence[str | Profile] | str | Profile | None) -> list[str | Profile]:
    """The profiles given, each as it was named; all that are shipped where none is."""
    return [given] if isinstance(given, Profile) else split(profile_names() if given is None else given)


def profiles_of(named: Sequence[str | Profile]) -> list[Profile]:
    """The profiles by name, file or as they are."""
    machines = [part if isinstance(part, Profile) else load_profile(part) for part in named]
    names = [machine.name for machine in machines]
    if not names or len(set(names)) < len(names):
        raise InputError(f"profiles: {';'.join(names)!r} must name at least one profile, and none twice")
    return machines


def prices_of(given: Mapping[str, float] | Iterable[str], machines: Sequence[Profile]) -> dict[str, float]:
    """USD per hour by profile or GPU name; InputError for a name that is neither known nor in `machines`."""
    known = {*GPUS, *profile_names(), *(m.name for m in machines), *(m.gpu.name for m in machines if m.gpu)}
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
        if name not in known:
            raise InputError(f"price: {name!r} is no profile or GPU known here ({', '.join(sorted(known))})")
        try:
            prices[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"price: {name}:{value} is not a number of USD per hour") from None
        if not 0 <= prices[name] < 1e9:
            raise InputError(f"price: {name}:{value} is not between 0 and 1e9 USD per hour")
    return prices


@dataclass(frozen=True)
class Workload:
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


def workload_of(
    trace: Trace | str, seed: int, num_requests: int, max_new_tokens: int | None, burstiness: float | None
) -> Workload:
    """The workload of a Trace, or of what `traces.load` takes; a generator draws for every seed anew."""
    from traces import load
    from traces.loading import is_generator

    if burstiness is not None and not 0 < burstiness < 1e6:
        raise InputError(f"burstiness: {burstiness:g} is not above 0 and finite")
    name = trace if isinstance(trace, str) else trace.name
    if isinstance(trace, str) and is_generator(trace):
        example = load(trace, seed=seed, num_prompts=num_requests, max_new_tokens=max_new_tokens)
        return Workload(name, trace, example, 1.0 if burstiness is None else burstiness, None, None)
    whole = load(trace, seed=seed, max_new_tokens=max_new_tokens) if isinstance(trace, str) else trace
    cap = max_new_tokens or whole.max_new_tokens
    cap = cap or max(DEFAULT_MAX_NEW_TOKENS, int(whole.output_tokens.max()))
    whole = whole.with_output_cap(cap)
    times, own_rate = whole.arrival_s, whole.mean_rate
    if times is None or own_rate is None:
        return Workload(
            whole.name,
            replace(whole, arrival_s=None),
            whole,
            1.0 if burstiness is None else burstiness,
            None,
            None,
        )
    counts = np.histogram(times, bins=10)[0]
    return Workload(whole.name, whole, whole, burstiness, own_rate, float(counts.max() / counts.mean()))


def rate_of(given: float | str | None, workload: Workload) -> float:
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


def assumptions_of(
    workload: Workload,
    question: Question,
    machines: Sequence[Profile],
    answers: Sequence[Answer],
    predictor: str,
) -> tuple[Assumption, ...]:
    """What the answers rest on, and where each of it comes from."""
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
