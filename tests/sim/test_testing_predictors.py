"""Predictors that break a rule are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sim.testing import check_predictor
from traces.trace import Trace


@dataclass(frozen=True)
class Fixed:
    """The same for all."""

    answer: Callable[[Trace, np.random.Generator], Any]
    charge: bool = False

    def predict(self, trace: Trace, rng: np.random.Generator) -> Any:
        return self.answer(trace, rng)


def tens(trace: Trace, rng: np.random.Generator) -> Any:
    return np.full(len(trace), 10)


def too_many(trace: Trace, rng: np.random.Generator) -> Any:
    return np.full(len(trace) + 1, 10)


def texts(trace: Trace, rng: np.random.Generator) -> Any:
    return ["ten"] * len(trace)


def infinite(trace: Trace, rng: np.random.Generator) -> Any:
    return np.full(len(trace), np.inf)


def negative(trace: Trace, rng: np.random.Generator) -> Any:
    return np.full(len(trace), -1)


def by_the_shared_die(trace: Trace, rng: np.random.Generator) -> Any:
    return np.random.randint(0, 100, len(trace))


def writes(trace: Trace, rng: np.random.Generator) -> Any:
    values = np.array(trace.output_tokens)
    object.__setattr__(trace, "prompt_tokens", trace.prompt_tokens + 1)
    return values


def fails(trace: Trace, rng: np.random.Generator) -> Any:
    raise ZeroDivisionError("boom")


class Counting:
    """Draws one number more each time."""

    charge, count = False, 0

    def predict(self, trace: Trace, rng: np.random.Generator) -> Any:
        self.count += 1
        rng.random(self.count)
        return np.full(len(trace), 10)


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (Fixed(too_many), "predict"),
        (Fixed(texts), "predict"),
        (Fixed(infinite), "predict"),
        (Fixed(negative), "predict"),
        (Fixed(by_the_shared_die), "says something else with the same generator"),
        (Fixed(writes), "predict changed the trace: prompt_tokens"),
        (Fixed(fails), "raised ZeroDivisionError: boom (test_testing_predictors.py, line"),
        (Fixed(lambda trace, rng: np.full(len(trace), 10)), "cannot be pickled for parallel runs"),
        (Counting(), "draws another number of random numbers"),
    ],
)
def test_a_predictor_that_breaks_a_rule_is_caught(predictor: Any, message: str) -> None:
    check_predictor(Fixed(tens))
    with pytest.raises(AssertionError) as caught:
        check_predictor(predictor)
    assert message in str(caught.value) and "\n" not in str(caught.value)
