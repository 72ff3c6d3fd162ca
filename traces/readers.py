"""What a trace format is: it says which columns it is known by, and reads a table of them as a Trace.

One more in a module of your own is a class over `Format`, named as `some.module:Class:file=PATH`. Knows
nothing of what holds the table (`tables`), nor of the formats that there are (`known_formats`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import checks, completion, witnesses
from .errors import InputError
from .session_columns import NO_WAITS, Waits
from .tables import Table
from .trace import FloatArray, IntArray, Trace
from .units import Times, span_text

LEAST_TIES = 0.1
"""Share of requests that arrive at the time of another from which on that is said."""
Tokenizer = Callable[[str], int]


@dataclass(frozen=True)
class Reading:
    """What a reader may need beyond the file: a seed for what is drawn, a cap on outputs, a token counter,
    and the unit of the times, s, ms, us or ns, where the user names it.
    """

    seed: int = 0
    max_new_tokens: int | None = None
    tokenizer: Tokenizer | None = None
    time_unit: str | None = None


@dataclass(frozen=True)
class Format:
    """Base of the formats: a table with every `required` column and none of the `excluded` is in it.

    `optional` columns may be asked for too (a trailing * stands for any ending); all others are ignored. A
    subclass may add fields: they are its options, read from the text that names it.
    """

    file: str
    """The file to read."""

    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    excluded: ClassVar[tuple[str, ...]] = ()

    def read(self, table: Table, reading: Reading) -> Trace:
        """The trace in a table of this format; InputError for a value that is not sound."""
        raise NotImplementedError

    @property
    def sources(self) -> dict[str, str]:
        """Columns that the file has under another name -> that name, as the options say."""
        return {}

    @classmethod
    def matches(cls, columns: tuple[str, ...]) -> bool:
        """Whether a table with these columns is in this format."""
        return set(cls.required) <= set(columns) and not set(cls.excluded) & set(columns)

    @classmethod
    def uses(cls, column: str) -> bool:
        """Whether the reader may look at this column."""
        return any(fnmatchcase(column, pattern) for pattern in (*cls.required, *cls.optional))

    def unused(self, table: Table) -> dict[str, str]:
        """Columns of a table that the reader did not look at -> what is to be said of each, or nothing."""
        return {column: "" for column in table.columns if not self.uses(column)}


def make_trace(
    table: Table,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    *,
    arrival: FloatArray | Times | None = None,
    arrival_column: str = "",
    per_second: float = 1.0,
    keep: npt.NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
    waits: Waits = NO_WAITS,
    **columns: Any,
) -> Trace:
    """A Trace of the kept rows in order of arrival; `arrival` is in 1/`per_second` s since any epoch, or says
    itself what it is in. Who waits for a row that is not kept waits for what that one waited for.
    """
    read_as, rows = "", np.arange(table.num_rows)
    if isinstance(arrival, Times):
        arrival_column, per_second, read_as = arrival.column, arrival.per_second, arrival.read_as
        arrival = arrival.values
    columns = {name: values for name, values in columns.items() if values is not None}
    columns = {"request_id": np.arange(table.num_rows), "source_rows": np.arange(table.num_rows), **columns}
    columns |= {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    if arrival is not None:
        first = float(arrival.min() if keep is None else arrival[keep].min())
        elapsed = (arrival - first) / per_second
        over = elapsed > checks.MAX_SPAN_S
        checks.refuse(
            table,
            arrival_column,
            over if keep is None else over & keep,
            lambda i: f"{elapsed[i]:.10g} s after the first arrival is above {checks.MAX_SPAN_S} s",
        )
        columns["arrival_s"] = elapsed
        if "deadline_s" in columns:
            columns["deadline_s"] = columns["deadline_s"] - first / per_second
    names = columns.pop("sample_names", ())
    if keep is not None:
        rows = np.flatnonzero(keep)
    order = waits.order(table, arrival_column, columns.get("arrival_s"), rows)
    if "arrival_s" in columns and (np.diff(columns["arrival_s"][rows]) < 0).any():
        notes = (
            *notes,
            f"{table.called(arrival_column)} was not in order: rows are sorted by arrival, ties as in the "
            "file",
        )
    columns = {name: values[order] for name, values in columns.items()} | waits.columns(order)
    if "arrival_s" in columns:
        notes += _ties(table.called(arrival_column), columns["arrival_s"])
    return Trace(name=Path(table.path).stem, sample_names=names, notes=notes, read_as=read_as, **columns)


def _ties(column: str, arrival_s: FloatArray) -> tuple[str, ...]:
    """A note where many of these times, in order, are another's: a coarse clock makes arrivals clump."""
    gaps = np.diff(arrival_s)
    tied = np.append(gaps == 0, False) | np.append(False, gaps == 0)
    if not (gaps > 0).any() or tied.mean() < LEAST_TIES:
        return ()
    step = float(gaps[gaps > 0].min())
    steps = gaps / step
    goes = (
        f": {column} goes in steps of {span_text(step)}"
        if np.allclose(steps, np.round(steps), atol=0.01)
        else ""
    )
    return (f"{100 * tied.mean():.0f} % of the requests arrive together with another{goes}",)


