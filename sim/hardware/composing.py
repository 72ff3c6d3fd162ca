"""Puts iterations together from the times of their kernels; knows nothing of where those come from.

An iteration is the sum of its kernels: all but attention over the tokens it computes, the logits, the
attention of its chunks and that of its decoding sequences. The first is taken size by size as it was
measured, falls included; the attention of a decoding batch is a line over its context, one for every batch
size; that of chunks becomes the terms of `StepCost`, by least squares on the relative error of the whole
iteration. What that leaves is judged on sizes that were not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import FloatArray, summarise
from sim.hardware.step_cost import StepCost

MOST_SEQUENCES = 1024
MOST_TOKENS = 16_384
"""The largest decode-only batch and the most tokens of an iteration that are looked at one by one."""
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
HISTORIES = (0, 512, 2048, 8192)
BESIDE = ((0, 0), (1, 1024), (8, 512), (8, 4096), (32, 1024), (64, 2048), (128, 512), (256, 1024))
"""Decoding sequences beside a chunk, and their context."""

TOLERANCE = 0.002
"""A curve keeps as many of its points as keep it within this of all of them."""
_CHECKS = 600
_SEED = 0
TERMS = ("mixed_per_attention_s", "mixed_per_share_s", "mixed_per_reach_s")
"""Terms of the attention of chunks. The tables measured it without history, and their package takes of the
whole triangle's time the share that is new; all of a parabola over h + t, its constant too.
"""


class Parts(Protocol):
    """Milliseconds of the parts of an iteration; `kernels.Kernels` has them."""

    def rest_ms(self, tokens: int) -> float:
        """All but attention and logits, with prefill."""

    def decode_rest_ms(self, num_seqs: int) -> float:
        """All but attention, without prefill."""

    def logits_ms(self, rows: int) -> float:
        """Logits."""

    def prefill_attention_ms(self, chunks: int, tokens: int, history: int) -> float:
        """Attention of chunks."""

    def decode_attention_ms(self, num_seqs: int, context: int) -> float:
        """Attention of decoding sequences."""


class Iteration(NamedTuple):
    """`num_decode` sequences of `context` tokens each beside `chunks` of `tokens` after `history` each."""

    num_decode: int
    context: int
    chunks: int = 0
    tokens: int = 0
    history: int = 0

    @property
    def attention(self) -> float:
        """Q of the step cost."""
        return self.chunks * self.tokens * (self.history + self.tokens / 2)

    def seconds(self, parts: Parts) -> float:
        """Its time as the sum of its kernels."""
        n = self.num_decode
        total = parts.decode_attention_ms(n, self.context) if n else 0.0
        if not self.chunks:
            return (total + parts.decode_rest_ms(n)) / 1e3
        total += parts.rest_ms(n + self.chunks * self.tokens) + parts.logits_ms(n + self.chunks)
        return (total + parts.prefill_attention_ms(self.chunks, self.tokens, self.history)) / 1e3

    def predicted(self, cost: StepCost) -> float:
        """Its time by a step cost."""
        tokens = self.chunks * self.tokens
        context = self.num_decode * self.context
        return cost.mixed_s(self.num_decode, context, self.chunks, tokens, self.attention)


def compose_cost(parts: Parts, kv_tokens: int) -> tuple[StepCost, dict[str, Any]]:
    """The step cost, and the errors of it on sizes that were not looked at: regime → way → statistics.

    `kv_tokens`: more context than that fits into no iteration.
    """
    lines = np.array([_line(parts, n, kv_tokens) for n in range(1, MOST_SEQUENCES + 1)])
    base, per_context, context = _decode(lines)
    mixed, beside, terms = _mixed(parts, kv_tokens, lines)
    cost = StepCost(
        base,
        per_context,
        mixed,
        mixed_per_context_s=0.0,
        decode_context=context,
        mixed_decode=beside,
        **terms,
    )
    errors: dict[str, list[float]] = {"decode_only": [], "mixed": []}
    for iteration in _unseen(kv_tokens):
        error = iteration.predicted(cost) / iteration.seconds(parts) - 1
        errors["mixed" if iteration.chunks else "decode_only"].append(error)
    return cost, {
        regime: {"unseen_sizes": summarise(np.array(found))} for regime, found in errors.items() if found
    }


def _decode(lines: FloatArray) -> tuple[PiecewiseLinear, float, PiecewiseLinear]:
    """Of every batch size the line over summed context: its base, the least slope, and what a slope is
    beyond that.
    """
    sizes = np.arange(1.0, len(lines) + 1)
    least = float(lines[:, 2].min())
    beyond = curve(sizes, lines[:, 2] - least, TOLERANCE * 5, least)
    return curve(sizes, lines[:, 0] + lines[:, 1]), least, beyond


def _line(parts: Parts, num_seqs: int, kv_tokens: int) -> tuple[float, float, float]:
    """(all but attention, what attention adds to the base, slope) of a decode-only batch, best in relative
    error of the whole; none is below 0.
    """
    contexts = [c for c in CONTEXTS if num_seqs * c <= kv_tokens] or list(CONTEXTS[:1])
    rest = parts.decode_rest_ms(num_seqs) / 1e3
    seconds = rest + np.array([parts.decode_attention_ms(num_seqs, c) for c in contexts]) / 1e3
    summed = num_seqs * np.array(contexts, dtype=float)
    if len(contexts) == 1:  # the memory holds no longer ones
        return rest, 0.0, max(0.0, float((seconds - rest)[0] / summed[0]))
    weights = seconds**-2.0
    mean_x, mean_y = (float(np.average(v, weights=weights)) for v in (summed, seconds))
    centred = summed - mean_x
    slope = float(np.sum(weights * centred * (seconds - mean_y)) / np.sum(weights * centred**2))
    slope = min(max(0.0, slope), (mean_y - rest) / mean_x)
    return rest, mean_y - slope * mean_x - rest, slope


def _mixed(
    parts: Parts, kv_tokens: int, lines: FloatArray
) -> tuple[PiecewiseLinear, PiecewiseLinear, dict[str, Any]]:
    """The base over all tokens of an iteration, what decoding sequences beside add, and the coefficients of
    the attention of chunks.
    """
    from scipy.optimize import nnls

    sizes, num_seqs = np.arange(1, MOST_TOKENS + 1), np.arange(1, len(lines) + 1)
    rest = np.array([parts.rest_ms(int(size)) for size in sizes]) / 1e3 + parts.logits_ms(1) / 1e3
    rows, left = [], []
    for it in _grid(kv_tokens):
        seconds, tokens, n = it.seconds(parts), it.num_decode + it.chunks * it.tokens, it.num_decode
        reach = it.history + it.tokens
        new = 2 * it.attention / reach
        rows.append(np.array([it.attention, new / (it.chunks * reach), new, 1.0, tokens, n]) / seconds)
        beside = lines[n - 1, 1] + lines[n - 1, 2] * n * it.context if n else 0.0
        left.append(1 - (rest[tokens - 1] + beside) / seconds)
    design = np.array(rows)
    scale = np.linalg.norm(design, axis=0)
    weights, _ = nnls(design / scale, np.array(left))
    *terms, constant, per_token, per_decode = (float(w) for w in weights / scale)
    base = curve(sizes.astype(float), rest + constant + per_token * sizes)
    beside_s = curve(
        num_seqs.astype(float), lines[:, 1] + per_decode * num_seqs, TOLERANCE, float(lines[0, 0])
    )
    return base, beside_s, dict(zip(TERMS, terms, strict=True))


def _grid(kv_tokens: int) -> Iterator[Iteration]:
    for chunks in (1, 2, 4, 8):
        for tokens in CHUNKS:
            for history in HISTORIES:
                for num_decode, context in BESIDE:
                    it = Iteration(num_decode, context, chunks, tokens, history)
                    if _fits(it, kv_tokens):
                        yield it


def _unseen(kv_tokens: int) -> Iterator[Iteration]:
    """Iterations of sizes drawn at random, evenly in ratio; the same every time."""
    rng = np.random.default_rng(_SEED)

    def between(low: float, high: float) -> int:
        return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))

    for i in range(2 * _CHECKS):
        num_decode, context = between(1, 512), between(64, 16_384)
        if i % 2:
            chunks = int(rng.choice([1, 1, 1, 2, 4]))
            history = int(rng.choice([0, 0, between(16, 8192)]))
            alone = bool(rng.integers(2))
            tokens = between(16, 8192 / chunks)
            it = Iteration(0 if alone else num_decode, 0 if alone else context, chunks, tokens, history)
        else:
            it = Iteration(num_decode, context)
        if _fits(it, kv_tokens):
            yield it


def _fits(it: Iteration, kv_tokens: int) -> bool:
    tokens = it.num_decode + it.chunks * it.tokens
    held = it.num_decode * it.context + it.chunks * (it.tokens + it.history)
    return tokens <= MOST_TOKENS and held <= kv_tokens


def curve(
    sizes: FloatArray, seconds: FloatArray, tolerance: float = TOLERANCE, beside: float = 0.0
) -> PiecewiseLinear:
    """The curve through as few of the points as keep it within `tolerance` of every one of them.

    Halves at the worst point (Ramer, 1972; Douglas and Peucker, 1973), on errors relative to the value and
    what stands `beside` it.
    """
    kept, open_ = {0, len(sizes) - 1}, [(0, len(sizes) - 1)]
    while open_:
        first, last = open_.pop()
        inner = slice(first + 1, last)
        line = np.interp(sizes[inner], sizes[[first, last]], seconds[[first, last]])
        errors = np.abs(line - seconds[inner]) / (seconds[inner] + beside)
        if errors.size and errors.max() > tolerance:
            worst = first + 1 + int(errors.argmax())
            kept.add(worst)
            open_ += [(first, worst), (worst, last)]
    places = sorted(kept)
    heights = tuple(float(f"{seconds[i]:.6g}") for i in places)
    falls = any(after < before for before, after in pairwise(heights))
    return PiecewiseLinear(tuple(float(sizes[i]) for i in places), heights, falls)
