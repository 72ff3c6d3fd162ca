"""How long many iterations take, and how many have begun by a time; knows nothing of who runs in them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Leap:
    """`iterations` iterations: one that takes `head_s`, then decode-only ones of `first_s + j * slope_s`."""

    iterations: int
    head_s: float
    first_s: float = 0.0
    slope_s: float = 0.0

    def seconds(self, iterations: int) -> float:
        """How long the first `iterations` of it take (at least 1)."""
        k = float(iterations - 1)
        return self.head_s + k * self.first_s + self.slope_s * (k * (k - 1.0) / 2.0)

    def iterations_begun(self, now: float, start_s: float = 0.0, after: bool = False) -> int:
        """How many iterations have ended or are in progress at the time `now`, where the first began at
        `start_s`; at least 1.

        Where one ends at that very instant, the next has begun only `after` it. Times are compared as clocks
        show them: the difference of two is rounded otherwise than the end of an iteration.
        """
        if after:
            now = math.nextafter(now, math.inf)
        # Numbers of iterations as floats, for which they are small enough: that takes half the time.
        head, first, slope, last = self.head_s, self.first_s, self.slope_s, float(self.iterations - 1)
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
        begun = 1 + int(k)
        return begun if begun < self.iterations else self.iterations

    def iterations_ended(self, seconds: float) -> int:
        """How many iterations are over so many seconds after its start, from none to all."""
        begun = self.iterations_begun(seconds)
        return begun if self.seconds(begun) <= seconds else begun - 1
