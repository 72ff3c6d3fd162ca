"""What of a trace's prompts is found again, by the size of a cache and over time, and what its sessions are.

Takes a Trace; knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from traces.reuse import reuse_of, share_over_time
from traces.sessions import session_sizes
from traces.trace import FloatArray, Trace

from . import style
from .gain_map import COLOURS, EVEN, SHADES

MARKS = (0.5, 0.9)
"""Parts of what an endless cache finds whose caches are marked."""


def cache_curve(trace: Trace, ax: Axes) -> None:
    """Share of the prompt tokens found again against the size of a cache; a sentence where nothing is."""
    reuse = reuse_of(trace)
    if reuse is None or not reuse.most:
        style.say(ax, "No prompt of this trace is known\nto begin as an earlier one.")
        return
    sizes, shares = reuse.curve()
    sizes = sizes / 1e3  # a large cache in single tokens has no room under its tick
    ax.step(
        np.append(sizes, sizes[-1] * 3),
        100 * np.append(shares, shares[-1]),
        where="post",
        color=style.USEFUL,
        linewidth=1.8,
        label=f"an endless cache: {100 * reuse.most:.0f} %",
    )
    for part, dashes in zip(MARKS, ("dashed", "dotted"), strict=True):
        size = reuse.size_for(part)
        assert size is not None
        label = f"{100 * part:.0f} % of that: {size:,.0f} tokens"
        ax.axvline(size / 1e3, color=style.ACCENT, linestyle=dashes, linewidth=1.4, label=label)
    style.log_scale(ax, "x", sizes[0] / 1.5, sizes[-1] * 3)
    ax.set_ylim(0, 100 * reuse.most * 1.08)
    ax.set_xlabel("KV cache (thousand tokens, log scale)")
    ax.set_ylabel("Prompt tokens found again (%)")
    _legend(ax)


def over_time(trace: Trace, ax: Axes) -> None:
    """Share of the prompt tokens that an endless cache finds, over the time of arrival."""
    reuse = reuse_of(trace)
    if reuse is None or not reuse.most or trace.arrival_s is None or not trace.arrival_s[-1] > 0:
        style.say(ax, "No reuse over time to draw.")
        return
    edges, shares = share_over_time(trace, reuse)
    unit, name = style.time_unit(float(edges[-1]))
    ax.stairs(100 * np.nan_to_num(shares), edges / unit, fill=True, color=style.PADDING)
    ax.stairs(100 * shares, edges / unit, color=style.USEFUL, linewidth=1.2, label="an endless cache")
    mean = 100 * reuse.most
    ax.axhline(mean, color=style.ACCENT, linestyle="dashed", linewidth=1.4, label=f"all of it: {mean:.0f} %")
    ax.set_xlim(0, edges[-1] / unit)
    ax.set_ylim(0, 100)
    ax.set_xlabel(f"Time since the first arrival ({name})")
    ax.set_ylabel("Prompt tokens found again (%)")
    _legend(ax)


def session_shapes(trace: Trace, ax: Axes) -> None:
    """Think times and requests per session, as shares of those that are no longer or larger."""
    ids = trace.sessions
    if ids is None:
        style.say(ax, "This trace has no sessions.")
        return
    curves = [("requests per session", session_sizes(ids).astype(float), style.USEFUL, "solid")]
    thinks = trace.thinks_s[trace.is_waiting]
    if len(thinks):
        curves.append(("think time (s)", thinks, style.ACCENT, "dashed"))
    for name, values, colour, dashes in curves:
        rising = np.sort(np.maximum(values, 0.1))
        label = f"{name}: median {np.median(values):,.4g}, p99 {np.quantile(values, 0.99):,.4g}"
        shares = 100 * np.arange(1, len(rising) + 1) / len(rising)
        ax.step(rising, shares, where="post", color=colour, linestyle=dashes, linewidth=1.6, label=label)
    most = max(float(values.max()) for _, values, _, _ in curves)
    style.log_scale(ax, "x", 0.1, max(most, 1.0) * 1.2)
    ax.set_ylim(0, 102)
    ax.set_xlabel("Requests, or seconds (log scale; below 0.1 at 0.1)")
    ax.set_ylabel("Share of sessions, or of waits (%)")
    _legend(ax)


def is_agreed(gains: Sequence[float]) -> bool:
    """Whether all of these ratios, one a seed, say the same: ahead, behind, or neither by more than 5 %."""
    ahead, behind = min(gains) > EVEN, max(gains) < 1 / EVEN
    return ahead or behind or 1 / EVEN <= min(gains) <= max(gains) <= EVEN


def cell_text(gain: float, agreed: bool) -> str:
    """A ratio, in brackets where seeds do not agree."""
    return f"{gain:.2f}" if agreed else f"({gain:.2f})"


def gain_cells(
    gains: FloatArray,
    agreed: npt.NDArray[np.bool_],
    baseline_ms: FloatArray,
    rates: Sequence[float],
    rows: Sequence[str],
    ax: Axes,
) -> None:
    """How many times lower the mean TTFT is, above 1 is better, by rate and by what prompts share.

    `gains`, `agreed` (between seeds) and `baseline_ms` (its mean TTFT) have shape (rows, rates).
    """
    ax.imshow(gains, origin="lower", aspect="auto", cmap=COLOURS, norm=SHADES, zorder=1)
    for (row, column), gain in np.ndenumerate(gains):
        text = f"{cell_text(float(gain), bool(agreed[row, column]))}\nfrom {baseline_ms[row, column]:,.0f} ms"
        colour = "white" if SHADES(gain) < 0.36 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=style.FONT_SIZE, color=colour, zorder=4)
    style.tidy(ax, "none")
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.set_xlabel("Requests per second, all replicas")
    ax.set_ylabel("Turns of a session (prompt tokens found again)")


def _legend(ax: Axes) -> None:
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=style.FONT_SIZE, ncols=1)
