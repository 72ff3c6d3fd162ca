"""Policies side by side: throughput, where the tokens went, latency. Takes Results; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.results.failures import failed_share, share_text
from sim.results.metrics import metric, request_latencies
from sim.results.result import Result

from . import style
from .batches import batch_timelines, has_padded, token_grids

SEGMENTS = (
    ("useful", style.USEFUL, ""),
    ("padding", style.PADDING, ""),
    ("recomputed", style.RECOMPUTED, "////"),
    ("perception", style.PERCEPTION, "...."),
)


def throughput(results: Mapping[str, Result], ax: Axes) -> None:
    """Bars of requests/s, the first policy on top; beside each its figure and the ratio to the first."""
    values = [r.summary["request_throughput"] for r in results.values()]
    _rows(ax, results)
    bars = ax.barh(range(len(values)), [v or 0.0 for v in values], color=_colours(results), height=0.66)
    ax.bar_label(bars, _with_ratios(values), padding=4, fontsize=style.FONT_SIZE)
    ax.set_xlabel(metric("request_throughput").axis)
    ax.set_xlim(0, _room(max([v or 0.0 for v in values])))


def _with_ratios(values: Sequence[float | None]) -> list[str]:
    """Each value, with the decimals that show three digits of the smallest, and its ratio to the first."""
    smallest = min([v for v in values if v], default=0.0)
    decimals = max(2 - floor(log10(smallest)), 0) if smallest else 0
    texts = ["undefined" if v is None else f"{v:.{decimals}f}" for v in values]
    first = values[0]
    return [
        f"{t} ({v / first:.2f}×)" if v is not None and first else t
        for t, v in zip(texts, values, strict=True)
    ]


def tokens(results: Mapping[str, Result], ax: Axes) -> None:
    """Stacked bars of the tokens decoded per completed request, by what they were good for.

    The parts are those of `Result.tokens` (no prompts); the useful share is written beside.
    """
    _rows(ax, results)
    counts = np.array([r.tokens for r in results.values()], dtype=float)
    completed = np.array([max(r.summary["completed"], 1) for r in results.values()], dtype=float)
    per_request = counts / completed[:, None]
    left = np.zeros(len(counts))
    for k, (name, colour, hatch) in enumerate(SEGMENTS):
        ax.barh(
            range(len(counts)),
            per_request[:, k],
            left=left,
            color=colour,
            hatch=hatch,
            edgecolor=style.EDGE,
            linewidth=0.5,
            height=0.66,
            label=name,
        )
        left += per_request[:, k]
    for row, (total, useful) in enumerate(zip(left, per_request[:, 0], strict=True)):
        text = f"{total:.0f} ({style.percent(useful / total)} useful)" if total else "no tokens"
        ax.annotate(
            text, (total, row), (4, 0), textcoords="offset points", va="center", fontsize=style.FONT_SIZE
        )
    ax.set_xlabel("Tokens decoded per completed request (tokens, prompts excluded)")
    ax.set_xlim(0, _room(left.max()))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=style.FONT_SIZE)


def latency_cdf(results: Mapping[str, Result], ax: Axes, latency: str = "e2el") -> None:
    """The share of requests that were served within a time, one line per policy.

    `latency`: a key of `request_latencies`. Requests that did not complete keep a curve below 100 %.
    """
    known = request_latencies()
    if latency not in known:
        raise ValueError(f"latency ({latency}) must be one of {', '.join(known)}")
    entry = known[latency]
    longest = 0.0
    for k, (name, result) in enumerate(zip(style.labels(results, 26), results.values(), strict=True)):
        values = np.asarray(result.columns[entry.column], dtype=float)
        # A completed request without a value (the TPOT of a single token) is not part of the distribution.
        undefined = np.isnan(values) & ~np.isnan(np.asarray(result.columns["finish_s"], dtype=float))
        times = values[~np.isnan(values)] * entry.scale
        style.plot_cumulative(ax, times, k, name, whole=len(values) - int(undefined.sum()))
        longest = max(longest, float(times.max(initial=0.0)))
    ax.set_xlabel(entry.axis)
    ax.set_ylabel("Share of requests (%)")
    ax.set_ylim(0, 102)
    ax.set_xlim(0, longest * 1.02 or 1.0)
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=style.FONT_SIZE,
        handlelength=3.2,
        labelspacing=0.7,
    )


def figures(results: Mapping[str, Result]) -> dict[str, Figure]:
    """Every figure of a comparison by file stem: throughput, tokens, latency, and where some run has padded
    batches token_grids and timeline.

    Raises ValueError where there is no policy.
    """
    if not results:
        raise ValueError("results: 0 policies, at least 1 is needed")
    summaries = [result.summary for result in results.values()]
    names = zip(results, (failed_share(r.summary) for r in results.values()), strict=True)
    results = {
        f"{name}, {share_text(lost)} failed" if lost else name: result
        for (name, lost), result in zip(names, results.values(), strict=True)
    }
    height = 1.3 + 0.62 * len(results)
    bars, (ax,) = style.figure(8.5, height)
    throughput(results, ax)
    stacked, (ax,) = style.figure(8.5, height + 0.4)
    tokens(results, ax)
    cdfs, axes = style.figure(11, max(4.0, 1.0 + 0.5 * len(results)), cols=2)
    latency_cdf(results, axes[0], "ttft")
    axes[0].get_legend().remove()  # type: ignore[union-attr]
    latency_cdf(results, axes[1], "e2el")
    axes[1].set_ylabel("")
    for fig in (bars, stacked, cdfs):
        style.note_left_out(fig, summaries)
    made = {"throughput": bars, "tokens": stacked, "latency": cdfs}
    if any(map(has_padded, results.values())):
        made |= {"token_grids": token_grids(results), "timeline": batch_timelines(results)}
    return made


def _rows(ax: Axes, results: Mapping[str, Result]) -> None:
    """One row per policy, the first on top, its label at the left."""
    style.tidy(ax, "x")
    names = style.labels(results, width=26, max_lines=3)
    ax.set_yticks(range(len(names)), names, fontsize=style.FONT_SIZE, linespacing=1.05)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _colours(results: Mapping[str, Result]) -> list[str]:
    return [style.colour(k) for k in range(len(results))]


def _room(longest: float) -> float:
    """An axis end that leaves room for the text beside the longest bar."""
    return longest * 1.28 or 1.0
