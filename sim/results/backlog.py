"""Whether a queue grows for as long as requests come: then a latency says how long the run was."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from traces.trace import FloatArray

LEAST_DRIFT, LEAST_GROWTH = 0.01, 1.3
"""Least growth of a backlog that counts: requests per arrival, and the ratio over half a run."""


class Backlog(NamedTuple):
    """What has arrived and not finished, seen by each arrival, over the second half of a run.

    `drift`: by how many requests it grew per arrival; `growth`: how many times as large it was at the end of
    that half as at its beginning, one added to both; `mean`: its mean there; `arrivals`: those between.
    """

    drift: float
    growth: float
    mean: float
    arrivals: int = 0

    @property
    def grows(self) -> bool:
        """Whether it grows by enough to count, in this one run."""
        return self.drift >= LEAST_DRIFT and self.growth >= LEAST_GROWTH

    @property
    def rises(self) -> bool:
        """Whether it grows by more than the chance that is in its size, however large it was."""
        return self.drift >= LEAST_DRIFT and self.drift * self.arrivals >= 2 * math.sqrt(self.mean)


def backlog(arrival_s: FloatArray, finish_s: FloatArray) -> Backlog:
    """The backlog of a run; both of shape (n,), by rising arrival, NaN where a request never finished.

    Requests that were turned away are no part of it.
    """
    kept = ~np.isnan(finish_s)
    arrival, finish, n = arrival_s[kept], finish_s[kept], int(kept.sum())
    if not n:
        return Backlog(0.0, 1.0, 0.0)
    waiting = np.maximum(np.arange(n) - np.searchsorted(np.sort(finish), arrival, side="right"), 0)
    half, tenth = n // 2, max(n // 10, 1)
    early, late = waiting[half : half + tenth], waiting[-tenth:]
    apart = max(n - half - tenth, 1)
    first, last = float(early.mean()), float(late.mean())
    return Backlog((last - first) / apart, (last + 1) / (first + 1), float(waiting[half:].mean()), apart)
