"""Reads a request trace: of any known format, told apart by column names, or of one that is named.

Knows nothing of containers (CSV, JSON lines and Parquet look the same from here) and nothing of where a file
came from. The formats themselves are in `readers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from . import checks
from .errors import InputError
from .readers import FORMATS, Format, Reading, Tokenizer
from .registry import Named
from .tables import Records, Table, open_table
from .trace import Trace


class _Known(NamedTuple):
    """A format and its name."""

    name: str
    form: type[Format]


def read(
    path: str | Path,
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Trace:
    """The trace in a file of any known format, detected from its content.

    `seed` feeds what the file does not state and the reader draws (said in the trace's notes).
    `max_new_tokens` caps the output lengths (None: as they are; the paper's length files: 512).
    `tokenizer(text)` counts tokens, needed for ShareGPT, which holds text. Rows come in order of arrival,
    times in seconds from the first.
    Raises InputError, one line naming file, row, column, value and bound, for a file that is not wholly
    sound.
    """
    reading = _checked(Reading(seed, max_new_tokens, tokenizer))
    table = open_table(path, wanted=lambda column: any(known.form.uses(column) for known in _known()))
    form = _detect(table).form(str(path))
    return _finished(form.read(table, reading), table, form, reading)


def read_named(named: Named, reading: Reading) -> Trace:
    """The trace in the file that the options of a named format say, as `read` would give it.

    Raises InputError for a file that is not in that format, and for what a class from outside does wrong.
    """
    _checked(reading)
    form = named.build()
    if not isinstance(form, Format):
        raise InputError(f"{named.label}: is no subclass of traces.readers.Format, nor has it generate()")
    uses_all = not (form.required or form.optional)
    table = open_table(form.file, wanted=lambda column: uses_all or form.uses(column))
    if not form.matches(table.columns):
        name, names = named.label.removeprefix("trace "), checks.display(", ".join(table.columns))
        if excluded := [column for column in form.excluded if column in table.columns]:
            raise InputError(f"{table.path}: column {excluded[0]} does not belong to format {name}")
        raise _missing(table.path, _Known(name, type(form)), table.columns, f" among {names}")
    trace = named.call(form, "read", table, reading, returns=Trace)
    return _finished(trace, table, None if uses_all else form, reading)


def _checked(reading: Reading) -> Reading:
    cap = reading.max_new_tokens
    if cap is not None and not 1 <= cap <= checks.MAX_TOKENS:
        raise InputError(f"max_new_tokens: {cap} is not between 1 and {checks.MAX_TOKENS}")
    if reading.seed < 0:
        raise InputError(f"seed: {reading.seed} is below 0")
    return reading


def _finished(trace: Trace, table: Table, form: Format | None, reading: Reading) -> Trace:
    """The trace with a note on the columns that its format ignores, and capped."""
    ignored = [column for column in table.columns if form is not None and not form.uses(column)]
    if ignored:
        trace = replace(trace, notes=(*trace.notes, f"columns ignored: {', '.join(ignored)}"))
    return trace if reading.max_new_tokens is None else trace.with_output_cap(reading.max_new_tokens)


def _known() -> list[_Known]:
    """The formats that are detected: all of ours."""
    return [_Known(name, cast(type[Format], form)) for name, form in FORMATS.table.items()]


def _detect(table: Table) -> _Known:
    if not isinstance(table, Records) or table.uniform:
        return _match(table.path, table.columns)
    first = _match(table.where(0), tuple(table.records[0]))
    known_keys: set[frozenset[str]] = set()
    for index, record in enumerate(table.records):
        keys = frozenset(record)
        if keys not in known_keys:
            known_keys.add(keys)
            known = _match(table.where(index), tuple(record), expected=first)
            if known != first:
                wanted = f"that of {table.label(0)}, {first.name}, is needed"
                raise InputError(f"{table.where(index)}: is in format {known.name}; {wanted}")
    return _match(table.path, table.columns)


def _match(where: str, columns: tuple[str, ...], expected: _Known | None = None) -> _Known:
    known = _known()
    matches = [each for each in known if each.form.matches(columns)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = " and ".join(each.name for each in matches)
        raise InputError(f"{where}: the columns fit {len(matches)} formats, {names}; exactly 1 is allowed")

    def missing(each: _Known) -> int:
        return sum(column not in columns for column in each.form.required)

    nearest = min(known, key=lambda each: missing(each) / len(each.form.required) or 1.0)
    if expected is not None and missing(expected):
        nearest = expected
    elif missing(nearest) in (0, len(nearest.form.required)):
        known_columns = "; ".join(f"{each.name}: {', '.join(each.form.required)}" for each in known)
        names = checks.display(", ".join(columns))
        raise InputError(f"{where}: columns {names} are those of no known format ({known_columns})")
    raise _missing(where, nearest, columns)


def _missing(where: str, known: _Known, columns: Sequence[str], among: str = "") -> InputError:
    absent = [column for column in known.form.required if column not in columns]
    what = f"column {absent[0]} is" if len(absent) == 1 else f"columns {', '.join(absent)} are"
    needed = ", ".join(known.form.required)
    return InputError(f"{where}: {what} missing{among} (format {known.name} needs {needed})")
