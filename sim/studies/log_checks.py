"""What the figures of a server's log say of its units, its definitions and its clocks.

Latencies are in ms, arrays of shape (n,) in the order of the trace. Reads no files and simulates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.errors import InputError
from traces.trace import FloatArray, Trace

if TYPE_CHECKING:
    from ..hardware.profile import Profile
    from ..scenario.scenario import Scenario

ODD = 0.1
"""Share by which the parts of a latency may miss the whole, in the median row, before that is said."""
FITTING = 0.99
"""Share of the rows that must fit a definition within rounding for it to be the log's."""
MOST_DECIMALS = 9
LEAST_STEP_MS = 0.05
"""No server makes a token of a request in less, whatever the model."""
STEP_SHARE = 0.05
"""Share of the time to read the weights once that a token may take: several may be accepted in one step."""
FASTEST = 10.0
"""How many times the hardware's peak prompts may seem to be computed at, since parts are found in memory."""
FEW = 10
"""Requests below which prompts found in memory may be all there is."""
FAR = 300.0
"""How many times the predicted latencies the measured ones may be before their unit is doubted."""
MEMORY = 2.0
"""How many times the KV cache requests may seem to hold at once, since they may share prefixes."""

HELD_MS = 5.0
"""Requests that a client sent later than this after they were due, in the mean, are said."""

Latency = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Definition:
    """A definition of TPOT: how many of the output tokens it does not count, and whether TTFT is in it."""

    formula: str
    not_counted: int
    has_ttft: bool

    def misses_ms(self, trace: Trace, latency: Latency) -> FloatArray:
        """By how much TPOT times its tokens misses what it is made of, in ms, shape (n,)."""
        told = latency["tpot_ms"] * (trace.output_tokens - self.not_counted)
        return np.asarray(np.abs(told + (0 if self.has_ttft else latency["ttft_ms"]) - latency["e2el_ms"]))


OURS = Definition("(e2el_ms - ttft_ms) / (output_tokens - 1)", 1, False)
OTHERS = (
    Definition("e2el_ms / output_tokens", 0, True),
    Definition("(e2el_ms - ttft_ms) / output_tokens", 0, False),
    Definition("e2el_ms / (output_tokens - 1)", 1, True),
)


def with_our_tpot(trace: Trace, latency: Latency) -> tuple[dict[str, FloatArray], tuple[str, ...]]:
    """The latencies with TPOT by our definition, and a note where the log has another one.

    It has another where that holds in 99 of 100 rows within rounding, and ours does not.
    """
    several = trace.output_tokens > 1
    rounding_ms = _rounding_ms(trace, latency)

    def fits(definition: Definition) -> float:
        return float((definition.misses_ms(trace, latency) <= rounding_ms)[several].mean())

    if not several.any() or fits(OURS) >= FITTING:
        return dict(latency), ()
    other = next((definition for definition in OTHERS if fits(definition) >= FITTING), None)
    if other is None:
        return dict(latency), ()
    tokens = np.maximum(trace.output_tokens - 1, 1)
    ours = np.where(several, (latency["e2el_ms"] - latency["ttft_ms"]) / tokens, latency["tpot_ms"])
    note = f"tpot_ms is {other.formula}, another definition of TPOT; measured TPOT is {OURS.formula} instead"
    return {**latency, "tpot_ms": np.maximum(ours, 0.0)}, (note,)


def _rounding_ms(trace: Trace, latency: Latency) -> FloatArray:
    """What the sum of a row may be off by where its columns are rounded, in ms, shape (n,)."""
    first, tpot, last = (_precision(latency[name]) for name in ("ttft_ms", "tpot_ms", "e2el_ms"))
    return np.asarray(first + trace.output_tokens * tpot + last + 1e-6 * latency["e2el_ms"])


def _precision(values: FloatArray) -> float:
    """Half a unit of the last decimal that the values have."""
    for decimals in range(MOST_DECIMALS):
        if np.allclose(values, np.round(values, decimals), rtol=1e-12, atol=1e-12):
            return float(0.5 * 10.0**-decimals)
    return 0.0


def oddities(trace: Trace, latency: Latency) -> tuple[str, ...]:
    """Notes on what does not fit together in most rows, so that a unit or a meaning must be another."""
    several = trace.output_tokens > 1
    if not several.any():
        return ()
    e2el = latency["e2el_ms"]
    if np.median((OURS.misses_ms(trace, latency) / np.maximum(e2el, 1e-9))[several]) <= ODD:
        return ()
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (e2el - latency["ttft_ms"]) / (trace.output_tokens - 1) / latency["tpot_ms"]
        first = (e2el - latency["tpot_ms"] * (trace.output_tokens - 1)) / latency["ttft_ms"]
    hints = [
        f"; {name} is about {text} of what the others make it: in {unit}?"
        for name, ratios in (("tpot_ms", spread), ("ttft_ms", first))
        for factor, text, unit in ((1e3, "1/1000", "seconds"), (1e-3, "1000 times", "microseconds"))
        if abs(float(np.median(ratios[several])) / factor - 1) <= ODD
    ]
    return (
        "ttft_ms + tpot_ms x (output_tokens - 1) is not near e2el_ms in most rows: "
        "all three are in ms, ttft and e2el from the arrival, tpot the mean after the first token"
        f"{''.join(hints[:1])}",
    )


