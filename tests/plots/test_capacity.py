"""Figures of a plan: what is drawn is what was found, and no text lies on another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from plots import capacity
from sim import Plan
from sim.planning.answer import Sensitivity, Swing

Touching = Callable[[Figure, Iterable[Text]], list[tuple[str, str]]]
Collect = Callable[[Figure], list[Text]]


def drawn(planned: Plan) -> list[Figure]:
    assert planned.sensitivity is not None
    figures = [
        capacity.curves_figure(planned),
        capacity.pareto_figure(planned),
        capacity.tornado_figure(planned.sensitivity),
    ]
    return [figure for figure in figures if figure is not None]


def test_every_axis_says_what_and_in_which_unit(
    planned: Plan, all_texts: Collect, touching: Touching
) -> None:
    figures = drawn(planned)
    assert len(figures) == 3
    for fig in figures:
        labels = [axis.get_label().get_text() for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)]
        assert any("(" in label or label == "Replicas" for label in labels)
        assert not touching(fig, all_texts(fig))


def test_a_curve_goes_through_its_points(planned: Plan) -> None:
    fig = capacity.curves_figure(planned)
    assert fig is not None
    for k, ax in enumerate(fig.axes):
        for answer, container in zip([a for a in planned.answers if a.curve], ax.containers, strict=True):
            stable = [p for p in answer.curve if p.verdict != "unstable"]
            line: Any = container[0]  # type: ignore[index]
            assert line.get_xdata() == pytest.approx([p.rate for p in stable])
            scale = 100 if k == 1 else 1
            assert line.get_ydata() == pytest.approx([p.measured[k].mean * scale for p in stable])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_no_point_beats_the_front(points: list[tuple[int, int]]) -> None:
    front = capacity._front([(float(x), float(y)) for x, y in points], higher_is_better=False)
    for x, y in points:
        assert any(a <= x and b <= y for a, b in front)
    for x, y in front:
        assert not any((a < x and b <= y) or (a <= x and b < y) for a, b in points)


def test_the_tornado_has_its_widest_bar_on_top(all_texts: Collect, touching: Touching) -> None:
    swings = (
        Swing("Step time", "−10 %", "+10 %", 12.0, 8.0),
        Swing("Output length", "÷ 1.25", "× 1.25", 11.0, 9.5),
        Swing("Burstiness", "Poisson", "gamma, burstiness 0.5", 10.2, 10.1),
        Swing("KV capacity", "−20 %", "+20 %", None, 10.0),
    )
    fig = capacity.tornado_figure(Sensitivity("continuous", "tiny", 2, 10.0, swings, ()))
    (ax,) = fig.axes
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert sorted(ends[0] + ends[1]) == pytest.approx([8, 10, 10, 12])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert not touching(fig, all_texts(fig))


def test_where_nothing_moves_the_answer_it_says_so() -> None:
    fig = capacity.tornado_figure(Sensitivity("continuous", "tiny", 2, 10.0, (), ("Step time",)))
    assert fig.axes[0].texts


def test_without_curves_there_is_no_figure_of_them(planned: Plan) -> None:
    bare = replace(planned, answers=tuple(replace(a, curve=()) for a in planned.answers))
    assert capacity.curves_figure(bare) is None
