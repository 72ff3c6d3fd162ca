"""docs/policies.md names every option of the shipped policies, every value of a choice, every predictor."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from sim.perception.registry import PREDICTORS
from sim.schedulers.continuous_options import ADMISSIONS, ContinuousOptions
from sim.schedulers.order import ORDERS
from sim.schedulers.sequence_options import SequenceOptions
from tests.docs.pages import ROOT, Page

TEXT = Page(ROOT / "docs" / "policies.md").text
BY_ORDER = ("preempt_until", "starve_after")
"""Options whose default depends on another option."""


def rows(heading: str) -> list[list[str]]:
    """The cells of all rows of the tables whose heading begins so."""
    tables = re.findall(rf"^\| {re.escape(heading)}[^\n]*\n\|[-:|]+\n(.*?)(?=\n\n)", TEXT, re.M | re.S)
    return [[cell.strip() for cell in row.strip("|").split("|")] for t in tables for row in t.splitlines()]


def as_said(default: Any) -> str:
    """A default as the page says it."""
    if default is None:
        return "by profile"
    if isinstance(default, bool):
        return "on" if default else "off"
    return default if isinstance(default, str) else f"{default:g}"


def test_every_option_of_continuous_stands_in_its_table_with_its_default() -> None:
    shown = {
        name.strip("`"): default
        for names, defaults, *_ in rows("option of `continuous`")
        for name, default in zip(re.split("[,;] ", names), re.split("[,;] ", defaults), strict=True)
    }
    options = fields(ContinuousOptions)
    assert shown == {o.name: "by order" if o.name in BY_ORDER else as_said(o.default) for o in options}


def test_every_order_stands_in_one_table() -> None:
    shown = [order.strip("`") for order, *_ in rows("`order=` | who goes first")]
    assert sorted(shown) == sorted(ORDERS)


def test_every_value_of_a_choice_is_named() -> None:
    hints = get_type_hints(ContinuousOptions).values()
    values = {value for hint in hints for value in get_args(hint) if isinstance(value, str)}
    assert values >= {*ORDERS, "least-waste", "sglang", "max_utilization"}
    lacking = [v for v in (*values, *ADMISSIONS, "quantile:Q") if not re.search(rf"[`=]{v}[`,]", TEXT)]
    assert lacking == []


def test_every_option_of_sequence_is_named() -> None:
    section = TEXT.split("- `sequence`:", 1)[1].split("- `continuous`:", 1)[0]
    assert [o.name for o in fields(SequenceOptions) if f"`{o.name}" not in section] == []


def test_every_predictor_is_named() -> None:
    section = TEXT.split("## Predictors", 1)[1]
    assert [name for name in PREDICTORS.names if not re.search(rf"`{name}[`:]", section)] == []
