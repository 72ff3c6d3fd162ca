"""Whether a prediction was met, was missed, or whether runs differ too much to tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["met", "missed", "too noisy to tell"]

RULE = (
    "met: within the bound, and runs of the same requests differ by no more than the bound; missed: beyond "
    "both; too noisy to tell: runs differ by more than the bound, and the error is within that"
)
STATUS: dict[Outcome, int] = {"met": 0, "missed": 1, "too noisy to tell": 3}
"""Exit statuses; 2 is that of bad input."""


class Verdict(NamedTuple):
    """A figure's error and its bound, both fractions; `spread`: by what fraction runs of the same requests
    lie from their median. NaN for what was not measured or not predicted, and is missed.
    """

    figure: str
    error: float
    bound: float
    spread: float

    @property
    def outcome(self) -> Outcome:
        """By `RULE`: where runs differ by more than the bound a small error is chance, as is a large one."""
        if math.isnan(self.spread) or not abs(self.error) <= max(self.bound, self.spread):
            return "missed"
        return "met" if self.spread <= self.bound else "too noisy to tell"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self._asdict(), "outcome": self.outcome}

    def __str__(self) -> str:
        return (
            f"{self.figure} errs by {self.error:+.1%} (bound {self.bound:.0%}, runs differ by "
            f"{self.spread:.1%}): {self.outcome}"
        )


def status_of(outcomes: Sequence[Outcome]) -> int:
    """The exit status: that of a miss where there is one, else that of noise where there is any."""
    return next((STATUS[each] for each in ("missed", "too noisy to tell") if each in outcomes), 0)
