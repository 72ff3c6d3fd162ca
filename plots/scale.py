"""How time and memory of a simulation grow: one panel each. Takes measured rows; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from . import style

PANELS = (("cpu_s", "CPU time (s)", "time_exponent"), ("peak_mib", "peak memory (MiB)", "memory_exponent"))


def scale(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Lines over the number of replicas or requests, both axes logarithmic, with their fitted exponents.

    A series has `name`, `by` (the key that varies), `rows` (mappings with that key, `cpu_s`, `peak_mib`),
    `time_exponent` and `memory_exponent`. Raises ValueError where there is none.
    """
    if not series:
        raise ValueError("series: 0 are given, at least 1 is needed")
    fig, axes = style.figure(9.0, 3.8, 1, 2)
    for ax, (key, label, fitted) in zip(axes, PANELS, strict=True):
        for k, line in enumerate(series):
            ax.plot(
                [row[line["by"]] for row in line["rows"]],
                [row[key] for row in line["rows"]],
                color=style.COLOURS[k % len(style.COLOURS)],
                linestyle=style.DASHES[k % len(style.DASHES)],
                marker="o",
                markersize=4,
                label=f"{line['name']}: {line['by']}$^{{{line[fitted]:.2f}}}$",
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("replicas or requests", fontsize=style.FONT_SIZE)
        ax.set_ylabel(label, fontsize=style.FONT_SIZE)
        ax.legend(fontsize=style.FONT_SIZE - 1, frameon=False)
    return fig
