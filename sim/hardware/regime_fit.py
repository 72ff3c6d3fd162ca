"""Fits one regime of the step cost: a monotone curve over sizes plus named terms; knows nothing of files or
profiles.

Weighted non-negative least squares on the relative error. What is measured more than once, or nearly so, is
fitted at its mean, since a run takes the sum of its iterations: errors are over what was measured only in a
first pass, where the faster of two equal iterations weighs more, and over what that predicted in the second.
The curve is a sum of ramps between knots at
measured sizes, each with a weight of at least 0, which is what keeps it from falling; beyond the last knot
the ramps continue along the chord that `PiecewiseLinear` follows, so cross-validation judges exactly the
function that is used later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.hardware.piecewise_linear import PiecewiseLinear, tail_start

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_KNOTS = 64
NUM_FOLDS = 10
FOLD_SEED = 0
PASSES = 2
"""Solutions of the least squares, each but the first with errors over what the one before it predicts."""
LEAST_SCALE = 0.01
"""Share of what was measured that errors are taken over at least, however little is predicted."""
WORTHWHILE = 0.02
"""A term is kept where it lowers the cross-validated error by at least this share of itself."""


@dataclass(frozen=True)
class Cells:
    """The distinct grid cells of one regime, repeated measurements reduced to their mean.

    sizes, seconds: shape (n,). terms: name → shape (n,), what one unit of that coefficient is multiplied
    with.
    """

    sizes: FloatArray
    terms: Mapping[str, FloatArray]
    seconds: FloatArray


class Fitted(Protocol):
    """What was fitted to some cells."""

    def predict(self, cells: Cells) -> FloatArray:
        """Seconds for every cell, shape (n,)."""


@dataclass(frozen=True)
class RegimeFit:
    """A fitted curve and coefficients."""

    base: PiecewiseLinear
    coefficients: dict[str, float]

    def predict(self, cells: Cells) -> FloatArray:
        """Seconds for every cell, shape (n,)."""
        base = np.array([self.base(size) for size in cells.sizes])
        for name, coefficient in self.coefficients.items():
            base += coefficient * cells.terms[name]
        return base


def fit_regime(cells: Cells, terms: Sequence[str]) -> RegimeFit:
    """The non-negative curve and coefficients of `terms` with the least squared relative error."""
    knots = choose_knots(cells.sizes)
    weights = _solve(_design(cells, knots, terms), cells.seconds, PASSES)
    # An iteration must take time, however little of it the least squares leave to the curve.
    weights[0] = max(weights[0], 1e-6 * float(cells.seconds.min()))
    heights = np.cumsum(weights[: len(knots)])
    base = PiecewiseLinear(tuple(map(float, knots)), tuple(map(float, heights)))
    return RegimeFit(base, dict(zip(terms, map(float, weights[len(knots) :]), strict=True)))


def choose_terms(
    cells: Cells, always: Sequence[str], candidates: Sequence[str], folds: IntArray
) -> tuple[list[str], dict[str, float]]:
    """Forward selection by cross-validated mean absolute relative error, of the first pass: many are tried.

    Returns the terms, `always` first, and the error of every set that was tried, by its names joined with ` +
    `.
    """
    chosen, tried = list(always), {}
    best = mean_error(cells, chosen, folds)
    tried[" + ".join(chosen)] = best
    remaining = list(candidates)
    while remaining:
        errors = {name: mean_error(cells, [*chosen, name], folds) for name in remaining}
        tried.update({" + ".join([*chosen, name]): error for name, error in errors.items()})
        name = min(errors, key=errors.__getitem__)
        if errors[name] > (1 - WORTHWHILE) * best:
            break
        best = errors[name]
        chosen.append(name)
        remaining.remove(name)
    return chosen, tried


def mean_error(cells: Cells, terms: Sequence[str], folds: IntArray) -> float:
    """Mean absolute relative error on cells left out of the fit."""
    return float(np.mean(np.abs(cross_validate(cells, terms, folds, passes=1))))


def cross_validate(cells: Cells, terms: Sequence[str], folds: IntArray, passes: int = PASSES) -> FloatArray:
    """Relative error of every cell, predicted by a fit that never saw its fold. folds: shape (n,), from 0."""
    errors = np.empty(len(cells.seconds))
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        train = take(cells, ~test)
        knots = choose_knots(train.sizes)
        weights = _solve(_design(train, knots, terms), train.seconds, passes)
        unseen = take(cells, test)
        errors[test] = (_design(unseen, knots, terms) @ weights) / unseen.seconds - 1
    return errors


def errors_of_unseen(cells: Cells, folds: IntArray, fit: Callable[[Cells], Fitted]) -> FloatArray:
    """Relative error of every cell, predicted by `fit` of the other folds. folds: shape (n,), from 0."""
    errors = np.empty(len(cells.seconds))
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        unseen = take(cells, test)
        errors[test] = fit(take(cells, ~test)).predict(unseen) / unseen.seconds - 1
    return errors


def cell_folds(num_cells: int) -> IntArray | None:
    """Folds that leave out a random tenth of the cells; None for fewer than three cells."""
    if num_cells < 3:
        return None
    order = np.random.default_rng(FOLD_SEED).permutation(num_cells)
    return np.asarray(order % min(NUM_FOLDS, num_cells), dtype=np.int64)


def size_folds(sizes: FloatArray) -> IntArray | None:
    """Folds that leave out whole sizes, so that the curve must interpolate; None for fewer than three."""
    distinct, place = np.unique(sizes, return_inverse=True)
    folds = cell_folds(len(distinct))
    return None if folds is None else folds[place]


def choose_knots(sizes: FloatArray, most: int = MAX_KNOTS) -> FloatArray:
    """The measured sizes, or about `most` of them, evenly spread in ratio; both ends are among them unless
    `most` is 1.
    """
    distinct = np.unique(sizes)
    if len(distinct) <= most or most == 1:
        return distinct[:most]
    targets = np.geomspace(max(distinct[0], 1.0), distinct[-1], most)
    places = np.clip(np.searchsorted(distinct, targets), 0, len(distinct) - 1)
    positions = np.union1d(places, [0, len(distinct) - 1])
    return np.asarray(distinct[positions], dtype=np.float64)


def take(cells: Cells, mask: npt.NDArray[np.bool_]) -> Cells:
    """The cells that the mask, shape (n,), selects."""
    return Cells(cells.sizes[mask], {k: v[mask] for k, v in cells.terms.items()}, cells.seconds[mask])


def _design(cells: Cells, knots: FloatArray, terms: Sequence[str]) -> FloatArray:
    """Matrix of ramps and terms, shape (n, knots + terms): its product with the weights is seconds."""
    sizes, last = cells.sizes, knots[-1]
    start = tail_start(tuple(map(float, knots)))
    beyond = np.maximum(sizes - last, 0.0)
    columns = [np.ones_like(sizes)]
    for i in range(1, len(knots)):
        ramp = np.clip((sizes - knots[i - 1]) / (knots[i] - knots[i - 1]), 0.0, 1.0)
        if i > start:
            ramp = ramp + beyond / (last - knots[start])
        columns.append(ramp)
    columns.extend(cells.terms[name] for name in terms)
    return np.column_stack(columns)


def _solve(design: FloatArray, seconds: FloatArray, passes: int) -> FloatArray:
    """Non-negative weights with the least squared relative error."""
    over = seconds
    for _ in range(passes):
        weights = _least_squares(design, seconds, over)
        over = np.maximum(design @ weights, LEAST_SCALE * seconds)
    return weights


def _least_squares(design: FloatArray, seconds: FloatArray, over: FloatArray) -> FloatArray:
    """Non-negative weights with the least squared error over `over`.

    The QR factor has the same least squares as the tall matrix and as many rows as columns, which makes the
    active-set search cheap however long the log is.
    """
    from scipy.optimize import nnls

    relative = design / over[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    target = seconds / over
    factor = np.asarray(np.linalg.qr(np.column_stack([relative / scale, target]), mode="r"))
    weights, _ = nnls(factor[:, :-1], factor[:, -1], maxiter=100 * factor.shape[1])
    return np.asarray(weights / scale, dtype=np.float64)


def summarise(errors: FloatArray) -> dict[str, float]:
    """Mean, median, 95th percentile and maximum of the absolute relative errors, as fractions."""
    absolute = np.abs(errors)
    statistics = {
        "mean": np.mean(absolute),
        "median": np.median(absolute),
        "p95": np.quantile(absolute, 0.95),
        "max": np.max(absolute),
    }
    return {name: round(float(value), 6) for name, value in statistics.items()}
