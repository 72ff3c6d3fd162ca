"""What prediction errors cost, and what answers that vary by themselves cost. Takes tables; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

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
    """Throughput over vanilla against prediction error, one line per policy and share of misses.

    `frame`: columns policy, sigma, miss, mean_error (tokens), seed, throughput_ratio. Lines are
    means over seeds, bands the smallest to the largest; above the line at 1 length prediction pays.
    """
    policies = list(dict.fromkeys(frame["policy"]))
    names = dict(zip(policies, style.labels(policies, 30, 3), strict=True))
    shares = sorted(set(frame["miss"]))
    for key, part in frame.groupby(["policy", "miss"], sort=False):
        policy, miss = cast(tuple[str, float], key)
        place = policies.index(policy)
        by_error = part.groupby("sigma", dropna=False).agg(
            {"mean_error": "mean", "throughput_ratio": ["mean", "min", "max"]}
        )
        by_error = by_error.sort_values(("mean_error", "mean"))
        x, mean, low, high = (by_error.iloc[:, k].to_numpy(dtype=float) for k in range(4))
        name = names[policy] if len(shares) == 1 else f"{names[policy]}\n{style.percent(miss, 0)} misses"
        # With one share of misses the line styles tell policies apart, with several the shares.
        dash = style.dash(place if len(shares) == 1 else shares.index(miss))
        colour = style.colour(place)
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


def gain_figure(frame: pd.DataFrame) -> Figure:
    """`gain` as a figure."""
    fig, (ax,) = style.figure(9.5, 4.6)
    gain(frame, ax)
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
        x, share = style.cumulative(off)
        ax.plot(
            x,
            share,
            drawstyle="steps-post",
            color=style.colour(place),
            linestyle=style.dash(place),
            linewidth=1.8,
            label=f"{style.plain(name)}: median {np.median(off):.0f}, mean {off.mean():.0f} tokens",
        )
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
    return fig
