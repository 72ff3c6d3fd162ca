"""Figures of a validation: errors per metric, single requests, batches over time. Takes checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import style
from sim.results.metrics import metric
from sim.results.result import Result

from .report import PolicyCheck

SHOWN = ("request_throughput", "median_e2el_ms", "p99_e2el_ms", "mean_ttft_ms", "mean_tpot_ms")
PANELS_PER_ROW = 3


def errors(cases: Sequence[PolicyCheck], key: str, ax: Axes) -> None:
    """The error of one metric, a bar per check; whiskers: the largest distance of a run from the median."""
    judged = [case.figures[key] for case in cases]
    place = np.arange(len(cases))
    error = np.array([np.nan if j.error_fraction is None else 100 * j.error_fraction for j in judged])
    noise = np.array([0.0 if j.noise_fraction is None else 100 * j.noise_fraction for j in judged])
    ax.barh(place, error, height=0.6, color=[style.colour(k) for k in range(len(cases))])
    ax.errorbar(error, place, xerr=noise, fmt="none", ecolor=style.EDGE, elinewidth=1.0, capsize=3)
    ax.axvline(0, color="black", linewidth=1.0)
    reach = float(np.nanmax(np.abs(error) + noise, initial=1.0)) * 1.15
    ax.set_xlim(-reach, reach)
    ax.set_ylim(len(cases) - 0.5, -0.5)
    ax.set_title(metric(key).name, fontsize=style.FONT_SIZE)
    ax.set_xlabel("predicted / measured - 1 (%)")
    style.tidy(ax, "x")


def error_figure(cases: Sequence[PolicyCheck]) -> Figure:
    """`errors` of the main metrics, side by side."""
    fig, axes = style.figure(3.4 + 2.1 * len(SHOWN), 1.4 + 0.45 * len(cases), cols=len(SHOWN))
    for ax, key in zip(axes, SHOWN, strict=True):
        errors(cases, key, ax)
        ax.set_yticks(np.arange(len(cases)), [""] * len(cases))
    axes[0].set_yticks(
        np.arange(len(cases)), [f"{style.plain(c.policy)}\n({c.predictor})" for c in cases], fontsize=7
    )
    _note_left_out(fig, cases)
    return fig


def requests(case: PolicyCheck, ax: Axes) -> None:
    """E2EL of every request, predicted against measured (in the run nearest to the median)."""
    measured = np.asarray(case.typical.columns["e2el_ms"]) / 1e3
    predicted = np.asarray(case.predicted.columns["e2el_ms"]) / 1e3
    both = ~np.isnan(measured) & ~np.isnan(predicted)
    ax.scatter(measured[both], predicted[both], s=10, alpha=0.6, color=style.USEFUL, linewidths=0)
    end = float(max(measured[both].max(initial=0.0), predicted[both].max(initial=0.0))) * 1.05 or 1.0
    ax.plot([0, end], [0, end], color="black", linewidth=0.8)
    ax.set(xlim=(0, end), ylim=(0, end), xlabel="measured E2EL (s)", ylabel="predicted E2EL (s)")
    ax.set_title(_title(case), fontsize=7)


def request_figure(cases: Sequence[PolicyCheck]) -> Figure:
    """`requests` of every check."""
    columns = min(PANELS_PER_ROW, len(cases))
    rows = -(-len(cases) // columns)
    fig, axes = style.figure(3.4 * columns, 3.3 * rows, rows, columns)
    for ax, case in zip(axes, cases, strict=False):
        requests(case, ax)
    for ax in axes[len(cases) :]:
        ax.set_axis_off()
    _note_left_out(fig, cases)
    return fig


def timeline(case: PolicyCheck, ax: Axes) -> None:
    """Batches over time, their height the number of rows: simulated above the axis, real below."""
    for result, sign, colour in ((case.predicted, 1, style.COLOURS[2]), (case.typical, -1, style.COLOURS[1])):
        _batches(result, sign, colour, ax)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    ax.set_ylabel("rows", fontsize=style.FONT_SIZE)
    ax.set_title(_title(case).replace("\n", " "), fontsize=style.FONT_SIZE, loc="left")
    ax.margins(x=0.01)
    style.tidy(ax, "x")


def timeline_figure(cases: Sequence[PolicyCheck]) -> Figure:
    """`timeline` of every check, one below the other."""
    fig, axes = style.figure(10, 0.8 + 1.5 * len(cases), rows=len(cases))
    for ax, case in zip(axes, cases, strict=True):
        timeline(case, ax)
    axes[-1].set_xlabel("Seconds since the first arrival (above: simulated, below: measured)")
    return fig


def _batches(result: Result, sign: int, colour: str, ax: Axes) -> None:
    origin = float(np.min(result.columns["arrival_s"]))
    shown = [b for b in result.batches if b.end_s > b.start_s]
    ax.bar(
        [b.start_s - origin for b in shown],
        [sign * len(b.request_ids) for b in shown],
        width=[b.end_s - b.start_s for b in shown],
        align="edge",
        color=colour,
        edgecolor=style.EDGE,
        linewidth=0.3,
        hatch=None if sign > 0 else "///",
    )


def _note_left_out(fig: Figure, cases: Sequence[PolicyCheck]) -> None:
    """Say above a figure which requests its latencies leave out, simulated or measured."""
    style.note_left_out(fig, [result.summary for c in cases for result in (c.predicted, *c.measured)])


def _title(case: PolicyCheck) -> str:
    return f"{style.plain(case.policy)}\n({case.predictor})"
