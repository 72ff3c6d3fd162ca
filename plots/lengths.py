"""What a trace looks like: lengths, arrival rate, burstiness. Takes a Trace; knows nothing of runs."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from traces import inspection
from traces.errors import InputError
from traces.trace import Trace

from . import reuse, style

HEAVY_TAIL = 40  # p99 over p10, across both columns, beyond which equal steps would hide most requests
MAX_BINS = 40
NOTE_WIDTH = 185


def length_histograms(trace: Trace, ax: Axes) -> None:
    """Prompt and output lengths as histograms over the same bins; a log axis where a tail is heavy."""
    columns = (
        ("prompt", trace.prompt_tokens, {"color": style.PADDING, "edgecolor": "#6b7480", "fill": True}),
        ("output", trace.output_tokens, {"edgecolor": style.USEFUL, "fill": False, "hatch": "////"}),
    )
    p10 = min(float(np.quantile(values, 0.1)) for _, values, _ in columns)
    p99 = max(float(np.quantile(values, 0.99)) for _, values, _ in columns)
    heavy = p99 > HEAVY_TAIL * max(p10, 1.0)
    edges = _edges(columns[0][1], columns[1][1], heavy)
    for name, values, look in columns:
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        median, p99 = np.quantile(values, [0.5, 0.99])
        ax.stairs(
            counts * (100.0 / len(values)),
            edges,
            linewidth=1.3,
            label=f"{name}: median {median:,.0f}, p99 {p99:,.0f}",
            **look,  # type: ignore[arg-type]
        )
    ax.set_xlim(edges[0], edges[-1])
    if heavy:
        style.log_scale(ax, "x", edges[0], edges[-1])
    ax.set_xlabel("Length (tokens" + (", log scale)" if heavy else ")"))
    ax.set_ylabel("Share of requests per bin (%)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE, ncols=1)


def _edges(
    prompt: npt.NDArray[np.int64], output: npt.NDArray[np.int64], heavy: bool
) -> npt.NDArray[np.float64]:
    """Bins between whole numbers of tokens, of equal width or (heavy) equal ratio, one token at least."""
    least = max(int(min(prompt.min(), output.min())), 1)
    most = max(int(max(prompt.max(), output.max())), least + 1)
    if heavy:
        return np.unique(np.geomspace(least, most + 1, MAX_BINS + 1).round()).astype(np.float64) - 0.5
    step = max(-(-(most + 1 - least) // MAX_BINS), 1)
    return np.arange(least, most + step + 1, step, dtype=np.float64) - 0.5


def arrival_rate(trace: Trace, ax: Axes) -> None:
    """Requests per second over time, and their mean; a sentence where the trace has no times."""
    try:
        edges, rates = inspection.arrival_rate(trace)
    except InputError:
        style.say(ax, _why_not(trace, "arrival rate"))
        return
    unit, name = style.time_unit(float(edges[-1]))
    mean = float(np.average(rates, weights=np.diff(edges)))
    ax.stairs(rates, edges / unit, fill=True, color=style.PADDING)
    ax.stairs(rates, edges / unit, color=style.USEFUL, linewidth=1.0)
    ax.axhline(
        mean, color=style.ACCENT, linestyle="dashed", linewidth=1.4, label=f"mean {mean:.3g} requests/s"
    )
    ax.set_xlim(0, edges[-1] / unit)
    ax.set_ylim(0, float(rates.max()) * 1.08)
    ax.set_xlabel(f"Time since the first arrival ({name})")
    ax.set_ylabel(f"Arrival rate (requests/s, {edges[1] - edges[0]:.3g} s bins)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE)


def burstiness(trace: Trace, ax: Axes) -> None:
    """Index of dispersion of arrivals against window length, 1 for Poisson; a sentence without times."""
    try:
        windows, index = inspection.burstiness_over_scales(trace)
    except InputError:
        style.say(ax, _why_not(trace, "burstiness"))
        return
    ax.plot(windows, index, color=style.USEFUL, marker="o", markersize=3.5, linewidth=1.5, label="this trace")
    ax.axhline(1.0, color=style.ACCENT, linestyle="dashed", linewidth=1.4, label="Poisson arrivals")
    style.log_scale(ax, "x", windows[0] / 1.2, windows[-1] * 1.2)
    if index.max() > 10 and index.min() > 0:
        style.log_scale(ax, "y", min(float(index.min()), 1.0) / 1.2, float(index.max()) * 1.2)
    else:
        ax.set_ylim(0, max(1.2, float(index.max()) * 1.08))
    ax.set_xlabel("Window length (s, log scale)")
    ax.set_ylabel("Index of dispersion (variance / mean)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE, ncols=2)


def overview(trace: Trace) -> Figure:
    """Lengths, arrival rate and burstiness of a trace beside each other, and the trace's notes below; what of
    its prompts is found again, and its sessions, in a second row where it knows of these.
    """
    panels = [length_histograms, arrival_rate, burstiness]
    if trace.blocks is not None or trace.sessions is not None:
        panels += [reuse.cache_curve, reuse.over_time, reuse.session_shapes]
    rows = len(panels) // 3
    fig, axes = style.figure(13.5, 4.2 * rows, rows=rows, cols=3)
    for draw, ax in zip(panels, axes, strict=True):
        draw(trace, ax)
    fig.suptitle(f"{style.plain(style.shorten(trace.name, 60))}: {len(trace):,} requests", fontsize=11)
    if trace.notes:
        notes = "\n".join(line for note in trace.notes for line in wrap(note, NOTE_WIDTH))
        fig.supxlabel(style.plain(notes), fontsize=style.FONT_SIZE, color=style.EDGE)
    return fig


def _why_not(trace: Trace, what: str) -> str:
    reason = "This trace has no arrival times" if trace.arrival_s is None else "All requests arrive at once"
    return f"{reason}:\nno {what} to draw."
