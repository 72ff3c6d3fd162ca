"""Turns raw columns into checked arrays, or raises one InputError naming file, row, column, value and bound.

A check is one pass over an array; single rows are examined only after it has failed, to name the first bad
one. Knows nothing of file formats: it sees a `Table` and column names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .tables import Table
from .trace import FloatArray, IntArray

MAX_TOKENS = 10_000_000
MAX_SPAN_S = 1_000_000_000
MAX_TIME_S = 100_000_000_000
MAX_PRIORITY = 1_000_000_000
MAX_BOUND_MS = 1000 * MAX_SPAN_S
MAX_EXACT = 2**53
"""Whole numbers up to here are exact as floats."""

ObjectArray = npt.NDArray[np.object_]
BoolArray = npt.NDArray[np.bool_]

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_DATE = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?"
_ZONE = r"\s?(?:Z|z|[+-]\d\d(?::?\d\d)?)"
_LEAST_SET_BACK_S, _LAST_SET_BACK_H = 3000, 4
"""Clocks are set back by an hour, before four in the morning; the gap between two requests is part of it."""
_SHOWN_CHARACTERS = 40


def display(value: object) -> str:
    """The value as an error message shows it: at most 40 characters, control characters escaped."""
    if value is None:
        return "a missing value"
    if isinstance(value, str) and _NUMBER.fullmatch(value) and len(value) <= _SHOWN_CHARACTERS:
        return value.strip()
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def fault(table: Table, index: int, column: str, what: str) -> InputError:
    """The error for one cell; `index` counts rows from 0."""
    return InputError(f"{table.where(index)}, {table.called(column)}: {what}")


def tokens(table: Table, column: str, low: int = 1, unless: BoolArray | None = None) -> IntArray:
    """Token counts between `low` and MAX_TOKENS, shape (n,).

    Rows where `unless`, shape (n,), holds are not checked, and get 0.
    """
    return _whole(table, column, low, MAX_TOKENS, unless)


def priorities(table: Table, column: str, unless: BoolArray | None = None) -> IntArray:
    """Whole numbers within ±MAX_PRIORITY, shape (n,); 0, unchecked, in rows where `unless` holds."""
    return _whole(table, column, -MAX_PRIORITY, MAX_PRIORITY, unless)


def whole_numbers(
    table: Table, column: str, low: int, high: int, unless: BoolArray | None = None
) -> IntArray:
    """Whole numbers from `low` to `high`, shape (n,); 0, unchecked, in rows where `unless` holds."""
    return _whole(table, column, low, high, unless)


def times(table: Table, column: str, per_second: float = 1.0, unless: BoolArray | None = None) -> FloatArray:
    """Times since any epoch, not negative, in units of 1/`per_second` s, shape (n,).

    Rows where `unless`, shape (n,), holds are not checked, and get 0.
    """
    return _numbers(table, column, 0, round(MAX_TIME_S * per_second), whole=False, unless=unless)


def deadlines(table: Table, column: str, unless: BoolArray | None = None) -> FloatArray:
    """Times in s, as in `times`; infinity for an empty cell, and unchecked where `unless` holds."""
    unchecked = _blank_or(table, column, unless)
    return np.where(unchecked, np.inf, times(table, column, unless=unchecked))


def _blank_or(table: Table, column: str, unless: BoolArray | None) -> BoolArray:
    """Which cells are empty, or are not looked at, shape (n,)."""
    given = table.numbers(column)
    blank = np.zeros(table.num_rows, dtype=bool)
    if given is None or np.isnan(given).any():
        cells = table.raw(column)
        blank = np.array([cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells])
    return blank if unless is None else blank | unless


def bounds_ms(table: Table, column: str, unless: BoolArray | None = None) -> FloatArray:
    """Bounds in ms, above 0, shape (n,); NaN for an empty cell, and unchecked where `unless` holds."""
    unchecked = _blank_or(table, column, unless)
    values = _numbers(table, column, 0, MAX_BOUND_MS, whole=False, unless=unchecked)
    refuse(table, column, (values <= 0) & ~unchecked, lambda i: f"{values[i]:g} is not above 0")
    return np.where(unchecked, np.nan, values)


def instants(table: Table, column: str, unless: BoolArray | None = None) -> FloatArray:
    """ISO 8601 dates with a time of day (UTC where no zone is given), in s from the earliest, shape (n,).

    Rows where `unless`, shape (n,), holds are not checked, and get 0. Raises InputError where some have a
    zone and some have none, and where a clock without one was set back.
    """
    import pandas as pd

    values, rows = table.raw(column), np.arange(table.num_rows)
    if unless is not None:
        rows = np.flatnonzero(~unless)
        values = [values[i] for i in rows.tolist()]
    dates = pd.Series(values, dtype=object)
    alike = _are_alike(values)
    if not alike:
        text = dates.where(dates.map(lambda value: isinstance(value, str)), "")
        # BigQuery writes UTC behind a blank.
        dates = text.where(text.str.match(_DATE).to_numpy(dtype=bool)).str.replace(
            r"\s*UTC$", "Z", regex=True
        )
    when = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
    bad = when.isna().to_numpy(dtype=bool)
    if bad.any():
        index = int(bad.argmax())
        what = f"{display(values[index])} is not a date and time such as 2023-11-16 18:15:46.68"
        raise fault(table, int(rows[index]), column, what)
    elapsed = np.asarray((when - when.min()).dt.total_seconds(), dtype=np.float64)
    doubt = None if alike else _doubt_of_zone(dates.tolist())
    if doubt := doubt or _doubt_of_clock(dates.tolist(), elapsed):
        index, what = doubt
        raise fault(table, int(rows[index]), column, f"{display(values[index])} {what}")
    seconds = np.zeros(table.num_rows)
    seconds[rows] = elapsed
    return seconds


def _are_alike(values: list[Any]) -> bool:
    """Whether all are dates, and all of them have a zone or none has: one look at a long text, since that is
    faster than many.
    """
    if not set(map(type, values)) <= {str}:
        return False
    text = "\n".join(values) + "\n"
    return any(re.fullmatch(rf"(?:{_DATE}{zone}\n)*", text, re.ASCII) is not None for zone in ("", _ZONE))


def _doubt_of_zone(dates: list[str]) -> tuple[int, str] | None:
    """The first date that differs from those above in having a zone, and how; None for none."""
    zoned = [re.search(rf"{_ZONE}\s*$", date) is not None for date in dates]
    if all(zoned) or not any(zoned):
        return None
    index = zoned.index(not zoned[0])
    has = "has an offset, where those above have none" if zoned[index] else "has none of the offsets above"
    return index, f"{has}: its zone is not clear"


def _doubt_of_clock(dates: list[str], elapsed: FloatArray) -> tuple[int, str] | None:
    """The row at which a clock without a zone was set back by an hour; None for none."""
    back = np.flatnonzero(np.diff(elapsed) < 0)
    if len(back) != 1 or re.search(rf"{_ZONE}\s*$", dates[0]):
        return None
    index = int(back[0])
    step = float(elapsed[index] - elapsed[index + 1])
    if not _LEAST_SET_BACK_S <= step <= 3600 or int(dates[index][11:13]) >= _LAST_SET_BACK_H:
        return None
    what = f"is {step:,.0f} s before the row above, the only one out of order: was a clock set back?"
    return index + 1, f"{what} Dates with an offset, such as {dates[index][:19]}+02:00, are read right"


def identifiers(table: Table, column: str) -> npt.NDArray[Any]:
    """Distinct request ids, shape (n,): int64 where every id reads as a plain integer, else text."""
    ids = _text(table, column, "an id", blank=False)
    if len(set(ids)) != len(ids):
        first: dict[str, int] = {}
        for index, value in enumerate(ids):
            if value in first:
                what = f"{display(value)} is already the id of {table.label(first[value])}; ids must differ"
                raise fault(table, index, column, what)
            first[value] = index
    try:
        numbers = [int(value) for value in ids]
        if [str(number) for number in numbers] == ids:
            return np.array(numbers, dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    return np.array(ids, dtype=object)


def texts(table: Table, column: str) -> ObjectArray:
    """Text, empty allowed, shape (n,)."""
    return np.array(_text(table, column, "text", blank=True), dtype=object)


def optional_texts(table: Table, column: str) -> ObjectArray:
    """The same; empty, too, where a row has none."""
    return np.array(_text(table, column, "text", blank=True, optional=True), dtype=object)


def refuse(table: Table, column: str, bad: BoolArray, what: Callable[[int], str]) -> None:
    """Raises for the first row where `bad`, shape (n,), holds; `what(index)` says what is wrong with it."""
    if bad.any():
        index = int(bad.argmax())
        raise fault(table, index, column, what(index))


def _whole(table: Table, column: str, low: int, high: int, unless: BoolArray | None = None) -> IntArray:
    return _numbers(table, column, low, high, whole=True, unless=unless).astype(np.int64)


def _numbers(
    table: Table, column: str, low: int, high: int, *, whole: bool, unless: BoolArray | None = None
) -> FloatArray:
    values = table.numbers(column)
    if values is not None and unless is not None:
        values = np.where(unless, 0.0, values)
    if (
        values is not None
        and _within(values, low, high)
        and (not whole or (values == np.floor(values)).all())
    ):
        return values
    kind = "a whole number" if whole else "a number"
    raw = table.raw(column)
    indices = range(len(raw)) if unless is None else np.flatnonzero(~unless).tolist()
    for index in indices:
        what = _number_fault(raw[index], low, high, kind, text_is_number=table.text_is_number)
        if what is not None:
            raise fault(table, index, column, what)
    if unless is not None:
        values = np.zeros(len(raw))
        values[~unless] = [float(raw[index]) for index in indices]
        return values
    raise InputError(f"{table.path}, {column}: holds a value that is not {kind} from {low} to {high}")


def _within(values: FloatArray, low: int, high: int) -> bool:
    return bool(np.isfinite(values).all() and values.min() >= low and values.max() <= high)


def _number_fault(value: object, low: int, high: int, kind: str, *, text_is_number: bool) -> str | None:
    needed = f"({kind} from {low} to {high} is needed)"
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"empty {needed}"
    number: int | float
    if isinstance(value, str) and text_is_number and _NUMBER.fullmatch(value):
        number = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    else:
        shown = repr(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else display(value)
        return f"{shown[:_SHOWN_CHARACTERS]} is not a number {needed}"
    if not -math.inf < number < math.inf:
        return f"{display(value)} is not finite {needed}"
    if number < low:
        return f"{display(value)} is below {low}"
    if number > high:
        return f"{display(value)} is above {high}"
    if kind == "a whole number" and number != math.floor(number):
        return f"{display(value)} is not a whole number {needed}"
    return None


def _text(table: Table, column: str, kind: str, *, blank: bool, optional: bool = False) -> list[str]:
    raw = table.raw(column)
    if optional:
        raw = ["" if value is None else value for value in raw]
    if not set(map(type, raw)) <= {str, int}:
        index = next(i for i, value in enumerate(raw) if type(value) not in (str, int))
        raise fault(
            table, index, column, f"{display(raw[index])} is not {kind} (text or an integer is needed)"
        )
    try:
        values = [str(value) for value in raw]
        "".join(values).encode()
    except ValueError:
        index = next(i for i, value in enumerate(raw) if not _encodes(value))
        raise fault(table, index, column, f"{display(raw[index])} cannot be written as UTF-8") from None
    if not blank and not all(map(str.strip, values)):
        index = next(i for i, value in enumerate(values) if not value.strip())
        raise fault(table, index, column, "empty (an id of at least 1 character is needed)")
    return values


def _encodes(value: object) -> bool:
    try:
        str(value).encode()
    except ValueError:
        return False
    return True
