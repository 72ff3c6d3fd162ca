"""Reads pairs of predicted and actual lengths that somebody observed; knows nothing of predictors."""

from __future__ import annotations

from pathlib import Path

from traces import checks
from traces.errors import InputError
from traces.tables import log_unused, open_table
from traces.trace import IntArray


def read_pairs(path: str | Path) -> tuple[IntArray, IntArray]:
    """The columns predicted (>= 0) and actual (>= 1) of a table of pairs, each of shape (n,), tokens.

    Raises InputError naming file, row, column, value and bound.
    """
    columns = ("predicted", "actual")
    table = open_table(path, lambda name: name in columns)
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{path}: column {column} is missing; predicted and actual are needed")
    log_unused(table, "pairs of lengths", columns)
    return checks.tokens(table, "predicted", 0), checks.tokens(table, "actual", 1)
