"""Predictors of response lengths, by name: each may look at the true lengths, in its own way.

A predictor is a frozen dataclass of its options with one method, `predict(trace, rng) -> lengths`. Only
executors use it; a scheduler gets the numbers, one request at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from traces.errors import InputError
from traces.trace import FloatArray, IntArray, Trace

from .resampling import resampled

QUESTION_TOKENS = 36
"""Tokens of "Don't output the response ... Output one number only.", appended to a prompt (the paper's
question).
"""

ANSWER_TOKENS = 8
"""Decode steps granted to an answer (the paper's setting)."""


NEIGHBOURS = 20
"""From how many of the pairs that are nearest in length one is drawn."""


class Predictor(Protocol):
    """What predicts lengths; where a model does it, `question_tokens`, `answer_tokens` and `slowdown` may say
    what asking takes.

    It may have further members. `quantiles(trace, predicted, levels)`: the quantiles of each length, shape
    (n, number of levels), tokens. `is_rank`: what it predicts are no lengths, only their order. `again`: an
    `Again`, where it can be asked once more while an answer grows. `waits(truth_s, rng)`: how long sessions
    wait for their next turns, seconds, given how long they do (see `sim.perception.waits`).
    """

    @property
    def charge(self) -> bool:
        """Whether a model makes the predictions, so that their time is charged to the accelerator.

        A class that does not say is not charged.
        """

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Predicted response length of every request, tokens >= 0, shape (n,)."""


@dataclass(frozen=True)
class Oracle:
    """The largest of the samples of this prompt; the actual length where the trace has no samples."""

    charge: bool = False
    """Charge the accelerator for asking."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The trace's perceived truth."""
        return trace.perceived_truth

    def waits(self, truth_s: FloatArray, rng: np.random.Generator) -> FloatArray:
        """The waits themselves."""
        return truth_s


@dataclass(frozen=True)
class Exact:
    """The actual length."""

    charge: bool = False
    """Charge the accelerator for asking."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The trace's output lengths."""
        return trace.output_tokens

    def waits(self, truth_s: FloatArray, rng: np.random.Generator) -> FloatArray:
        """The waits themselves."""
        return truth_s

    def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> IntArray:
        """The length itself at every level: it is certain."""
        return np.repeat(predicted[:, None], len(levels), axis=1)


@dataclass(frozen=True)
class Constant:
    """The same length for everyone: what a policy does without any perception."""

    tokens: int
    """The length that is always predicted."""
    charge: bool = False
    """Charge the accelerator for asking."""

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= 10_000_000:
            raise ValueError(f"tokens: {self.tokens} must be between 1 and 10000000")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """`tokens`, n times."""
        return np.full(len(trace), self.tokens, dtype=np.int64)


@dataclass(frozen=True)
class FromTrace:
    """The trace's own `predicted_tokens` column."""

    charge: bool = False
    """Charge the accelerator for asking."""
    question_tokens: int = QUESTION_TOKENS
    """Tokens that the question adds to a prompt, as `real/perception.py` measures them."""
    answer_tokens: int = ANSWER_TOKENS
    """Decode steps granted to an answer."""
    slowdown: float = 1.0
    """How much longer an iteration takes while the model is asked (with an adapter)."""

    def __post_init__(self) -> None:
        for name in ("question_tokens", "answer_tokens"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise ValueError(f"{name}: {getattr(self, name)} must be between 1 and 100000")
        if not 0.1 <= self.slowdown <= 100:
            raise ValueError(f"slowdown: {self.slowdown} must be between 0.1 and 100")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The column; InputError where there is none."""
        if trace.predicted_tokens is None:
            raise InputError(f"predictor trace: {trace.name} has no column predicted_tokens")
        return trace.predicted_tokens


@dataclass(frozen=True)
class Cap:
    """The request's own cap (`--cap`), taken at its word; that of all requests where there is none."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The caps; InputError for a trace without any."""
        if trace.max_tokens is not None:
            return trace.max_tokens
        if trace.max_new_tokens is None:
            raise InputError(f"predictor cap: {trace.name} has no cap")
        return np.full(len(trace), trace.max_new_tokens, dtype=np.int64)


@dataclass(frozen=True)
class Noisy:
    """A trained predictor: multiplicative errors, and a share of outright misses.

    The true length given the prediction is lognormal around it with standard deviation `sigma` of the
    logarithm (`regress`: predictions shrink towards the trace's mean log length, as those of a model trained
    on such traffic do; off: plain noise around the truth). A miss predicts the length of some other request.
    Answers are rounded up to multiples of `round_to`, the way the paper labels its training data.

    With `file` its errors are those of pairs that were observed: the length times what was predicted over
    what came, of one of the pairs that are nearest in length, also where lengths go beyond theirs. Where all
    their predictions are multiples of some number, so are these.
    """

    sigma: float | None = None
    """Standard deviation of the error of the logarithm of the length."""
    miss: float = 0.0
    """With `sigma`: share of requests whose prediction has nothing to do with them."""
    round_to: int = 1
    """Answers are multiples of this many tokens."""
    regress: bool = True
    """Shrink predictions towards the mean, as a calibrated predictor does."""
    charge: bool = True
    """Charge the accelerator for asking."""
    file: str | None = None
    """A CSV with the columns predicted and actual, whose errors take the place of `sigma` and `miss`."""

    def __post_init__(self) -> None:
        if (self.sigma is None) == (self.file is None):
            both = f"{self.sigma:g} and file exclude each other" if self.sigma is not None else ""
            raise ValueError(f"sigma: {both or 'is required, or file'}")
        if self.sigma is not None and not 0.0 <= self.sigma <= 10.0:
            raise ValueError(f"sigma: {self.sigma} must be between 0 and 10")
        if not 0.0 <= self.miss <= 1.0:
            raise ValueError(f"miss: {self.miss} must be between 0 and 1")
        if not 1 <= self.round_to <= 1_000_000:
            raise ValueError(f"round_to: {self.round_to} must be between 1 and 1000000")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Predictions that err as described; without `file` none above the largest true length."""
        if self.sigma is None:
            return self._as_observed(trace.perceived_truth, rng)
        return self._as_stated(trace.perceived_truth, self.sigma, rng)

    def waits(self, truth_s: FloatArray, rng: np.random.Generator) -> FloatArray:
        """The waits times lognormal factors of median 1, with the same `sigma`; with `file` their mean."""
        if self.sigma is None:
            return np.full(len(truth_s), truth_s.mean())
        return truth_s * np.exp(self.sigma * rng.standard_normal(len(truth_s)))

    def _as_observed(self, truth: IntArray, rng: np.random.Generator) -> IntArray:
        """The lengths times the relative errors of pairs."""
        from .pairs_file import read_pairs

        assert self.file is not None
        predicted, actual = read_pairs(self.file)
        rows = resampled(predicted, actual, truth, NEIGHBOURS, rng)
        multiple = max(1, int(np.gcd.reduce(predicted)))
        predictions: IntArray = np.rint(truth * (predicted[rows] / actual[rows]) / multiple).astype(np.int64)
        return -(-predictions * multiple // self.round_to) * self.round_to

    def _as_stated(self, truth: IntArray, sigma: float, rng: np.random.Generator) -> IntArray:
        """Lognormal errors, and misses."""
        by_length = np.argsort(truth, kind="stable")
        noise, missed = _normal_scores(_spread(rng, by_length)), _spread(rng, by_length)
        other = rng.permutation(truth)
        log = np.log(np.maximum(truth, 1))
        keep, spread = 1.0, sigma
        if self.regress:
            variance = float(log.var())
            keep = max(0.0, 1.0 - sigma**2 / variance) if variance else 0.0
            spread = math.sqrt(keep) * sigma
        predicted = np.exp(log.mean() + keep * (log - log.mean()) + spread * noise)
        predicted = np.minimum(np.where(missed < self.miss, other, predicted), truth.max())
        # A last bit too much in exp(log(50)) must not round up to the next bin.
        answers: IntArray = np.maximum(1, np.ceil(predicted / self.round_to * (1 - 1e-12))).astype(np.int64)
        return answers * self.round_to


@dataclass(frozen=True)
class Empirical:
    """Predictions resampled from pairs that were observed: for each request one of those with the nearest
    actual length.
    """

    file: str
    """A CSV with the columns predicted and actual, in tokens."""
    neighbours: int = NEIGHBOURS
    """From how many of the nearest pairs one is drawn."""
    charge: bool = True
    """Charge the accelerator for asking."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours: {self.neighbours} must be at least 1")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """One observed prediction per request, given its actual length."""
        from .pairs_file import read_pairs

        predicted, actual = read_pairs(self.file)
        return predicted[resampled(predicted, actual, trace.output_tokens, self.neighbours, rng)]


TUNED_SIGMA = 0.39
TUNED = Noisy(sigma=TUNED_SIGMA, miss=0.10, round_to=50)
"""The paper's instruction-tuned predictor; `accuracy.fit_published` gives these two numbers."""


@dataclass(frozen=True)
class Tuned:
    """The paper's instruction-tuned predictor, fitted only to its three published figures (see
    `perception_error`).
    """

    charge: bool = True
    """Charge the accelerator for asking."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """As `Noisy` with the fitted parameters."""
        return TUNED.predict(trace, rng)


def _spread(rng: np.random.Generator, order: IntArray) -> FloatArray:
    """Uniform random numbers, shape (n,), spread evenly along `order` (Latin hypercube in blocks of about
    sqrt(n)).

    Requests of like length then meet the whole range of errors, so that one seed's error figures vary little.
    """
    block = max(1, math.isqrt(len(order)))
    blocks = -(-len(order) // block)
    strata = rng.random((blocks, block)).argsort(axis=1)
    even = (strata + rng.random((blocks, block))) / block
    spread = np.empty(len(order))
    spread[order] = even.ravel()[: len(order)]
    return spread


def _normal_scores(uniform: FloatArray) -> FloatArray:
    from scipy.special import ndtri

    return np.asarray(ndtri(uniform), dtype=np.float64)
