"""How much may be asked: requests a second and at a time by key, and how long the queue may be.

Knows nothing of HTTP; time is an argument.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class Refusal:
    """Why a request is not taken, in a word and in full, and after how many seconds it may be tried again."""

    kind: str
    reason: str
    retry_after_s: float


class Quotas:
    """Counts what each key has asked; `rate_per_key` requests a second, bursts of as many as in 10 s."""

    def __init__(
        self,
        *,
        max_queue: int | None = None,
        rate_per_key: float | None = None,
        concurrency_per_key: int | None = None,
    ) -> None:
        self.max_queue, self.rate, self.concurrency = max_queue, rate_per_key, concurrency_per_key
        self.burst = max(1.0, 10.0 * (rate_per_key or 0.0))
        self.tokens: dict[str | None, tuple[float, float]] = {}  # key -> left, when
        self.open: defaultdict[str | None, int] = defaultdict(int)

    def enter(self, key: str | None, now: float, num_waiting: int, seconds_each: float) -> Refusal | None:
        """Let a request in, to be followed by `leave`; or why not. `seconds_each`: how long a place in the
        queue lasts.
        """
        if self.max_queue is not None and num_waiting >= self.max_queue:
            retry_s = min(LONGEST_RETRY_S, max(1.0, num_waiting * seconds_each))
            return Refusal("queue", f"the queue is full: {num_waiting} requests wait", retry_s)
        if self.concurrency is not None and self.open[key] >= self.concurrency:
            return Refusal(
                "concurrency",
                f"{self.open[key]} requests of this key are open, {self.concurrency} may be",
                1.0,
            )
        if self.rate is not None:
            left, when = self.tokens.get(key, (self.burst, now))
            left = min(self.burst, left + (now - when) * self.rate)
            if left < 1.0:
                self.tokens[key] = left, now
                return Refusal(
                    "rate",
                    f"more than {self.rate:g} requests a second of this key",
                    (1.0 - left) / self.rate,
                )
            self.tokens[key] = left - 1.0, now
        self.open[key] += 1
        return None

    def leave(self, key: str | None) -> None:
        """A request that was let in has ended."""
        self.open[key] -= 1
        if not self.open[key]:
            del self.open[key]
