"""How a learned predictor computes: a linear score of a prompt, and quantiles of the length by that score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from traces.trace import FloatArray

from .features import terms

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Probabilities of the quantiles that are predicted."""
MEDIAN = LEVELS.index(0.5)
FURTHEST = 3.0
"""How far a score may be from the mean of those trained on, in their standard deviations."""
Embed = Callable[[Sequence[str]], FloatArray]
"""From texts to their embeddings, shape (n, dimensions)."""


class LengthPrediction(NamedTuple):
    """What is predicted of one answer: lengths in tokens that it stays below with the probabilities
    `LEVELS`, rising.
    """

    quantiles: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """The median, in whole tokens."""
        return max(1, round(self.quantiles[MEDIAN]))

    def quantile(self, probability: float) -> float:
        """The length that the answer stays below with that probability, between the levels by their
        logarithms; outside of them the outermost.
        """
        q = self.quantiles
        if probability <= LEVELS[0]:
            return q[0]
        for k in range(1, len(LEVELS)):
            if probability <= LEVELS[k]:
                share = (probability - LEVELS[k - 1]) / (LEVELS[k] - LEVELS[k - 1])
                return math.exp(math.log(q[k - 1]) + share * (math.log(q[k]) - math.log(q[k - 1])))
        return q[-1]


@dataclass(frozen=True)
class Linear:
    """A linear score of a prompt: its TF-IDF terms (logarithms of counts, of length 1), lexical counts and,
    where there is an `embed`, its embedding. `centre` and `scale`: those of the dense columns, lexical ones
    first, which are weighted by `dense`.
    """

    vocabulary: Mapping[str, int]
    idf: tuple[float, ...]
    weights: tuple[float, ...]
    centre: FloatArray
    scale: FloatArray
    dense: FloatArray
    intercept: float
    embed: Embed | None = None

    def of(self, text: str, counts: Sequence[float], embedding: FloatArray | None = None) -> float:
        """The score of a text whose lexical counts these are; its embedding is made where it is not given."""
        total = squares = 0.0
        vocabulary, idf, weights = self.vocabulary, self.idf, self.weights
        for term, count in Counter(terms(text)).items():
            if (index := vocabulary.get(term)) is not None:
                value = idf[index] if count == 1 else (1.0 + math.log(count)) * idf[index]
                squares += value * value
                total += value * weights[index]
        if squares:
            total /= math.sqrt(squares)
        if self.embed is not None and embedding is None:
            embedding = self.embed([text])[0]
        columns = np.array(counts) if embedding is None else np.append(counts, embedding)
        return total + float(standardised(columns, self.centre, self.scale) @ self.dense) + self.intercept


def standardised(columns: FloatArray, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """Columns, shape (..., k), less their `centre`, over their `scale`; at most 5 of it."""
    return np.asarray(np.clip((columns - centre) / scale, -5.0, 5.0))


def design(score: FloatArray, log_words: FloatArray, knots: FloatArray) -> FloatArray:
    """What quantiles are linear in, shape (n, 3 + number of knots): 1, the logarithm of the prompt's words,
    the score, and the part of it above each knot, of standardised columns of shape (n,).
    """
    score, words = np.clip(score, -FURTHEST, FURTHEST), np.clip(log_words, -FURTHEST, FURTHEST)
    above = np.maximum(score[:, None] - knots, 0.0)
    return np.column_stack([np.ones(len(score)), words, score, above])


def quantiles_of(columns: FloatArray, coefficients: FloatArray, longest: int) -> FloatArray:
    """Lengths in tokens, shape (n, levels), rising, from 1 to `longest`; columns as `design` makes them."""
    logs = np.clip(columns @ coefficients.T, 0.0, math.log(longest))
    return np.asarray(np.exp(np.sort(logs, axis=1)))
