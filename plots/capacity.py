"""Capacity plans drawn: SLO against rate, cost against latency, sensitivity. Takes plans; runs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.planning.answer import Answer, Plan, Sensitivity
from sim.planning.verdict import FleetPoint, Measured, failures_of
from sim.results.metrics import LATENCIES
from sim.results.session_metrics import SESSION_BOUNDS

from . import style

MARKERS = "osD^vP*X"
WIDTH = 5.2


def axis_label(bound: str) -> str:
    """What a bound bounds, with its unit."""
    if bound == "attainment":
        return "Requests within\nthe goodput bounds (%)"
    metric, _, statistic = bound.rpartition("_")
    title = SESSION_BOUNDS[metric] if metric in SESSION_BOUNDS else LATENCIES[metric].title
    return f"{title},\n{statistic} (ms)"


def rate_curve(answers: Sequence[Answer], bound: str, ax: Axes, asked: float | None = None) -> None:
    """One bound against the rate, one line per answer, with intervals; the bound as a line across.

    `asked`: the rate asked for, marked. Rates at which the backlog grows or requests fail have no
    value: they are marked at the upper edge.
    """
    share = bound == "attainment"
    scale = 100.0 if share else 1.0
    limit = scale * next(_named(p, bound).limit for a in answers for p in a.curve)
    values = [limit]
    unstable: list[tuple[int, float]] = []
    failing: list[tuple[int, float]] = []
    for k, answer in enumerate(answers):
        unstable += [(k, p.rate) for p in answer.curve if p.verdict == "unstable"]
        stable = [p for p in answer.curve if p.verdict != "unstable"]
        failing += [(k, p.rate) for p in stable if math.isinf(_named(p, bound).mean)]
        values += _draw_curve(answer, bound, scale, k, ax)
    _draw_limit(limit, ax)
    if share:
        ax.set_ylim(max(0.0, min(values) - 8), 103)
    else:
        positive = [value for value in values if value > 0]
        style.log_scale(ax, "y", min(positive) / 2, max(positive) * 4)
    _mark_above(unstable, "x", "backlog grows: no latency", ax)
    _mark_above(failing, "v", "requests fail: no latency", ax)
    if asked is not None:
        ax.axvline(asked, color=style.EDGE, linewidth=0.9, linestyle=(0, (1, 2)), label="rate asked for")
    ax.set_xlim(left=0)
    ax.set_xlabel("Request rate (requests/s)")
    ax.set_ylabel(axis_label(bound))


def _mark_above(points: Sequence[tuple[int, float]], marker: str, label: str, ax: Axes) -> None:
    """A mark at the upper edge for each (answer, rate) that has no value."""
    for place, (k, rate) in enumerate(points):
        ax.plot(
            [rate],
            [0.97],
            transform=ax.get_xaxis_transform(),
            marker=marker,
            color=style.colour(k),
            markersize=7,
            markeredgewidth=1.8,
            linestyle="none",
            clip_on=False,
            label=None if place else label,
        )


def _draw_curve(answer: Answer, bound: str, scale: float, k: int, ax: Axes) -> list[float]:
    """The line of one answer with its intervals; returns the means drawn."""
    stable = [(p.rate, _named(p, bound)) for p in answer.curve if p.verdict != "unstable"]
    points = [(rate, at) for rate, at in stable if math.isfinite(at.mean)]
    mean, low, high = (
        np.array([min(getattr(at, part), 1e12) for _, at in points]) * scale
        for part in ("mean", "low", "high")
    )
    ax.errorbar(
        np.array([rate for rate, _ in points]),
        mean,
        yerr=np.abs(np.vstack([mean - low, high - mean])) if points else None,
        color=style.colour(k),
        linestyle=style.dash(k),
        marker=MARKERS[k % len(MARKERS)],
        markersize=4.5,
        linewidth=1.5,
        elinewidth=1.0,
        capsize=2.5,
        label=_label(answer),
    )
    return list(map(float, mean))


def _draw_limit(limit: float, ax: Axes) -> None:
    """The bound as a line across, named at its left end."""
    ax.axhline(limit, color=style.EDGE, linewidth=1.2, linestyle=(0, (8, 3)))
    ax.annotate(
        f"bound {limit:,.5g}",
        (0.01, limit),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=style.FONT_SIZE - 1,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )


def curves_figure(plan: Plan) -> Figure | None:
    """A panel per bound; None where no curve was simulated."""
    answers = [a for a in plan.answers if a.curve]
    if not answers:
        return None
    bounds = [m.name for m in answers[0].curve[0].measured]
    fig, axes = style.figure(WIDTH, 2.9 * len(bounds) + 0.35 * (len(answers) + 1), rows=len(bounds))
    for bound, ax in zip(bounds, axes, strict=True):
        rate_curve(answers, bound, ax, plan.question.request_rate)
    for ax in axes[:-1]:
        ax.set_xlabel("")
    _legend_below(fig, axes)
    return fig


def pareto(answers: Sequence[Answer], ax: Axes) -> None:
    """Cost or replicas against the first bound's value, each fleet that was simulated a point.

    Filled: it meets the SLO; hollow: that was not shown. The line joins the fleets that no other beats in
    both. Fleets that cannot keep up, or in which requests fail, have no latency and are left out, which is
    said. Prices are used where every answer has one.
    """
    priced = all(a.price_per_hour is not None for a in answers)
    first = next(p.measured[0].name for a in answers for p in a.points)
    scale = 100.0 if first == "attainment" else 1.0
    every: list[tuple[float, float]] = []
    for k, answer in enumerate(answers):
        points = sorted(_distinct(answer), key=lambda p: p.replicas)
        unit = (answer.price_per_hour or 0.0) if priced else 1.0
        for meets, fill in ((True, style.colour(k)), (False, "white")):
            chosen = [p for p in points if (p.verdict == "meets") == meets]
            if not chosen:
                continue
            x = [(p.replicas + answer.spare) * unit for p in chosen]
            y = [p.measured[0].mean * scale for p in chosen]
            every += list(zip(x, y, strict=True))
            ax.plot(
                x,
                y,
                linestyle="none",
                marker=MARKERS[k % len(MARKERS)],
                markersize=6,
                markerfacecolor=fill,
                markeredgecolor=style.colour(k),
                markeredgewidth=1.3,
                label=_place(answer) if meets else None,
            )
    ax.plot(
        [],
        [],
        linestyle="none",
        marker="o",
        markerfacecolor="white",
        markeredgecolor=style.EDGE,
        label="hollow: SLO not shown to be met",
    )
    front = _front(every, higher_is_better=first == "attainment")
    if front:
        ax.plot(*zip(*front, strict=True), color=style.EDGE, linewidth=1.0, zorder=0, label="Pareto front")
        low, high = min(x for x, _ in every), max(x for x, _ in every)
        style.log_scale(ax, "x", low / 1.3, high * 1.3)
        if first != "attainment":
            style.log_scale(ax, "y", min(y for _, y in every) / 1.6, max(y for _, y in every) * 1.6)
    else:
        style.say(ax, "No fleet that was simulated keeps up and serves every request.")
    ax.set_xlabel("Cost of the fleet (USD/hour)" if priced else "Replicas")
    ax.set_ylabel(axis_label(first))


def pareto_figure(plan: Plan) -> Figure | None:
    """`pareto` as a figure, its legend below; None where the question was the highest rate of one size."""
    if plan.question.request_rate is None:
        return None
    fig, (ax,) = style.figure(WIDTH, 3.1 + 0.4 * len(plan.answers))
    pareto(plan.answers, ax)
    _legend_below(fig, [ax])
    failing = [p for a in plan.answers for p in a.points if p.failed]
    if failing:
        worst = max(failing, key=lambda p: p.failed)
        text = f"Where requests fail there is no latency; {worst.replicas} replicas: {failures_of(worst)}"
        fig.suptitle(style.plain(text), fontsize=style.FONT_SIZE - 1, wrap=True)
    return fig


def tornado(sensitivity: Sensitivity, ax: Axes) -> None:
    """Bars from the highest rate with less of an input to that with more of it, widest on top."""
    swings = sensitivity.swings
    ax.axvline(sensitivity.rate, color=style.EDGE, linewidth=1.2)
    ends = [sensitivity.rate]
    for row, swing in enumerate(swings):
        for end, colour, hatch in ((swing.low, style.COLOURS[2], ""), (swing.high, style.COLOURS[1], "////")):
            value = end or 0.0
            ends.append(value)
            ax.barh(
                row,
                value - sensitivity.rate,
                left=sensitivity.rate,
                height=0.55,
                color=colour,
                hatch=hatch,
                edgecolor=style.EDGE,
                linewidth=0.5,
            )
        _label_ends(
            ax, row, sensitivity.rate, swing.low or 0.0, swing.low_label, swing.high or 0.0, swing.high_label
        )
    low, high = min(ends), max(ends)
    room = max(high - low, 0.05 * sensitivity.rate) * 0.62
    ax.set_xlim(low - room, high + room)
    ax.set_ylim(len(swings) - 0.5, -0.5)
    ax.set_yticks(range(len(swings)), [s.what.replace(" ", "\n") for s in swings], fontsize=style.FONT_SIZE)
    ax.tick_params(axis="y", length=0)
    style.tidy(ax, "x")
    ax.set_xlabel("Highest rate of this fleet within the SLO (requests/s)")


def tornado_figure(sensitivity: Sensitivity) -> Figure:
    """`tornado` as a figure; where no input moves the answer, it says so."""
    fig, (ax,) = style.figure(WIDTH, 1.1 + 0.55 * max(len(sensitivity.swings), 1))
    if sensitivity.swings:
        tornado(sensitivity, ax)
    else:
        style.say(ax, "None of the inputs that were changed moves the answer.")
    return fig


def _label_ends(
    ax: Axes, row: int, base: float, low: float, low_label: str, high: float, high_label: str
) -> None:
    """A label at each end of a bar; where both ends lie on one side, the nearer one is written across."""
    for value, text, other in ((low, low_label, high), (high, high_label, low)):
        left = value < base or (value == base and other > base)
        same_side = (low - base) * (high - base) > 0
        nearer = same_side and abs(value - base) < abs(other - base)
        if nearer:
            left = not left
            value = base
        ax.annotate(
            style.plain(text),
            (value, row),
            (-4 if left else 4, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=style.FONT_SIZE - 1,
        )


def _named(point: FleetPoint, bound: str) -> Measured:
    return next(m for m in point.measured if m.name == bound)


def _distinct(answer: Answer) -> list[FleetPoint]:
    """The fleets at the rate asked for that have a latency, each once."""
    tried = {p.replicas: p for p in (answer.one_more, *answer.points) if p is not None}
    return [
        p
        for p in tried.values()
        if p.verdict != "unstable" and math.isfinite(p.measured[0].mean) and p.measured[0].mean > 0
    ]


def _front(points: list[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The points that no other beats in both, from left to right."""
    kept: list[tuple[float, float]] = []
    sign = -1.0 if higher_is_better else 1.0
    for x, y in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not kept or sign * y < sign * kept[-1][1]:
            kept.append((x, y))
    return kept


def _place(answer: Answer) -> str:
    return f"{style.shorten(answer.profile, 32)}, {style.shorten(answer.policy, 28)}"


def _label(answer: Answer) -> str:
    size = (answer.replicas or 0) - answer.spare
    return f"{size} × {style.shorten(answer.profile, 32)}, {style.shorten(answer.policy, 28)}"


def _legend_below(fig: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all axes, each label once, under the figure."""
    by_label: dict[str, Any] = {}
    for ax in axes:
        by_label |= {text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(
        list(by_label.values()),
        list(by_label),
        loc="outside lower left",
        frameon=False,
        fontsize=style.FONT_SIZE - 0.5,
        handlelength=3.0,
    )
