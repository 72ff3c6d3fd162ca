"""Inter-token latency pooled from leaps: each leap is an arithmetic ramp of gaps, never expanded token by
token.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

from traces.trace import FloatArray, IntArray

RESOLUTION = 0.005
"""Width, relative, of the pieces into which a ramp is cut for percentiles: their error stays below half of
it.
"""


class Ramps(NamedTuple):
    """Gaps `first_s + j * slope_s` for j = 0 .. counts-1, each seen by `weight` sequences; arrays of one
    length.
    """

    first_s: FloatArray
    slope_s: FloatArray
    counts: IntArray
    weight: IntArray

    @classmethod
    def empty(cls) -> Ramps:
        """No gaps at all."""
        return cls(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


class RampLog:
    """Ramps as they come in, 32 bytes each."""

    def __init__(self) -> None:
        self.first_s, self.slope_s, self.counts, self.weight = array("d"), array("d"), array("q"), array("q")

    def add(self, first_s: float, slope_s: float, count: int, weight: int) -> None:
        """`count` gaps from `first_s` on, seen by `weight` sequences."""
        self.first_s.append(first_s)
        self.slope_s.append(slope_s)
        self.counts.append(count)
        self.weight.append(weight)

    def ramps(self) -> Ramps:
        """All of them."""
        if not self.counts:
            return Ramps.empty()
        first_s, slope_s = (
            np.frombuffer(column, dtype=np.float64) for column in (self.first_s, self.slope_s)
        )
        counts, weight = (np.frombuffer(column, dtype=np.int64) for column in (self.counts, self.weight))
        return Ramps(first_s, slope_s, counts, weight)


def pooled_latency(ramps: Ramps) -> dict[str, float | None]:
    """Mean, median, std, p90 and p99 of all gaps in ms; None where there are none.

    Mean and std are exact (closed form), percentiles are exact to 0.5 %.
    """
    used = ramps.counts > 0
    first, slope, count, weight = (column[used] for column in ramps)
    gaps = count * weight
    total = float(gaps.sum())
    if not total:
        return dict.fromkeys(("mean", "median", "std", "p90", "p99"))
    middle = first + slope * (count - 1) / 2
    mean = float((gaps * middle).sum()) / total
    spread = slope**2 * (count.astype(float) ** 2 - 1) / 12  # variance within a ramp
    variance = float((gaps * (spread + (middle - mean) ** 2)).sum()) / total

    rise = np.abs(slope) * (count - 1) / np.maximum(np.minimum(first, first + slope * (count - 1)), 1e-12)
    pieces = np.clip(np.ceil(rise / RESOLUTION), 1, count).astype(np.int64)
    ramp = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(ramp)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    size = count[ramp] / pieces[ramp]
    value = first[ramp] + slope[ramp] * ((piece + 0.5) * size - 0.5)
    share = size * weight[ramp]
    order = np.argsort(value)
    reached = np.cumsum(share[order])
    at = {q: value[order][min(np.searchsorted(reached, q * total), len(order) - 1)] for q in (0.5, 0.9, 0.99)}
    milliseconds = {"mean": mean, "median": at[0.5], "std": variance**0.5, "p90": at[0.9], "p99": at[0.99]}
    return {name: float(seconds) * 1e3 for name, seconds in milliseconds.items()}
