"""Predictors that put requests in order, and say nothing of how long their answers will be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from traces.trace import IntArray, Trace

SCALE = 1_000_000
"""Ranks are whole numbers from 0 to this."""


@dataclass(frozen=True)
class Rank:
    """An order only, as close to that of the true lengths as Kendall's tau says (vllm-ltr, arXiv 2408.15792;
    PARS, arXiv 2510.03243).

    Scores and lengths have a Gaussian copula of correlation sin(pi / 2 * tau), whose tau is just that.
    Requests of the same length are in any order.
    """

    tau: float
    """Kendall's rank correlation with the true lengths, from -1 to 1."""
    charge: bool = False
    """Charge the accelerator for asking."""
    is_rank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not -1.0 <= self.tau <= 1.0:
            raise ValueError(f"tau: {self.tau} must be between -1 and 1")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Scores from 0 to a million, shape (n,)."""
        from scipy.special import ndtr, ndtri

        n = len(trace)
        place = np.empty(n)
        place[np.lexsort((rng.random(n), trace.output_tokens))] = (np.arange(n) + 0.5) / n
        correlation = math.sin(math.pi / 2 * self.tau)
        noise = rng.standard_normal(n) * math.sqrt(1 - correlation**2)
        score = correlation * ndtri(place) + noise
        ranks: IntArray = np.round(SCALE * ndtr(score)).astype(np.int64)
        return ranks
