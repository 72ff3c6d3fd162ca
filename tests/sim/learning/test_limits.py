"""What several answers to a prompt say of any predictor holds for every one that is tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sim.learning.limits import limit
from traces.errors import InputError


@given(st.integers(0, 10_000), st.floats(0.4, 1.5), st.floats(0.05, 1.0))
def test_no_predictor_is_better(seed: int, between: float, within: float) -> None:
    """Not even the median that the answers are drawn around, nor any other function of the prompt."""
    rng = np.random.default_rng(seed)
    middle = 200 * np.exp(between * rng.normal(size=1500))
    samples = np.maximum(1, np.rint(middle[:, None] * np.exp(within * rng.normal(size=(1500, 4))))).astype(
        int
    )
    found = limit(samples)
    for predicted in (middle, middle * np.exp(0.3 * rng.normal(size=1500)), 0.8 * middle):
        assert np.abs(samples - predicted[:, None]).mean() >= found.least_error
        reached = np.mean([spearmanr(predicted, samples[:, j]).statistic for j in range(4)])
        assert reached <= found.most_spearman + 0.04
    assert found.least_error <= found.error_of_others <= found.error + 1e-9


def test_figures_by_hand() -> None:
    found = limit(np.array([[10, 20], [100, 100], [300, 500]]))
    assert found.error == pytest.approx((10 + 0 + 200) / 3) and found.least_error == found.error / 2
    assert found.acc_50 == pytest.approx(2 / 3) and found.spearman == 1 and found.most_spearman == 1
    assert found.error_of_others == found.error and (found.n, found.answers) == (3, 2)


def test_one_answer_says_nothing() -> None:
    with pytest.raises(InputError, match="has 1 answers to each of 3 prompts"):
        limit(np.array([[1], [2], [3]]))
    with pytest.raises(InputError, match="all answers are as long"):
        limit(np.full((4, 3), 7))
