"""When fetching KV from slower memory beats computing it again; knows nothing of how times were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from . import style


def fetch_or_compute(
    lengths: Sequence[int], computed_ms: Sequence[float], fetched_ms: Mapping[str, Sequence[float]], ax: Axes
) -> None:
    """TTFT of one request alone against the length of its prompt, log by log: the whole prompt computed, and
    all but its last token fetched, by bandwidth; each sequence has a value per length.
    """
    ax.plot(lengths, computed_ms, color=style.USEFUL, linewidth=2.4, label="computed")
    for number, (name, times) in enumerate(fetched_ms.items()):
        colour, dash = style.COLOURS[1 + number], style.DASHES[1 + number]
        ax.plot(lengths, times, color=colour, linewidth=1.6, linestyle=dash, label=f"fetched at {name}")
    times = [t for row in (computed_ms, *fetched_ms.values()) for t in row]
    style.log_scale(ax, "x", lengths[0], lengths[-1])
    style.log_scale(ax, "y", min(times) / 1.2, max(times) * 1.2)
    ax.set_xlabel("Prompt tokens (log scale)")
    ax.set_ylabel("TTFT of a request alone (ms, log scale)")
    ax.legend(fontsize=style.FONT_SIZE - 1.5, frameon=False)


def gain_by_load(rates: Sequence[float], gains: Mapping[str, Sequence[Sequence[float]]], ax: Axes) -> None:
    """How many times lower the mean TTFT is with tiers than without, by rate: the geometric mean over seeds,
    and all of them between the ends of a bar. `gains`: for each way, shape (rates, seeds).
    """
    ax.axhline(1.0, color=style.EDGE, linewidth=0.8)
    for number, (name, rows) in enumerate(gains.items()):
        means = [float(np.exp(np.mean(np.log(row)))) for row in rows]
        below = [mean - min(row) for mean, row in zip(means, rows, strict=True)]
        above = [max(row) - mean for mean, row in zip(means, rows, strict=True)]
        ax.errorbar(
            rates,
            means,
            yerr=np.maximum(np.array([below, above]), 0.0),
            color=style.COLOURS[number],
            linestyle=style.DASHES[number],
            linewidth=1.6,
            capsize=2.5,
            label=name,
        )
    values = [value for rows in gains.values() for row in rows for value in row]
    style.log_scale(ax, "y", min(0.9, *values) / 1.1, max(1.1, *values) * 1.6)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("Requests per second")
    ax.set_ylabel("Mean TTFT without tiers / with them (log scale)")
    ax.legend(fontsize=style.FONT_SIZE - 1.5, frameon=False, loc="upper left")
