"""Are greedy answers under the policy the same as plain ones, as often as other answers are?

Greedy engines differ from themselves where batches are of other sizes, so how often the rest of the traffic
differs from its copies says what is usual. Looks are taken at doubling numbers of copies, as those at the
arms are, and share the probability of being wrong in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .comparison import NORMAL, alpha_of, newcombe, wilson

FIRST_LOOK = 50
"""Copies of both arms together at the first look."""
LEAST = 20
"""With fewer copies of an arm a look says nothing of it."""
WHO = ("policy", "fcfs", "plain")
"""Whose answers are compared with plain ones: both arms', and those of a second copy."""


@dataclass(frozen=True)
class Rate:
    """How many of so many answers are the same, as a share with its interval."""

    same: int
    total: int
    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Match:
    """One look. `rates`: by whose answers. `excess`: the share by which more answers differ under the policy
    than first come, first served, with its interval; None: one of the arms has too few. `finding`: what is
    worse by more than chance, in words; else empty.
    """

    alpha: float
    rates: Mapping[str, Rate]
    excess: tuple[float, float, float] | None
    finding: str

    @property
    def text(self) -> str:
        """What the look found, in a line."""
        if self.finding:
            return self.finding
        if self.excess is None:
            return "too few copies to say whether more answers are others under the policy"
        return f"no more answers are others under the policy, down to {100 * self.excess[2]:.1f} %"


class Pairs:
    """Counts answers that were compared, as they come."""

    def __init__(self) -> None:
        self.same = dict.fromkeys(WHO, 0)
        self.total = dict.fromkeys(WHO, 0)

    def add(self, who: str, is_same: bool) -> bool:
        """One more; whether it is now when to look."""
        self.same[who] += is_same
        self.total[who] += 1
        num = self.total["policy"] + self.total["fcfs"]
        return who != "plain" and num >= FIRST_LOOK and num == last_look(num)

    def look(self, alpha: float = 0.05) -> Match:
        """The comparison by what there is."""
        num = self.total["policy"] + self.total["fcfs"]
        spent = alpha_of(look_of(num), alpha)
        z = NORMAL.inv_cdf(1 - spent / 2)
        rates = {}
        for who in WHO:
            if total := self.total[who]:
                share, low, high = wilson(self.same[who], total, z)
                rates[who] = Rate(self.same[who], total, share, (low, high))
        excess, finding = None, ""
        if min(self.total["policy"], self.total["fcfs"]) >= LEAST:
            (n, m), (a, b) = ((d["policy"], d["fcfs"]) for d in (self.total, self.same))
            apart, interval = newcombe(n - a, n, m - b, m, spent)
            excess = apart, *interval
            if interval[0] > 0:
                finding = f"{100 * apart:.1f} % more greedy answers are others under the policy"
        return Match(alpha, rates, excess, finding)


def last_look(num: int) -> int:
    """How many of so many copies the last look sees: all, before the first."""
    return 2 ** (look_of(num) - 1) * FIRST_LOOK if num >= FIRST_LOOK else num


def look_of(num: int) -> int:
    """The number of the last look that so many copies allow, from 1; 0: none yet."""
    return 0 if num < FIRST_LOOK else 1 + int(math.log2(num / FIRST_LOOK))
