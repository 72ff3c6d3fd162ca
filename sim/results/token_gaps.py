"""Inter-token latency pooled from leaps: each leap is an arithmetic ramp of gaps, never expanded token by
token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from traces.trace import FloatArray, IntArray

RESOLUTION = 0.005
"""Width, relative, of the pieces into which a ramp is cut for percentiles: their error stays below half of
it.
"""

BIN_WIDTH = 0.001
"""Width, relative, of the bins that long runs are folded into; each keeps the mean of what fell into it."""

ROUND_OFF = 2.0**-48
"""How far, relative, two sums may lie apart that say when the same gap ends."""

RANK_ROUND_OFF = 2.0**-40
"""How far, relative, a sum of the parts of ramps may miss the number of gaps it stands for."""

FOLD_AT = 1 << 18
"""Numbers of either list of a `GapPool` that are kept before they are folded."""


class Ramps(NamedTuple):
    """Gaps `first_s + j * slope_s` for j = 0 .. counts-1, one after the other from `start_s` on, each seen by
    `weight` sequences; arrays of one length.
    """

    first_s: FloatArray
    slope_s: FloatArray
    counts: IntArray
    weight: IntArray
    start_s: FloatArray

    @classmethod
    def empty(cls) -> Ramps:
        """No gaps at all."""
        none = np.zeros(0, dtype=np.int64)
        return cls(np.zeros(0), np.zeros(0), none, none, np.zeros(0))

    def since(self, time_s: float) -> Ramps:
        """The gaps that end at a time or later; round-off is no earlier."""
        first, slope, counts, weight, start = self
        left_s, b = time_s - ROUND_OFF * abs(time_s) - start, first - slope / 2
        # j gaps take b j + slope j^2 / 2; the root is written so that it holds where the slope is 0.
        root = np.maximum(b * b + 2 * slope * left_s, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = np.nan_to_num(2 * left_s / (b + np.sqrt(root)), nan=0.0, posinf=2.0**53, neginf=0.0)
        ended: IntArray = np.clip(np.ceil(np.clip(whole, 0.0, 2.0**53)).astype(np.int64) - 1, 0, counts)
        # Round-off may have taken one too many, or one too few.
        ended -= (ended > 0) & (_lasts_s(first, slope, ended) >= left_s)
        ended += (ended < counts) & (_lasts_s(first, slope, ended + 1) < left_s)
        return Ramps(
            first + slope * ended, slope, counts - ended, weight, start + _lasts_s(first, slope, ended)
        )


class Moments(NamedTuple):
    """The number of gaps, their mean (s) and the sum of their squared distances from it."""

    gaps: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def plus(self, other: Moments) -> Moments:
        """Both together (Chan, Golub and LeVeque, 1979)."""
        count = self.gaps + other.gaps
        if not count:
            return self
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * other.gaps / count,
            self.squares + other.squares + step * step * self.gaps * other.gaps / count,
        )


class GapPool:
    """Gaps as they come in, and once there are many, folded into bins of a fixed number.

    `steps`: two numbers a gap (seconds, weight); `rows`: four a ramp (first_s, slope_s, count, weight).
    Whoever adds to one of them calls `fold` where that has grown to `FOLD_AT`. With `keeps_times` all are
    kept, so that those of a part of the run can be pooled, and whoever adds says before, by `mark`, when.
    """

    def __init__(self, *, keeps_times: bool = False) -> None:
        self.kept: list[Ramps] | None = [] if keeps_times else None
        self.marks: list[tuple[float, int, int]] = []
        self.steps: list[float] = []
        self.rows: list[float] = []
        self.moments = Moments()
        self.lowest = 0  # number of the first bin
        self.share, self.total_s = np.zeros(0), np.zeros(0)  # by bin: gaps, and their sum

    def add(self, first_s: float, slope_s: float, count: int, weight: int, start_s: float) -> None:
        """`count` gaps, the first of `first_s`, seen by `weight` sequences from the time `start_s` on."""
        if self.kept is not None:
            self.mark(start_s)
        rows = self.rows
        rows += (first_s, slope_s, count, weight)
        if len(rows) >= FOLD_AT:
            self.fold()

    def mark(self, time_s: float) -> None:
        """What is added next: single gaps end at this time, ramps begin."""
        self.marks.append((time_s, len(self.steps) // 2, len(self.rows) // 4))

    def _times(self, steps: int, rows: int) -> tuple[FloatArray, FloatArray]:
        """When each single gap ended, and each ramp began, by the marks; 0 where none are kept."""
        if not self.marks:
            return np.zeros(steps), np.zeros(rows)
        time_s, first_step, first_row = np.array(self.marks).T
        counts = (np.diff(at, append=end).astype(int) for at, end in ((first_step, steps), (first_row, rows)))
        by_step, by_row = (np.repeat(time_s, count) for count in counts)
        return by_step, by_row

    def ramps(self) -> Ramps:
        """Those not folded yet."""
        gap_s, seen_by = np.fromiter(self.steps, float, len(self.steps)).reshape(-1, 2).T
        rows = np.fromiter(self.rows, float, len(self.rows)).reshape(-1, 4)
        single = np.zeros((len(gap_s), 4))
        single[:, 0], single[:, 2], single[:, 3] = gap_s, 1.0, seen_by
        first_s, slope_s, counts, weight = np.concatenate([single, rows]).T
        ended_s, began_s = self._times(len(single), len(rows))
        start_s = np.concatenate([ended_s - gap_s, began_s])
        return Ramps(first_s, slope_s, counts.astype(np.int64), weight.astype(np.int64), start_s)

    def pooled(self, more: Ramps | None = None, since_s: float = -math.inf) -> dict[str, float | None]:
        """Mean, median, std, p90 and p99 in ms of all gaps, and of `more`; None where there are none.

        Mean and std are exact (closed form), percentiles are exact to 0.5 %. Counted are gaps that end at
        `since_s` or later; for a time that is not -inf the pool has to keep times.
        """
        ramps = _joined([*(self.kept or ()), self.ramps(), *(() if more is None else (more,))])
        if since_s > -math.inf:
            assert self.kept is not None
            ramps = ramps.since(since_s)
        ramps = _used(ramps)
        moments = self.moments.plus(_moments(ramps))
        if not moments.gaps:
            return dict.fromkeys(("mean", "median", "std", "p90", "p99"))
        value, share = _pieces(ramps)
        folded = self.share > 0
        value = np.concatenate([self.total_s[folded] / self.share[folded], value])
        share = np.concatenate([self.share[folded], share])
        order = np.argsort(value)
        reached = np.cumsum(share[order])

        def at(quantile: float) -> float:
            rank = quantile * moments.gaps * (1 - RANK_ROUND_OFF)
            place = min(int(np.searchsorted(reached, rank)), len(order) - 1)
            return float(value[order[place]])

        seconds = {
            "mean": moments.mean,
            "median": at(0.5),
            "std": math.sqrt(moments.squares / moments.gaps),
            "p90": at(0.9),
            "p99": at(0.99),
        }
        return {name: 1e3 * value for name, value in seconds.items()}

    def fold(self) -> None:
        """Empty `steps` and `rows` into the bins, or into arrays where times are kept."""
        if self.kept is not None:
            self.kept.append(self.ramps())
            self.marks.clear()
            self.steps.clear()
            self.rows.clear()
            return
        ramps = _used(self.ramps())
        self.moments = self.moments.plus(_moments(ramps))
        value, share = _pieces(ramps)
        number = np.floor(np.log(np.maximum(value, 1e-12)) / BIN_WIDTH).astype(np.int64)
        if len(number):
            self._cover(int(number.min()), int(number.max()))
            number -= self.lowest
            self.share += np.bincount(number, share, len(self.share))
            self.total_s += np.bincount(number, share * value, len(self.share))
        self.steps.clear()
        self.rows.clear()

    def _cover(self, low: int, high: int) -> None:
        """Make room for bins number `low` to `high`."""
        if not len(self.share):
            self.lowest = low
        before = max(0, self.lowest - low)
        after = max(0, high - self.lowest - len(self.share) + 1)
        self.share, self.total_s = (np.pad(column, (before, after)) for column in (self.share, self.total_s))
        self.lowest -= before


def _lasts_s(first: FloatArray, slope: FloatArray, gaps: IntArray) -> FloatArray:
    """How long so many gaps of each ramp last, from the first on."""
    return np.asarray(gaps * first + slope * (gaps * (gaps - 1) / 2))


def _joined(parts: list[Ramps]) -> Ramps:
    if len(parts) == 1:
        return parts[0]
    first_s, slope_s, counts, weight, start_s = map(np.concatenate, zip(*parts, strict=True))
    return Ramps(first_s, slope_s, counts, weight, start_s)


def _used(ramps: Ramps) -> Ramps:
    used = ramps.counts > 0
    if used.all():
        return ramps
    first_s, slope_s, counts, weight, start_s = ramps
    return Ramps(first_s[used], slope_s[used], counts[used], weight[used], start_s[used])


def _moments(ramps: Ramps) -> Moments:
    first, slope, count, weight, _ = ramps
    gaps = count * weight
    total = float(gaps.sum())
    if not total:
        return Moments()
    middle = first + slope * (count - 1) / 2
    mean = float((gaps * middle).sum()) / total
    spread = slope**2 * (count.astype(float) ** 2 - 1) / 12  # variance within a ramp
    return Moments(total, mean, float((gaps * (spread + (middle - mean) ** 2)).sum()))


def _pieces(ramps: Ramps) -> tuple[FloatArray, FloatArray]:
    """Ramps cut into pieces of nearly one value: the values (s), and how many gaps have each."""
    first, slope, count, weight, _ = ramps
    rise = np.abs(slope) * (count - 1) / np.maximum(np.minimum(first, first + slope * (count - 1)), 1e-12)
    pieces = np.clip(np.ceil(rise / RESOLUTION), 1, count).astype(np.int64)
    ramp = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(ramp)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    size = count[ramp] / pieces[ramp]
    value = first[ramp] + slope[ramp] * ((piece + 0.5) * size - 0.5)
    return value, size * weight[ramp]
