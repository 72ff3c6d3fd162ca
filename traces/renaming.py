"""A table whose columns are called otherwise, or lie within objects, as whoever reads it says.

Knows nothing of the formats that there are, nor of the containers of tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from . import checks
from .errors import InputError
from .spec import nearest
from .tables import Table, json_numbers
from .trace import FloatArray

DEEPEST = 4
"""Levels of objects in which columns are looked for."""


class Renamed:
    """The table with columns under our names: `names` says for each what it is called in the file.

    `usage.prompt_tokens` is the key `prompt_tokens` of the object, or of the JSON text of one, in the column
    `usage`, where no column has that name itself; keys may have points of their own. A column of the file
    that has one of our names, and is none of these, is hidden. Keys for which `beside` holds and that lie
    in one object with a named one are columns too, where the file has none that is called so. Raises
    InputError where the file lacks a column, and where no row has such a key.
    """

    def __init__(
        self, table: Table, names: Mapping[str, str], beside: Callable[[str], bool] = lambda key: False
    ) -> None:
        self.table, self.names = table, dict(names)
        self.path, self.num_rows, self.text_is_number = table.path, table.num_rows, table.text_is_number
        self.notes, self.source = table.notes, table.source
        self.columns = (*names, *(name for name in table.columns if name not in names))
        self.of_file = {outermost(name, table.columns) for name in names.values()}
        """The columns of the file that the names lead to."""
        self._nested: dict[str, list[Any]] = {}
        for name in names.values():
            if name not in table.columns and name not in self._nested:
                self._look_within(name, beside)

    def called(self, column: str) -> str:
        """What the file calls a column."""
        return self.names.get(column, column)

    def label(self, index: int) -> str:
        """The name of a row for people."""
        return self.table.label(index)

    def where(self, index: int) -> str:
        """The file and the row."""
        return self.table.where(index)

    def numbers(self, column: str) -> FloatArray | None:
        """The column as floats, None if some value is not a number."""
        name = self.called(column)
        if name in self.table.columns:
            return self.table.numbers(name)
        return json_numbers(self._nested[name])

    def raw(self, column: str) -> list[Any]:
        """The column's values, None where missing."""
        name = self.called(column)
        return self.table.raw(name) if name in self.table.columns else list(self._nested[name])

    def _look_within(self, name: str, beside: Callable[[str], bool]) -> None:
        first = outermost(name, self.table.columns)
        if first not in self.table.columns:
            shown = checks.display(", ".join(self.table.columns))
            hint = nearest(name, self.table.columns)
            raise InputError(f"{self.path}: column {name} is missing among {shown}{hint}")
        objects = [_object(value) for value in self.table.raw(first)]
        found = [_innermost(each, name.removeprefix(f"{first}.")) for each in objects]
        self._nested[name] = [within.get(key) for within, key in found]
        if all(value is None for value in self._nested[name]):
            keys = next((each for each in objects if each), {})
            known = {f"{first}.{key}": None for each in (keys, paths(keys)) for key in each}
            raise InputError(f"{self.path}: column {name} is missing: no row has it{nearest(name, known)}")
        within, last = next((within, key) for within, key in found if key in within)
        others = [key for key in within if key not in self.columns and beside(key)]
        for key in others:
            self.names[key] = name.removesuffix(last) + key
            self._nested[self.names[key]] = [each.get(key) for each, _ in found]
        self.columns = (*self.columns, *others)


def outermost(name: str, columns: Collection[str]) -> str:
    """The column in which a name, with points between its keys, begins: the longest one that it may be."""
    while name not in columns and "." in name:
        name = name.rpartition(".")[0]
    return name


def _object(value: object) -> dict[str, Any]:
    """The object that a cell is, or is the JSON text of; empty for any other."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _innermost(within: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The object within an object to which keys with points between lead, and the last of them in it."""
    key = outermost(name, within)
    if key == name or key not in within:
        return within, name
    return _innermost(_object(within[key]), name.removeprefix(f"{key}."))


def paths(record: Mapping[str, Any], depth: int = DEEPEST) -> Iterator[str]:
    """The keys of what lies within the objects of a record, such as `usage.prompt_tokens`."""
    for key, value in record.items():
        if isinstance(value, dict) and depth:
            yield from (f"{key}.{name}" for name in (*value, *paths(value, depth - 1)))
