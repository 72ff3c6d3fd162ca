from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from plots import sensitivity, style

POLICIES = ("sequence", "sequence:vbs=memory,fcr=on,margin=0.9")


def table(misses: tuple[float, ...] = (0.0,)) -> pd.DataFrame:
    rows = [
        (policy, sigma, miss, 200 * sigma + 100 * miss + seed, seed, 2.0 + k - sigma - miss + 0.1 * seed)
        for k, policy in enumerate(POLICIES)
        for miss in misses
        for sigma in (0.4, 0.0, 0.2)
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows, columns=["policy", "sigma", "miss", "mean_error", "seed", "throughput_ratio"])


def costs() -> pd.DataFrame:
    rows = [("t0.0", 0.78, 0.0, 2.2), ("t0.7", 0.48, 0.28, 1.55), ("largest", 0.61, 0.05, np.nan)]
    return pd.DataFrame(
        rows, columns=["predictor", "effective_token_ratio", "failure_ratio", "throughput_ratio"]
    )


def samples() -> tuple[Any, Any]:
    rng = np.random.default_rng(2)
    output = rng.integers(1, 513, 300)
    noisy = [np.clip(output + rng.normal(0, s, 300).astype(np.int64), 1, 514) for s in (20, 60)]
    return np.column_stack([np.where(output == 512, 514, output), *noisy]), output


def test_gain_is_the_mean_over_seeds_in_order_of_the_error() -> None:
    _, (ax,) = style.figure(7, 4)
    sensitivity.gain(table(), ax)
    first = ax.get_lines()[0]
    assert first.get_xdata() == pytest.approx([1, 41, 81])
    assert first.get_ydata() == pytest.approx([2.1, 1.9, 1.7])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(1.6) and band[:, 1].max() == pytest.approx(2.2)


def test_gain_has_a_line_at_one_and_units() -> None:
    _, (ax,) = style.figure(7, 4)
    sensitivity.gain(table(), ax)
    assert list(ax.get_lines()[-1].get_ydata()) == [1, 1]
    assert ax.get_xlabel().endswith("(tokens)") and "ratio to vanilla" in ax.get_ylabel()


def test_gain_draws_each_share_of_misses_by_itself() -> None:
    _, (ax,) = style.figure(7, 4)
    sensitivity.gain(table((0.0, 0.1)), ax)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert len(texts) == 5
    assert sum("10 % misses" in t for t in texts) == 2
    lines = ax.get_lines()[:4]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == 4


def test_gain_is_one_line_where_sigma_and_misses_grow_together() -> None:
    together = table().assign(miss=lambda rows: rows["sigma"] / 4)
    _, (ax,) = style.figure(7, 4)
    sensitivity.gain(together, ax)
    assert [len(line.get_xdata()) for line in ax.get_lines()[:2]] == [3, 3]
    assert len(ax.get_legend().get_texts()) == 3


def test_gain_figure_holds_its_legend() -> None:
    fig = sensitivity.gain_figure(table((0.0, 0.1, 0.2, 0.3, 0.4, 0.5)))
    fig.draw_without_rendering()
    box = fig.axes[0].get_legend().get_window_extent()
    assert box.y0 >= 0 and box.x1 <= fig.bbox.x1


def test_variance_draws_the_distance_of_every_other_answer() -> None:
    drawn, output = samples()
    fig = Figure(figsize=(13, 5), layout="constrained")
    sensitivity.variance(drawn, ("t0.0", "t0.3", "t0.7"), output, costs(), fig)
    lines = fig.axes[0].get_lines()
    assert len(lines) == 2, "the answer that was run is no distance from itself"
    for line, k in zip(lines, (1, 2), strict=True):
        off = np.sort(np.abs(np.minimum(drawn[:, k], 512) - output))
        assert line.get_xdata()[1:] == pytest.approx(off)
    assert fig.axes[0].get_xlabel().endswith("(tokens)")


def test_variance_bars_are_the_costs() -> None:
    drawn, output = samples()
    fig = sensitivity.variance_figure(drawn, ("t0.0", "t0.3", "t0.7"), output, costs())
    widths = [[bar.get_width() for bar in ax.containers[0]] for ax in fig.axes[1:]]
    assert widths == [pytest.approx([78, 48, 61]), pytest.approx([0, 28, 5]), pytest.approx([2.2, 1.55, 0])]
    assert fig.axes[3].texts[2].get_text() == "undefined"
    assert [t.get_text() for t in fig.axes[1].get_yticklabels()] == ["t0.0", "t0.7", "largest"]


def test_no_text_overlaps(touching: Callable[..., Any], all_texts: Callable[..., Any]) -> None:
    drawn, output = samples()
    for fig in (
        sensitivity.gain_figure(table((0.0, 0.1))),
        sensitivity.variance_figure(drawn, ("t0.0", "t0.3", "t0.7"), output, costs()),
    ):
        assert touching(fig, all_texts(fig)) == []
