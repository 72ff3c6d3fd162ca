"""Quantile regression is scikit-learn's, and sees through censoring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.learning.quantile_regression import (
    censored_quantile_regression,
    conditional_distribution,
    kaplan_meier,
    quantile,
    quantile_regression,
)

sklearn = pytest.importorskip("sklearn.linear_model")


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    return columns, columns @ [1.0, 2.0, -1.0] + rng.normal(size=n), rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_it_is_as_good_as_scikit_learns(level: float) -> None:
    columns, y, weight = world(200, 1)

    def loss(coefficients: np.ndarray) -> float:
        off = y - columns @ coefficients
        return float((weight * np.where(off > 0, level * off, (level - 1) * off)).sum())

    ours = quantile_regression(columns, y, level, weight)
    theirs = sklearn.QuantileRegressor(quantile=level, alpha=0).fit(columns[:, 1:], y, sample_weight=weight)
    assert loss(ours) == pytest.approx(loss(np.append(theirs.intercept_, theirs.coef_)), rel=1e-6)
    assert abs(np.average(y < columns @ ours, weights=weight) - level) < 0.03


@pytest.mark.parametrize("level", [0.25, 0.5, 0.6])
def test_quantiles_are_found_where_a_third_is_cut(level: float) -> None:
    columns, y, _ = world(3000, 2)
    cap = float(np.quantile(y, 0.67))
    cut, seen, weight = y > cap, np.minimum(y, cap), np.ones(len(y))
    below = conditional_distribution(columns @ [1.0, 2.0, -1.0], seen, cut, weight)
    found = censored_quantile_regression(columns, seen, level, weight, below, cut)
    whole = quantile_regression(columns, y, level, weight)
    blind = quantile_regression(columns, seen, level, weight)
    assert np.abs(found - whole).max() < 0.25 * np.abs(blind - whole).max()


def test_nothing_is_cut_is_the_plain_regression() -> None:
    columns, y, weight = world(100, 3)
    none = np.zeros(len(y), dtype=np.bool_)
    assert (conditional_distribution(y, y, none, weight) == 1).all()
    both = (
        censored_quantile_regression(columns, y, 0.3, weight, np.ones(len(y)), none),
        quantile_regression(columns, y, 0.3, weight),
    )
    assert np.array_equal(*both)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(1, 4)), min_size=1, max_size=40))
def test_kaplan_meier_by_hand(rows: list[tuple[int, bool, int]]) -> None:
    y, cut, weight = (np.array(column) for column in zip(*rows, strict=True))
    values, probability = kaplan_meier(y.astype(float), cut.astype(bool), weight.astype(float))
    survival, expected = 1.0, {}
    for value in sorted(set(y[~cut.astype(bool)].tolist())):
        ended = weight[(y == value) & ~cut.astype(bool)].sum()
        survival *= 1 - ended / weight[y >= value].sum()
        expected[value] = 1 - survival
    assert values.tolist() == list(expected) and np.allclose(probability, list(expected.values()))
    if not cut.any():
        assert quantile(values, probability, 1.0) == y.max()
        assert quantile(values, probability, 0.0) == y.min()
