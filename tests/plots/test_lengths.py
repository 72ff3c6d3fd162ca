from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plots import lengths, style
from traces.trace import Trace


@pytest.fixture
def timed() -> Trace:
    n, rng = 400, np.random.default_rng(5)
    return Trace(
        name="timed",
        request_id=np.arange(n),
        prompt_tokens=rng.lognormal(7, 1.5, n).astype(np.int64) + 1,
        output_tokens=rng.lognormal(4, 1.0, n).astype(np.int64) + 1,
        arrival_s=np.cumsum(rng.exponential(2.0, n)),
        notes=("prompt lengths are drawn, not measured",),
    )


def test_histograms_hold_every_request(trace: Trace, timed: Trace) -> None:
    for given in (trace, timed):
        _, (ax,) = style.figure(5, 4)
        lengths.length_histograms(given, ax)
        shares = [patch.get_data().values.sum() for patch in ax.patches]
        assert shares == pytest.approx([100, 100])
        assert "(tokens" in ax.get_xlabel() and ax.get_ylabel().endswith("(%)")


def test_histogram_bars_count_what_lies_between_their_edges(trace: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    lengths.length_histograms(trace, ax)
    data = ax.patches[1].get_data()
    for low, high, share in zip(data.edges, data.edges[1:], data.values, strict=False):
        inside = ((trace.output_tokens > low) & (trace.output_tokens < high)).sum()
        assert share == pytest.approx(100 * inside / len(trace))


def test_length_axis_is_logarithmic_where_a_tail_is_heavy(trace: Trace, timed: Trace) -> None:
    scales = []
    for given in (trace, timed):
        _, (ax,) = style.figure(5, 4)
        lengths.length_histograms(given, ax)
        scales.append(ax.get_xscale())
    assert scales == ["linear", "log"]


def test_histograms_of_equal_lengths(trace: Trace) -> None:
    same = replace(trace, prompt_tokens=np.full(96, 7), output_tokens=np.full(96, 7))
    _, (ax,) = style.figure(5, 4)
    lengths.length_histograms(same, ax)
    assert [patch.get_data().values.max() for patch in ax.patches] == [100, 100]


def test_arrival_rate_holds_every_request(timed: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    lengths.arrival_rate(timed, ax)
    data = ax.patches[0].get_data()
    assert np.array_equal(ax.patches[1].get_data().edges, data.edges), "the outline is that of the area"
    seconds = {"s": 1, "min": 60, "h": 3600}[ax.get_xlabel().split("(")[1][:-1]]
    assert (data.values * np.diff(data.edges)).sum() * seconds == pytest.approx(400)
    assert "requests/s" in ax.get_ylabel()


def test_burstiness_of_poisson_arrivals_lies_near_one(timed: Trace) -> None:
    _, (ax,) = style.figure(5, 4)
    lengths.burstiness(timed, ax)
    line = ax.get_lines()[0]
    assert np.median(line.get_ydata()) == pytest.approx(1, abs=0.35)
    assert ax.get_lines()[1].get_ydata()[0] == 1
    assert "(s," in ax.get_xlabel() and "variance / mean" in ax.get_ylabel()


@pytest.mark.parametrize(("times", "reason"), [(None, "no arrival times"), (np.zeros(96), "arrive at once")])
def test_without_times_there_is_a_sentence(trace: Trace, times: Any, reason: str) -> None:
    for draw in (lengths.arrival_rate, lengths.burstiness):
        _, (ax,) = style.figure(5, 4)
        draw(replace(trace, arrival_s=times), ax)
        assert reason in ax.texts[0].get_text()
        assert not ax.lines and not ax.patches


def test_overview_shows_three_panels_and_the_notes(
    timed: Trace, trace: Trace, touching: Callable[..., Any], all_texts: Callable[..., Any]
) -> None:
    for given in (timed, trace):
        fig = lengths.overview(given)
        assert len(fig.axes) == 3
        assert touching(fig, all_texts(fig)) == []
    assert any("drawn, not measured" in t.get_text() for t in all_texts(lengths.overview(timed)))


@pytest.mark.parametrize(("span_s", "unit"), [(60.0, "(s)"), (3600.0, "(min)"), (1e5, "(h)")])
def test_time_axis_has_a_unit_that_fits(timed: Trace, span_s: float, unit: str) -> None:
    _, (ax,) = style.figure(5, 4)
    lengths.arrival_rate(replace(timed, arrival_s=np.linspace(0, span_s, 400)), ax)
    assert ax.get_xlabel().endswith(unit)
