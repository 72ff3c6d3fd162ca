"""The servers behind the layer: how many slots each has free, and which of them are worth asking.

A server that failed several times in a row is not asked for a while (its circuit is open), then tried with
one request. Knows nothing of HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

FAILURES_TO_OPEN = 5
"""Failures in a row after which a server is not asked."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Seconds that it is not asked, doubled with each trial that fails."""


@dataclass(eq=False)
class Upstream:
    """One server: `url` without a path, `slots` requests at a time, `busy` of them in use.

    `open_until_s`: when a circuit that is open may be tried; None: it is closed. `refuses`: pairs of a
    path and what it does not take there beyond the client's own words. `says_waiting`: its slots are learnt
    from how many it says wait.
    """

    url: str
    slots: int
    busy: int = 0
    num_failures: int = 0
    open_until_s: float | None = None
    pause_s: float = FIRST_PAUSE_S
    refuses: set[tuple[str, str]] = field(default_factory=set)
    says_waiting: bool = False

    def capacity(self, now: float) -> int:
        """Slots that may be in use now: all, one for a trial, or none."""
        if self.open_until_s is None:
            return self.slots
        return 1 if now >= self.open_until_s else 0

    def succeeded(self) -> None:
        """It has answered."""
        self.num_failures, self.open_until_s, self.pause_s = 0, None, FIRST_PAUSE_S

    def failed(self, now: float) -> None:
        """It has not."""
        self.num_failures += 1
        if self.open_until_s is not None and now >= self.open_until_s:  # a trial
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
            self.open_until_s = now + self.pause_s
        elif self.open_until_s is None and self.num_failures >= FAILURES_TO_OPEN:
            self.open_until_s = now + self.pause_s


class Pool:
    """All servers; a request goes to the one with the smallest share of its slots in use."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = list(upstreams)

    def capacity(self, now: float) -> int:
        """Slots of all servers together that may be in use now."""
        return sum(upstream.capacity(now) for upstream in self.upstreams)

    def choose(self, now: float, without: Collection[Upstream] = ()) -> Upstream | None:
        """The server to ask next, one of those not yet tried if there is any; None: none may be asked."""
        able = [u for u in self.upstreams if u.busy < u.capacity(now)]
        fresh = [u for u in able if u not in without]
        return min(fresh or able, key=lambda u: (u.busy / u.slots, u.num_failures), default=None)

    def next_trial_s(self, now: float) -> float:
        """When a circuit may be tried that may not now (s); infinite: none is open."""
        times = [u.open_until_s for u in self.upstreams if u.open_until_s is not None]
        return min((time for time in times if time > now), default=math.inf)
