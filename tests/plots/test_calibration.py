from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plots import calibration, style

RNG = np.random.default_rng(4)
MEASURED = np.exp(RNG.uniform(2.5, 5.5, 300))
FITTED = MEASURED * np.exp(RNG.normal(0, 0.02, 300))
IS_DECODE = RNG.random(300) < 0.3


def test_every_iteration_is_a_point_of_its_regime() -> None:
    _, (ax,) = style.figure(5, 5)
    calibration.measured_against_fitted(MEASURED, FITTED, IS_DECODE, ax)
    mixed, decode = ax.collections[:2]
    assert np.asarray(decode.get_offsets()) == pytest.approx(np.column_stack([MEASURED, FITTED])[IS_DECODE])
    assert len(mixed.get_offsets()) == (~IS_DECODE).sum()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlim() == ax.get_ylim()
    assert "(ms" in ax.get_xlabel() and "(ms" in ax.get_ylabel()


def test_the_band_is_five_percent() -> None:
    _, (ax,) = style.figure(5, 5)
    calibration.measured_against_fitted(MEASURED, FITTED, IS_DECODE, ax)
    corners = ax.collections[2].get_paths()[0].vertices
    ratios = np.unique((corners[:, 1] / corners[:, 0]).round(6))
    assert ratios.tolist() == [0.95, 1.05]


def test_residuals_hold_every_iteration_though_one_is_far_out() -> None:
    fitted = FITTED.copy()
    fitted[np.flatnonzero(IS_DECODE)[0]] *= 5
    _, (ax,) = style.figure(5, 5)
    calibration.residuals(MEASURED, fitted, IS_DECODE, ax)
    histograms = [patch.get_data() for patch in ax.patches if hasattr(patch, "get_data")]
    assert [data.values.sum() for data in histograms] == pytest.approx([100, 100])
    decode = 100 * (fitted / MEASURED - 1)[IS_DECODE]
    assert histograms[0].values[-1] == pytest.approx(
        100 * (decode >= histograms[0].edges[-2]).sum() / IS_DECODE.sum()
    )
    assert "(%)" in ax.get_xlabel() and "beyond the axis" in ax.get_xlabel()


def test_residuals_state_the_errors_of_each_regime() -> None:
    _, (ax,) = style.figure(5, 5)
    calibration.residuals(MEASURED, FITTED, IS_DECODE, ax)
    off = 100 * np.abs(FITTED / MEASURED - 1)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    for name, rows in (("decode only", IS_DECODE), ("with prefill", ~IS_DECODE)):
        median, p90 = np.quantile(off[rows], [0.5, 0.9])
        assert f"{name}: |error| median {median:.1f} %, p90 {p90:.1f} %" in texts


@pytest.mark.parametrize("is_decode", [np.ones(300, dtype=bool), np.zeros(300, dtype=bool)])
def test_one_regime_alone_is_enough(is_decode: Any) -> None:
    fig = calibration.report(MEASURED, FITTED, is_decode, "one regime")
    assert len(fig.axes[0].get_legend().get_texts()) == 3


@pytest.mark.parametrize("stretch", [0.2, 1.0, 3.0])
def test_no_text_overlaps(
    touching: Callable[..., Any], all_texts: Callable[..., Any], stretch: float
) -> None:
    fig = calibration.report(MEASURED**stretch, FITTED**stretch, IS_DECODE, "a-profile: 300 steps")
    assert touching(fig, all_texts(fig)) == []
