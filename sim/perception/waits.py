"""What is predicted of how long sessions wait between turns: for a tool to work, a person to read and type.

A predictor has its own way where it has a method `waits(truth_s, rng) -> seconds`, shape (n,). One that has
none predicts the mean wait of the trace for every turn, as LAMPS (arXiv 2410.18248) takes the mean of each
kind of call: traces tell no kinds. That another turn comes is known of every request.
"""

from __future__ import annotations

import numpy as np

from traces import sessions
from traces.errors import InputError, raised_outside
from traces.trace import FloatArray, Trace

from .predictors import Predictor
from .registry import name_of


def true_waits(trace: Trace) -> FloatArray:
    """Seconds from the end of each request until the first that waits for it comes, if it waits for no other;
    NaN where none does, shape (n,).
    """
    if trace.waits_for is None:
        return np.full(len(trace), np.nan)
    return sessions.waits_after(trace.waits_for, trace.thinks_s)


def predicted_waits(predictor: Predictor, trace: Trace, rng: np.random.Generator) -> FloatArray:
    """What is predicted of `true_waits`, NaN where that is; InputError for what is no time of at least 0."""
    truth_s = true_waits(trace)
    known = ~np.isnan(truth_s)
    predicted = np.full(len(trace), np.nan)
    if not known.any():
        return predicted
    waits = getattr(predictor, "waits", None)
    if waits is None:
        predicted[known] = truth_s[known].mean()
        return predicted
    what = f"predictor {name_of(predictor)}: waits"
    try:
        seconds = np.asarray(waits(truth_s[known], rng), dtype=np.float64)
    except (Exception, SystemExit) as error:
        raise raised_outside(what, error) from error
    if seconds.shape != (int(known.sum()),):
        raise InputError(f"{what} returned shape {seconds.shape}; one time per turn is {(int(known.sum()),)}")
    if (bad := ~(np.isfinite(seconds) & (seconds >= 0))).any():
        raise InputError(f"{what} returned {seconds[bad][0]}; a time is at least 0 s and finite")
    predicted[known] = seconds
    return predicted
