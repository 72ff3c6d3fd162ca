"""A capacity plan as one self-contained HTML file, to hand on, to print, to read on a phone."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from sim.planning.answer import point_text
from sim.planning.verdict import standing_text, value_text
from traces.files import atomic_write

from . import capacity

if TYPE_CHECKING:
    from sim.planning.answer import Answer, Plan

TEMPLATES = Path(__file__).parent / "templates"


def write(made: Plan, path: str | Path) -> None:
    """Write the report of a plan, complete or not at all; the same plan gives the same bytes."""
    text = render(made)
    with atomic_write(path) as file:
        file.write(text)


def render(made: Plan) -> str:
    """The report as HTML."""
    drawn = {
        "curves": capacity.curves_figure(made),
        "pareto": capacity.pareto_figure(made),
        "tornado": capacity.tornado_figure(made.sensitivity) if made.sensitivity else None,
    }
    pictures = {name: svg(figure, name) for name, figure in drawn.items() if figure is not None}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(plan=made, q=made.question, rows=[_row(a, made) for a in made.answers], pictures=pictures)
    )


def svg(figure: Figure, name: str) -> Markup:
    """The figure as an SVG element; `name` keeps its identifiers apart from those of other figures."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"seqsched {name}"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL))


def _row(answer: Answer, made: Plan) -> dict[str, Any]:
    """What the table says of an answer, in words; a heading each."""

    def text(value: float | None, form: str) -> str:
        return "–" if value is None else form.format(value)

    asked = made.question.request_rate is None
    at = answer.measured
    size = "none" if answer.replicas is None else str(answer.replicas)
    return {
        "answer": answer,
        "best": answer is made.best,
        "cells": [
            ("Replicas", size + (f" ({answer.spare} spare)" if answer.spare else "")),
            ("Highest rate" if asked else "Rate", text(answer.rate, "{:.4g} /s")),
            ("Busy", text(answer.utilisation, "{:.0%}")),
            ("Left of the tightest bound", text(answer.headroom, "{:.0%}")),
            ("Room for more traffic", text(answer.headroom_rate, "{:.0%}")),
            ("Cost per hour", text(answer.cost_per_hour, "{:,.2f} USD")),
            ("Per million output tokens", text(answer.cost_per_million_output_tokens, "{:,.3g} USD")),
            ("Gives way first", answer.binding or "–"),
        ],
        "stands": [standing_text(m) + f"; bound {value_text(m, m.limit)}" for m in answer.point.measured]
        if answer.point
        else [],
        "binding": at,
        "less": point_text(answer.one_less),
        "more": point_text(answer.one_more),
    }


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(standing_text=standing_text, point_text=point_text)
    return made
