from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from plots import starvation, style

LABELS = (
    "first come, first served",
    "shortest predicted first",
    "ageing 5 s",
    "ageing 1 s",
    "fair to every level",
)


def table() -> pd.DataFrame:
    rows = [
        (label, aging, seed, mean * 1e3 + seed, p99 * 1e3, p99 * 300)
        for label, aging, mean, p99 in zip(
            LABELS,
            (np.nan, np.nan, 5.0, 1.0, np.nan),
            (17, 11, 12, 15, 18),
            (40, 108, 57, 42, 50),
            strict=True,
        )
        for seed in (0, 2)
    ]
    names = ["label", "aging_s", "seed", "mean_e2el_ms", "p99_e2el_ms", "long_e2el_ms"]
    return pd.DataFrame(rows, columns=names)


def test_ageing_is_a_line_in_order_of_its_seconds_and_the_others_are_points() -> None:
    _, (ax,) = style.figure(5, 4)
    starvation.trade_off(table(), ax)
    line, *points = ax.get_lines()
    assert line.get_xdata() == pytest.approx([15.001, 12.001]) and line.get_ydata() == pytest.approx([42, 57])
    assert [t.get_text() for t in ax.texts] == ["1", "5"]
    assert [p.get_label() for p in points] == [LABELS[0], LABELS[1], LABELS[4]]
    assert len({p.get_marker() for p in (line, *points)}) == 4, "they are told apart without colour"
    assert ax.get_xlim()[0] == ax.get_ylim()[0] == 0


def test_axes_have_units_and_unknown_columns_are_refused() -> None:
    _, (ax,) = style.figure(5, 4)
    starvation.trade_off(table(), ax, "long_e2el_ms")
    assert ax.get_xlabel() == "Mean E2EL (s)" and ax.get_ylabel().endswith("(s)")
    with pytest.raises(ValueError, match="column"):
        starvation.trade_off(table(), ax, "speed")


def test_it_draws_without_ageing() -> None:
    _, (ax,) = style.figure(5, 4)
    starvation.trade_off(table()[lambda rows: rows["aging_s"].isna()], ax)
    assert len(ax.get_lines()) == 3


def test_no_text_overlaps(touching: Callable[..., Any], all_texts: Callable[..., Any]) -> None:
    fig = starvation.figure(table())
    assert touching(fig, all_texts(fig)) == []
