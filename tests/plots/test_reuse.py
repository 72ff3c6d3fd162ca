"""Pictures of reuse and of sessions show what the tables say."""

from __future__ import annotations

import numpy as np
import pytest

from plots import lengths, reuse, style
from traces import load
from traces.reuse import reuse_of
from traces.trace import Trace


@pytest.fixture(scope="module")
def talks() -> Trace:
    return load("sessions:users=40,turns=4")


def test_the_curve_ends_at_what_an_endless_cache_finds(talks: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    reuse.cache_curve(talks, ax)
    found = reuse_of(talks)
    assert found is not None
    shares = np.asarray(ax.lines[0].get_ydata(), dtype=float)
    assert shares[-1] == pytest.approx(100 * found.most) and (np.diff(shares) >= 0).all()
    marks = [1e3 * float(np.asarray(line.get_xdata())[0]) for line in ax.lines[1:]]
    assert marks == pytest.approx([found.size_for(0.5), found.size_for(0.9)])


def test_shares_over_time_lie_between_none_and_all(talks: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    reuse.over_time(talks, ax)
    values = np.nan_to_num(ax.patches[1].get_data().values)
    assert values.min() >= 0 and values.max() <= 100 and values.max() > 50


def test_sessions_are_drawn_with_their_medians(talks: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    reuse.session_shapes(talks, ax)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0].startswith("requests per session: median 4, p99 4")
    assert labels[1].startswith("think time (s): median ")


def test_a_trace_that_knows_of_neither_keeps_its_one_row(talks: Trace, trace: Trace) -> None:
    assert len(lengths.overview(trace).axes) == 3 and len(lengths.overview(talks).axes) == 6
    for draw in (reuse.cache_curve, reuse.over_time, reuse.session_shapes):
        _, (ax,) = style.figure(5, 4)
        draw(trace, ax)
        assert not ax.lines and len(ax.texts) == 1


@pytest.mark.parametrize(
    ("gains", "agreed"),
    [([1.2, 2.0], True), ([0.98, 1.03], True), ([0.9, 0.7], True), ([0.98, 1.2], False), ([0.8, 1.2], False)],
)
def test_a_cell_is_in_brackets_where_seeds_do_not_agree(gains: list[float], agreed: bool) -> None:
    assert reuse.is_agreed(gains) == agreed
    assert reuse.cell_text(1.234, agreed) == ("1.23" if agreed else "(1.23)")
