"""What the slowest requests pay for a lower mean, by queue discipline. Takes tables; runs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.results.metrics import metric

from . import style

if TYPE_CHECKING:
    import pandas as pd

AXES = {
    "p99_e2el_ms": metric("p99_e2el_ms").axis,
    "long_e2el_ms": "Mean E2EL of the longest tenth (s)",
}
MARKERS = ("o", "s", "D", "^")


def trade_off(frame: pd.DataFrame, ax: Axes, column: str = "p99_e2el_ms") -> None:
    """Mean latency against that of the worst off: a point per discipline, ageing joined by a line.

    `frame`: columns label, aging_s (s; NaN where there is none), seed, mean_e2el_ms and `column`, one of
    `AXES`. Points are means over seeds; lower and further left is better.
    """
    if column not in AXES:
        raise ValueError(f"column ({column}) must be one of {', '.join(AXES)}")
    figures = frame.groupby("label", sort=False)[["mean_e2el_ms", column, "aging_s"]].mean()
    ageing = figures[figures["aging_s"].notna()].sort_values("aging_s")
    x, y = (ageing[name].to_numpy(dtype=float) / 1e3 for name in ("mean_e2el_ms", column))
    if len(x):
        ax.plot(
            x,
            y,
            color=style.colour(2),
            linestyle=style.dash(1),
            marker="o",
            markersize=4.5,
            label="a level per 50 predicted tokens, ageing (seconds a level)",
        )
    for at, aging in zip(zip(x, y, strict=True), ageing["aging_s"], strict=True):
        ax.annotate(f"{aging:g}", at, (5, 4), textcoords="offset points", fontsize=style.FONT_SIZE)
    for place, (label, row) in enumerate(figures[figures["aging_s"].isna()].iterrows()):
        ax.plot(
            row["mean_e2el_ms"] / 1e3,
            row[column] / 1e3,
            color=style.colour((0, 1, 4, 3)[place % 4]),
            linestyle="none",
            marker=MARKERS[(place + 1) % len(MARKERS)],
            markersize=8,
            label=style.plain(str(label)),
        )
    ax.set_xlim(0, ax.get_xlim()[1] * 1.05)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)
    ax.set_xlabel(metric("mean_e2el_ms").axis)
    ax.set_ylabel(AXES[column])


def figure(frame: pd.DataFrame) -> Figure:
    """The trade-off for the slowest hundredth, and for the requests with the longest answers."""
    fig, axes = style.figure(10.0, 4.9, cols=2)
    for ax, column in zip(axes, AXES, strict=True):
        trade_off(frame, ax, column)
    handles, texts = axes[0].get_legend_handles_labels()
    fig.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=style.FONT_SIZE,
        handlelength=3,
    )
    style.note_left_out(fig, frame.to_dict("records"))
    return fig