def check_physics(path: str, trace: Trace, latency: Latency, scenario: Scenario) -> None:
    """InputError for a log that no hardware of these replicas can have made.

    A token of an answer is not made in less than a part of one reading of the weights; prompts are not
    computed above the hardware's peak; what requests hold at once fits the memory.
    """
    profile = scenario.profile
    floor_ms, why = _least_token_ms(profile)
    token_ms = float(np.median(latency["e2el_ms"] / trace.output_tokens))
    if token_ms < floor_ms:
        raise InputError(
            f"{path}, e2el_ms: {token_ms:.3g} ms a token in the median row is below {floor_ms:.3g}, {why}; "
            "are the latencies in seconds? ms are needed"
        )
    assert trace.arrival_s is not None
    first_s = trace.arrival_s + latency["ttft_ms"] / 1e3
    last_s = trace.arrival_s + latency["e2el_ms"] / 1e3
    if profile.gpu is not None and profile.model is not None and len(trace) >= FEW:
        peak = profile.gpu.peak_flops * profile.num_gpus / profile.model.flops_per_token * scenario.replicas
        prompts_per_s = float(trace.prompt_tokens.sum()) / max(float(first_s.max()), 1e-9)
        if prompts_per_s > FASTEST * peak:
            raise InputError(
                f"{path}, arrival_s: prompts seem computed at {prompts_per_s:,.0f} tokens/s, where "
                f"{scenario.replicas} x {profile.name} make {peak:,.0f} at most: are arrivals in another "
                "unit, by another clock, or missing?"
            )
    held = _most_held(trace, first_s, last_s)
    memories = [machine.profile.memory for machine in scenario.machines]
    room = sum(math.inf if memory is None else memory.capacity_tokens for memory in memories)
    if held > MEMORY * room:
        raise InputError(
            f"{path}, arrival_s: requests seem to hold {held:,.0f} tokens of KV cache at once, where "
            f"{room:,.0f} fit: are arrivals in another unit or by another clock, or replicas too few?"
        )


def check_ends(path: str, trace: Trace, e2el_ms: FloatArray, ends: FloatArray) -> None:
    """InputError where arrivals and latencies do not lead to the ends that the log has, in s of any epoch."""
    assert trace.arrival_s is not None
    ahead = trace.arrival_s + e2el_ms / 1e3 - ends
    off_s = float(np.median(np.abs(ahead - np.median(ahead))))
    if off_s > ODD * float(np.median(e2el_ms)) / 1e3 + 1e-3:
        raise InputError(
            f"{path}, arrival_s: arrival_s + e2el_ms / 1000 is {off_s:.3g} s off finish_s in the median row: "
            "are arrivals or latencies in another unit, or by another clock?"
        )


def far_off(measured: Mapping[str, float], predicted: Mapping[str, float]) -> tuple[str, ...]:
    """A note where every latency is hundreds of times what is predicted, which no scheduler explains."""
    ratios = [value / predicted[key] for key, value in measured.items() if key.startswith("median_")]
    if not ratios or min(ratios) < FAR:
        return ()
    return (f"all latencies are {min(ratios):,.0f} times the predicted ones and more: in microseconds?",)


def _least_token_ms(profile: Profile) -> tuple[float, str]:
    """The least time that a token takes, in ms, and what that is."""
    if profile.gpu is None or profile.model is None:
        return LEAST_STEP_MS, "less than any server takes"
    bandwidth = profile.gpu.bandwidth_bytes_per_s * profile.num_gpus
    read_ms = 1e3 * profile.model.read_bytes / bandwidth
    if STEP_SHARE * read_ms < LEAST_STEP_MS:
        return LEAST_STEP_MS, "less than any server takes"
    return STEP_SHARE * read_ms, f"a twentieth of reading the weights once on {profile.name}"


def _most_held(trace: Trace, first_s: FloatArray, last_s: FloatArray) -> float:
    """The most tokens that requests between their first and last token have computed at once."""
    times = np.concatenate([first_s, last_s])
    changes = np.concatenate([trace.prompt_tokens, -trace.prompt_tokens]).astype(np.float64)
    order = np.lexsort((changes, times))  # what ends goes before what starts at the same time
    return float(np.cumsum(changes[order]).max())


def held_back(due_s: FloatArray, sent_s: FloatArray) -> tuple[str, ...]:
    """A note where a client sent its requests later than they were due, by the same clock, shape (n,)."""
    held_ms = 1e3 * float((sent_s - due_s).mean())
    if not held_ms > HELD_MS:
        return ()
    return (
        f"requests were sent {held_ms:.3g} ms after they were due, in the mean (arrival_s after due_s): they "
        "are replayed as they were sent, and what they waited for at the client is in no latency",
    )
