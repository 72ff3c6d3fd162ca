"""Asking again while an answer grows: the stated law, what may ask, and what a question costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.perception.again import Again
from sim.perception.predictions import perceive
from sim.perception.registry import make_predictor
from traces import load
from traces.errors import InputError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shrink", "generated", "tokens"),
    [
        (0.0, 0, 200),
        (0.0, 50, 150),  # the rest is off by the same factor
        (1.0, 0, 200),
        (1.0, 50, 50 + math.ceil(50 * 2**0.5)),
        (2.0, 50, 50 + math.ceil(50 * 2**0.25)),
        (1.0, 100, 100),
        (1.0, 130, 130),
    ],
)
def test_twice_too_much_at_first(shrink: float, generated: int, tokens: int) -> None:
    assert Again(shrink).tokens(200, 100, generated) == tokens


@given(
    first=st.integers(0, 2000), length=st.integers(1, 2000), shrink=st.floats(0, 5), progress=st.floats(0, 1)
)
def test_it_errs_less_the_further_it_is(first: int, length: int, shrink: float, progress: float) -> None:
    law, generated = Again(shrink), int(progress * length)
    answer, later = (law.tokens(first, length, g) for g in (generated, min(length, generated + 50)))
    assert answer > generated or generated == length
    assert abs(later - length) <= abs(answer - length) + 1


def test_only_who_can_is_asked_again() -> None:
    trace = load("fixed", num_prompts=2)
    assert perceive(make_predictor("progressive:ask_ms=2"), trace, rng(), needs=("again",)).again == Again(
        1.0, 0.002
    )
    with pytest.raises(InputError, match=r"predictor tuned cannot be asked again while an answer grows"):
        perceive(make_predictor("tuned"), trace, rng(), needs=("again",))


@pytest.mark.parametrize("options", ["shrink=-1", "shrink=101", "ask_ms=-1", "ask_ms=1e7", "sigma=11"])
def test_bounds(options: str) -> None:
    with pytest.raises(InputError, match=r"^predictor progressive: \w+: .* must be between"):
        make_predictor(f"progressive:{options}")
