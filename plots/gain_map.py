"""Where knowing response lengths pays: the gain over plain scheduling by load and prediction error, as maps.
Takes tables; runs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sim.results import metrics

from . import style

if TYPE_CHECKING:
    import pandas as pd

# Hue parts losses from gains, and luminance rises all the way, so that grey still tells more from less.
COLOURS = LinearSegmentedColormap.from_list("gain", ["#3d1650", "#8d5a8c", "#b9b9b9", "#cfd98a", "#fdf9c4"])
SHADES = LogNorm(0.25, 4.0)
"""Ratios beyond its ends have the colour of the end."""

EVEN = 1.05
"""The contours at 1 stand this factor off it: where both policies do the same, 1 itself would be noise."""
CONTOURS: tuple[tuple[float, str, Any, float], ...] = (
    (1 / EVEN, "costs 5 %", (0, (2, 1.5)), 1.4),
    (EVEN, "pays 5 %", "solid", 1.4),
    (2.0, "twice as fast", "solid", 3.0),
)


def gain_map(frame: pd.DataFrame, ax: Axes, metric: str = "mean_e2el_ms") -> None:
    """One policy in one case: the gain as cells over load and mean prediction error, with contours.

    `frame`: columns load, sigma, mean_error (tokens), seed and `metric`, the latency of the baseline over
    that of the policy, so that above 1 is better. A cell is the geometric mean over seeds; one without a
    value stays empty.
    """
    logs = frame.assign(log=np.log(frame[metric].astype(float)))
    table = logs.groupby(["sigma", "load"])["log"].mean().unstack("load").sort_index()
    errors = frame.groupby("sigma")["mean_error"].mean().sort_index()
    values: npt.NDArray[np.float64] = np.exp(table.to_numpy(dtype=float))
    ax.imshow(
        np.ma.masked_invalid(values), origin="lower", aspect="auto", cmap=COLOURS, norm=SHADES, zorder=1
    )
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = SHADES(value) < 0.36
            ax.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=style.FONT_SIZE,
                color="white" if dark else "black",
                zorder=4,
            )
    _contours(ax, values)
    style.tidy(ax, "none")
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(values.shape[1]), [f"{100 * load:.4g}" for load in table.columns])
    ax.set_yticks(range(values.shape[0]), [f"{error:.0f}" for error in errors])
    ax.tick_params(length=0)
    ax.set_xlabel("Load (% of the baseline's capacity)")
    ax.set_ylabel("Mean prediction error (tokens)")


def _contours(ax: Axes, values: npt.NDArray[np.float64]) -> None:
    """Lines along the edges of cells, between those on this side of a level and those beyond it."""
    for level, _, dash, width in CONTOURS:
        beyond = (
            np.nan_to_num(values, nan=1.0) > level if level > 1 else np.nan_to_num(values, nan=1.0) < level
        )
        rows, columns = np.nonzero(beyond[1:] != beyond[:-1])
        ends = [[(c - 0.5, r + 0.5), (c + 0.5, r + 0.5)] for r, c in zip(rows, columns, strict=True)]
        rows, columns = np.nonzero(beyond[:, 1:] != beyond[:, :-1])
        ends += [[(c + 0.5, r - 0.5), (c + 0.5, r + 0.5)] for r, c in zip(rows, columns, strict=True)]
        for (x0, y0), (x1, y1) in ends:
            ax.plot(
                [x0, x1],
                [y0, y1],
                color="black",
                linestyle=dash,
                linewidth=width,
                solid_capstyle="projecting",
                zorder=3,
            )


def figure(frame: pd.DataFrame, metric: str = "mean_e2el_ms", baseline: str = "continuous") -> Figure:
    """The map of every case (a row) and policy (a column) on one scale; `frame` as in `gain_map`, with the
    columns case and policy.
    """
    name = metrics.metric(metric).name
    cases, policies = list(dict.fromkeys(frame["case"])), list(dict.fromkeys(frame["policy"]))
    num_rows, num_loads = frame["sigma"].nunique(), frame["load"].nunique()
    width = 1.0 + len(policies) * max(3.2, 0.7 + 0.55 * num_loads)
    height = 1.5 + len(cases) * max(2.6, 0.95 + 0.36 * num_rows)
    fig, axes = style.figure(max(width, 5.0), height, len(cases), len(policies))
    labels = style.labels(policies, 30 if num_loads < 6 else 44, 3)
    lines = max(text.count("\n") for text in labels)
    names = {p: "\n" * (lines - text.count("\n")) + text for p, text in zip(policies, labels, strict=True)}
    for k, ax in enumerate(axes):
        case, policy = cases[k // len(policies)], policies[k % len(policies)]
        gain_map(frame[(frame["case"] == case) & (frame["policy"] == policy)], ax, metric)
        ax.set_title(
            f"{names[policy]}\n{style.plain(case)}" if k < len(policies) else style.plain(case),
            fontsize=style.FONT_SIZE,
            loc="left",
        )
        if k % len(policies):
            ax.set_ylabel("")
        if k < len(axes) - len(policies):
            ax.set_xlabel("")
    style.note_left_out(fig, frame.to_dict("records"))
    _scale(fig, axes, f"{name} of {style.shorten(baseline, 40)} ÷ {name} of the policy (ratio)")
    return fig


def _scale(fig: Figure, axes: list[Axes], text: str) -> None:
    """The colours and the contours, explained below the maps."""
    bar = fig.colorbar(
        ScalarMappable(SHADES, COLOURS), ax=axes, location="bottom", extend="both", aspect=50, pad=0.02
    )
    bar.ax.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1.0, 2.0, 4.0]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.tick_params(labelsize=style.FONT_SIZE)
    bar.set_label(f"{style.plain(text)}: above 1 knowing lengths pays", fontsize=style.FONT_SIZE)
    lines: list[Any] = [
        Line2D([], [], color="black", linestyle=dash, linewidth=width, label=name)
        for _, name, dash, width in CONTOURS
    ]
    fig.legend(
        handles=lines,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=style.FONT_SIZE,
        handlelength=3,
    )
