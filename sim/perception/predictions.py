"""What a predictor says of every request of a trace, checked, and what asking it takes.

A predictor may come from outside: whatever it raises, or returns other than a length per request, is one line
that names it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from traces.errors import InputError, raised_outside
from traces.trace import FloatArray, IntArray, Trace

from .again import Again
from .distributions import LEVELS, Column, calibrated, column_of, stated
from .predictors import ANSWER_TOKENS, QUESTION_TOKENS, Predictor
from .registry import name_of

CALIBRATION_BINS = 40

MOST_TOKENS = 1_000_000_000
"""Largest length that may be predicted."""


class Perception(NamedTuple):
    """The predictions for every request of a trace: arrays of shape (n,), tokens.

    `lengths` holds tuples: lengths of equal probability. With `is_rank` the predictions are no lengths: only
    their order means something. `again`: what comes of asking once more, where it is needed. `waits`: seconds
    until the session's next turn comes, NaN where none does.
    """

    predicted: IntArray
    upper: IntArray | None
    charged: bool
    cost: tuple[int, int, float] = (0, 0, 1.0)
    """What asking takes: tokens of the question and of an answer, and how much longer iterations are then."""
    lengths: Column | None = None
    is_rank: bool = False
    again: Again | None = None
    waits: FloatArray | None = None


def perceive(
    predictor: Predictor,
    trace: Trace,
    rng: np.random.Generator,
    upper_quantile: float | None = None,
    needs: Collection[str] = (),
) -> Perception:
    """Everything a predictor says of a trace that is needed: `needs` as in `sim.schedulers.base`.

    With `upper_quantile`, also the length that answers stay below with that probability given the prediction;
    for a `distribution`, also lengths of equal probability. Both are as the predictor states them; where it
    states no quantiles, calibrated on a second, independent draw of predictions for the same traffic.
    Raises InputError where the predictor fails, cannot give what is needed, or returns other than one number
    >= 0 per request.
    """
    is_rank, again = ability(predictor, needs)
    predicted = _predict(predictor, trace, rng)
    upper = lengths = None
    asked = (predictor, name_of(predictor), predicted, trace, MOST_TOKENS)
    if "distribution" in needs and (quantiles := stated(*asked, LEVELS)) is not None:
        lengths = column_of(quantiles)
    if upper_quantile is not None and (quantiles := stated(*asked, np.array([upper_quantile]))) is not None:
        upper = quantiles[:, 0]
    is_lacking = "distribution" in needs and lengths is None
    if is_lacking or (upper_quantile is not None and upper is None):
        calibration = _predict(predictor, trace, rng)
        if upper_quantile is not None and upper is None:
            upper = _upper(predicted, calibration, trace.output_tokens, upper_quantile)
        if is_lacking:
            lengths = calibrated(predicted, calibration, trace.output_tokens)
    try:
        is_charged = bool(getattr(predictor, "charge", False))
    except (Exception, SystemExit) as error:
        raise raised_outside(f"predictor {name_of(predictor)}: charge", error) from error
    return Perception(predicted, upper, is_charged, _cost(predictor), lengths, is_rank, again)


def ability(predictor: Predictor, needs: Collection[str]) -> tuple[bool, Again | None]:
    """Whether it gives ranks only, and how it answers again; InputError where that is not what is needed."""
    is_rank = bool(getattr(predictor, "is_rank", False))
    if is_rank and (lacking := [need for need in needs if need != "order"]):
        what = f"predictor {name_of(predictor)} gives an order of the requests and no lengths"
        raise InputError(f"{what}; a {lacking[0]} is needed")
    again = getattr(predictor, "again", None) if "again" in needs else None
    if "again" in needs and again is None:
        what = f"predictor {name_of(predictor)} cannot be asked again while an answer grows"
        raise InputError(f"{what}, which ask_every needs; progressive can")
    return is_rank, again


def asking_tokens(predictor: Predictor) -> int:
    """Tokens that a question and its answer take on top of a prompt: as measured, else the paper's."""
    question, answer, _ = _cost(predictor)
    return question + answer


def _predict(predictor: Predictor, trace: Trace, rng: np.random.Generator) -> IntArray:
    """Predictions in whole tokens, shape (n,), rounded down."""
    what = f"predictor {name_of(predictor)}: predict"
    is_outside = type(predictor).__module__.partition(".")[0] not in ("sim", "real")
    try:
        returned: Any = predictor.predict(_read_only(trace) if is_outside else trace, rng)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if not is_outside:
            raise
        raise raised_outside(what, error) from error
    try:
        values = np.asarray(returned)
    except ValueError:
        values = np.array(None)  # rows of different lengths
    if values.dtype.kind not in "iuf":
        raise InputError(f"{what} returned {type(returned).__name__}, not an array of numbers")
    if values.shape != (len(trace),):
        raise InputError(f"{what} returned shape {values.shape}; one length per request is {(len(trace),)}")
    is_bad = ~((values >= 0) & (values <= MOST_TOKENS))  # so written that NaN is bad
    if is_bad.any():
        index = int(is_bad.argmax())
        bound = f"a length is from 0 to {MOST_TOKENS} tokens"
        raise InputError(f"{what} returned {values[index]} for request {trace.request_id[index]}; {bound}")
    return values.astype(np.int64)


def _read_only(trace: Trace) -> Trace:
    """The same arrays, not to be written: who changed the lengths would change what is simulated."""
    views = {}
    for column in (*trace.columns(), "samples", "source_rows"):
        if (array := getattr(trace, column)) is not None:
            views[column] = array.view()
            views[column].flags.writeable = False
    return replace(trace, **views)


def _cost(predictor: Predictor) -> tuple[int, int, float]:
    """Tokens of a question and of an answer, and the factor on iterations while the model is asked."""
    question = getattr(predictor, "question_tokens", QUESTION_TOKENS)
    answer = getattr(predictor, "answer_tokens", ANSWER_TOKENS)
    slowdown = getattr(predictor, "slowdown", 1.0)
    for name, value, least in (
        ("question_tokens", question, 0),
        ("answer_tokens", answer, 0),
        ("slowdown", slowdown, 0),
    ):
        if not (isinstance(value, (int, float, np.number)) and least <= value < math.inf):
            what = f"predictor {name_of(predictor)}: {name}"
            raise InputError(f"{what} is {value!r}; a number of at least {least} is needed")
    return int(question), int(answer), float(slowdown)


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
