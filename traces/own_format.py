"""seqsched's own format: two lengths, and whatever else a simulation may know of a request.

Every other column is optional, and any may be called otherwise in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks, session_columns, witnesses
from .errors import InputError
from .prefixes import own_blocks
from .readers import Lengths, Reading, Requests, make_trace
from .session_columns import Waits
from .slo_classes import told_apart
from .tables import Table
from .trace import SLO_COLUMNS, IntArray, Trace
from .units import (
    GAPS,
    Times,
    arrival_column,
    long_unit_in_name,
    near_arrivals,
    read_times,
    unit_in_name,
    without_unit,
)


@dataclass(frozen=True)
class Seqsched(Requests):
    """Our own columns; every one but the two lengths is optional, `L_<name>` columns are samples.

    The arrival times may have another name, such as timestamp or arrival_ms. Of any other column an option
    says what it is called in the file.
    """

    prompt_tokens: str = ""
    """Column of the file that is read as prompt_tokens, or keys within one: usage.prompt_tokens."""
    output_tokens: str = ""
    """The same of output_tokens; so with all that follow."""
    arrival: str = ""
    """Arrival times, in the unit at the end of the name, if there is one."""
    request_id: str = ""
    """Ids of requests."""
    session_id: str = ""
    """Ids of sessions."""
    user: str = ""
    """Who asks."""
    priority: str = ""
    """Priorities."""
    max_tokens: str = ""
    """Caps on answers."""

    required = ("prompt_tokens", "output_tokens")
    optional = (
        "request_id",
        "arrival_s",
        "predicted_tokens",
        "priority",
        "prompt",
        "user",
        "deadline_s",
        *SLO_COLUMNS,
        "slo_class",
        "max_tokens",
        "prefix_id",
        "prefix_tokens",
        "hash_ids",
        "hash_tokens",
        "answer_id",
        *session_columns.COLUMNS,
        "L_*",
    )

    @property
    def sources(self) -> dict[str, str]:
        """Our columns -> those of the file that the options name; arrival times keep their unit."""
        of_file = {f.name: getattr(self, f.name) for f in fields(Seqsched) if f.name != "file"}
        named = {ours: name for ours, name in of_file.items() if name}
        _refuse_one_for_two({ours: ours for ours in self.required} | named)
        if arrival := named.pop("arrival", ""):
            named[self._named_arrival] = arrival
        return named

    @property
    def _named_arrival(self) -> str:
        """What the arrival times are called here that an option names: with their unit, where it has one."""
        key = self.arrival.rpartition(".")[2]
        if key and (long_unit := long_unit_in_name(key)) is not None:
            raise InputError(
                f"{self.file}: column {self.arrival} is in {long_unit}; write it in seconds, as arrival_s"
            )
        if without_unit(key) in GAPS:
            raise InputError(
                f"{self.file}: column {self.arrival} is of gaps; write their running sum, as arrival_s"
            )
        unit = unit_in_name(key)
        return "" if not key else "arrival" if unit is None else f"arrival_{unit}"

    def _arrival_column(self, table: Table) -> str | None:
        """The column that holds the arrival times: the one that was named, else the surest."""
        return self._named_arrival or arrival_column(table.columns)

    @classmethod
    def uses(cls, column: str) -> bool:
        """Whether the reader may look at this column: whatever may hold the arrival times too."""
        return super().uses(column) or arrival_column((column,)) is not None

    def unused(self, table: Table) -> dict[str, str]:
        """Columns that the reader did not look at, other columns of times among them."""
        chosen = self._arrival_column(table)
        others = {c: "" for c in table.columns if c != chosen and arrival_column((c,)) is not None}
        near = near_arrivals(table.path, table.columns) if chosen is None else {}
        return super().unused(table) | others | near

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        has = set(table.columns)
        ids = checks.identifiers(table, "request_id") if "request_id" in has else None
        if ids is not None:
            witnesses.refuse_summary(table, "request_id", ids[-1])
        lengths = self.lengths(table, "prompt_tokens", "output_tokens")
        waits = session_columns.read(table, ids)
        times = self._times(table, reading, lengths, waits)
        deadline = checks.deadlines(table, "deadline_s", lengths.left_out) if "deadline_s" in has else None
        if times is not None and deadline is not None:
            arrival = times.seconds
            late = deadline < arrival if lengths.keep is None else (deadline < arrival) & lengths.keep
            checks.refuse(
                table,
                "deadline_s",
                late,
                lambda i: f"{deadline[i]:.10g} is below {arrival[i]:.10g}, the {times.column}",
            )
        classes, lumped = _classes(table) if "slo_class" in has else (None, ())
        caps = checks.tokens(table, "max_tokens", 1, lengths.left_out) if "max_tokens" in has else None
        # L_gt, where a length file was converted by hand, is a person's answer and no sample of the model.
        sampled = tuple(column for column in table.columns if column.startswith("L_") and column != "L_gt")
        return make_trace(
            table,
            lengths.prompt,
            lengths.output,
            arrival=times,
            keep=lengths.keep,
            deadline_s=deadline,
            **_bounds(table, lengths),
            slo_class=classes,
            predicted_tokens=checks.tokens(table, "predicted_tokens", 0, lengths.left_out)
            if "predicted_tokens" in has
            else None,
            priority=checks.priorities(table, "priority", lengths.left_out) if "priority" in has else None,
            prompt=checks.texts(table, "prompt") if "prompt" in has else None,
            user=checks.texts(table, "user") if "user" in has else None,
            max_tokens=caps,
            blocks=own_blocks(table, lengths.prompt, lengths.left_out),
            samples=samples_of(table, sampled) if sampled else None,
            sample_names=tuple(column.removeprefix("L_") for column in sampled),
            waits=waits,
            notes=(
                *lengths.notes,
                *waits.notes,
                *lumped,
                *_above_their_caps(lengths, caps),
                *(("L_gt is not used: it is no sample of the model",) if "L_gt" in has else ()),
            ),
            request_id=ids,
        )

    def _times(self, table: Table, reading: Reading, lengths: Lengths, waits: Waits) -> Times | None:
        """The arrival times; of requests that wait for others they may be left out."""
        column = self._arrival_column(table)
        if column is None:
            return arrivals(table, None, reading, lengths)
        unstated = waits.unstated(table, column)
        if unstated is None:
            return arrivals(table, column, reading, lengths)
        missing = unstated if lengths.left_out is None else unstated | lengths.left_out
        times = arrivals(table, column, reading, replace(lengths, keep=~missing))
        assert times is not None
        return waits.with_times(times, unstated)


def _refuse_one_for_two(named: Mapping[str, str]) -> None:
    """InputError where one column is both lengths, or a length is the arrival times as well."""
    lengths_and_times = {ours: named[ours] for ours in (*Seqsched.required, "arrival") if ours in named}
    for (ours, name), (other, same) in combinations(lengths_and_times.items(), 2):
        if name == same:
            raise InputError(f"trace seqsched: {ours} and {other} are both {name}, two columns are needed")


def _classes(table: Table) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    return told_apart(checks.optional_texts(table, "slo_class"))


def _bounds(table: Table, lengths: Lengths) -> dict[str, Any]:
    return {c: checks.bounds_ms(table, c, lengths.left_out) for c in SLO_COLUMNS if c in table.columns}


def _above_their_caps(lengths: Lengths, caps: IntArray | None) -> tuple[str, ...]:
    """A note on the answers that are longer than their request allowed; none where there are none."""
    above = 0 if caps is None else int((lengths.output > caps).sum())
    which = f"{above} of {len(lengths.output)} answers are longer than their max_tokens"
    return (f"{which}, which cuts them where caps are the requests' own",) if above else ()


def samples_of(table: Table, columns: tuple[str, ...]) -> IntArray:
    """Lengths of sampled answers, shape (n, columns)."""
    return np.column_stack([checks.tokens(table, column) for column in columns])


def arrivals(
    table: Table, column: str | None, reading: Reading, lengths: Lengths, **kind: Any
) -> Times | None:
    """The arrival times in a column, of any kind that `read_times` takes; None where there is no column."""
    if column is None:
        if reading.time_unit is not None:
            raise InputError(
                f"time_unit: {reading.time_unit} is of no use: {table.path} has no column of times"
            )
        return None
    return read_times(table, column, time_unit=reading.time_unit, unless=lengths.left_out, **kind)
