"""Queue disciplines for lengths that are known as distributions: how much weight the tail has, and where an
estimate starts that is raised as the answer outlives it.
"""

from __future__ import annotations

from math import ceil

from ..request import Request
from .gittins import lengths_of
from .order import Rank, tokens_up_to

TAIL = 0.1
"""The share of the longest lengths that makes the tail."""


def tail_inflated(tail: float) -> Rank:
    """The smallest tail-inflated expectation first: the mean length and `tail` times the mean of the longest
    tenth (TIE, arXiv 2604.00499, which takes both from a fitted log-t law).
    """

    def rank(request: Request, generated: int) -> float:
        lengths = lengths_of(request)
        if not lengths:
            return 0.0
        num_longest = max(1, round(TAIL * len(lengths)))
        longest = lengths[-num_longest:]
        return sum(lengths) / len(lengths) + tail * sum(longest) / num_longest

    return rank


class LowerBound:
    """The smallest lower bound of the length first; an answer that outlives it raises it to what it has
    (A_min of arXiv 2508.14544, whose bounds are those of intervals).

    `quantile`: of the distribution, which is taken as the bound.
    """

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile

    def __call__(self, request: Request, generated: int) -> float:
        """Its bound (tokens)."""
        lengths = lengths_of(request)
        lower = lengths[max(0, ceil(self.quantile * len(lengths)) - 1)] if lengths else 0
        return float(max(lower, generated))

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """It rises with every token, once the bound is outlived."""
        return max(1, tokens_up_to(bound) + 1 - generated)
