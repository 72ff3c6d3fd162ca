"""Latency, throughput and goodput as requests come faster. Takes tables; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.results.metrics import LATENCIES, metric

from . import style

if TYPE_CHECKING:
    import pandas as pd

RATE = "Request rate (requests/s)"
PANELS = tuple(
    LATENCIES[key].metric(statistic).key for key in ("ttft", "tpot", "e2el") for statistic in ("mean", "p99")
)
"""The latencies of `figure`, by the key of the metric; a panel each."""


def curves(frame: pd.DataFrame, ax: Axes, column: str) -> None:
    """A latency against request rate, one line per policy, both axes logarithmic.

    `frame`: columns policy, request_rate, seed and `column`, the key of a metric. Lines are means over seeds,
    bands the smallest to the largest.
    """
    latency = metric(column)
    scaled = frame.assign(**{column: frame[column].astype(float) * latency.scale})
    values = _lines(scaled, ax, column)
    _mark_growth(scaled, ax, column)
    style.log_scale(ax, "y", *_ends(values, 1.3))
    _rate_axis(frame, ax)
    ax.set_ylabel(latency.axis)


def goodput(frame: pd.DataFrame, ax: Axes, bounds_ms: Mapping[str, float]) -> None:
    """Requests/s that met every bound against request rate, beside the line on which all would; logarithmic.

    `frame`: columns policy, request_rate, seed, request_goodput.
    """
    rates = np.sort(frame["request_rate"].unique())
    ax.plot(rates, rates, color=style.EDGE, linewidth=0.8, zorder=1)
    values = _lines(frame, ax, "request_goodput")
    _rate_axis(frame, ax)
    # Where next to nothing is good, how little it is does not matter.
    top = float(np.max(values, initial=float(rates.max()) if not len(values) else 0.0))
    style.log_scale(ax, "y", max(_ends(values, 1.3)[0], top / 500), top * 1.3)
    bounds = ", ".join(f"{LATENCIES[key].symbol} ≤ {value / 1e3:.3g} s" for key, value in bounds_ms.items())
    ax.set_ylabel(f"{metric('request_goodput').axis}\nwithin {bounds}")


def throughput_latency(frame: pd.DataFrame, ax: Axes, column: str = "mean_e2el_ms") -> None:
    """Latency against the output throughput at which it was had: one line per policy, a point per rate.

    `frame`: columns policy, request_rate, seed, output_throughput and `column`; points are means over seeds.
    """
    throughput, latency = metric("output_throughput"), metric(column)
    values: list[float] = []
    for place, (_, part) in enumerate(frame.groupby("policy", sort=False)):
        points = part.groupby("request_rate")[[throughput.key, column]].mean().astype(float)
        y = points[column].to_numpy() * latency.scale
        values += y[np.isfinite(y) & (y > 0)].tolist()
        ax.plot(points[throughput.key].to_numpy(), y, **_look(place))
    style.log_scale(ax, "y", *_ends(np.array(values), 1.3))
    ax.set_xlim(left=0)
    ax.set_xlabel(throughput.axis)
    ax.set_ylabel(latency.axis)


def figure(frame: pd.DataFrame, bounds_ms: Mapping[str, float]) -> Figure:
    """Mean and p99 of TTFT, TPOT and E2EL, goodput, and latency against throughput; policies share a legend.

    `frame`: one row per policy, request_rate and seed, with the columns of `curves`, `goodput` and
    `throughput_latency`. `bounds_ms`: what a good request meets, by metric.
    """
    policies = list(dict.fromkeys(frame["policy"]))
    fig, axes = style.figure(10.0, 12.2 + 0.3 * ((len(policies) + 1) // 2), rows=4, cols=2)
    for ax, column in zip(axes, PANELS, strict=False):
        curves(frame, ax, column)
    goodput(frame, axes[6], bounds_ms)
    throughput_latency(frame, axes[7])
    handles = axes[0].get_lines()[: len(policies)]
    fig.legend(
        handles,
        style.labels(policies, 60, 2),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=style.FONT_SIZE,
        handlelength=4,
        title=_legend_title(frame),
        title_fontsize=style.FONT_SIZE,
    )
    style.note_left_out(fig, frame.to_dict("records"))
    return fig


def _lines(frame: pd.DataFrame, ax: Axes, column: str) -> Any:
    """A line and a band per policy; returns every value drawn above 0."""
    heights: list[float] = []
    for place, (_, part) in enumerate(frame.groupby("policy", sort=False)):
        values = part.assign(**{column: part[column].astype(float)}).groupby("request_rate")[column]
        points = values.agg(["mean", "min", "max"])
        x = points.index.to_numpy(dtype=float)
        mean, low, high = (points[name].to_numpy(dtype=float) for name in ("mean", "min", "max"))
        look = _look(place)
        ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
        ax.plot(x, mean, **look)
        heights += [v for v in (*low, *high) if np.isfinite(v) and v > 0]
    return np.array(heights)


def _mark_growth(frame: pd.DataFrame, ax: Axes, column: str) -> None:
    """A hollow point where the queue grows under most seeds."""
    if "queue_growth" not in frame:
        return
    for place, (_, part) in enumerate(frame.groupby("policy", sort=False)):
        grows = part.assign(grows=part["queue_growth"].astype(float) > 0).groupby("request_rate")
        points = grows[column].mean()[grows["grows"].mean() > 0.5]
        look = _look(place) | {
            "linestyle": "none",
            "markerfacecolor": "white",
            "markersize": 5.0,
            "zorder": 4,
        }
        ax.plot(points.index.to_numpy(dtype=float), points.to_numpy(dtype=float), **look)


def _legend_title(frame: pd.DataFrame) -> str:
    title = "mean, band: all seeds; thin line of the goodput: all requests are good"
    if "queue_growth" in frame and (frame["queue_growth"].astype(float) > 0).any():
        title += "\nhollow: the queue grows, and latencies with the length of the run"
    return title


def _look(place: int) -> dict[str, Any]:
    """Earlier policies lie below and are wider, so that lines that coincide all show."""
    return {
        "color": style.colour(place),
        "linestyle": style.dash(place),
        "marker": "o",
        "markersize": 3.0,
        "linewidth": max(1.5, 2.9 - 0.45 * place),
        "zorder": 2 + 0.1 * place,
    }


def _rate_axis(frame: pd.DataFrame, ax: Axes) -> None:
    rates = frame["request_rate"]
    style.log_scale(ax, "x", float(rates.min()) / 1.1, float(rates.max()) * 1.1)
    ax.set_xlabel(RATE)


def _ends(values: Any, room: float) -> tuple[float, float]:
    """Ends of a logarithmic axis around the values."""
    if not len(values):
        return 0.1, 10.0
    return float(np.min(values)) / room, float(np.max(values)) * room
