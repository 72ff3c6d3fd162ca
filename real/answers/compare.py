"""Compares two sets of answers to the same prompts; knows nothing of models.

An answer is a list of token ids; a set of answers is a mapping by request id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from scipy.stats import ks_2samp

Answers = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class AnswerDiff:
    """How far the answers to `requests` prompts agree; requests answered on one side only are left out."""

    requests: int
    only_one: int
    """Requests that were answered on one side only."""
    first_divergence: dict[int, int]
    """Request id -> place of the first token that differs (or that only one answer has)."""
    same_share: float
    """Mean share of the longer answer that precedes the first difference."""
    ks_statistic: float
    """Two-sample Kolmogorov-Smirnov statistic of the answers' lengths."""
    ks_p: float

    @property
    def exact_match(self) -> float:
        """The fraction of requests whose answers are equal, token for token; 1 where there are none."""
        return 1.0 - len(self.first_divergence) / self.requests if self.requests else 1.0

    @property
    def is_equal(self) -> bool:
        """Whether all requests have the same answer on both sides."""
        return not self.first_divergence and not self.only_one

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        places = sorted(self.first_divergence.values())
        return {
            "requests": self.requests,
            "only_one": self.only_one,
            "exact_match": self.exact_match,
            "diverged": len(places),
            "earliest_divergence": places[0] if places else None,
            "median_divergence": median(places) if places else None,
            "same_share": self.same_share,
            "length_ks": {"statistic": self.ks_statistic, "p": self.ks_p},
        }


def compare(first: Answers, second: Answers) -> AnswerDiff:
    """Compare the second set with the first."""
    both = sorted(first.keys() & second.keys())
    divergence, shares = {}, []
    for i in both:
        one, other = first[i], second[i]
        place = first_difference(one, other)
        longest = max(len(one), len(other), 1)
        shares.append(1.0 if place is None else place / longest)
        if place is not None:
            divergence[i] = place
    statistic, p = 0.0, 1.0
    if both:
        test: Any = ks_2samp([len(first[i]) for i in both], [len(second[i]) for i in both])
        statistic, p = float(test.statistic), float(test.pvalue)
    only_one = len(first.keys() ^ second.keys())
    return AnswerDiff(len(both), only_one, divergence, fmean(shares) if shares else 1.0, statistic, p)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place where they differ, or where the shorter one ends; None if they are equal."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))
