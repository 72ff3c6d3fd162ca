"""How time and memory of a simulation grow: one panel each. Takes measured rows; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from . import style

PANELS = (
    ("cpu_s", "CPU time (s, log scale)", "time"),
    ("peak_mib", "Peak memory (MiB, log scale)", "memory"),
)
"""(figure of a row, its axis, what grows); `{what}_exponent` of a series is how."""


def scale(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Lines over the number of replicas or requests, both axes logarithmic, with their fitted exponents.

    A series has `name`, `by` (the key that varies), `rows` (mappings with that key, `cpu_s`, `peak_mib`),
    `time_exponent` and `memory_exponent`. Raises ValueError where there is none.
    """
    if not series:
        raise ValueError("series: 0 are given, at least 1 is needed")
    fig, axes = style.figure(9.0, 3.8, 1, 2)
    for ax, (key, label, what) in zip(axes, PANELS, strict=True):
        for k, line in enumerate(series):
            ax.plot(
                [row[line["by"]] for row in line["rows"]],
                [row[key] for row in line["rows"]],
                color=style.COLOURS[k % len(style.COLOURS)],
                linestyle=style.DASHES[k % len(style.DASHES)],
                marker="o",
                markersize=4,
                label=f"{line['name']}: 10 × the {line['by']}, "
                f"{10 ** line[f'{what}_exponent']:.2g} × the {what}",
            )
        xs = [row[line["by"]] for line in series for row in line["rows"]]
        ys = [row[key] for line in series for row in line["rows"]]
        style.log_scale(ax, "x", min(xs) / 1.5, max(xs) * 1.5)
        style.log_scale(ax, "y", min(ys) / 1.2, max(ys) * 2.5)  # room for the legend
        units = dict.fromkeys(line["by"] for line in series)
        ax.set_xlabel(f"Number of {' or '.join(units)} (log scale)", fontsize=style.FONT_SIZE)
        ax.set_ylabel(label, fontsize=style.FONT_SIZE)
        ax.legend(fontsize=style.FONT_SIZE - 2, frameon=False, loc="upper left", handlelength=2.5)
    return fig
