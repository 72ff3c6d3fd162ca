"""How long many iterations take, and how many have begun by a time; knows nothing of who runs in them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Leap:
    """`iterations` iterations of a stretch in which nobody comes or goes, after `done` others of it.

    The stretch began at `start_s`: with one that takes `head_s`, then come decode-only ones of
    `first_s + j * slope_s`. All ends are reckoned from there, so that they are the same to the last bit
    however a stretch is cut into leaps: what falls on an end, or next to it, does so in all of them.
    `head_end_s`, `end_s`: when the first and the last of them end.
    """

    iterations: int
    head_s: float
    first_s: float = 0.0
    slope_s: float = 0.0
    start_s: float = 0.0
    done: int = 0
    head_end_s: float = 0.0
    end_s: float = 0.0

    def seconds(self, iterations: int) -> float:
        """From the beginning of the stretch to the end of the first `iterations` of the leap (at least 1)."""
        k = float(self.done + iterations - 1)
        return self.head_s + k * self.first_s + self.slope_s * (k * (k - 1.0) / 2.0)

    def ends_s(self, iterations: int) -> float:
        """When the first `iterations` of the leap have ended (at least 1)."""
        return self.start_s + self.seconds(iterations)

    @property
    def second_s(self) -> float:
        """How long its second iteration takes."""
        return self.first_s + self.done * self.slope_s

    def iterations_begun(self, now: float, after: bool = False) -> int:
        """How many of its iterations have ended or are in progress at the time `now`; at least 1.

        Where one ends at that very instant, the next has begun only `after` it. Times are compared as clocks
        show them: the difference of two is rounded otherwise than the end of an iteration.
        """
        if after:
            now = math.nextafter(now, math.inf)
        # Numbers of iterations as floats, for which they are small enough: that takes half the time.
        head, first, slope, start_s = self.head_s, self.first_s, self.slope_s, self.start_s
        last = float(self.done + self.iterations - 1)
        if not last or start_s + head >= now:
            return 1
        if start_s + (head + last * first + slope * (last * (last - 1.0) / 2.0)) < now:
            return self.iterations
        rest, half = now - start_s - head, first - slope / 2.0
        k = float(int(2.0 * rest / (half + math.sqrt(half * half + 2.0 * slope * rest))))
        # Round-off may have taken one too many or too few. The sums are those of `seconds`, without a call.
        while k > 0.0 and start_s + (head + k * first + slope * (k * (k - 1.0) / 2.0)) >= now:
            k -= 1.0
        while start_s + (head + k * first + slope * (k * (k - 1.0) / 2.0)) < now:
            k += 1.0
        begun = 1 + int(k) - self.done
        return 1 if begun < 1 else begun if begun < self.iterations else self.iterations

    def iterations_ended(self, now: float) -> int:
        """How many of its iterations are over at the time `now`, from none to all."""
        begun = self.iterations_begun(now)
        return begun if self.ends_s(begun) <= now else begun - 1
