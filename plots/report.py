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

from sim.planning.answer import headroom_text, point_text
from sim.planning.verdict import point_standing, value_text
from sim.results.metric_kinds import Latency
from sim.results.metrics import LATENCIES
from sim.results.slo_metrics import shares_text
from traces.files import atomic_write

from . import capacity, style

if TYPE_CHECKING:
    from sim.planning.answer import Answer, Plan

TEMPLATES = Path(__file__).parent / "templates"


def write(plan: Plan, path: str | Path) -> None:
    """Write the report of a plan, complete or not at all; the same plan gives the same bytes."""
    text = render(plan)
    with atomic_write(path) as file:
        file.write(text)


def render(plan: Plan) -> str:
    """The report as HTML."""
    figures = {
        "curves": capacity.curves_figure(plan),
        "pareto": capacity.pareto_figure(plan),
        "tornado": capacity.tornado_figure(plan.sensitivity) if plan.sensitivity else None,
    }
    pictures = {name: svg(figure, name) for name, figure in figures.items() if figure is not None}
    template = _environment().get_template("report.html.j2")
    return template.render(
        plan=plan,
        q=plan.question,
        latencies=_bounded_latencies(plan),
        rows=[_row(a, plan) for a in plan.answers],
        pictures=pictures,
    )


def svg(figure: Figure, name: str) -> Markup:
    """The figure as an SVG element; `name` keeps its identifiers apart from those of other figures."""
    buffer = io.StringIO()
    style.unformulated(figure)
    with matplotlib.rc_context({"svg.hashsalt": f"seqsched {name}"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(re.sub(r"^.*?(?=<svg)", "", text, flags=re.DOTALL))


def _bounded_latencies(plan: Plan) -> list[Latency]:
    """The latencies that the question bounds, to be explained."""
    bounds = (*plan.question.slo, *plan.question.goodput)  # such as `ttft_p99 ≤ 2000 ms`, `tpot ≤ 100 ms`
    keys = dict.fromkeys(re.split("[_ ]", bound)[0] for bound in bounds)
    return [LATENCIES[key] for key in keys if key in LATENCIES]


def _row(answer: Answer, plan: Plan) -> dict[str, Any]:
    """An answer in words: what its card shows."""

    def text(value: float | None, form: str) -> str:
        return "–" if value is None else form.format(value)

    rate_is_the_answer = plan.question.request_rate is None
    shares = None if answer.point is None else answer.point.slo_attainment
    size = "none" if answer.replicas is None else str(answer.replicas)
    return {
        "answer": answer,
        "best": answer is plan.best,
        "cells": [
            ("Replicas", size + (f" ({answer.spare} spare)" if answer.spare else "")),
            ("GPUs", text(answer.gpus, "{}")),
            ("Highest rate" if rate_is_the_answer else "Rate", text(answer.rate, "{:.4g} /s")),
            ("Busy", text(answer.utilisation, "{:.0%}")),
            ("Left of the tightest bound", text(answer.headroom, "{:.0%}")),
            ("Room for more traffic", headroom_text(answer.headroom_rate)),
            ("Cost per hour", text(answer.cost_per_hour, "{:,.2f} USD")),
            ("Per million output tokens", text(answer.cost_per_million_output_tokens, "{:,.3g} USD")),
            ("Gives way first", answer.binding or "–"),
            *([("Within their own bounds", shares_text(shares))] if shares is not None else []),
        ],
        "stands": [
            f"{point_standing(answer.point, m)}; bound {value_text(m, m.limit)}"
            for m in answer.point.measured
        ]
        if answer.point
        else [],
        "less": point_text(answer.one_less),
        "more": point_text(answer.one_more),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(point_standing=point_standing, point_text=point_text)
    return environment
