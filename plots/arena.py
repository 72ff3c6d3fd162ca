"""Every policy with every predictor against a plain one, by case and load. Takes tables; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sim.results import metrics
from sim.results.paired import LATENCIES, NONE, gains
from traces.spec import names_of

from . import style
from .gain_map import COLOURS, SHADES

if TYPE_CHECKING:
    import pandas as pd

DARK = 0.36
"""Shades below this have white numbers."""


def check_metrics(names: Sequence[str]) -> None:
    """InputError for a latency that the table does not have."""
    names_of(names, "metrics", LATENCIES)


def label(policy: str, predictor: str) -> str:
    """A policy and its predictor in one line."""
    name = policy.removeprefix("continuous:").replace("order=", "")
    return style.plain(name if predictor == NONE else f"{name}  |  {predictor}")


def panel(frame: pd.DataFrame, ax: Axes, metric: str, *, has_names: bool) -> None:
    """The gain in one latency: a row for each policy and predictor, a column for each case and load.

    `frame` as of `sim.studies.arena.arena`, the baseline first. Gains of which the interval over seeds holds
    1 have grey numbers.
    """
    table = gains(frame, metric)
    table = table[table["policy"] != frame["policy"].iloc[0]]
    who = list(dict.fromkeys(zip(table["policy"], table["predictor"], strict=True)))
    where = list(dict.fromkeys(zip(table["case"], table["load"], strict=True)))
    values = np.full((len(who), len(where)), np.nan)
    for row in table.to_dict("records"):
        y, x = who.index((row["policy"], row["predictor"])), where.index((row["case"], row["load"]))
        values[y, x] = gain = row["gain"]
        is_chance = row["low"] < 1.0 < row["high"]
        colours = ("white", "#a0a0a0") if SHADES(gain) < DARK else ("black", "#6f6f6f")
        colour = colours[is_chance]
        ax.text(x, y, f"{gain:.2f}", ha="center", va="center", fontsize=style.FONT_SIZE - 2, color=colour)
    ax.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=COLOURS, norm=SHADES, zorder=0)
    style.tidy(ax, "none")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=style.FONT_SIZE - 1)
    ax.set_xticks(range(len(where)), [f"{100 * load:g}" for _, load in where])
    ax.set_yticks(range(len(who)), [label(*each) for each in who] if has_names else [""] * len(who))
    ax.set_xlabel("Load (%)")
    for case in dict.fromkeys(case for case, _ in where):
        places = [x for x, (of, _) in enumerate(where) if of == case]
        text = style.plain("\n".join(wrap(case, max(8, 6 * len(places)))))
        ax.text(float(np.mean(places)), -0.7, text, ha="center", va="bottom", fontsize=style.FONT_SIZE - 2)
        if places[0]:
            ax.axvline(places[0] - 0.5, color="black", linewidth=1.2)
    for y in range(1, len(who)):
        if who[y][0] != who[y - 1][0]:
            ax.axhline(y - 0.5, color="white", linewidth=2.0)
    ax.set_title(f"{metrics.metric(metric).name}\n\n\n", fontsize=style.FONT_SIZE + 1, loc="left")


def figure(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel for each latency, on one scale."""
    num_rows = len(frame[["policy", "predictor"]].drop_duplicates()) - 1
    num_columns = len(frame[["case", "load"]].drop_duplicates())
    width, height = 4.6 + len(names) * max(2.4, 0.4 * num_columns), 2.4 + 0.24 * num_rows
    fig, axes = style.figure(width, height, 1, len(names))
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        panel(frame, ax, name, has_names=k == 0)
    bar = fig.colorbar(
        ScalarMappable(SHADES, COLOURS), ax=axes, location="bottom", extend="both", aspect=60, pad=0.02
    )
    bar.ax.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1.0, 2.0, 4.0]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.tick_params(labelsize=style.FONT_SIZE)
    baseline = style.shorten(str(frame["policy"].iloc[0]), 40)
    text = f"Latency of {baseline} ÷ that of the policy (above 1 it is faster; grey numbers may be chance)"
    bar.set_label(style.plain(text), fontsize=style.FONT_SIZE)
    style.note_left_out(fig, frame.to_dict("records"))
    return fig
