from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from plots import gain_map, style

POLICIES = ("continuous:order=shortest-predicted", "continuous:order=shortest-remaining,admission=predicted")
LOADS, SIGMAS = (0.6, 0.9, 1.2, 1.5), (0.0, 0.39, 1.5)


def table() -> pd.DataFrame:
    """A gain that grows with load and falls with the error; the second policy loses."""
    rows = [
        (
            case,
            policy,
            load,
            sigma,
            20 + 60 * sigma + seed,
            seed,
            2 ** ((load - 0.9) * 3 * (1 - sigma / 2) - k),
        )
        for case in ("7,353 KV blocks", "919 KV blocks, bursty")
        for k, policy in enumerate(POLICIES)
        for sigma in reversed(SIGMAS)
        for load in LOADS
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(
        rows, columns=["case", "policy", "load", "sigma", "mean_error", "seed", "mean_e2el_ms"]
    )
    return frame.assign(p99_e2el_ms=1.0)


def one() -> pd.DataFrame:
    frame = table()
    return frame[(frame["case"] == frame["case"][0]) & (frame["policy"] == POLICIES[0])]


def cells(ax: Any) -> np.ndarray[Any, Any]:
    return np.array([float(t.get_text()) for t in ax.texts]).reshape(len(SIGMAS), len(LOADS))


def test_a_cell_is_the_geometric_mean_over_seeds() -> None:
    frame = one()
    frame.loc[frame["seed"] == 1, "mean_e2el_ms"] *= 4
    _, (ax,) = style.figure(6, 4)
    gain_map.gain_map(frame, ax)
    expected = [[2 * 2 ** ((load - 0.9) * 3 * (1 - sigma / 2)) for load in LOADS] for sigma in SIGMAS]
    assert cells(ax) == pytest.approx(np.array(expected), abs=0.006)
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(np.array(expected))


def test_axes_say_load_in_percent_and_error_in_tokens_from_the_bottom_up() -> None:
    _, (ax,) = style.figure(6, 4)
    gain_map.gain_map(one(), ax)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["60", "90", "120", "150"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["20", "44", "110"]
    low, high = ax.get_ylim()
    assert low < high and ax.get_xlabel().startswith("Load (%") and ax.get_ylabel().endswith("(tokens)")


def test_contours_part_the_cells_on_both_sides_of_a_level() -> None:
    _, (ax,) = style.figure(6, 4)
    gain_map.gain_map(one(), ax)
    values = np.asarray(ax.images[0].get_array())
    for level, _, _, width in gain_map.CONTOURS[1:]:
        dashes = {"solid"} if level > 1 else set()
        lines = [
            x for x in ax.get_lines() if x.get_linewidth() == width and x.get_linestyle() in {"-", *dashes}
        ]
        beyond = values > level
        edges = (beyond[1:] != beyond[:-1]).sum() + (beyond[:, 1:] != beyond[:, :-1]).sum()
        assert len(lines) == edges > 0
        for line in lines:
            x, y = np.mean(line.get_xdata()), np.mean(line.get_ydata())
            sides = {
                bool(beyond[round(y + dy), round(x + dx)])
                for dx, dy in (((0.5, 0), (-0.5, 0)) if y == round(y) else ((0, 0.5), (0, -0.5)))
            }
            assert sides == {True, False}


def test_no_contour_where_nothing_is_gained() -> None:
    _, (ax,) = style.figure(6, 4)
    gain_map.gain_map(one(), ax, "p99_e2el_ms")
    assert len(ax.get_lines()) == 0


def test_a_cell_without_a_value_stays_empty() -> None:
    frame = one()
    frame.loc[frame["load"] == 0.6, "mean_e2el_ms"] = np.nan
    _, (ax,) = style.figure(6, 4)
    gain_map.gain_map(frame, ax)
    assert len(ax.texts) == len(SIGMAS) * (len(LOADS) - 1)
    assert np.ma.getmaskarray(ax.images[0].get_array())[:, 0].all()


def test_colours_read_in_grey() -> None:
    light = [float(np.dot(gain_map.COLOURS(v)[:3], (0.299, 0.587, 0.114))) for v in np.linspace(0, 1, 41)]
    assert (np.diff(light) > 0).all() and light[-1] - light[20] > 0.15 and light[20] - light[0] > 0.3


def test_numbers_stand_out_from_their_cell() -> None:
    _, (ax,) = style.figure(6, 4)
    frame = one().assign(mean_e2el_ms=lambda rows: np.geomspace(0.2, 5, len(rows)))
    gain_map.gain_map(frame, ax)
    for text in ax.texts:
        cell = gain_map.COLOURS(gain_map.SHADES(float(text.get_text())))
        light = float(np.dot(cell[:3], (0.299, 0.587, 0.114)))
        assert abs(light - (1.0 if text.get_color() == "white" else 0.0)) > 0.4


def test_figure_has_a_row_per_case_a_column_per_policy_and_one_scale() -> None:
    fig = gain_map.figure(table())
    maps = fig.axes[:4]
    assert [ax.get_title(loc="left").split("\n")[-1] for ax in maps[::2]] == [
        "7,353 KV blocks",
        "919 KV blocks, bursty",
    ]
    assert cells(maps[0]).max() > 2 > cells(maps[1]).max()
    assert len({ax.images[0].norm for ax in maps}) == 1
    assert "ratio" in fig.axes[4].get_xlabel()
    with pytest.raises(ValueError, match="metric"):
        gain_map.figure(table(), "speed")


def test_no_text_overlaps(touching: Callable[..., Any], all_texts: Callable[..., Any]) -> None:
    fig = gain_map.figure(table())
    assert touching(fig, all_texts(fig)) == []
