"""Reads a request trace: of any known format, told apart by column names, or of one that is named.

Knows nothing of containers (CSV, JSON lines and Parquet look the same from here) and nothing of where a file
came from. The formats themselves are in `known_formats`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from . import checks
from .errors import InputError
from .hints import OWN, near_misses, reading_as
from .json_rows import no_rows
from .known_formats import FORMATS
from .readers import Format, Reading, Tokenizer
from .registry import Named
from .renaming import Renamed, paths
from .tables import Records, Table, open_table
from .trace import Trace
from .units import rate_text, span_text, without_unit
from .witnesses import is_witness

LOG = logging.getLogger("traces")
"""Told in one line what was assumed in reading a file."""
MOST_NAMES = 12
"""Unused columns that are named."""
TELLING = {
    *("time", "timestamp", "date", "latency", "duration", "delay", "ttft", "tpot", "e2el", "itl", "arrival"),
    *("tokens", "token", "length", "len", "lens", "toks", "isl", "osl", "size", "count"),
    *("session", "chat", "conversation", "turn", "parent", "user"),
}
"""Words in the name of a column that may be a time, a length or a session."""


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
    time_unit: str | None = None,
    also_used: Collection[str] = (),
) -> Trace:
    """The trace in a file of any known format, detected from its content.

    `seed` feeds what the file does not state and the reader draws (said in the trace's notes).
    `max_new_tokens` caps the output lengths (None: as they are; the paper's length files: 512).
    `tokenizer(text)` counts tokens, needed for ShareGPT, which holds text. `time_unit` (s, ms, us, ns) is
    that of the times where it is not clear. `also_used` are columns that the caller reads. Rows come in order
    of arrival, times in seconds from the first. What was assumed is logged in one line, to logger `traces`.
    Raises InputError, one line naming file, row, column, value and bound, for a file that is not wholly
    sound.
    """
    reading = _checked(Reading(seed, max_new_tokens, tokenizer, time_unit))
    table = open_table(path, wanted=lambda column: any(known.form.uses(column) for known in _known()))
    known = _detect(table)
    form = known.form(str(path))
    trace = _with_unused(form.read(table, reading), form, table, also_used)
    name = (table.source or known.name) + ("" if trace.arrival_s is not None else ", without arrival times")
    return _finished(trace, name, table.path, reading)


def read_named(named: Named, reading: Reading) -> Trace:
    """The trace in the file that the options of a named format say, as `read` would give it.

    Raises InputError for a file that is not in that format, and for what a class from outside does wrong.
    """
    _checked(reading)
    form = named.build()
    if not isinstance(form, Format):
        raise InputError(f"{named.label}: is no subclass of traces.readers.Format, nor has it generate()")
    uses_all = not (form.required or form.optional)
    table = open_table(
        form.file,
        wanted=lambda column: (
            uses_all
            or form.uses(column)
            or any(f"{name}.".startswith(f"{column}.") for name in form.sources.values())
        ),
    )
    of_file: Collection[str] = ()
    if form.sources:
        table = renamed = Renamed(table, form.sources, beside=is_witness)
        of_file = renamed.of_file
    if not form.matches(table.columns):
        name, names = named.label.removeprefix("trace "), checks.display(", ".join(table.columns))
        if excluded := [column for column in form.excluded if column in table.columns]:
            raise InputError(f"{table.path}: column {excluded[0]} does not belong to format {name}")
        raise _missing(table.path, _Known(name, type(form)), table.columns, f" among {names}")
    trace = named.call(form, "read", table, reading, returns=Trace)
    if not uses_all:
        trace = _with_unused(trace, form, table, of_file)
    return _finished(trace, named.label.removeprefix("trace "), table.path, reading)


def _checked(reading: Reading) -> Reading:
    cap = reading.max_new_tokens
    if cap is not None and not 1 <= cap <= checks.MAX_TOKENS:
        raise InputError(f"max_new_tokens: {cap} is not between 1 and {checks.MAX_TOKENS}")
    if reading.seed < 0:
        raise InputError(f"seed: {reading.seed} is below 0")
    return reading


def _with_unused(trace: Trace, form: Format, table: Table, also_used: Collection[str] = ()) -> Trace:
    """The trace with the notes of its table, and one on the columns that its format does not use, the telling
    ones first.
    """
    trace = replace(trace, notes=(*table.notes, *trace.notes))
    unused = {column: said for column, said in form.unused(table).items() if column not in also_used}
    if not unused:
        return trace
    names = sorted(unused, key=lambda column: (not unused[column], not _is_telling(column)))
    shown = [
        (name or "one without a name") + (f" ({unused[name]})" if unused[name] else "")
        for name in names[:MOST_NAMES]
    ]
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return replace(trace, notes=(*trace.notes, f"columns not used: {', '.join([*shown, *more])}"))


def _is_telling(column: str) -> bool:
    """Whether a column looks like a time, a length or a session."""
    words = set(without_unit(column).split("_")) | {without_unit(column)}
    return column != without_unit(column) or bool(words & TELLING)


def _finished(trace: Trace, form: str, path: str, reading: Reading) -> Trace:
    """The trace, capped, after one line on how it was read, where there is more to say than its format."""
    said = [form]
    if trace.read_as and trace.arrival_s is not None:
        about = f"span {span_text(float(trace.arrival_s[-1]))}"
        rate = trace.mean_rate
        said.append(f"{trace.read_as} ({about}{'' if rate is None else f', {rate_text(rate)}'})")
    said += trace.notes
    if len(said) > 1:
        LOG.info("%s: %s", path, "; ".join(said))
    return trace if reading.max_new_tokens is None else trace.with_output_cap(reading.max_new_tokens)


def _known() -> list[_Known]:
    """The formats that are detected: all of ours."""
    return [_Known(name, cast(type[Format], form)) for name, form in FORMATS.table.items()]


def _detect(table: Table) -> _Known:
    if isinstance(table, Records) and table.is_one_object:
        matches = [each for each in _known() if each.form.matches(table.columns)]
        if not matches and not near_misses((*table.columns, *paths(table.records[0])), OWN):
            raise no_rows(table.path, table.records[0])
    if not isinstance(table, Records):
        return _match(table, table.path, table.columns)
    within = tuple(paths(table.records[0]))
    if table.uniform:
        return _match(table, table.path, table.columns, within)
    first = _match(table, table.where(0), tuple(table.records[0]), within)
    known_keys: set[frozenset[str]] = set()
    for index, record in enumerate(table.records):
        keys = frozenset(record)
        if keys not in known_keys:
            known_keys.add(keys)
            known = _match(table, table.where(index), tuple(record), within, expected=first)
            if known != first:
                wanted = f"that of {table.label(0)}, {first.name}, is needed"
                raise InputError(f"{table.where(index)}: is in format {known.name}; {wanted}")
    return _match(table, table.path, table.columns, within)


def _match(
    table: Table,
    where: str,
    columns: tuple[str, ...],
    within: tuple[str, ...] = (),
    expected: _Known | None = None,
) -> _Known:
    """The only format with these columns. `within`: what lies within objects, where columns hold these."""
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
        names, all_names = checks.display(", ".join(columns)), (*columns, *within)
        hints, advice = near_misses(all_names, OWN), reading_as(table.path, all_names)
        what = f"columns {names} are those of no known format{hints}{advice}"
        known_columns = "; ".join(f"{each.name}: {', '.join(each.form.required)}" for each in known)
        raise InputError(f"{where}: {what}" + ("" if hints else f" ({known_columns})"))
    raise _missing(
        where, nearest, columns, advice=reading_as(table.path, columns) if nearest.name == "seqsched" else ""
    )


def _missing(
    where: str, known: _Known, columns: Sequence[str], among: str = "", advice: str = ""
) -> InputError:
    absent = [column for column in known.form.required if column not in columns]
    what = f"column {absent[0]} is" if len(absent) == 1 else f"columns {', '.join(absent)} are"
    needed = ", ".join(known.form.required)
    hints = near_misses(columns, absent)
    return InputError(
        f"{where}: {what} missing{among}{hints}{advice if hints else ''} (format {known.name} needs {needed})"
    )
