"""Fits what a context token costs in a decode-only iteration, by batch size where that pays; knows nothing of
files or profiles.

Attention of a larger batch reads its context faster where one sequence leaves the machine idle, and slower
where its cache no longer fits into the processor's. So the seconds per context token are a curve over the
number of sequences, of few knots evenly spread in ratio, linear between them and constant beyond the last. An
iteration stays affine in its context for any one batch size. How many knots, one at least, is chosen by the
error on cells and on batch sizes that the fit did not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import (
    WORTHWHILE,
    Cells,
    FloatArray,
    IntArray,
    cell_folds,
    choose_knots,
    errors_of_unseen,
    fit_regime,
    size_folds,
)

PER_CONTEXT = "decode_per_context_s"

MOST_SLOPES = 5
LEAST_GAIN = 0.0025
"""A further knot lowers the mean relative error by this at least: a smaller gain is no larger than the
difference between two runs."""
STANDARD_ERRORS = 2
"""And by so many standard errors of what it gains on the cells."""


@dataclass(frozen=True)
class EvenFit:
    """The decode-only regime of even contexts: a base over sizes, and seconds per context token.

    slopes: (sequences, seconds per context token), sizes rising.
    """

    base: PiecewiseLinear
    slopes: tuple[tuple[float, float], ...]

    @property
    def least_s(self) -> float:
        """The fewest seconds that a context token costs in any batch."""
        return min(seconds for _, seconds in self.slopes)

    @property
    def beyond(self) -> PiecewiseLinear | None:
        """`StepCost.decode_context`: what a context token costs beyond `least_s`; None where that is nothing.

        Level from the largest measured batch on: a last point at twice its size makes the chord there flat.
        """
        sizes, seconds = (np.array(column) for column in zip(*self.slopes, strict=True))
        if len(sizes) == 1:
            return None
        sizes, over = np.append(sizes, 2 * sizes[-1]), np.append(seconds, seconds[-1]) - self.least_s
        falls = bool((np.diff(over) < 0).any())
        return PiecewiseLinear(tuple(map(float, sizes)), tuple(map(float, over)), may_fall=falls)

    def per_context_s(self, num_seqs: FloatArray) -> FloatArray:
        """Seconds per context token of batches of these sizes, shape (n,)."""
        sizes, seconds = zip(*self.slopes, strict=True)
        return np.asarray(np.interp(num_seqs, sizes, seconds), dtype=np.float64)

    def predict(self, cells: Cells) -> FloatArray:
        """Seconds for every cell, shape (n,)."""
        base = np.array([self.base(size) for size in cells.sizes])
        return base + self.per_context_s(cells.sizes) * cells.terms[PER_CONTEXT]


def fit_even(cells: Cells, num_slopes: int = 1) -> EvenFit:
    """The base, and what a context token costs at about `num_slopes` of the measured sizes; none below 0."""
    sizes = choose_knots(cells.sizes, num_slopes)
    shares = {
        f"{PER_CONTEXT} at {size:g}": np.interp(cells.sizes, sizes, row)
        for size, row in zip(sizes, np.eye(len(sizes)), strict=True)
    }
    terms = {name: share * cells.terms[PER_CONTEXT] for name, share in shares.items()}
    fitted = fit_regime(replace(cells, terms=terms), list(terms))
    return EvenFit(fitted.base, tuple(zip(map(float, sizes), fitted.coefficients.values(), strict=True)))


def choose_num_slopes(cells: Cells) -> tuple[int, dict[int, float]]:
    """How many knots the curve gets: more than one only where that is worthwhile on cells left out of the
    fit, and no worse on sizes left out.

    Returns it, and the mean absolute relative error on cells left out for every number that was tried.
    """
    by_cell, by_size = cell_folds(len(cells.seconds)), size_folds(cells.sizes)
    if by_cell is None or by_size is None:
        return 1, {}
    chosen, best, best_of_sizes = 1, _errors(cells, by_cell, 1), float(_errors(cells, by_size, 1).mean())
    tried = {1: float(best.mean())}
    for number in range(2, 1 + min(MOST_SLOPES, len(np.unique(cells.sizes)))):
        errors = _errors(cells, by_cell, number)
        tried[number] = float(errors.mean())
        if not _is_worthwhile(best, errors):
            continue
        of_sizes = float(_errors(cells, by_size, number).mean())
        if of_sizes <= best_of_sizes:
            chosen, best, best_of_sizes = number, errors, of_sizes
    return chosen, tried


def _errors(cells: Cells, folds: IntArray, num_slopes: int) -> FloatArray:
    """Absolute relative errors on cells left out of the fit, shape (n,)."""
    return np.abs(errors_of_unseen(cells, folds, partial(fit_even, num_slopes=num_slopes)))


def _is_worthwhile(before: FloatArray, after: FloatArray) -> bool:
    """Whether errors are so much smaller that it is no chance, and matters. Both of shape (n,)."""
    gain = before - after
    by_chance = STANDARD_ERRORS * float(gain.std(ddof=1)) / math.sqrt(len(gain))
    return float(gain.mean()) >= max(WORTHWHILE * float(before.mean()), LEAST_GAIN, by_chance)
