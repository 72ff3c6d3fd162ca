"""A table whose columns are called otherwise, or lie within objects, as whoever reads it says.

Knows nothing of the formats that there are, nor of the containers of tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from . import checks
from .errors import InputError
from .tables import Table
from .trace import FloatArray

DEEPEST = 4
"""Levels of objects in which columns are looked for."""


class Renamed:
    """The table with columns under our names: `names` says for each what it is called in the file.

    `usage.prompt_tokens` is the key `prompt_tokens` of the object in the column `usage`, where no column has
    that name itself. A column of the file that has one of our names, and is none of these, is hidden. Raises
    InputError where the file lacks a column.
    """

    def __init__(self, table: Table, names: Mapping[str, str]) -> None:
        self.table, self.names = table, names
        self.path, self.num_rows, self.text_is_number = table.path, table.num_rows, table.text_is_number
        self.notes, self.source = table.notes, table.source
        taken = {*names, *names.values(), *(name.partition(".")[0] for name in names.values())}
        self.columns = (*names, *(name for name in table.columns if name not in taken))
        for name in names.values():
            if name not in table.columns and name.partition(".")[0] not in table.columns:
                shown = checks.display(", ".join(table.columns))
                raise InputError(f"{table.path}: column {name} is missing among {shown}")

    def label(self, index: int) -> str:
        """The name of a row for people."""
        return self.table.label(index)

    def where(self, index: int) -> str:
        """The file and the row."""
        return self.table.where(index)

    def numbers(self, column: str) -> FloatArray | None:
        """The column as floats, None if some value is not a number."""
        name = self.names.get(column, column)
        if name in self.table.columns:
            return self.table.numbers(name)
        values = self.raw(column)
        if not set(map(type, values)) <= {int, float}:
            return None
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            return None

    def raw(self, column: str) -> list[Any]:
        """The column's values, None where missing."""
        name = self.names.get(column, column)
        if name in self.table.columns:
            return self.table.raw(name)
        first, *keys = name.split(".")
        return [_within(value, keys) for value in self.table.raw(first)]


def _within(value: object, keys: list[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def paths(record: Mapping[str, Any], depth: int = DEEPEST) -> Iterator[str]:
    """The keys of what lies within the objects of a record, such as `usage.prompt_tokens`."""
    for key, value in record.items():
        if isinstance(value, dict) and depth:
            yield from (f"{key}.{name}" for name in (*value, *paths(value, depth - 1)))
