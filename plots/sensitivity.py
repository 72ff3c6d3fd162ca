"""What prediction errors cost, and what answers that vary by themselves cost. Takes tables; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style

if TYPE_CHECKING:
    import pandas as pd

IntArray = npt.NDArray[np.int64]

COSTS = (
    ("effective_token_ratio", "Effective token\nratio (%)", 100.0, "{:.1f} %"),
    ("failure_ratio", "Requests cut off at\nleast once (%)", 100.0, "{:.1f} %"),
    ("throughput_ratio", "Throughput\n(ratio to vanilla)", 1.0, "{:.2f}×"),
)


def gain(frame: pd.DataFrame, ax: Axes) -> None:
    """Throughput over vanilla against prediction error, one line per policy.

    `frame`: columns policy, sigma, miss, mean_error (tokens), seed, throughput_ratio. Lines are means over
    seeds, bands the smallest to the largest; above the line at 1 length prediction pays. Where every share of
    misses was run with several sigmas, each share has its own line.
    """
    policies = list(dict.fromkeys(frame["policy"]))
    names = dict(zip(policies, style.labels(policies, 30, 3), strict=True))
    apart = _misses_apart(frame)
    shares = sorted(set(frame["miss"])) if apart else []
    for key, part in frame.groupby(["policy", "miss"] if apart else ["policy"], sort=False):
        policy, *miss = cast(tuple[Any, ...], key)
        place = policies.index(policy)
        points = part.groupby(["sigma", "miss"], dropna=False)
        by_error = points.agg({"mean_error": "mean", "throughput_ratio": ["mean", "min", "max"]})
        by_error = by_error.sort_values(("mean_error", "mean"))
        x, mean, low, high = (by_error.iloc[:, k].to_numpy(dtype=float) for k in range(4))
        name, dash, colour = names[policy], style.dash(place), style.colour(place)
        if miss:
            name, dash = f"{name}\n{style.percent(miss[0], 0)} misses", style.dash(shares.index(miss[0]))
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(x, mean, color=colour, linestyle=dash, marker="o", markersize=3.5, linewidth=1.7, label=name)
    ax.axhline(1.0, color=style.EDGE, linewidth=1.0, label="vanilla")
    ax.set_xlim(left=0)
    ax.set_xlabel("Mean absolute prediction error (tokens)")
    ax.set_ylabel("Request throughput (ratio to vanilla)")
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=style.FONT_SIZE,
        handlelength=3.2,
        title="mean, band: all seeds",
        title_fontsize=style.FONT_SIZE,
        alignment="left",
    )


def _misses_apart(frame: pd.DataFrame) -> bool:
    """Sigma and the share of misses were varied apart, so that a line of one share has several points."""
    if frame["miss"].nunique(dropna=False) < 2:
        return False
    return bool((frame.groupby(["policy", "miss"], dropna=False)["sigma"].nunique(dropna=False) > 1).all())


def gain_figure(frame: pd.DataFrame) -> Figure:
    """`gain` as a figure, high enough for its legend."""
    lines = frame["policy"].nunique() * (frame["miss"].nunique() if _misses_apart(frame) else 1)
    fig, (ax,) = style.figure(9.5, max(4.6, 1.2 + 0.58 * lines))
    gain(frame, ax)
    style.note_left_out(fig, frame.to_dict("records"))
    return fig


def variance(
    samples: IntArray, sample_names: Sequence[str], output: IntArray, frame: pd.DataFrame, fig: Figure
) -> None:
    """How far answers to one prompt differ in length; what that costs a perfect predictor of one of them.

    Left: per column of `samples`, shape (n, k), named `sample_names`, the distribution of its distance from
    `output`, shape (n,), the lengths that were run; a column that is `output` itself is left out.
    Right: bars of `frame`, columns predictor, effective_token_ratio, failure_ratio, throughput_ratio.
    """
    left, *right = fig.subplots(1, 1 + len(COSTS), width_ratios=[2.6, 1, 1, 1])
    style.tidy(left)
    _distances(samples, sample_names, output, left)
    _cost_bars(frame, right)


def _distances(samples: IntArray, sample_names: Sequence[str], output: IntArray, ax: Axes) -> None:
    place, cap, far = 0, output.max(initial=1), 1.0
    for k, name in enumerate(sample_names):
        # Samples may exceed the cap under which the run was; what runs never does.
        off = np.abs(np.minimum(samples[:, k], cap) - output).astype(float)
        if not off.any():
            continue
        label = f"{style.plain(name)}: median {np.median(off):.0f}, mean {off.mean():.0f} tokens"
        style.plot_cumulative(ax, off, place, label)
        place, far = place + 1, max(far, float(np.quantile(off, 0.995)))
    ax.set_xlim(0, far)
    ax.set_ylim(0, 102)
    ax.set_xlabel("Distance from the answer that was run (tokens)")
    ax.set_ylabel("Share of prompts (%)")
    if place:
        ax.legend(
            loc="lower right",
            fontsize=style.FONT_SIZE,
            framealpha=0.95,
            title="answer sampled at (t: temperature)",
            title_fontsize=style.FONT_SIZE,
        )


def _cost_bars(frame: pd.DataFrame, axes: Sequence[Axes]) -> None:
    names = [style.plain(style.shorten(str(p), 24)) for p in frame["predictor"]]
    for ax, (column, axis, scale, form) in zip(axes, COSTS, strict=True):
        values = frame[column].to_numpy(dtype=float) * scale
        style.tidy(ax, "x")
        bars = ax.barh(range(len(values)), np.nan_to_num(values), color=style.USEFUL, height=0.6)
        ax.bar_label(
            bars,
            ["undefined" if np.isnan(v) else form.format(v) for v in values],
            padding=3,
            fontsize=style.FONT_SIZE,
        )
        ax.set_xlabel(axis)
        ax.set_xlim(0, max(float(np.nanmax(values, initial=0.0)), 1e-9) * 1.6)
        ax.set_ylim(len(values) - 0.5, -0.5)
        ax.set_yticks(
            range(len(values)), names if ax is axes[0] else [""] * len(values), fontsize=style.FONT_SIZE
        )
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylabel("Perfect predictor of")


def variance_figure(
    samples: IntArray, sample_names: Sequence[str], output: IntArray, frame: pd.DataFrame
) -> Figure:
    """`variance` as a figure."""
    fig = Figure(figsize=(13.0, 1.6 + max(2.8, 0.45 * len(frame))), layout="constrained")
    variance(samples, sample_names, output, frame, fig)
    style.note_left_out(fig, frame.to_dict("records"))
    return fig
