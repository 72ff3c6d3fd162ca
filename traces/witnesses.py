"""Holds the two lengths of requests against other columns that know of them, such as totals.

Columns that contradict each other are refused where one is surely not what it is read as, else said. Knows
nothing of formats and times.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from . import checks
from .checks import BoolArray
from .errors import InputError
from .tables import Table
from .trace import FloatArray, IntArray
from .units import without_unit

TOTAL = re.compile(r"(num_)?total_?tokens?(_count)?|tokens_total")
"""A column of prompt and answer together."""
CACHED = re.compile(r"(?!.*(creat|writ)).*cache.*tokens?(_count)?")
"""A column of the tokens of prompts that a server found in its cache."""
THOUGHTS = re.compile(r"(num_|completion_|output_)*(reasoning|thinking)_(output_)?tokens?(_count)?")
"""A column of the tokens of an answer that are not shown."""
REQUESTS = re.compile(r"(num|n|number_of|total)_(model_)?requests|requests?_count|requests")
"""A column of how many requests a row is."""
SUMMARIES = ("total", "totals", "sum", "mean", "average", "avg", "median", "aggregated", "overall", "summary")
"""What a last row that is no request is called."""
LEAST_ROWS = 4
"""Rows from which on a last one that is the sum of all others is no chance."""


class Pair(NamedTuple):
    """The two lengths of each row, shape (n,), the names of their columns, and which rows are answered."""

    prompt: IntArray
    output: IntArray
    names: tuple[str, str]
    answered: BoolArray


def is_witness(column: str) -> bool:
    """Whether a column with this name knows something of the lengths."""
    name = without_unit(column)
    return any(pattern.fullmatch(name) for pattern in (TOTAL, CACHED, THOUGHTS, REQUESTS))


def notes_on(table: Table, pair: Pair) -> tuple[str, ...]:
    """What the columns that know of the lengths say against them; InputError where that is beyond doubt."""
    _refuse_a_sum(table, pair)
    notes: list[str] = []
    for column in filter(is_witness, table.columns):
        values = table.numbers(column)
        if values is None:
            continue
        name = without_unit(column)
        if REQUESTS.fullmatch(name):
            _refuse_many(table, column, values, pair)
        elif THOUGHTS.fullmatch(name):
            _refuse_thoughts_apart(table, column, values, pair)
        elif TOTAL.fullmatch(name):
            notes += _on_totals(table, column, values, pair)
        else:
            notes += _on_cached(column, values, pair)
    return tuple(notes)


def refuse_summary(table: Table, column: str, last_id: object) -> None:
    """InputError where the last row is called a total or a mean of the others."""
    if table.num_rows > 1 and str(last_id).strip().lower() in SUMMARIES:
        what = f"{checks.display(last_id)} is a summary of the rows above and no request; leave it out"
        raise checks.fault(table, table.num_rows - 1, column, what)


def _refuse_a_sum(table: Table, pair: Pair) -> None:
    last = table.num_rows - 1
    if table.num_rows < LEAST_ROWS or not pair.answered[last]:
        return
    sums = [int(values[:-1][pair.answered[:-1]].sum()) for values in (pair.prompt, pair.output)]
    if sums == [int(pair.prompt[last]), int(pair.output[last])]:
        what = f"{sums[0]} is the sum of all rows above, as {pair.names[1]} is: leave out what is no request"
        raise checks.fault(table, last, pair.names[0], what)


def _refuse_many(table: Table, column: str, values: FloatArray, pair: Pair) -> None:
    def what(index: int) -> str:
        return f"{values[index]:g} is above 1: a row that sums up several requests is none"

    checks.refuse(table, column, pair.answered & (values > 1), what)


def _refuse_thoughts_apart(table: Table, column: str, values: FloatArray, pair: Pair) -> None:
    def what(index: int) -> str:
        output = f"{pair.output[index]}, the {pair.names[1]}"
        return f"{values[index]:g} is above {output}, which must hold all that is generated: add them up"

    checks.refuse(table, column, pair.answered & (values > pair.output), what)


def _on_totals(table: Table, column: str, totals: FloatArray, pair: Pair) -> list[str]:
    rows = pair.answered & np.isfinite(totals) & (totals > 0)
    wrong = rows & (totals != pair.prompt + pair.output)
    if not wrong.any():
        return []
    for values, name, other in (
        (pair.output, pair.names[1], "answer"),
        (pair.prompt, pair.names[0], "prompt"),
    ):
        if (totals == values)[rows].all():
            what = f"is {table.called(column)} in every row, prompt and answer together"
            raise InputError(f"{table.path}, {name}: {what}; the {other} alone is needed")
    count, first = int(wrong.sum()), table.label(int(wrong.argmax()))
    both = " + ".join(pair.names)
    return [f"{column} is not {both} in {count} of {int(rows.sum())} requests, the first in {first}"]


def _on_cached(column: str, cached: FloatArray, pair: Pair) -> list[str]:
    rows = pair.answered & np.isfinite(cached)
    above = int((rows & (cached > pair.prompt)).sum())
    if above:
        doubt = f"does {pair.names[0]} leave out what was cached?"
        return [f"{column} is above {pair.names[0]} in {above} of {int(rows.sum())} requests: {doubt}"]
    share = float(cached[rows].sum() / max(int(pair.prompt[rows].sum()), 1))
    if not share > 0:
        return []
    return [f"{column} are {100 * share:.2g} % of the prompt tokens, which are all computed here"]
