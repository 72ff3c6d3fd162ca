"""Measured time: a stopwatch, a clock for a processor shared with others, and steps as a ramp."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch

BEAT_EVERY_S = 0.05
BEATS_AT_A_TIME = 3
BEATS_AT_FIRST = 60

Clock = Callable[[], float]


class Stopwatch:
    """A stopwatch: counts seconds only inside `running()`."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.before_s = 0.0
        self.since_s: float | None = None

    def __call__(self) -> float:
        """Seconds counted so far."""
        return self.before_s + (0.0 if self.since_s is None else self.clock() - self.since_s)

    def skip(self, seconds: float) -> None:
        """Count seconds in which nothing happens, without letting them pass."""
        self.before_s += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside the block it counts."""
        self.since_s = self.clock()
        try:
            yield
        finally:
            self.before_s, self.since_s = self(), None


class PacedClock:
    """Seconds as a processor of even speed would count them.

    The speed of a shared processor changes by a factor of two within seconds, whether or not the others are
    visible on this machine. So this clock counts the process's own time, each stretch multiplied by the pace
    at its beginning: the speed of a fixed beat of small tensor operations, relative to the median of the
    beats at the start. The time of the beats is left out. For one thread that never waits.
    """

    def __init__(self, beat: Callable[[], None] | None = None, clock: Clock = time.process_time) -> None:
        self.beat, self.clock = beat or _tensor_beat(), clock
        for _ in range(BEATS_AT_A_TIME):
            self.beat()
        self.beats_s = [self._beat_s() for _ in range(BEATS_AT_FIRST)]
        self.usual_s = median(self.beats_s)
        self.counted_s = 0.0
        self._sound()

    def __call__(self) -> float:
        """Seconds since the clock was created."""
        passed = self.clock() - self.since_s
        counted = self.counted_s + passed * self.pace
        if passed >= BEAT_EVERY_S:
            self.counted_s = counted
            self._sound()
        return counted

    @property
    def spread(self) -> tuple[float, float]:
        """5th and 95th percentile of the beats in seconds: how uneven the processor was."""
        ordered = sorted(self.beats_s)
        return ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]

    def _sound(self) -> None:
        beat_s = median(self._beat_s() for _ in range(BEATS_AT_A_TIME))
        self.beats_s.append(beat_s)
        self.pace = self.usual_s / beat_s
        self.since_s = self.clock()

    def _beat_s(self) -> float:
        begin = self.clock()
        self.beat()
        return self.clock() - begin


def _tensor_beat() -> Callable[[], None]:
    rows, weights = torch.full((16, 64), 0.5), torch.full((64, 64), 0.01)

    def beat() -> None:
        values = rows
        for _ in range(60):
            values = torch.nn.functional.silu(values @ weights).clamp(-1, 1)

    return beat


def ramp(seconds: Sequence[float]) -> tuple[float, float]:
    """(first, slope) of the line through measured steps: least squares, never falling, of equal sum."""
    steps = np.asarray(seconds, dtype=np.float64)
    count = len(steps)
    if not count:
        return 0.0, 0.0
    place = np.arange(count) - (count - 1) / 2
    slope = max(0.0, float(place @ steps / (place @ place))) if count > 1 else 0.0
    return float(steps.mean()) - slope * (count - 1) / 2, slope
