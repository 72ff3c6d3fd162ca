"""Carries measured times to another machine by the ratio of the rooflines; knows nothing of profiles.

The efficiency that was measured (roofline over measured time, size by size) is taken to be the same on the
other machine: base'(T) = base(T) * roofline'(T) / roofline(T). Up to the bend that scales by bandwidth,
beyond both bends by peak operations. Time per context token scales by bandwidth, attention by peak
operations, and host time not at all (Williams et al., 2009, for the roofline).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from sim.hardware.datasheets import Gpu
from sim.hardware.model_shape import ModelShape
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.step_cost import StepCost

KNOTS_PER_OCTAVE = 16
"""Between the two bends the carried base is a hyperbola; with so many knots it is off by at most 0.05 %."""

NEAR_THE_BEND = 0.5
"""Where one ceiling is at least this share of the other, either may bound an iteration."""

EFFICIENCIES = (0.7, 0.8, 0.9)
"""The share of a ceiling that kernels reach, lowest to highest: an assumption, that of the roofline estimate.

Other kernels on another chip may be anywhere in it, so their time is uncertain by 0.8 / 0.9 to 0.8 / 0.7.
"""

CONTEXT_TOKENS = 512
BATCHES = (1, 16, 64, 256)
PREFILL_TOKENS = 512
"""Points at which the uncertainty is computed: decode of these batches at that context, and that prefill."""


@dataclass(frozen=True)
class Ceilings:
    """Datasheet limits in seconds that no iteration of a model on `num_gpus` GPUs can be below."""

    read_s: float
    """Reading the weights once."""
    token_s: float
    """The matrix products of one token."""
    context_s: float
    """Reading the KV cache of one context token."""
    attention_s: float
    """The attention of one query token on one key."""

    @classmethod
    def of(cls, model: ModelShape, gpu: Gpu, num_gpus: int = 1) -> Ceilings:
        """Weights, operations and KV heads divided among the GPUs, communication left out.

        A KV head is not divided: with more GPUs than KV heads each of them reads one head.
        """
        bandwidth, peak = gpu.bandwidth_bytes_per_s * num_gpus, gpu.peak_flops * num_gpus
        return cls(
            read_s=model.read_bytes / bandwidth,
            token_s=model.flops_per_token / peak,
            context_s=model.kv_bytes_per_token / (gpu.bandwidth_bytes_per_s * min(num_gpus, model.kv_heads)),
            attention_s=model.flops_per_attended_key / peak,
        )

    @property
    def bend(self) -> float:
        """Tokens up to which reading the weights takes longer than multiplying with them."""
        return self.read_s / self.token_s

    def base_s(self, tokens: float) -> float:
        """The longer of reading the weights and computing `tokens` tokens."""
        return max(self.read_s, tokens * self.token_s)

    def iteration_s(self, tokens: int, context_tokens: int, attention: int) -> float:
        """A whole iteration: base, KV cache read, prefill attention."""
        return self.base_s(tokens) + context_tokens * self.context_s + attention * self.attention_s

    def parts_s(self, tokens: int, context_tokens: int, attention: int) -> tuple[float, float]:
        """Seconds for reading, and for computing, in the iteration."""
        read = self.read_s + context_tokens * self.context_s
        return read, tokens * self.token_s + attention * self.attention_s


def carry(cost: StepCost, before: Ceilings, after: Ceilings) -> StepCost:
    """The cost measured under the ceilings `before`, at the same efficiency under `after`.

    The terms that no ceiling explains (per decoding sequence, per key, launches) scale as attention does. A
    base that would fall with size between the bends is held level, since more tokens never take less time,
    unless it fell before. The same ceilings give the same cost, exactly.
    """
    if before == after:
        return cost
    attention = after.attention_s / before.attention_s
    context = after.context_s / before.context_s
    return replace(
        cost,
        decode_base=_carry_base(cost.decode_base, before, after),
        mixed_base=_carry_base(cost.mixed_base, before, after),
        decode_per_context_s=cost.decode_per_context_s * context,
        decode_context=cost.decode_context and cost.decode_context.scaled(context),
        decode_uneven=cost.decode_uneven and cost.decode_uneven.scaled(context),
        mixed_per_context_s=cost.mixed_per_context_s * context,
        mixed_per_attention_s=cost.mixed_per_attention_s * attention,
        mixed_per_decode_s=cost.mixed_per_decode_s * attention,
        mixed_per_longest_s=cost.mixed_per_longest_s * attention,
        mixed_per_key_s=cost.mixed_per_key_s * attention,
        mixed_per_share_s=cost.mixed_per_share_s * attention,
        mixed_per_reach_s=cost.mixed_per_reach_s * attention,
        mixed_decode=cost.mixed_decode and cost.mixed_decode.scaled(attention),
        mixed_per_uneven_s=cost.mixed_per_uneven_s * context,
    )


def _carry_base(base: PiecewiseLinear, before: Ceilings, after: Ceilings) -> PiecewiseLinear:
    knots = tuple(sorted({*base.sizes, *_bends(before.bend, after.bend)}))
    seconds = [base(size) * (after.base_s(size) / before.base_s(size)) for size in knots]
    if not base.may_fall:
        seconds = list(accumulate(seconds, max))
    return PiecewiseLinear(knots, tuple(seconds), base.may_fall)


def _bends(one: float, other: float) -> Iterator[float]:
    """Both bends, sizes between them that do not depend on them, and twice the larger one for the tail."""
    low, high = sorted((max(one, 1.0), max(other, 1.0)))
    yield from (low, high, 2 * high)
    first = math.floor(math.log2(low) * KNOTS_PER_OCTAVE) + 1
    last = math.ceil(math.log2(high) * KNOTS_PER_OCTAVE) - 1
    yield from (2 ** (i / KNOTS_PER_OCTAVE) for i in range(first, last + 1))


def spread(
    measured: StepCost,
    estimate: StepCost,
    before: Ceilings,
    after: Ceilings,
    most_s: Callable[[int], float] = lambda tokens: 0.0,
) -> dict[str, list[float]]:
    """How far `estimate` may be off: point → [lowest, highest], as fractions of the estimated time.

    Four readings of the measured time are compared: the efficiency stays (the estimate); what exceeds the
    roofline stays as it is (launches and synchronisation, which no faster GPU shortens); all of it is bound
    by bandwidth; all of it is bound by operations. The last two count near the bend alone, where that ceiling
    is at least `NEAR_THE_BEND` of the other. The part of the time whose ceiling changed is taken to be other
    kernels, of other efficiency (`EFFICIENCIES`). The lowest is never below the roofline at efficiency 1.
    `most_s` gives the longest time for communication, by tokens; the shortest is none (all of it hidden).
    """
    points: dict[str, list[float]] = {}
    plain = carry(measured, before, after)
    for name, *load in _points():
        before_s = _time(measured, *load) - measured.host_s
        carried = _time(plain, *load) - measured.host_s
        estimate_s = _time(estimate, *load)
        ceiling_before, ceiling_after = before.iteration_s(*load), after.iteration_s(*load)
        readings = [carried, ceiling_after + max(0.0, before_s - ceiling_before)]
        old, new = before.parts_s(*load), after.parts_s(*load)
        readings += [before_s * new[i] / old[i] for i in (0, 1) if old[i] >= NEAR_THE_BEND * old[1 - i]]
        lowest, middle, highest = EFFICIENCIES
        uncertain = _changed_part(plain, carried, before, after, *load)
        least = min(readings) - uncertain * (1 - middle / highest)
        most = max(readings) + uncertain * (middle / lowest - 1) + most_s(load[0])
        low = max(least, min(carried, ceiling_after)) + measured.host_s
        high = most + measured.host_s
        points[name] = [round(low / estimate_s - 1, 4) + 0.0, round(high / estimate_s - 1, 4) + 0.0]
    return points


def _points() -> Iterator[tuple[str, int, int, int]]:
    """(name, tokens, context tokens in all, prefill attention)."""
    for batch in BATCHES:
        yield f"decode, batch {batch}", batch, batch * CONTEXT_TOKENS, 0
    yield f"prefill of {PREFILL_TOKENS} tokens", PREFILL_TOKENS, 0, PREFILL_TOKENS**2 // 2


def _changed_part(
    cost: StepCost, total_s: float, before: Ceilings, after: Ceilings, tokens: int, _: int, attention: int
) -> float:
    """The part of `total_s` whose ceiling changed: the base, the rest, both or neither."""
    base_s = (cost.mixed_base if attention else cost.decode_base)(tokens)
    base_changed = (before.read_s, before.token_s) != (after.read_s, after.token_s)
    context_changed, attention_changed = (
        before.context_s != after.context_s,
        before.attention_s != after.attention_s,
    )
    rest_changed = attention_changed if attention else context_changed
    return base_changed * base_s + rest_changed * (total_s - base_s)


def _time(cost: StepCost, tokens: int, context: int, attention: int) -> float:
    if attention:
        return cost.mixed_s(0, 0, 1, tokens, attention)
    return cost.decode_s(tokens, context)
