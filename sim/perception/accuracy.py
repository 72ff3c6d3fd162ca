"""How far a length predictor is off, and the fit of the `tuned` predictor to the paper's three figures.

The paper publishes of its instruction-tuned Vicuna-7B (arXiv 2305.13144, its code's README): mean error 62
tokens, 59 % within 50 tokens, 81 % within 100, against the largest of four samples; it answers in multiples
of 50.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from traces.trace import IntArray, Trace

from .predictors import Noisy

PUBLISHED = (62.0, 0.59, 0.81)
"""Mean error in tokens, share within 50 tokens, share within 100 tokens."""


class ErrorReport(NamedTuple):
    """A predictor against truth: mean absolute error and bias in tokens, shares within 50 and 100 tokens."""

    num_requests: int
    error: float
    bias: float
    acc_50: float
    acc_100: float


def error_report(predicted: IntArray, truth: IntArray) -> ErrorReport:
    """The figures by which the paper judges a predictor; arrays of shape (n,) in tokens."""
    off = np.abs(predicted - truth)
    return ErrorReport(
        len(off),
        float(off.mean()),
        float((predicted - truth).mean()),
        float((off <= 50).mean()),
        float((off <= 100).mean()),
    )


class RankReport(NamedTuple):
    """Whether a predictor puts lengths in order; None where it is undefined, as of a constant."""

    spearman: float | None
    kendall_tau: float | None


def rank_report(predicted: IntArray, truth: IntArray) -> RankReport:
    """Spearman's rank correlation and Kendall's tau-b of two arrays of shape (n,)."""
    from scipy.stats import kendalltau, spearmanr

    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return RankReport(None, None)
    found = (spearmanr(predicted, truth), kendalltau(predicted, truth))
    return RankReport(*(float(each.statistic) for each in found))


def fit_published(
    trace: Trace, *, num_draws: int = 8, seed: int = 0, round_to: int = 50
) -> tuple[Noisy, float]:
    """The multiplicative error and the share of misses that come closest to the published triple on this
    trace.

    Searches sigma and miss in steps of 0.01; the loss sums the squared deviations of the three figures, each
    in units of 1 % (0.62 tokens, 1 point, 1 point), means over `num_draws`. Returns the predictor and its
    loss. Nothing but the triple enters.
    """
    unit = np.array([0.01 * PUBLISHED[0], 0.01, 0.01])

    def loss(made: Noisy) -> float:
        draws = [
            error_report(made.predict(trace, np.random.default_rng((seed, k))), trace.perceived_truth)
            for k in range(num_draws)
        ]
        figures = np.mean([(d.error, d.acc_50, d.acc_100) for d in draws], axis=0)
        return float((((figures - PUBLISHED) / unit) ** 2).sum())

    grid = [
        Noisy(sigma=sigma / 100, miss=miss / 100, round_to=round_to)
        for sigma in range(30, 56)
        for miss in range(0, 21)
    ]
    losses = [loss(made) for made in grid]
    best = int(np.argmin(losses))
    return grid[best], losses[best]
