"""Fits the decode-only regime, and what contexts that differ cost in it; knows nothing of files or profiles.

Attention waits for its longest row. With n sequences, S context tokens and m the longest context, an
iteration takes as long as one with S + alpha * (n * m - S) context tokens in equal shares (LLMServingSim,
KAIST, calls alpha the skew correction). The even part is fitted to rows with even contexts alone. Alpha is
not regressed on it but measured: each uneven row is set between even rows of its own batch size at its mean
and at its longest context, so that what the affine even part misses does not become alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.hardware.context_slopes import PER_CONTEXT, EvenFit, fit_even
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import Cells, FloatArray, take

UNEVEN = "uneven_tokens"
"""The name that U = n * m - S has among the terms of the cells."""


@dataclass(frozen=True)
class DecodeFit:
    """The even part of the decode-only regime, and alpha by the number of sequences, sizes rising."""

    even: EvenFit
    alpha: tuple[tuple[float, float], ...]

    @property
    def curve(self) -> PiecewiseLinear | None:
        """`StepCost.decode_uneven`: n * alpha * seconds per context token."""
        if not self.alpha:
            return None
        sizes, alpha = (np.array(column) for column in zip(*self.alpha, strict=True))
        seconds = sizes * alpha * self.even.per_context_s(sizes)
        return PiecewiseLinear(tuple(map(float, sizes)), tuple(map(float, seconds)), may_fall=True)

    def predict(self, cells: Cells) -> FloatArray:
        """Seconds for every cell, shape (n,)."""
        seconds, curve = self.even.predict(cells), self.curve
        if curve is not None:
            per_token_s = np.array([curve(min(n, curve.sizes[-1])) / n for n in cells.sizes])
            seconds = seconds + per_token_s * cells.terms[UNEVEN]
        return seconds


def uneven_tokens(num_decode: FloatArray, context_tokens: FloatArray, longest: FloatArray) -> FloatArray:
    """U of every row, without what rounding makes of equal contexts."""
    short = num_decode * longest - context_tokens
    return np.where(short > 1e-9 * context_tokens, short, 0.0)


def even_cells(cells: Cells) -> Cells:
    """Those with even contexts; all, where there is none."""
    is_even = cells.terms[UNEVEN] == 0
    return take(cells, is_even) if is_even.any() else cells


def fit_decode(cells: Cells, num_slopes: int = 1) -> DecodeFit:
    """The decode-only regime from cells with the terms `PER_CONTEXT` (S) and `UNEVEN` (U); `num_slopes`: see
    `fit_even`.
    """
    is_even = cells.terms[UNEVEN] == 0
    alpha = []
    for n in np.unique(cells.sizes[~is_even]):
        same = cells.sizes == n
        measured = _alpha(take(cells, same & is_even), take(cells, same & ~is_even))
        if measured is not None:
            alpha.append((float(n), measured))
    return DecodeFit(fit_even(even_cells(cells), num_slopes), tuple(alpha))


def _alpha(even: Cells, uneven: Cells) -> float | None:
    """Alpha of one batch size by least squares on the relative error, at least 0.

    None where no uneven cell lies between even ones: both its mean context and its longest have to.
    """
    contexts = even.terms[PER_CONTEXT]
    order = np.argsort(contexts)
    contexts, seconds = contexts[order], even.seconds[order]
    mean = uneven.terms[PER_CONTEXT]
    longest = mean + uneven.terms[UNEVEN]
    if not len(contexts):
        return None
    inside = (mean >= contexts[0]) & (longest <= contexts[-1])
    at_mean = np.interp(mean, contexts, seconds)
    gap = (np.interp(longest, contexts, seconds) - at_mean) / uneven.seconds
    excess = (uneven.seconds - at_mean) / uneven.seconds
    squares = float((gap[inside] ** 2).sum())
    if not squares:
        return None
    return max(0.0, float((gap[inside] * excess[inside]).sum()) / squares)
