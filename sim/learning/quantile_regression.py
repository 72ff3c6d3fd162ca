"""Linear quantile regression with weights, and with observations of which only a lower bound is known.

Koenker and Bassett's linear programme, solved as its dual; censored observations are reweighted as Wang and
Wang do (Journal of the American Statistical Association 104, 2009): where the conditional distribution says
that a quantile lies above the bound, the mass above it is put at infinity.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from traces.trace import FloatArray

Mask = npt.NDArray[np.bool_]
FEWEST_NEIGHBOURS = 50


def quantile_regression(columns: FloatArray, y: FloatArray, level: float, weight: FloatArray) -> FloatArray:
    """Coefficients, shape (k,), for which `columns` (n, k) times them is the quantile of `y` (n,) at `level`
    with weights above 0.
    """
    scaled = weight / weight.sum()
    found = linprog(
        -y,
        A_eq=columns.T,
        b_eq=(1 - level) * (columns.T @ scaled),
        bounds=[(0.0, most) for most in scaled.tolist()],
        method="highs",
    )
    if found.x is None:
        raise ArithmeticError(f"quantile regression at {level}: {found.message}")
    return -np.asarray(found.eqlin.marginals, dtype=np.float64)


def censored_quantile_regression(
    columns: FloatArray,
    y: FloatArray,
    level: float,
    weight: FloatArray,
    below: FloatArray,
    is_cut: Mask,
) -> FloatArray:
    """The same where, with `is_cut`, the value is only known to be at least `y`; `below`, shape (n,), is the
    conditional probability of a value up to `y`.
    """
    spread = is_cut & (below < level)
    if not spread.any():
        return quantile_regression(columns, y, level, weight)
    share = np.where(spread, (level - below) / (1 - below), 1.0)
    far = y.max() + 1e3 * (np.ptp(y) + 1.0)
    rows = np.concatenate([np.arange(len(y)), np.flatnonzero(spread)])
    values = np.concatenate([y, np.full(int(spread.sum()), far)])
    weights = np.concatenate([weight * share, (weight * (1 - share))[spread]])
    keep = weights > 0
    return quantile_regression(columns[rows][keep], values[keep], level, weights[keep])


def kaplan_meier(y: FloatArray, is_cut: Mask, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The distribution of values of which some are only known to be at least `y`: distinct values that were
    seen, rising, and the probability of one up to each; weights above 0.
    """
    order = np.argsort(y, kind="stable")
    values, first = np.unique(y[order], return_index=True)
    ended = np.add.reduceat(np.where(is_cut[order], 0.0, weight[order]), first)
    left = np.add.reduceat(weight[order], first)
    at_risk = np.cumsum(left[::-1])[::-1]
    survival = np.cumprod(1 - ended / at_risk)
    seen = ended > 0
    return values[seen], 1 - survival[seen]


def quantile(values: FloatArray, probability: FloatArray, level: float) -> float:
    """The least value whose probability, as `kaplan_meier` gives it, is at least `level`; the largest where
    none is.
    """
    at = int(np.searchsorted(probability, level - 1e-12))
    return float(values[min(at, len(values) - 1)])


def conditional_distribution(
    score: FloatArray, y: FloatArray, is_cut: Mask, weight: FloatArray
) -> FloatArray:
    """The probability of a value up to its `y` given its score, for each that is cut, by those nearest in
    score; 1 for all others. Shape (n,).
    """
    n = len(y)
    below = np.ones(n)
    width = min(n, max(FEWEST_NEIGHBOURS, n // 10))
    order = np.argsort(score, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    for i in np.flatnonzero(is_cut).tolist():
        start = min(max(int(rank[i]) - width // 2, 0), n - width)
        near = order[start : start + width]
        values, probability = kaplan_meier(y[near], is_cut[near], weight[near])
        at = int(np.searchsorted(values, y[i], side="right"))
        below[i] = probability[at - 1] if at else 0.0
    return np.minimum(below, 1.0 - 1e-9) if is_cut.any() else below
