"""What is predicted without learning from words: the median of all, and by the length of the prompt alone."""

from __future__ import annotations

import numpy as np

from traces.trace import FloatArray

from ..perception.learned.features import lexical
from .answers import Answers
from .quantile_regression import (
    censored_quantile_regression,
    conditional_distribution,
    kaplan_meier,
    quantile,
)

MOST_ROWS = 3000


def medians_of(answers: Answers) -> float:
    """The median length, where cut answers are known to be longer."""
    return quantile(*kaplan_meier(answers.tokens.astype(np.float64), answers.is_cut, answers.weight), 0.5)


def prompt_lengths_of(learned: Answers, judged: Answers) -> FloatArray:
    """Medians of the lengths by that of the prompt alone, shape (n,), of the answers that are judged: a line
    with a bend at the mean, in logarithms, fitted to those that are learned from.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(learned))[:MOST_ROWS])
    words, y = _log_words(learned), np.log(learned.tokens.astype(np.float64))
    centre, spread = float(words.mean()), max(float(words.std()), 1e-9)
    x, cut, weight = words[rows], learned.is_cut[rows], learned.weight[rows]
    below = conditional_distribution(x, y[rows], cut, weight)
    columns = _columns(words, centre, spread)
    coefficients = censored_quantile_regression(columns[rows], y[rows], 0.5, weight, below, cut)
    predicted = np.exp(np.clip(_columns(_log_words(judged), centre, spread) @ coefficients, 0, y.max()))
    return np.asarray(predicted)


def _log_words(answers: Answers) -> FloatArray:
    return np.array([lexical(text)[0] for text in answers.texts])


def _columns(words: FloatArray, centre: float, spread: float) -> FloatArray:
    x = np.clip((words - centre) / spread, -3, 3)
    return np.column_stack([np.ones(len(x)), x, np.maximum(x, 0)])
