"""How well any predictor that sees the prompt alone can do, by several answers to the same prompts.

Two answers to one prompt differ; what they have in common is all that a prompt can tell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import IntArray

from ..perception.accuracy import error_report, rank_report


@dataclass(frozen=True)
class Limit:
    """What one answer tells of another, over all pairs of answers to the same prompt.

    `error`, `acc_50`, `acc_100`, `kendall`, `spearman`: of predicting one by the other. `error_of_others`: of
    predicting it by the median of the others. No predictor that sees the prompt alone errs by less than
    `least_error` in the mean, or has a Spearman correlation above `most_spearman`. `error_of_median`: of
    predicting the median of all for all.
    """

    n: int
    answers: int
    error_of_median: float
    error: float
    acc_50: float
    acc_100: float
    kendall: float
    spearman: float
    error_of_others: float
    least_error: float
    most_spearman: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def limit(samples: IntArray, name: str = "samples") -> Limit:
    """What can be known of lengths from the prompt, by `samples`, shape (n, k): k answers to n prompts.

    With m the best prediction and Y, Y' two answers, E|Y - Y'| is at most 2 E|Y - m|: half the mean
    difference is the least error. With ranks R, the correlation of any function of the prompt and R is at
    most the root of that of R and R'. Both hold for answers that are drawn alike. InputError where there are
    fewer than two answers, or all are as long.
    """
    n, k = samples.shape
    if k < 2 or n < 2:
        raise InputError(f"{name}: has {k} answers to each of {n} prompts; 2 to each of 2 are needed")
    pairs = list(combinations(range(k), 2))
    errors = [error_report(samples[:, i], samples[:, j]) for i, j in pairs]
    ranks = [rank_report(samples[:, i], samples[:, j]) for i, j in pairs]
    spearman = [rank.spearman for rank in ranks if rank.spearman is not None]
    kendall = [rank.kendall_tau for rank in ranks if rank.kendall_tau is not None]
    if not spearman:
        raise InputError(f"{name}: all answers are as long, so that there is nothing to tell")
    off_others = [
        float(np.abs(samples[:, j] - np.median(np.delete(samples, j, axis=1), axis=1)).mean())
        for j in range(k)
    ]
    mean_error = float(np.mean([each.error for each in errors]))
    return Limit(
        n=n,
        answers=k,
        error_of_median=float(np.abs(samples - np.median(samples)).mean()),
        error=mean_error,
        acc_50=float(np.mean([each.acc_50 for each in errors])),
        acc_100=float(np.mean([each.acc_100 for each in errors])),
        kendall=float(np.mean(kendall)),
        spearman=float(np.mean(spearman)),
        error_of_others=float(np.mean(off_others)),
        least_error=mean_error / 2,
        most_spearman=max(0.0, float(np.mean(spearman))) ** 0.5,
    )
