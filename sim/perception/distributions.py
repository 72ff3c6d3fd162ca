"""How an answer's length is distributed, given what is predicted of it: lengths that it has with equal
probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.errors import InputError, raised_outside
from traces.trace import FloatArray, IntArray, Trace

NUM_LENGTHS = 20
"""How many lengths make a distribution."""

LEVELS: FloatArray = (np.arange(NUM_LENGTHS) + 0.5) / NUM_LENGTHS
"""The quantiles that these lengths are, of shape (NUM_LENGTHS,)."""

MOST_BINS = 40
LEAST_ALIKE = 20
"""At most so many groups of like predictions, each of at least so many requests."""

Column = np.ndarray[Any, np.dtype[np.object_]]


def column_of(lengths: IntArray) -> Column:
    """Rows of lengths, shape (n, k), as a column of n tuples by rising length, none below 1 token."""
    rows = np.sort(np.maximum(lengths, 1), axis=1).tolist()
    column: Column = np.empty(len(rows), dtype=object)
    for k, row in enumerate(rows):
        column[k] = tuple(row)
    return column


def calibrated(predicted: IntArray, calibration: IntArray, actual: IntArray) -> Column:
    """The distribution of each request's length, from how far such predictions were off.

    `calibration`: other predictions for the same traffic, whose lengths were `actual`. Of those that were
    predicted alike, the quantiles of actual over predicted multiply the prediction.
    """
    num_bins = max(1, min(MOST_BINS, len(calibration) // LEAST_ALIKE))
    edges = np.unique(np.quantile(calibration, np.arange(1, num_bins) / num_bins, method="higher"))
    seen, wanted = np.searchsorted(edges, calibration), np.searchsorted(edges, predicted)
    ratios = actual / np.maximum(calibration, 1)
    lengths = np.repeat(np.maximum(predicted, 1)[:, None], NUM_LENGTHS, axis=1).astype(np.float64)
    for k in np.unique(wanted):
        alike = ratios[seen == k]
        if len(alike):
            lengths[wanted == k] *= np.quantile(alike, LEVELS)
    return column_of(np.ceil(lengths * (1 - 1e-12)).astype(np.int64))


def stated(
    predictor: object, name: str, predicted: IntArray, trace: Trace, most: int, levels: FloatArray
) -> IntArray | None:
    """The quantiles `levels` that the predictor itself states, by `quantiles(trace, predicted, levels)`, of
    shape (n, levels); None where it has no such method. InputError where it fails, or returns other than
    `most` tokens or fewer.
    """
    method = getattr(predictor, "quantiles", None)
    if method is None:
        return None
    what = f"predictor {name}: quantiles"
    try:
        values = np.asarray(method(trace, predicted, levels.copy()))
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise raised_outside(what, error) from error
    if values.dtype.kind not in "iuf" or values.shape != (len(trace), len(levels)):
        is_shape = f"{values.dtype} of shape {values.shape}"
        raise InputError(f"{what} returned {is_shape}; numbers of shape {(len(trace), len(levels))} are due")
    is_bad = ~((values >= 0) & (values <= most))  # so written that NaN is bad
    if is_bad.any():
        value = values[is_bad][0]
        raise InputError(f"{what} returned {value}; a length is from 0 to {most} tokens")
    whole: IntArray = np.ceil(values).astype(np.int64)
    return whole
