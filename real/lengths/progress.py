"""Says now and then how far a long piece of work is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

SILENCE_S = 10.0
"""No two lines are closer together than this, and work that takes less says nothing."""


def silent(line: str) -> None:
    """Says nothing."""


class Progress:
    """Counts the steps of `what` and passes a line to `say` at most every `SILENCE_S` seconds."""

    def __init__(
        self,
        say: Callable[[str], None],
        what: str,
        total: int,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.say, self.what, self.total, self.done, self.clock = say, what, total, done, clock
        self.at_first, self.since_s = done, clock()
        self.said_s = self.since_s

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""
        self.done += steps
        now = self.clock()
        if now - self.said_s < SILENCE_S or self.done == self.at_first:
            return
        self.said_s = now
        taken = now - self.since_s
        left = taken / (self.done - self.at_first) * max(0, self.total - self.done)
        self.say(f"{self.what}: {self.done} of {self.total} after {taken:.0f} s, about {left:.0f} s left")
