"""Fits a learned predictor: a ridge regression of TF-IDF terms and counts, then quantiles by its score.

The score is learned on normal scores of the lengths' ranks, so that no long answer outweighs all others; cut
answers are given their expected score, given the prompt, over and over (Schmee and Hahn, Technometrics 21,
1979). Quantiles are fitted to scores of rows that the score was learned without, and moved by conformal
corrections (Romano, Patterson and Candès, 2019), each level by its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from traces.errors import InputError
from traces.trace import FloatArray, IntArray

from ..perception.learned.features import lexical, terms
from ..perception.learned.linear import LEVELS, Embed, Linear, design, quantiles_of, standardised
from ..perception.learned.model import HeldOut, LearnedPredictor, hash_of
from .answers import Answers
from .folds import Fold, grouped
from .quantile_regression import (
    censored_quantile_regression,
    conditional_distribution,
    kaplan_meier,
    quantile,
)

ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Penalties of the ridge regression that are tried."""
LEXICAL_SHARE, EMBEDDING_SHARE = 0.1, 0.05
"""What a count, or a dimension of an embedding, of one standard deviation weighs beside a prompt's terms,
whose length is 1.
"""
INNER_FOLDS = 5
MOST_TERMS = 50_000
MOST_ROWS = 3000
"""Rows by which quantiles are fitted, drawn where there are more."""
ROWS_PER_KNOT, MOST_KNOTS = 300, 5
"""Prompts for each score at which quantiles bend, and the most of these."""
PASSES = 3
"""How often cut answers are given their expected score."""
MISSING = 'learning needs scikit-learn: pip install "seqsched[predict]"'


class Columns(NamedTuple):
    """What is looked at in each row: its terms, its counts and, where there are any, its embedding."""

    terms: list[list[str]]
    lexical: FloatArray
    embedding: FloatArray | None

    @property
    def dense(self) -> FloatArray:
        """Counts and embeddings, shape (n, k)."""
        return self.lexical if self.embedding is None else np.hstack([self.lexical, self.embedding])

    def select(self, rows: IntArray) -> Columns:
        """These rows."""
        embedding = None if self.embedding is None else self.embedding[rows]
        return Columns([self.terms[i] for i in rows.tolist()], self.lexical[rows], embedding)


def columns_of(answers: Answers, embed: Embed | None) -> Columns:
    """What is looked at in the prompts; each of them is looked at once."""
    _, first, inverse = np.unique(answers.prompt, return_index=True, return_inverse=True)
    texts = [answers.texts[i] for i in first.tolist()]
    words, counts = [terms(text) for text in texts], np.array([lexical(text) for text in texts])
    embedding = None if embed is None else embed(texts)[inverse]
    return Columns([words[i] for i in inverse.tolist()], counts[inverse], embedding)


@dataclass(frozen=True)
class _Ridge:
    """A fitted score: `vectorizer` from terms to TF-IDF, `regression` of that and of scaled dense columns."""

    vectorizer: Any
    regression: Any
    centre: FloatArray
    scale: FloatArray
    shares: FloatArray

    def score(self, columns: Columns) -> FloatArray:
        """Scores, shape (n,)."""
        return np.asarray(self.regression.predict(_stacked(self, columns)))


def _stacked(ridge: _Ridge, columns: Columns) -> Any:
    from scipy.sparse import csr_matrix, hstack

    dense = standardised(columns.dense, ridge.centre, ridge.scale) * ridge.shares
    return hstack([ridge.vectorizer.transform(columns.terms), csr_matrix(dense)]).tocsr()


def _itself(words: list[str]) -> list[str]:
    return words


class _Prepared(NamedTuple):
    """Columns that were made ready once, for several penalties."""

    ridge: _Ridge
    matrix: Any


def _prepared(columns: Columns) -> _Prepared:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise InputError(MISSING) from None
    for least in (2, 1):
        vectorizer = TfidfVectorizer(
            analyzer=_itself, sublinear_tf=True, min_df=least, max_features=MOST_TERMS
        )
        try:
            vectorizer.fit(columns.terms)
            break
        except ValueError:  # no term is in two prompts
            if least == 1:
                raise InputError("no prompt has a word in it, so that nothing can be learned") from None
    dense = columns.dense
    scale = dense.std(axis=0)
    shares = np.full(dense.shape[1], EMBEDDING_SHARE)
    shares[: columns.lexical.shape[1]] = LEXICAL_SHARE
    ridge = _Ridge(vectorizer, None, dense.mean(axis=0), np.where(scale > 1e-9, scale, 1.0), shares)
    return _Prepared(ridge, _stacked(ridge, columns))


