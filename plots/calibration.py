"""Measured against fitted step times. Takes arrays; knows nothing of cost models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BAND = 0.05
RESIDUAL_BINS = 50


def measured_against_fitted(
    measured_ms: FloatArray, fitted_ms: FloatArray, is_decode: BoolArray, ax: Axes
) -> None:
    """Every iteration as a point on log axes, the two regimes apart, with the diagonal and the band of ±5 %.

    Arrays of shape (n,): milliseconds, and whether the iteration had no prefill in it.
    """
    looks = (
        (~is_decode, {"marker": "^", "facecolors": "none", "edgecolors": "#d08a4e"}, "with prefill"),
        (is_decode, {"marker": "o", "facecolors": style.USEFUL, "edgecolors": "none"}, "decode only"),
    )
    for rows, look, name in looks:
        if rows.any():
            ax.scatter(
                measured_ms[rows],
                fitted_ms[rows],
                s=16,
                linewidths=0.8,
                alpha=0.75,
                label=f"{name} (n = {int(rows.sum()):,})",
                rasterized=True,
                **look,  # type: ignore[arg-type]
            )
    both = np.concatenate([measured_ms, fitted_ms])
    ends = np.array([both.min() / 1.2, both.max() * 1.2])
    ax.fill_between(
        ends,
        ends * (1 - BAND),
        ends * (1 + BAND),
        color="#9aa5b1",
        alpha=0.45,
        linewidth=0,
        zorder=0.5,
        label=f"±{style.percent(BAND, 0)}",
    )
    ax.plot(ends, ends, color="black", linewidth=1.0, label="fitted = measured")
    style.log_scale(ax, "x", ends[0], ends[1])
    style.log_scale(ax, "y", ends[0], ends[1])
    ax.set_aspect("equal")
    ax.set_xlabel("Measured step time (ms, log scale)")
    ax.set_ylabel("Fitted step time (ms, log scale)")
    ax.legend(loc="upper left", fontsize=style.FONT_SIZE, framealpha=0.95)


def residuals(measured_ms: FloatArray, fitted_ms: FloatArray, is_decode: BoolArray, ax: Axes) -> None:
    """Relative errors (fitted / measured - 1, in %) of each regime; what lies far out is in the end bins."""
    off = 100.0 * (fitted_ms / measured_ms - 1)
    end = max(float(np.quantile(np.abs(off), 0.995)), 100 * BAND * 1.2)
    edges = np.linspace(-end, end, RESIDUAL_BINS + 1)
    looks = (
        (~is_decode, {"edgecolor": style.ACCENT, "hatch": "////", "fill": False}, "with prefill"),
        (is_decode, {"color": style.USEFUL, "fill": True, "alpha": 0.75}, "decode only"),
    )
    ax.axvspan(-100 * BAND, 100 * BAND, color="#e9ecef", zorder=0.5, label=f"±{style.percent(BAND, 0)}")
    for rows, look, name in looks[::-1]:
        if rows.any():
            counts = np.histogram(np.clip(off[rows], -end, end), edges)[0]
            median, p90 = np.quantile(np.abs(off[rows]), [0.5, 0.9])
            ax.stairs(
                counts * (100.0 / rows.sum()),
                edges,
                linewidth=1.2,
                label=f"{name}: |error| median {median:.1f} %, p90 {p90:.1f} %",
                **look,  # type: ignore[arg-type]
            )
    ax.axvline(0, color="black", linewidth=1.0)
    ax.set_xlim(-end, end)
    outside = int((np.abs(off) > end).sum())
    ax.set_xlabel(
        "Relative error of the fit (%)" + (f", {outside} beyond the axis in the end bins" if outside else "")
    )
    ax.set_ylabel("Share of its regime's iterations (%)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE)


def report(measured_ms: FloatArray, fitted_ms: FloatArray, is_decode: BoolArray, title: str) -> Figure:
    """Both pictures of one fit beside each other."""
    fig, axes = style.figure(11.5, 5.2, cols=2)
    measured_against_fitted(measured_ms, fitted_ms, is_decode, axes[0])
    residuals(measured_ms, fitted_ms, is_decode, axes[1])
    fig.suptitle(style.plain(style.shorten(title, 100)), fontsize=11)
    return fig
