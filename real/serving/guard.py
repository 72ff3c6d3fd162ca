"""Watches the arms of a traffic while it runs, and says when the policy's should be stopped."""

from __future__ import annotations

from array import array
from collections import Counter

import numpy as np

from .comparison import Difference, Sample, compare, is_look

MOST_ROWS = 1 << 20
"""Answers of an arm that are kept; then the comparison is over."""


class Rows:
    """The answers of one arm, as they end."""

    def __init__(self) -> None:
        self.columns = tuple(array("d") for _ in range(3))
        self.reasons: Counter[str] = Counter()
        self.failed = 0

    def add(self, output_tokens: int, e2el_s: float, predicted_tokens: int, reason: str) -> None:
        """A whole answer."""
        for column, value in zip(self.columns, (output_tokens, e2el_s, predicted_tokens), strict=True):
            column.append(value)
        self.reasons[reason] += 1

    @property
    def total(self) -> int:
        """Requests that ended, however."""
        return len(self.columns[0]) + self.failed

    def sample(self) -> Sample:
        """Them all."""
        output_tokens, e2el_s, predicted_tokens = (np.array(column) for column in self.columns)
        return Sample(output_tokens, e2el_s, predicted_tokens, dict(self.reasons), self.failed)


class Guard:
    """Looks at both arms at doubling numbers of requests; `found` is what it last saw.

    `reason` is empty until the policy's arm is to be stopped: its answers differ, it fails more often, or
    its mean latency is worse, each by more than chance.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.alpha = alpha
        self.arms = {"policy": Rows(), "fcfs": Rows()}
        self.found: Difference | None = None
        self.reason = ""

    def answered(self, arm: str, output_tokens: int, e2el_s: float, predicted: int, reason: str) -> None:
        """A whole answer has come in this arm."""
        if len(self.arms[arm].columns[0]) < MOST_ROWS:
            self.arms[arm].add(output_tokens, e2el_s, predicted, reason)
            self._look()

    def failed(self, arm: str) -> None:
        """A request of this arm has failed."""
        self.arms[arm].failed += 1
        self._look()

    def _look(self) -> None:
        if not is_look(sum(rows.total for rows in self.arms.values())):
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
