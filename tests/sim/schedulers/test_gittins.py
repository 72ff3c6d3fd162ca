"""The Gittins index against the textbook, and against its definition by every time to stop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers.gittins import Gittins, inverse_index


def by_definition(lengths: list[int], age: int) -> float:
    left = [length - age for length in lengths if length > age]
    ends = [
        (sum(min(length, d) for length in left), sum(length <= d for length in left)) for d in sorted(left)
    ]
    return min(work / number for work, number in ends)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=20), share=st.floats(0, 0.999))
def test_it_is_the_least_over_all_times_to_stop(lengths: list[int], share: float) -> None:
    lengths.sort()
    age = int(share * lengths[-1])
    assert inverse_index(tuple(lengths), age) == by_definition(lengths, age)  # exactly, so that ties are ties


@pytest.mark.parametrize("num_short", [2, 10, 18])
@pytest.mark.parametrize(("short", "long"), [(10, 400), (10, 12)])
def test_two_points(num_short: int, short: int, long: int) -> None:
    """With probability p it is short, else long: stop after the short one, short / p, or never, the mean;
    once the short one is outlived, what is left of the long one.
    """
    lengths, p = (short,) * num_short + (long,) * (20 - num_short), num_short / 20
    assert inverse_index(lengths, 0) == pytest.approx(min(short / p, p * short + (1 - p) * long))
    left = short - 4
    assert inverse_index(lengths, 4) == pytest.approx(min(left / p, p * left + (1 - p) * (long - 4)))
    assert inverse_index(lengths, short) == long - short


def test_the_exponential_law_forgets_its_age() -> None:
    """Its index is 1 over its mean at any age; so is that of many quantiles, just after one."""
    mean, n = 1_000_000, 2000
    levels = (np.arange(n) + 0.5) / n
    lengths = tuple(np.ceil(-mean * np.log1p(-levels)).astype(int).tolist())
    for k in (0, 500, 1000, 1800):
        assert inverse_index(lengths, lengths[k]) == pytest.approx(mean, rel=0.03)


def test_what_is_certain_has_its_rest() -> None:
    assert [inverse_index((50,) * 20, age) for age in (0, 30, 49, 50, 60)] == [50, 20, 1, 50, 60]
    rank = Gittins()
    assert rank(Request(0, 0.0, 1, 100, predicted_tokens=50), 30) == 20
    assert rank(Request(0, 0.0, 1, 100), 0) == 0
