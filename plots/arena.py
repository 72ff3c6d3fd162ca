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
from sim.results.paired import LATENCIES, NONE, SESSION_LATENCIES, gains
from traces.spec import names_of

from . import style
from .gain_map import COLOURS, SHADES

if TYPE_CHECKING:
    import pandas as pd

DARK = 0.36
"""Shades below this have white numbers."""
CHANCE = "#707070"
"""The colour of numbers that may be chance, on white."""
NAME_WIDTH = 32
"""Most characters of a policy or a predictor in a line."""
LETTERS_PER_INCH = 14
"""Of the colour bar's label, which is as wide as the panels at most."""
UNSAID = ("charge=off", "file=", "ask_ms=")
"""Options of predictors that a picture does not say."""


def check_metrics(names: Sequence[str]) -> None:
    """InputError for a latency that the table does not have."""
    names_of(names, "metrics", LATENCIES + SESSION_LATENCIES)


def policy_label(policy: str) -> str:
    """A policy without what all share, in two lines where one would be too long."""
    name = policy.removeprefix("continuous:").replace("order=", "").replace(",", ", ")
    return style.plain("\n".join(wrap(name, NAME_WIDTH)[:2]))


def predictor_label(predictor: str) -> str:
    """A predictor without what it costs and where it was read; empty where there is none."""
    name, _, rest = ("" if predictor == NONE else predictor).partition(":")
    options = [text for text in rest.split(",") if text and not text.startswith(UNSAID)]
    return style.plain(style.shorten(" ".join([name, *options]), NAME_WIDTH))


def panel(frame: pd.DataFrame, ax: Axes, metric: str, *, has_names: bool) -> None:
    """The gain in one latency: a row for each policy and predictor, a column for each case and load.

    `frame` as of `sim.studies.arena.arena`, the baseline first. Gains of which the interval over seeds holds
    1 have no colour.
    """
    table = gains(frame, metric)
    table = table[table["policy"] != frame["policy"].iloc[0]]
    who = list(dict.fromkeys(zip(table["policy"], table["predictor"], strict=True)))
    where = list(dict.fromkeys(zip(table["case"], table["load"], strict=True)))
    sure = np.full((len(who), len(where)), np.nan)
    for row in table.to_dict("records"):
        y, x = who.index((row["policy"], row["predictor"])), where.index((row["case"], row["load"]))
        gain, is_chance = row["gain"], row["low"] <= 1.0 <= row["high"]
        sure[y, x] = np.nan if is_chance else gain
        colour = CHANCE if is_chance else "white" if SHADES(gain) < DARK else "black"
        text = f"{gain:.2f}" if gain < 9.995 else f"{gain:.1f}"
        ax.text(x, y, text, ha="center", va="center", fontsize=style.FONT_SIZE - 1.5, color=colour)
    ax.imshow(np.ma.masked_invalid(sure), aspect="auto", cmap=COLOURS, norm=SHADES, zorder=0)
    style.tidy(ax, "none")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=style.FONT_SIZE - 1)
    ax.set_xticks(range(len(where)), [f"{100 * load:g}" for _, load in where])
    ax.set_yticks(range(len(who)), [predictor_label(each) if has_names else "" for _, each in who])
    ax.set_xlabel("Load (%)")
    for case in dict.fromkeys(case for case, _ in where):
        places = [x for x, (of, _) in enumerate(where) if of == case]
        text = style.plain("\n".join(wrap(case, max(8, 6 * len(places)))))
        ax.text(float(np.mean(places)), -0.7, text, ha="center", va="bottom", fontsize=style.FONT_SIZE - 1)
        if places[0]:
            ax.axvline(places[0] - 0.5, color=style.EDGE, linewidth=1.2)
    for policy in dict.fromkeys(policy for policy, _ in who):
        rows = [y for y, (each, _) in enumerate(who) if each == policy]
        if rows[0]:
            ax.axhline(rows[0] - 0.5, color=style.EDGE, linewidth=0.5)
        if has_names:
            _name_rows(ax, policy_label(policy), float(np.mean(rows)), who)
    ax.set_title(f"{metrics.metric(metric).name}\n\n\n", fontsize=style.FONT_SIZE + 1, loc="left")


def _name_rows(ax: Axes, text: str, y: float, who: Sequence[tuple[str, str]]) -> None:
    """A policy's name, left of its predictors'."""
    widest = max(len(predictor_label(predictor)) for _, predictor in who)
    ax.annotate(
        text,
        (0.0, y),
        (-14.0 - 0.62 * (style.FONT_SIZE - 1) * widest, 0.0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=style.FONT_SIZE - 1,
        fontweight="bold",
        linespacing=1.0,
    )


def figure(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel for each latency, on one scale."""
    num_rows = len(frame[["policy", "predictor"]].drop_duplicates()) - 1
    num_columns = len(frame[["case", "load"]].drop_duplicates())
    baseline = style.shorten(str(frame["policy"].iloc[0]), 40)
    text = (
        f"Latency of {baseline} ÷ that of the policy (above 1 it is faster; what has no colour may be chance)"
    )
    panels_width = len(names) * max(2.0, 0.36 * num_columns)
    lines = wrap(text, int(LETTERS_PER_INCH * panels_width))
    height = 2.3 + 0.21 * num_rows + 0.16 * (len(lines) - 1)
    fig, axes = style.figure(3.4 + panels_width, height, 1, len(names))
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        panel(frame, ax, name, has_names=k == 0)
    bar = fig.colorbar(
        ScalarMappable(SHADES, COLOURS),
        ax=axes,
        location="bottom",
        extend="both",
        aspect=60,
        pad=max(0.02, 0.12 / height),
    )
    bar.ax.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1.0, 2.0, 4.0]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.tick_params(labelsize=style.FONT_SIZE)
    bar.set_label(style.plain("\n".join(lines)), fontsize=style.FONT_SIZE)
    style.note_left_out(fig, frame.to_dict("records"))
    return fig
