"""Watches the arms of a traffic while it runs, and says when the policy's should be stopped."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .comparison import Difference, Sample, compare, is_look
from .matching import Match, Pairs

EXACT_BITS = 12
"""Lengths are told apart as far as this many of their bits: there are few of them, however many requests."""


class Tally:
    """The answers of one arm, counted as they end; takes no more memory than there are lengths."""

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()
        self.e2el: dict[int, list[float]] = {}
        self.reasons: Counter[str] = Counter()
        self.failed = self.total = 0

    def add(self, output_tokens: int, e2el_s: float, predicted_tokens: int, reason: str) -> None:
        """A whole answer."""
        self.total += 1
        self.tokens[_rounded(output_tokens)] += 1
        sums = self.e2el.setdefault(_rounded(predicted_tokens), [0.0, 0.0, 0.0])
        for power in range(3):
            sums[power] += e2el_s**power
        self.reasons[reason] += 1

    def fail(self) -> None:
        """A request without a whole answer."""
        self.total += 1
        self.failed += 1

    def sample(self) -> Sample:
        """Them all."""
        tokens, predicted = sorted(self.tokens), sorted(self.e2el)
        counts = [self.tokens[each] for each in tokens]
        e2el = np.array([self.e2el[each] for each in predicted], float).reshape(-1, 3)
        return Sample(
            np.array(tokens, float),
            np.array(counts, float),
            np.array(predicted, float),
            e2el,
            dict(self.reasons),
            self.failed,
        )


class Guard:
    """Looks at both arms at doubling numbers of requests; `found` is what it last saw, `matched` what of
    answers that were asked for twice.

    `reason` is empty until the policy's arm is to be stopped: its answers differ, it fails more often, or
    its mean latency is worse, each by more than chance. `alpha`: the probability of stopping one that is none
    of this; half of it is kept for mirrored answers, where there are any (`is_mirrored`).
    """

    def __init__(self, alpha: float = 0.05, *, is_mirrored: bool = False) -> None:
        self.alpha = alpha / 2 if is_mirrored else alpha
        self.arms = {"policy": Tally(), "fcfs": Tally()}
        self.pairs = Pairs()
        self.found: Difference | None = None
        self.matched: Match | None = None
        self.reason = ""

    def answered(self, arm: str, output_tokens: int, e2el_s: float, predicted: int, reason: str) -> None:
        """A whole answer has come in this arm."""
        self.arms[arm].add(output_tokens, e2el_s, predicted, reason)
        self._look()

    def failed(self, arm: str) -> None:
        """A request of this arm has failed."""
        self.arms[arm].fail()
        self._look()

    def compared(self, who: str, is_same: bool) -> None:
        """An answer of this arm, or a second copy, was compared with a plain one."""
        if self.pairs.add(who, is_same):
            self.matched = self.pairs.look(self.alpha)
            self.reason = self.reason or self.matched.finding

    def _look(self) -> None:
        if not is_look(sum(tally.total for tally in self.arms.values())):
            return
        found = compare(self.arms["policy"].sample(), self.arms["fcfs"].sample(), self.alpha)
        if found is None:
            return
        self.found = found
        reasons = list(found.findings)
        ratio, low, _ = found.latency.get("all", (1.0, 0.0, 0.0))
        if low > 1:
            reasons.append(f"mean latency under the policy is {ratio:.2f} × that of the rest")
        self.reason = self.reason or "; ".join(reasons)


def _rounded(tokens: int) -> int:
    """A length, downwards, to `EXACT_BITS` bits."""
    shift = max(0, tokens.bit_length() - EXACT_BITS)
    return tokens >> shift << shift
