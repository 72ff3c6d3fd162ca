"""Predicted against actual response lengths. Takes arrays; knows nothing of predictors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from . import style

IntArray = npt.NDArray[np.int64]

BAND = 50
PAPER_WITHIN = {50: 0.59, 100: 0.81}
"""Shares within 50 and 100 tokens of the paper's tuned Vicuna-7B (arXiv 2305.13144)."""


def predicted_against_actual(predicted: IntArray, truth: IntArray, ax: Axes) -> None:
    """Counts over cells of actual (x) and predicted (y) length, the 1:1 line and the band of ±50 tokens.

    `predicted`, `truth`: shape (n,), tokens. Where predictions are multiples, cells are centred on them.
    """
    end = float(max(int(predicted.max()), int(truth.max()), 1))
    step = int(np.gcd.reduce(predicted))
    height = float(step) if end / 60 <= step <= end / 8 else end / 40
    width = end / 40
    x_edges = np.arange(0, end + width, width)
    y_edges = np.arange(-0.5 * height, end + height, height)
    counts = np.histogram2d(truth, predicted, [x_edges, y_edges])[0].T
    mesh = ax.pcolormesh(
        x_edges,
        y_edges,
        np.ma.masked_equal(counts, 0),
        cmap="Blues",
        norm=LogNorm(0.7, max(counts.max(), 1.0)),
        rasterized=True,
    )
    line = np.array([0.0, end])
    ax.plot(line, line, color="black", linewidth=1.4, label="predicted = actual")
    for k, offset in enumerate((-BAND, BAND)):
        ax.plot(
            line,
            line + offset,
            color="black",
            linewidth=1.2,
            linestyle=(0, (4, 2)),
            label=None if k else f"±{BAND} tokens",
        )
    style.tidy(ax, "none")
    ax.set_xlim(0, x_edges[-1])
    ax.set_ylim(0, y_edges[-1])
    ax.set_xlabel("Actual length (tokens)")
    ax.set_ylabel("Predicted length (tokens)")
    figure = ax.get_figure()
    if figure is not None:
        bar = figure.colorbar(
            mesh, ax=ax, fraction=0.05, pad=0.02, format=FuncFormatter(lambda n, _: f"{n:,.0f}")
        )
        bar.set_label("Requests per cell (count, log scale)")
        bar.ax.tick_params(labelsize=style.FONT_SIZE)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE, ncols=2)


def error_cdf(predicted: IntArray, truth: IntArray, ax: Axes) -> None:
    """The share of requests within an absolute error, with Acc-50 and Acc-100, and the paper's two."""
    off = np.abs(predicted - truth).astype(float)
    x, share = style.cumulative(off)
    end = max(float(off.max()) * 1.02, 120.0)
    ax.plot([*x, end], [*share, 100.0], drawstyle="steps-post", color=style.USEFUL, linewidth=1.8)
    for bound in PAPER_WITHIN:
        within = 100.0 * float((off <= bound).mean())
        ax.vlines(bound, 0, within, color=style.EDGE, linestyle="dotted", linewidth=1.0)
        ax.plot(
            bound,
            within,
            "o",
            color=style.USEFUL,
            markersize=6,
            label=f"Acc-{bound}: {within:.1f} % within {bound} tokens",
        )
    ax.plot(
        list(PAPER_WITHIN),
        [100 * p for p in PAPER_WITHIN.values()],
        "D",
        markerfacecolor="none",
        markeredgecolor=style.ACCENT,
        markeredgewidth=1.6,
        markersize=9,
        label="the paper's tuned Vicuna-7B: "
        + ", ".join(f"{100 * p:.0f} % within {b}" for b, p in PAPER_WITHIN.items()),
    )
    mean = float(off.mean())
    ax.axvline(
        mean, color="#777777", linestyle="dashed", linewidth=1.2, label=f"mean error {mean:.1f} tokens"
    )
    ax.set_xlim(0, end)
    ax.set_ylim(0, 102)
    ax.set_xlabel("Absolute error of the predicted length (tokens)")
    ax.set_ylabel("Share of requests (%)")
    ax.legend(loc="lower right", fontsize=style.FONT_SIZE, framealpha=0.95)


def report(predicted: IntArray, truth: IntArray, title: str) -> Figure:
    """Both pictures of one predictor beside each other."""
    fig, axes = style.figure(11.5, 4.6, cols=2)
    predicted_against_actual(predicted, truth, axes[0])
    error_cdf(predicted, truth, axes[1])
    fig.suptitle(style.plain(style.shorten(title, 100)), fontsize=11)
    return fig
