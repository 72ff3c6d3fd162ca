"""Response length perception as the simulator sees it: predictors that may look at the truth, each in its own
way.

A predictor is a frozen dataclass of its options with one method, `predict(trace, rng) -> lengths`. Only
executors use it; a scheduler gets the numbers, one request at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from traces.errors import InputError
from traces.spec import build, parse
from traces.trace import FloatArray, IntArray, Trace

QUESTION_TOKENS = 36
"""Tokens of "Don't output the response ... Output one number only.", appended to a prompt (the paper's
question).
"""

ANSWER_TOKENS = 8
"""Decode steps granted to an answer (the paper's setting)."""

CALIBRATION_BINS = 40


class Predictor(Protocol):
    """Options of a predictor, and what it says."""

    @property
    def charge(self) -> bool:
        """Whether a model makes the predictions, so that their time is charged to the accelerator."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Predicted response length of every request, tokens >= 0, shape (n,)."""


class Perception(NamedTuple):
    """What a predictor says of every request of a trace: arrays of shape (n,), tokens."""

    predicted: IntArray
    upper: IntArray | None
    charged: bool
    cost: tuple[int, int, float] = (0, 0, 1.0)
    """What asking takes: tokens of the question and of an answer, and how much longer iterations are then."""


@dataclass(frozen=True)
class Oracle:
    """The largest of the samples of this prompt; the actual length where the trace has no samples."""

    charge: bool = False
    """Charge the accelerator for asking."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The trace's perceived truth."""
        return trace.perceived_truth


@dataclass(frozen=True)
class Exact:
    """The actual length."""

    charge: bool = False
    """Charge the accelerator for asking."""

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The trace's output lengths."""
        return trace.output_tokens


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
class Noisy:
    """A trained predictor: multiplicative errors, and a share of outright misses.

    The true length given the prediction is lognormal around it with standard deviation `sigma` of the
    logarithm (`regress`: predictions shrink towards the trace's mean log length, as those of a model trained
    on such traffic do; off: plain noise around the truth). A miss predicts the length of some other request.
    Answers are rounded up to multiples of `round_to`, the way the paper labels its training data.
    """

    sigma: float
    """Standard deviation of the error of the logarithm of the length."""
    miss: float = 0.0
    """Share of requests whose prediction has nothing to do with them."""
    round_to: int = 1
    """Answers are multiples of this many tokens."""
    regress: bool = True
    """Shrink predictions towards the mean, as a calibrated predictor does."""
    charge: bool = True
    """Charge the accelerator for asking."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma <= 10.0:
            raise ValueError(f"sigma: {self.sigma} must be between 0 and 10")
        if not 0.0 <= self.miss <= 1.0:
            raise ValueError(f"miss: {self.miss} must be between 0 and 1")
        if not 1 <= self.round_to <= 1_000_000:
            raise ValueError(f"round_to: {self.round_to} must be between 1 and 1000000")

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Predictions that err as described, never above the largest true length (rounded up)."""
        truth = trace.perceived_truth
        by_length = np.argsort(truth, kind="stable")
        noise, missed = _normal_scores(_spread(rng, by_length)), _spread(rng, by_length)
        other = rng.permutation(truth)
        log = np.log(np.maximum(truth, 1))
        keep, spread = 1.0, self.sigma
        if self.regress:
            variance = float(log.var())
            keep = max(0.0, 1.0 - self.sigma**2 / variance) if variance else 0.0
            spread = math.sqrt(keep) * self.sigma
        told = np.exp(log.mean() + keep * (log - log.mean()) + spread * noise)
        told = np.minimum(np.where(missed < self.miss, other, told), truth.max())
        # A last bit too much in exp(log(50)) must not round up to the next bin.
        answers: IntArray = np.maximum(1, np.ceil(told / self.round_to * (1 - 1e-12))).astype(np.int64)
        return answers * self.round_to


@dataclass(frozen=True)
class Empirical:
    """Predictions resampled from pairs that were observed: for each request one of those with the nearest
    actual length.
    """

    file: str
    """A CSV with the columns predicted and actual, in tokens."""
    neighbours: int = 20
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
        order = np.argsort(actual, kind="stable")
        predicted, actual = predicted[order], actual[order]
        window = min(self.neighbours, len(actual))
        low, high = (np.searchsorted(actual, trace.output_tokens, side) for side in ("left", "right"))
        # All pairs of the same length are equally near; only where they are too few are neighbours called in.
        enough = high - low >= window
        start = np.where(enough, low, _nearest_window(actual, trace.output_tokens, window))
        width = np.where(enough, high - low, window)
        chosen: IntArray = predicted[start + (rng.random(len(trace)) * width).astype(np.int64)]
        return chosen


TUNED = Noisy(sigma=0.39, miss=0.10, round_to=50)
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


PREDICTORS: dict[str, type[Any]] = {
    "oracle": Oracle,
    "exact": Exact,
    "constant": Constant,
    "trace": FromTrace,
    "noisy": Noisy,
    "tuned": Tuned,
    "empirical": Empirical,
}
"""Name on the command line -> the dataclass of its options."""


def predictor(spec: str | Predictor) -> Predictor:
    """The predictor of a spec `NAME[:key=value,...]`; InputError for an unknown name or bad options."""
    if not isinstance(spec, str):
        return spec
    name, texts = parse(spec, "predictor")
    if name not in PREDICTORS:
        raise InputError(f"predictor {name!r} is not one of {', '.join(PREDICTORS)}")
    made: Predictor = build(PREDICTORS[name], texts, f"predictor {name}")
    return made


def perceive(
    made: Predictor, trace: Trace, rng: np.random.Generator, upper_quantile: float | None = None
) -> Perception:
    """Everything a predictor says of a trace.

    With `upper_quantile`, also the length that answers stay below with that probability given the prediction,
    calibrated on a second, independent draw of predictions for the same traffic.
    """
    predicted = np.asarray(made.predict(trace, rng), dtype=np.int64)
    upper = None
    if upper_quantile is not None:
        calibration = np.asarray(made.predict(trace, rng), dtype=np.int64)
        upper = _upper(predicted, calibration, trace.output_tokens, upper_quantile)
    question, answer = _tokens(made)
    cost = (question, answer, float(getattr(made, "slowdown", 1.0)))
    return Perception(predicted, upper, made.charge, cost)


def asking_tokens(made: Predictor) -> int:
    """Tokens that a question and its answer take on top of a prompt: as measured, else the paper's."""
    return sum(_tokens(made))


def _tokens(made: Predictor) -> tuple[int, int]:
    question: int = getattr(made, "question_tokens", QUESTION_TOKENS)
    answer: int = getattr(made, "answer_tokens", ANSWER_TOKENS)
    return question, answer


def _nearest_window(values: IntArray, wanted: IntArray, width: int) -> IntArray:
    """Where in sorted `values` the `width` nearest to each wanted one begin, by bisection."""
    low, high = np.zeros(len(wanted), dtype=np.int64), np.full(len(wanted), len(values) - width)
    while (low < high).any():
        middle = (low + high) // 2
        after = np.minimum(middle + width, len(values) - 1)
        right = (low < high) & (wanted - values[middle] > values[after] - wanted)
        low, high = np.where(right, middle + 1, low), np.where(right, high, np.maximum(low, middle))
    return low


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


def _upper(predicted: IntArray, calibration: IntArray, actual: IntArray, quantile: float) -> IntArray:
    """Per prediction, the quantile of the actual lengths of those calibration requests that were predicted
    alike.
    """
    edges = np.unique(
        np.quantile(calibration, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], method="higher")
    )
    seen, wanted = np.searchsorted(edges, calibration), np.searchsorted(edges, predicted)
    upper = predicted.copy()
    for k in np.unique(wanted):
        alike = actual[seen == k]
        if len(alike):
            upper[wanted == k] = math.ceil(np.quantile(alike, quantile))
    return upper
