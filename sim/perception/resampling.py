"""Draws observed pairs of predicted and actual lengths for other requests, by their actual lengths.

Pairs are shared out evenly among the requests, so that a draw errs as the pairs do and not as chance has it:
requests as long as the pairs get nearly each of them once.
"""

from __future__ import annotations

import numpy as np

from traces.trace import IntArray


def resampled(
    predicted: IntArray, actual: IntArray, wanted: IntArray, neighbours: int, rng: np.random.Generator
) -> IntArray:
    """The row of a pair for each wanted length, shape (m,); `predicted` and `actual` of shape (n,), tokens.

    A pair is one of the `neighbours` nearest in actual length, or as long as one of these.
    """
    order = np.lexsort((predicted, actual))
    ordered = actual[order]
    window = min(neighbours, len(ordered))
    by_length = np.lexsort((rng.random(len(wanted)), wanted))
    number = np.empty(len(wanted), dtype=np.int64)
    number[by_length] = np.arange(len(wanted))
    # Every window has one place of each remainder. Where windows move on with the requests, a place is hit
    # by one request of `window` in a row: that with its remainder.
    remainder = rng.permutation(window)[number % window]
    start = _nearest_window(ordered, wanted, window)
    place = start + (remainder - start) % window
    low, high = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
    # All pairs of the same length are equally near; only where they are too few are neighbours called in.
    among = np.flatnonzero(high - low >= window)
    same, count = (np.searchsorted(wanted[by_length], wanted[among], side) for side in ("left", "right"))
    count -= same
    share = (number[among] - same + rng.random(len(among))) / count
    place[among] = low[among] + (share * (high - low)[among]).astype(np.int64)
    # Pairs of one other length are equally near, too, where the window has only some of them.
    low, high = (np.searchsorted(ordered, ordered[place], side) for side in ("left", "right"))
    cut = np.flatnonzero((ordered[place] != wanted) & ((low < start) | (high > start + window)))
    place[cut] = low[cut] + (rng.random(len(cut)) * (high - low)[cut]).astype(np.int64)
    return np.asarray(order[place])


def _nearest_window(values: IntArray, wanted: IntArray, width: int) -> IntArray:
    """Where in sorted `values` the `width` nearest to each wanted one begin, by bisection."""
    low, high = np.zeros(len(wanted), dtype=np.int64), np.full(len(wanted), len(values) - width)
    while (low < high).any():
        middle = (low + high) // 2
        after = np.minimum(middle + width, len(values) - 1)
        right = (low < high) & (wanted - values[middle] > values[after] - wanted)
        low, high = np.where(right, middle + 1, low), np.where(right, high, np.maximum(low, middle))
    return low
