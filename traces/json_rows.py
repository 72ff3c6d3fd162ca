"""Finds the rows in a JSON text: a list of objects, JSON lines, objects in a row however they are indented.

Knows nothing of what the rows mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .errors import InputError

Rows = list[dict[str, Any]]

MOST_KEYS = 6
"""Keys of an object that an error names."""


def rows_of(path: str, text: str) -> tuple[Rows, Sequence[int] | None]:
    """The rows, and their line numbers where they are JSON lines.

    Raises InputError, naming `path`, for broken JSON and for a row that is no object.
    """
    return _list(path, text) if text.lstrip().startswith("[") else _objects(path, text)


def _list(path: str, text: str) -> tuple[Rows, None]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken JSON ({error})") from error
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            _not_an_object(f"{path}, row {index + 1}", item)
    return items, None


def _objects(path: str, text: str) -> tuple[Rows, Sequence[int] | None]:
    """JSON lines; else, where the first line is no whole object, objects one after the other."""
    rows: Rows = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not rows:
                return _indented(path, text), None
            raise InputError(f"{path}, line {number}: broken JSON ({error})") from None
        if not isinstance(row, dict):
            _not_an_object(f"{path}, line {number}", row)
        if not rows:
            _refuse_twins(f"{path}, line {number}", line, row)
        rows.append(row)
        lines.append(number)
    return rows, lines


def _refuse_twins(where: str, line: str, row: Mapping[str, Any]) -> None:
    """InputError where a key stands twice in an object: the last would be read. What writes one so writes all
    so: it is enough to look at the first.
    """
    pairs: list[tuple[str, Any]] = []

    def keep(of_one: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = of_one  # the outermost object comes last
        return dict(of_one)

    json.loads(line, object_pairs_hook=keep)
    keys = [key for key, _ in pairs]
    if len(keys) != len(row):
        twin = next(key for key in row if keys.count(key) > 1)
        raise InputError(f"{where}: key {twin} appears {keys.count(twin)} times, 1 is allowed")


def _indented(path: str, text: str) -> Rows:
    rows: Rows = []
    decoder, at = json.JSONDecoder(), _next(text, 0)
    while at < len(text):
        try:
            row, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})"
            ) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: broken JSON ({error})") from error
        if not isinstance(row, dict):
            _not_an_object(f"{path}, row {len(rows) + 1}", row)
        rows.append(row)
        at = _next(text, end)
    return rows


def _next(text: str, at: int) -> int:
    """Where the white space from `at` on ends."""
    found = re.compile(r"\s*").match(text, at)
    return len(text) if found is None else found.end()


def no_rows(path: str, value: Mapping[str, Any]) -> InputError:
    """The error for a single object that is no request: rows are needed."""
    keys = ", ".join([*list(value)[:MOST_KEYS], *(["…"] if len(value) > MOST_KEYS else [])])
    lists = [k for k, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    hint = f" (its {lists[0]} is one)" if lists else ""
    needed = f"requests are needed, as a list of objects{hint} or as JSON lines"
    return InputError(f"{path}: is one JSON object, with the keys {keys}, and in no known format; {needed}")


def _not_an_object(where: str, value: object) -> NoReturn:
    kind = "a list" if isinstance(value, list) else type(value).__name__
    raise InputError(f"{where}: is {kind}, a JSON object is needed")