def _fitted(prepared: _Prepared, target: _Target, alpha: float) -> _Ridge:
    """The ridge regression of scores; those of cut answers are expected ones, given what it says itself."""
    from sklearn.linear_model import Ridge

    regression = Ridge(alpha=alpha)
    z = target.z
    for _ in range(PASSES if target.is_cut.any() else 1):
        regression.fit(prepared.matrix, z, sample_weight=target.weight)
        z = target.given(np.asarray(regression.predict(prepared.matrix)))
    ridge = prepared.ridge
    return _Ridge(ridge.vectorizer, regression, ridge.centre, ridge.scale, ridge.shares)


class _Target(NamedTuple):
    """Normal scores of lengths, of cut ones of what they are at least; weights of the rows."""

    z: FloatArray
    least: FloatArray
    is_cut: npt.NDArray[np.bool_]
    weight: FloatArray

    def given(self, mean: FloatArray) -> FloatArray:
        """Scores where those of cut answers are what is expected above their bound, around `mean`."""
        if not self.is_cut.any():
            return self.z
        known = ~self.is_cut
        spread = max(
            float(np.sqrt(np.average((self.z - mean)[known] ** 2, weights=self.weight[known]))), 1e-6
        )
        bound = (self.least - mean) / spread
        expected = mean + spread * np.exp(norm.logpdf(bound) - norm.logsf(bound))
        return np.where(self.is_cut, expected, self.z)

    def select(self, rows: IntArray) -> _Target:
        return _Target(self.z[rows], self.least[rows], self.is_cut[rows], self.weight[rows])


def _target(answers: Answers) -> _Target:
    """Of all answers that are learned from."""
    y = answers.tokens.astype(np.float64)
    values, probability = kaplan_meier(y, answers.is_cut, answers.weight)
    at = np.searchsorted(values, y, side="right")
    up_to = np.append(0.0, probability)[at]
    before = np.append(0.0, probability)[np.maximum(at - 1, 0)]
    few = 0.5 / len(y)
    least = norm.ppf(np.clip(up_to, few, 1 - few))
    z = np.where(answers.is_cut, least, norm.ppf(np.clip((up_to + before) / 2, few, 1 - few)))
    start = _Target(z, least, answers.is_cut, answers.weight)
    return start._replace(z=start.given(np.zeros(len(z))))


class Fit(NamedTuple):
    """A fitted predictor without its file: how it scores, and the quantiles at a score."""

    ridge: _Ridge
    score_at: tuple[float, float]
    words_at: tuple[float, float]
    knots: FloatArray
    coefficients: FloatArray
    longest: int

    def quantiles(self, columns: Columns) -> FloatArray:
        """Lengths in tokens, shape (n, levels)."""
        score = (self.ridge.score(columns) - self.score_at[0]) / self.score_at[1]
        words = (columns.lexical[:, 0] - self.words_at[0]) / self.words_at[1]
        made = design(score, words, self.knots)
        return quantiles_of(made, self.coefficients, self.longest)


def _at(values: FloatArray) -> tuple[float, float]:
    spread = float(values.std())
    return float(values.mean()), spread if spread > 1e-9 else 1.0


