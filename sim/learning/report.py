"""How good predictions of lengths are, against guessing the same for all and going by the prompt's length."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from traces.trace import FloatArray, IntArray

from ..perception.accuracy import error_report, rank_report
from ..perception.learned.linear import LEVELS, MEDIAN
from .answers import Answers

NOMINAL = 0.9
"""Share of the answers that the interval between the outermost quantiles is meant to hold."""
CLOSE = 0.8
"""The same of the next narrower one."""


@dataclass(frozen=True)
class Report:
    """A predictor on answers that it has not learned from.

    `n` answers to `prompts` different ones. `error` and `bias`: mean absolute and mean error in tokens;
    `error_of_median`: of predicting the median for all, `error_of_prompt_length`: of the best by the length
    of the prompt alone. `acc_50`, `acc_100`: shares within 50 and 100 tokens. `kendall` (tau-b), `spearman`:
    whether the order is right, `spearman_of_prompt_length`: by the prompt's length alone; None where all are
    predicted alike. `coverage`: share of the answers within the interval that is meant to hold
    `nominal_coverage` of them, `coverage_80` within that of 80 %, `width`: mean width of the first in tokens.
    `calibration`: by level, the share of the answers at or below that quantile. `stopped`: share of the
    answers that were stopped at their cap; these are judged up to it.
    """

    n: int
    prompts: int
    error: float
    bias: float
    error_of_median: float
    error_of_prompt_length: float
    acc_50: float
    acc_100: float
    kendall: float | None
    spearman: float | None
    spearman_of_prompt_length: float | None
    coverage: float
    nominal_coverage: float
    coverage_80: float
    width: float
    calibration: dict[str, float]
    stopped: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def in_tokens(quantiles: FloatArray) -> IntArray:
    """Medians in whole tokens, shape (n,), of quantiles of shape (n, levels)."""
    return np.maximum(1, np.rint(quantiles[:, MEDIAN])).astype(np.int64)


def report(answers: Answers, quantiles: FloatArray, medians: FloatArray, by_prompt: FloatArray) -> Report:
    """Judge quantiles, shape (n, levels), of answers; `medians` and `by_prompt`, shape (n,), are what would
    have been predicted without looking at the prompt, and by its length alone.

    An answer that may not become longer than its cap is predicted to have at most that.
    """
    caps = answers.caps
    predicted = np.minimum(in_tokens(quantiles), caps)
    judged = error_report(predicted.astype(np.int64), answers.tokens)
    order = rank_report(predicted.astype(np.int64), answers.tokens)
    low, high = np.floor(quantiles), np.minimum(np.ceil(quantiles), caps[:, None])
    tokens = answers.tokens

    def within(k: int) -> float:
        is_within = (tokens >= np.minimum(low[:, k], caps)) & (tokens <= high[:, -1 - k])
        return float(is_within.mean())

    # An answer that was cut may lie above what its cap is below.
    up_to = [
        float((~answers.is_cut & (tokens <= np.ceil(quantiles[:, k]))).mean()) for k in range(len(LEVELS))
    ]
    return Report(
        n=len(answers),
        prompts=len(np.unique(answers.prompt)),
        error=judged.error,
        bias=judged.bias,
        error_of_median=error_of(answers, medians),
        error_of_prompt_length=error_of(answers, by_prompt),
        acc_50=judged.acc_50,
        acc_100=judged.acc_100,
        kendall=order.kendall_tau,
        spearman=order.spearman,
        spearman_of_prompt_length=rank_report(by_prompt.astype(np.int64), tokens).spearman,
        coverage=within(0),
        nominal_coverage=NOMINAL,
        coverage_80=within(1),
        width=float((high[:, -1] - low[:, 0]).mean()),
        calibration={f"{level:g}": share for level, share in zip(LEVELS, up_to, strict=True)},
        stopped=float(answers.is_cut.mean()),
    )


def error_of(answers: Answers, predicted: FloatArray) -> float:
    """Mean absolute error in tokens, each prediction at most the answer's cap."""
    return float(np.abs(np.minimum(np.rint(predicted), answers.caps) - answers.tokens).mean())
