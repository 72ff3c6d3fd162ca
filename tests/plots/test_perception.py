from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plots import perception, style

TRUTH = np.random.default_rng(7).integers(1, 513, 600)
STEPS = np.clip((TRUTH + np.random.default_rng(8).normal(0, 60, 600)) // 50 * 50 + 50, 50, 550).astype(
    np.int64
)


@pytest.mark.parametrize("predicted", [STEPS, TRUTH, np.full(600, 100)])
def test_every_request_is_in_a_cell(predicted: Any) -> None:
    _, (ax,) = style.figure(5, 4)
    perception.predicted_against_actual(predicted, TRUTH, ax)
    assert ax.collections[0].get_array().sum() == 600
    assert ax.get_xlabel() == "Actual length (tokens)" and ax.get_ylabel() == "Predicted length (tokens)"


def test_the_diagonal_and_its_band() -> None:
    _, (ax,) = style.figure(5, 4)
    perception.predicted_against_actual(STEPS, TRUTH, ax)
    offsets = [float(line.get_ydata()[0] - line.get_xdata()[0]) for line in ax.get_lines()]
    assert offsets == [0, -50, 50]


def test_cells_of_a_perfect_predictor_lie_on_the_diagonal() -> None:
    _, (ax,) = style.figure(5, 4)
    perception.predicted_against_actual(TRUTH, TRUTH, ax)
    rows, columns = np.nonzero(ax.collections[0].get_array().filled(0))
    assert np.abs(rows - columns).max() <= 1


def test_error_curve_marks_the_shares_within_50_and_100() -> None:
    _, (ax,) = style.figure(5, 4)
    perception.error_cdf(STEPS, TRUTH, ax)
    off = np.abs(STEPS - TRUTH)
    curve, at_50, at_100, paper, mean = ax.get_lines()
    assert (at_50.get_xdata()[0], at_100.get_xdata()[0]) == (50, 100)
    assert at_50.get_ydata()[0] == pytest.approx(100 * (off <= 50).mean())
    assert at_100.get_ydata()[0] == pytest.approx(100 * (off <= 100).mean())
    assert list(paper.get_ydata()) == [59, 81]
    assert mean.get_xdata()[0] == pytest.approx(off.mean())
    assert np.interp(50.5, curve.get_xdata()[1:], curve.get_ydata()[1:]) == pytest.approx(
        at_50.get_ydata()[0], abs=0.5
    )
    assert ax.get_xlabel().endswith("(tokens)") and ax.get_ylabel().endswith("(%)")


def test_error_curve_of_a_perfect_predictor_is_visible() -> None:
    _, (ax,) = style.figure(5, 4)
    perception.error_cdf(TRUTH, TRUTH, ax)
    curve = ax.get_lines()[0]
    assert curve.get_xdata()[-1] >= 100 and curve.get_ydata()[-1] == 100


def test_report_has_no_overlapping_text(touching: Callable[..., Any], all_texts: Callable[..., Any]) -> None:
    fig = perception.report(STEPS, TRUTH, "a title with $ in it, " * 12)
    assert touching(fig, all_texts(fig)) == []
