"""How every figure looks and how it is saved; knows nothing of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from sim.results.failures import worst_of
from traces.errors import InputError
from traces.files import atomic_write

DPI = 150

# Neighbours differ in luminance by at least a fifth of the scale, so that they stay apart without colour.
COLOURS = ("#1f2a5a", "#e08a2c", "#2a6fb0", "#7fb24a", "#6d2a7a", "#d78fb4", "#7a4710", "#4aa59c")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (6, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (10, 2)),
    (0, (3, 1.5, 1, 1.5, 1, 1.5)),
    (0, (3, 3)),
    (0, (10, 2, 3, 2)),
)
USEFUL, RECOMPUTED, PERCEPTION, PADDING = "#1c3a5e", "#e3a25c", "#a9cfa6", "#e3e6ea"
ACCENT = "#b5651d"
EDGE = "#333333"
FONT_SIZE = 9.0


def figure(width: float, height: float, rows: int = 1, cols: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches and its axes, row by row; needs no display."""
    fig = Figure(figsize=(width, height), layout="constrained")
    axes: list[Axes] = list(fig.subplots(rows, cols, squeeze=False).flat)
    for ax in axes:
        tidy(ax)
    return fig, axes


def tidy(ax: Axes, grid: str = "both") -> None:
    """No frame where there is no axis, and a light grid behind the data along `grid` (x, y, both or none)."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(False)
    if grid != "none":
        ax.grid(True, axis=grid, color="#e3e3e3", linewidth=0.6)  # type: ignore[arg-type]
    ax.tick_params(labelsize=FONT_SIZE)


def save(fig: Figure, path: str | Path) -> None:
    """Write the figure as PNG or SVG by suffix: the same figure gives the same bytes, never half a file.

    Raises InputError for another suffix, or where the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise InputError(f"{path}: suffix {suffix!r} is not one of .png, .svg")
    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
    unformulated(fig)
    with matplotlib.rc_context({"svg.hashsalt": "seqsched"}), atomic_write(path, mode="wb") as file:
        fig.savefig(file, format=suffix[1:], dpi=DPI, metadata=metadata)


def note_left_out(fig: Figure, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Say above a figure which requests it leaves out of its runs: rows with the columns `failures.KEYS`."""
    if text := worst_of(rows):
        fig.suptitle(plain(f"Left out: requests {text}"), fontsize=FONT_SIZE - 1, wrap=True)


def unformulated(fig: Figure) -> None:
    """Let no text of the figure be a formula, whatever names users gave; ticks of powers of ten stay."""
    for text in fig.findobj(Text):
        if is_math_text(shown := text.get_text()) and not shown.startswith(r"$\mathdefault{"):
            text.set_parse_math(False)


def plain(text: str) -> str:
    """The text with nothing in it that matplotlib would take for a formula."""
    return text.replace("$", r"\$")


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, its middle left out where it is longer."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def label(policy: str, width: int = 18, max_lines: int = 4) -> str:
    """A policy spec as a label: its name, then its options, in lines of at most `width` characters.

    The module of a class from outside is left out, and so are options that `max_lines` do not hold.
    """
    head, _, rest = policy.partition(":")
    if "." in head and rest:  # some.module:Class[:options]
        head, _, rest = rest.partition(":")
    lines = [shorten(head, width)]
    for option in (shorten(o.strip(), width - 1) for o in rest.split(",") if o.strip()):
        last = lines[-1]
        if len(lines) > 1 and len(last) + len(option) + 2 <= width:
            lines[-1] = f"{last} {option},"
        else:
            lines.append(f"{option},")
    lines[-1] = lines[-1].rstrip(",")
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1].rstrip(',')[: width - 2]} …"]
    return plain("\n".join(lines))


def labels(policies: Iterable[str], width: int = 18, max_lines: int = 4) -> list[str]:
    """A label per policy, in order; where shortening made two of them equal, they are numbered."""
    texts: list[str] = []
    seen: dict[str, int] = {}
    for policy in policies:
        text = label(policy, width, max_lines)
        seen[text] = seen.get(text, 0) + 1
        texts.append(text if seen[text] == 1 else f"{text} #{seen[text]}")
    return texts


def colour(index: int) -> str:
    """The colour of the policy at this place; the same whatever stands after it."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:
    """The line style of the policy at this place; it repeats later than the colours do."""
    return DASHES[(index + index // len(DASHES)) % len(DASHES)]


def say(ax: Axes, text: str) -> None:
    """An explanation in place of data."""
    ax.text(
        0.5,
        0.5,
        plain(text),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        color=EDGE,
        wrap=True,
    )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


LEAST_TICKS = 3
"""Numbers on a log axis from which on its scale can be read."""


def log_scale(ax: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """A log axis from `low` to `high` with plain numbers on it, few enough not to touch."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    if which == "x":
        ax.set_xscale("log")
        ax.set_xlim(low, high)
    else:
        ax.set_yscale("log")
        ax.set_ylim(low, high)
    axis.set_major_locator(_ticks(low, high, is_wide=which == "x"))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float, *, is_wide: bool) -> Locator:
    """Ticks of a log axis: powers of ten (of a hundred where long numbers stand side by side), with numbers
    between them where else fewer than `LEAST_TICKS` would be on it, and equal steps where these are too few.
    """
    if high / low > 300:
        return LogLocator(100.0 if is_wide and high / low > 1e5 else 10.0, (1.0,), numticks=30)
    powers = [10.0**k for k in range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)]
    for steps in ((1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 5.0, 7.0)):
        if sum(low <= step * power <= high for step in steps for power in powers) >= LEAST_TICKS:
            return LogLocator(10.0, steps, numticks=30)
    return MaxNLocator(5)


def percent(share: float, digits: int = 1) -> str:
    """A fraction as text."""
    return f"{100 * share:.{digits}f} %"


def cumulative(
    values: npt.NDArray[np.float64], whole: int | None = None, max_points: int = 4000
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points (value, share in %) of the cumulative distribution, for a line with steps after each point.

    `whole`: how many there are in all, where some have no value and the curve shall end below 100 %.
    """
    if not len(values):
        return np.empty(0), np.empty(0)
    ordered = np.sort(values)
    share = np.arange(1, len(ordered) + 1) * (100.0 / max(whole or len(ordered), 1))
    if len(ordered) > max_points:
        kept = np.unique(np.linspace(0, len(ordered) - 1, max_points).round().astype(np.int64))
        ordered, share = ordered[kept], share[kept]
    return np.concatenate([ordered[:1], ordered]), np.concatenate([[0.0], share])


def plot_cumulative(
    ax: Axes, values: npt.NDArray[np.float64], number: int, label: str, whole: int | None = None
) -> None:
    """Draw the cumulative distribution as series `number`; `whole` as in `cumulative`."""
    x, share = cumulative(values, whole)
    ax.plot(
        x,
        share,
        drawstyle="steps-post",
        color=colour(number),
        linestyle=dash(number),
        linewidth=1.8,
        label=label,
    )


def time_unit(span_s: float) -> tuple[float, str]:
    """Seconds per unit, and its name, for a span of this length."""
    if span_s >= 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if span_s >= 600 else (1.0, "s")
