"""Clocks for executors: one that stops and goes, and one for a processor that is shared with others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

BEAT_EVERY_S = 0.05
BEATS_AT_A_TIME = 3
BEATS_AT_FIRST = 60

Clock = Callable[[], float]


class Stopwatch:
    """A clock in seconds that goes only while it is told to."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.before_s = 0.0
        self.since_s: float | None = None

    def __call__(self) -> float:
        """Seconds it has gone."""
        return self.before_s + (0.0 if self.since_s is None else self.clock() - self.since_s)

    @contextmanager
    def running(self) -> Iterator[None]:
        """It goes inside the block."""
        self.since_s = self.clock()
        try:
            yield
        finally:
            self.before_s, self.since_s = self(), None


class PacedClock:
    """Seconds as a processor of even speed would count them.

    A processor shared with others is fast and slow by turns, by a factor of two within seconds, whether or
    not they are seen on this machine. So this clock counts the process's own time, each stretch multiplied by
    the pace at its beginning: how fast a fixed beat of small tensor operations ran then, relative to the
    median of the beats at the start. The beats' own time is left out. For one thread that never waits.
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
        """Seconds since it was made."""
        passed = self.clock() - self.since_s
        counted = self.counted_s + passed * self.pace
        if passed >= BEAT_EVERY_S:
            self.counted_s = counted
            self._sound()
        return counted

    @property
    def spread(self) -> tuple[float, float]:
        """The beats' 5th and 95th percentile, in seconds: how uneven the processor was."""
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
