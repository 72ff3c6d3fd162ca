from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from plots import load, style

POLICIES = (
    "vanilla",
    "sequence:max_wait_s=10",
    "continuous",
    "continuous:order=shortest-predicted",
    "continuous:order=shortest-remaining,admission=predicted",
)
RATES = (0.5, 2.0, 10.0, 20.0)


def table() -> pd.DataFrame:
    rows = [
        {
            "policy": policy,
            "request_rate": rate,
            "seed": seed,
            **dict.fromkeys(load.PANELS, 1000.0 * rate * (5 - k) + 100 * seed),
            "output_throughput": 100 * rate / (1 + rate / 20),
            "request_goodput": 0.0 if k == 0 and rate > 2 else rate * 0.9,
        }
        for k, policy in enumerate(POLICIES)
        for rate in reversed(RATES)
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_curves_are_means_over_seeds_with_a_band_and_in_the_unit_of_the_axis() -> None:
    _, (ax,) = style.figure(5, 3)
    load.curves(table(), ax, "mean_e2el_ms")
    first = ax.get_lines()[0]
    assert first.get_xdata() == pytest.approx(RATES)
    assert first.get_ydata() == pytest.approx([5 * rate + 0.1 for rate in RATES])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(2.5) and band[:, 1].max() == pytest.approx(100.2)
    assert ax.get_ylabel() == "Mean E2EL (s)" and ax.get_xlabel().endswith("(requests/s)")
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_every_point_lies_within_the_axes() -> None:
    fig = load.figure(table(), {"e2el": 30_000.0})
    for ax in fig.axes[:6]:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for line in ax.get_lines():
            assert left <= np.min(line.get_xdata()) and np.max(line.get_xdata()) <= right
            assert low <= np.min(line.get_ydata()) and np.max(line.get_ydata()) <= high


def test_an_unknown_latency_is_refused() -> None:
    _, (ax,) = style.figure(5, 3)
    with pytest.raises(ValueError, match=r"metric \(speed\) must be one of"):
        load.curves(table(), ax, "speed")


def test_goodput_names_its_bounds_and_shows_what_all_would_be() -> None:
    _, (ax,) = style.figure(5, 3)
    load.goodput(table(), ax, {"ttft": 500.0, "e2el": 30_000.0})
    assert ax.get_ylabel().split("\n") == ["Goodput (requests/s)", "within TTFT ≤ 0.5 s, E2EL ≤ 30 s"]
    every = ax.get_lines()[0]
    assert list(every.get_xdata()) == list(every.get_ydata()) == list(RATES)
    assert list(ax.get_lines()[1].get_ydata())[2:] == [0, 0]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_goodput_of_nobody_still_draws(value: float) -> None:
    fig, (ax,) = style.figure(5, 3)
    load.goodput(table().assign(request_goodput=value), ax, {"e2el": 1.0})
    fig.draw_without_rendering()
    assert ax.get_ylim()[0] > 0


def test_throughput_latency_has_a_point_per_rate() -> None:
    _, (ax,) = style.figure(5, 3)
    load.throughput_latency(table(), ax)
    lines = ax.get_lines()
    assert len(lines) == len(POLICIES) and all(len(line.get_xdata()) == len(RATES) for line in lines)
    assert lines[0].get_xdata()[-1] == pytest.approx(1000) and lines[0].get_ydata()[-1] == pytest.approx(
        100.1
    )
    assert ax.get_xlabel().endswith("(tokens/s)")


def test_lines_that_coincide_are_told_apart() -> None:
    looks = [load._look(k) for k in range(8)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 8
    assert all(a["linewidth"] >= b["linewidth"] and a["zorder"] < b["zorder"] for a, b in pairwise(looks))


def test_no_text_overlaps(touching: Callable[..., Any], all_texts: Callable[..., Any]) -> None:
    fig = load.figure(table(), {"e2el": 30_000.0})
    assert touching(fig, all_texts(fig)) == []


def test_points_whose_queue_grows_are_hollow_and_said() -> None:
    """Latencies there are those of a longer or shorter run."""
    points = table()
    frame = points.assign(queue_growth=(points["request_rate"] >= points["request_rate"].max()) * 0.1)
    _, (ax,) = style.figure(4, 3)
    load.curves(frame, ax, "mean_e2el_ms")
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert len(hollow) == frame["policy"].nunique()
    assert all(line.get_xdata().tolist() == [points["request_rate"].max()] for line in hollow)
    (legend,) = load.figure(frame, {"e2el": 1000.0}).legends
    assert "hollow: the queue grows" in legend.get_title().get_text()
    (legend,) = load.figure(points, {"e2el": 1000.0}).legends
    assert "hollow" not in legend.get_title().get_text()