@dataclass(frozen=True)
class Lengths:
    """Prompt and output tokens of each row, shape (n,), which rows are answered requests (None: all), and
    notes on the others.
    """

    prompt: IntArray
    output: IntArray
    keep: checks.BoolArray | None
    notes: tuple[str, ...]

    @property
    def left_out(self) -> checks.BoolArray | None:
        """The rows that are no answered requests; None for none."""
        return None if self.keep is None else ~self.keep


class Requests(Format):
    """Base of the formats whose rows are requests with two lengths: those that failed are left out."""

    @classmethod
    def uses(cls, column: str) -> bool:
        """Whether the reader may look at this column: those that say what failed, or know of lengths, too."""
        return super().uses(column) or completion.is_named(column) or witnesses.is_witness(column)

    def unused(self, table: Table) -> dict[str, str]:
        """Columns that the trace is not made of: those that are only held against it among them."""
        own = (*self.required, *self.optional)
        beside = {c for c in table.columns if witnesses.is_witness(c) and c not in own}
        return {column: "" for column in table.columns if column in beside or not self.uses(column)}

    def lengths(self, table: Table, prompt: str, output: str) -> Lengths:
        """The two lengths, and which rows have them; InputError where none does.

        A row that a column of states or errors says has failed is not looked at; an output of 0 tokens is a
        failed request too. Columns of totals and the like are held against both.
        """
        failures = completion.failures(table)
        failed = None if failures is None else failures.where
        notes: tuple[str, ...] = () if failures is None else (failures.note,)
        output_tokens = checks.tokens(table, output, 0, failed)
        prompt_tokens = checks.tokens(table, prompt, 0, failed)
        answered = output_tokens > 0
        empty = ~answered if failed is None else ~answered & ~failed
        count = int(empty.sum())
        if not answered.any():
            raise InputError(
                f"{table.where(int(empty.argmax()))}, {table.called(output)}: 0 is below 1, as in every row; "
                "at least 1 answered request is needed"
            )
        if count:
            first = table.label(int(empty.argmax()))
            notes += (
                f"{count} of {table.num_rows} requests have 0 output tokens ({table.called(output)}, first "
                f"in {first}): they failed and are left out",
            )
        checks.refuse(
            table, prompt, answered & (prompt_tokens < 1), lambda i: f"{prompt_tokens[i]} is below 1"
        )
        pair = witnesses.Pair(prompt_tokens, output_tokens, (prompt, output), answered)
        notes += witnesses.notes_on(table, pair)
        return Lengths(prompt_tokens, output_tokens, None if answered.all() else answered, notes)