def fit(answers: Answers, columns: Columns, *, by_user: bool = False, seed: int = 0) -> Fit:
    """A predictor of these answers; `columns` are theirs. With `by_user` it is corrected by what it is off
    with users that it has not seen.
    """
    target = _target(answers)
    group = answers.prompt if answers.user is None or not by_user else answers.user
    folds = [f for f in grouped(group, answers.prompt, INNER_FOLDS, seed) if len(f.test) and len(f.train)]
    alpha, score = _held_out_scores(columns, target, folds)
    score_at, words_at = _at(score), _at(columns.lexical[:, 0])
    standard, words = (score - score_at[0]) / score_at[1], columns.lexical[:, 0]
    num_knots = int(np.clip(answers.num_prompts // ROWS_PER_KNOT, 1, MOST_KNOTS))
    knots = np.unique(np.quantile(standard, np.arange(1, num_knots + 1) / (num_knots + 1)))
    made = design(standard, (words - words_at[0]) / words_at[1], knots)
    coefficients = _quantiles(made, answers, score, folds, seed)
    ridge = _fitted(_prepared(columns), target, alpha)
    longest = int(answers.tokens.max())
    return Fit(ridge, score_at, words_at, knots, coefficients, longest)


def _held_out_scores(columns: Columns, target: _Target, folds: list[Fold]) -> tuple[float, FloatArray]:
    """The penalty whose scores of rows not learned from are nearest, and these scores."""
    prepared = [(_prepared(columns.select(fold.train)), columns.select(fold.test)) for fold in folds]
    best = (np.inf, ALPHAS[0], np.zeros(len(target.z)))
    for alpha in ALPHAS:
        score = np.zeros(len(target.z))
        for fold, (ready, judged) in zip(folds, prepared, strict=True):
            score[fold.test] = _fitted(ready, target.select(fold.train), alpha).score(judged)
        loss = float(np.average((target.given(score) - score) ** 2, weights=target.weight))
        if loss < best[0]:
            best = (loss, alpha, score)
    return best[1], best[2]


def _quantiles(
    made: FloatArray, answers: Answers, score: FloatArray, folds: list[Fold], seed: int
) -> FloatArray:
    """Coefficients of the logarithm of each quantile, shape (levels, k), with its conformal correction."""
    y = np.log(answers.tokens.astype(np.float64))
    part = np.zeros(len(y), dtype=np.int64)
    for k, fold in enumerate(folds):
        part[fold.test] = k
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(y))[:MOST_ROWS])
    made, y, part, cut, weight = made[rows], y[rows], part[rows], answers.is_cut[rows], answers.weight[rows]
    below = conditional_distribution(score[rows], y, cut, weight)

    def fitted(level: float, kept: npt.NDArray[np.bool_]) -> FloatArray:
        return censored_quantile_regression(made[kept], y[kept], level, weight[kept], below[kept], cut[kept])

    everyone = np.ones(len(y), dtype=np.bool_)
    prompts = len(np.unique(answers.prompt[rows]))
    found = []
    for level in LEVELS:
        off = np.zeros(len(y))
        for k in np.unique(part):
            judged = part == k
            off[judged] = y[judged] - made[judged] @ fitted(level, ~judged)
        correction = quantile(*kaplan_meier(off, cut, weight), min(1.0, level * (1 + 1 / prompts)))
        coefficients = fitted(level, everyone)
        coefficients[0] += correction
        found.append(coefficients)
    return np.array(found)


def predictor_of(
    fitted: Fit, answers: Answers, held_out: FloatArray, about: dict[str, Any], embed: Embed | None
) -> LearnedPredictor:
    """The predictor as it is kept in a file; `held_out`: quantiles of the answers, predicted without them.
    Rows that were never held out, of NaN, are left out.
    """
    ridge = fitted.ridge
    names: list[str] = ridge.vectorizer.get_feature_names_out().tolist()
    weights = ridge.regression.coef_
    sparse = len(names)
    linear = Linear(
        {name: index for index, name in enumerate(names)},
        tuple(ridge.vectorizer.idf_.tolist()),
        # A term's value is its frequency times its idf: what it adds to the score has both in it.
        tuple(weights[:sparse].tolist()),
        ridge.centre,
        ridge.scale,
        weights[sparse:] * ridge.shares,
        float(ridge.regression.intercept_),
        embed,
    )
    rows = np.flatnonzero(np.isfinite(held_out[:, 0]))
    hashes: dict[str, int] = {}
    prompts = [hashes.setdefault(text, hash_of(text)) for text in (answers.texts[i] for i in rows.tolist())]
    pairs = HeldOut(
        np.array(prompts, dtype=np.uint64), held_out[rows], answers.tokens[rows], answers.is_cut[rows]
    )
    return LearnedPredictor(
        linear,
        fitted.score_at,
        fitted.words_at,
        fitted.knots,
        fitted.coefficients,
        fitted.longest,
        pairs,
        about,
    )
