"""Reads the columns that make sessions of requests: `session_id`, `waits_for`, `think_s`.

Knows nothing of the other columns of a format, nor of what a simulator does with sessions (`sessions`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks, sessions
from .checks import BoolArray
from .tables import Table
from .trace import FloatArray, IntArray
from .units import Times

COLUMNS = ("session_id", "waits_for", "think_s")


@dataclass(frozen=True)
class Waits:
    """Who waits for whom among the rows of a file: of each row those that it waits for, and its think time.

    `parents` is empty where nobody waits; `session_id` and `think_s` have shape (n,), None where not stated.
    """

    parents: Sequence[Sequence[int]] = ()
    think_s: FloatArray | None = None
    session_id: npt.NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def unstated(self, table: Table, column: str) -> BoolArray | None:
        """Which waiting rows leave their arrival open, shape (n,); None for none."""
        if not any(self.parents):
            return None
        is_blank = np.array([value is None or value == "" for value in table.raw(column)])
        open_rows: BoolArray = is_blank & np.array([bool(rows) for rows in self.parents])
        return open_rows if open_rows.any() else None

    def with_times(self, times: Times, unstated: BoolArray) -> Times:
        """The times with those filled in that are not stated: as if what is waited for took no time."""
        seconds = np.where(unstated, np.nan, times.seconds)
        filled = sessions.earliest_s(self.parents, self._think_s(), seconds) * times.per_second
        return replace(times, values=np.where(unstated, filled, times.values))

    def order(self, table: Table, column: str, arrival_s: FloatArray | None, rows: IntArray) -> IntArray:
        """These rows by rising arrival, ties as in the file, but that nobody comes before whom he waits for.

        InputError where a request arrives before one that it waits for.
        """
        if not any(self.parents):
            return rows if arrival_s is None else rows[np.argsort(arrival_s[rows], kind="stable")]
        rank = np.zeros(len(self.parents), dtype=np.int64)
        rank[sessions.in_causal_order(self.parents)] = np.arange(len(self.parents))
        if arrival_s is None:
            return rows[np.argsort(rank[rows])]
        is_left = np.zeros(len(self.parents), dtype=bool)  # what failed has no arrival
        is_left[rows] = True
        for row in rows.tolist():
            for parent in self.parents[row]:
                if is_left[parent] and arrival_s[parent] > arrival_s[row]:
                    what = f"{arrival_s[row]:.10g} s is before {table.label(parent)}, which it waits for"
                    raise checks.fault(table, row, column, f"{what} ({arrival_s[parent]:.10g} s)")
        return rows[np.lexsort((rank[rows], arrival_s[rows]))]

    def columns(self, order: IntArray) -> dict[str, npt.NDArray[Any]]:
        """The columns of a Trace of these rows in this order, those that there are."""
        columns: dict[str, npt.NDArray[Any]] = {}
        if self.session_id is not None:
            columns["session_id"] = self.session_id[order]
        if any(self.parents):
            waits_for, think_s = sessions.taken(sessions.padded(self.parents), self._think_s(), order)
            columns |= {"waits_for": waits_for, "think_s": think_s}
        return columns

    def _think_s(self) -> FloatArray:
        return np.zeros(len(self.parents)) if self.think_s is None else self.think_s


NO_WAITS = Waits()


def read(table: Table, ids: npt.NDArray[Any] | None) -> Waits:
    """What a table says of sessions in `COLUMNS`; a think time may be left open.

    `waits_for` holds nothing, a request id, or several as a list (in CSV its JSON text); without ids rows
    count from 0. Raises InputError for an unknown id, one of another session, requests that wait for each
    other, and a negative think time.
    """
    session_id, alone = _session_ids(table)
    if "waits_for" not in table.columns:
        return Waits(session_id=session_id, notes=alone)
    parents = _parents(table, ids)
    if session_id is not None:
        _refuse_other_sessions(table, parents, session_id)
    row = sessions.cycle_in(parents)
    if row is not None:
        what = f"{checks.display(table.raw('waits_for')[row])} waits for this request in turn"
        raise checks.fault(table, row, "waits_for", what)
    waiting = np.array([bool(rows) for rows in parents])
    think_s = _think_s(table) if "think_s" in table.columns else None
    notes = alone
    if think_s is not None and (idle := waiting < (think_s > 0)).any():
        count, first = int(idle.sum()), table.label(int(idle.argmax()))
        notes += (f"think_s of {count} requests that wait for none is not used (the first in {first})",)
        think_s = np.where(waiting, think_s, 0.0)
    return Waits(parents, think_s, session_id, notes)


NO_SESSION = ("", "null", "none", "nan", "\\n")
"""What programs write for a missing id, in lower case; MySQL's is a backslash and a capital N."""


def _session_ids(table: Table) -> tuple[npt.NDArray[Any] | None, tuple[str, ...]]:
    """Which session each row is of, empty for none, and a note where only some are; None where no row is."""
    if "session_id" not in table.columns:
        return None, ()
    names = checks.optional_texts(table, "session_id")
    blank = np.array([name.strip().lower() in NO_SESSION for name in names])
    names[blank] = ""
    if not blank.any() or blank.all():
        return (None if blank.all() else names), ()
    return names, (
        f"session_id of {int(blank.sum())} of {len(names)} requests is blank (the first in "
        f"{table.label(int(blank.argmax()))}): each of them is a session of its own",
    )


def _think_s(table: Table) -> FloatArray:
    """Think times in seconds, 0 where none is stated."""
    blank = np.array([value is None or value == "" for value in table.raw("think_s")])
    return checks.times(table, "think_s", unless=blank)


def _parents(table: Table, ids: npt.NDArray[Any] | None) -> list[list[int]]:
    names = range(table.num_rows) if ids is None else ids.tolist()
    rows = {str(name): row for row, name in enumerate(names)}
    cells = table.raw("waits_for")
    if all((type(cell) is str and cell in rows) or cell in (None, "") for cell in cells):
        return [[rows[cell]] if cell else [] for cell in cells]
    parents = []
    for row, cell in enumerate(cells):
        chosen = []
        for name in _names(table, row, cell, rows):
            if name not in rows:
                what = f"{checks.display(name)} is the id of no request"
                raise checks.fault(table, row, "waits_for", what)
            chosen.append(rows[name])
        parents.append(list(dict.fromkeys(chosen)))
    return parents


def _names(table: Table, row: int, cell: object, known: dict[str, int]) -> list[str]:
    """The ids in a cell, as texts."""
    if isinstance(cell, str) and cell not in known and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise checks.fault(table, row, "waits_for", f"{checks.display(cell)} is no JSON list") from None
    items = cell if isinstance(cell, list) else [] if cell is None or cell == "" else [cell]
    for item in items:
        if type(item) not in (int, str):
            what = f"{checks.display(item)} is no request id (text or an integer is needed)"
            raise checks.fault(table, row, "waits_for", what)
    return [str(item) for item in items]


def _refuse_other_sessions(
    table: Table, parents: Sequence[Sequence[int]], session_id: npt.NDArray[Any]
) -> None:
    for row, rows in enumerate(parents):
        if rows and not session_id[row]:
            raise checks.fault(table, row, "session_id", "is blank, and the request waits for another")
        for parent in rows:
            if session_id[parent] != session_id[row]:
                one, other = checks.display(session_id[parent]), checks.display(session_id[row])
                what = f"{table.label(parent)} is of session {one}, this one of {other}"
                raise checks.fault(table, row, "waits_for", what)


def read_chats(table: Table, arrival_s: FloatArray) -> Waits:
    """Turns by `chat_id` and `parent_chat_id` (-1: none), as in Qwen-Bailian's traces.

    The file does not say when answers ended, so the think time is all that lay between two arrivals. A turn
    whose parent is not in the file starts a session. Raises InputError for chats with one id, and for turns
    that wait for each other.
    """
    ids = checks.identifiers(table, "chat_id").tolist()
    rows = {str(name): row for row, name in enumerate(ids)}
    names = [str(name) for name in table.raw("parent_chat_id")]
    parents = [[rows[name]] if name in rows else [] for name in names]
    unknown = sum(name != "-1" and name not in rows for name in names)
    row = sessions.cycle_in(parents)
    if row is not None:
        raise checks.fault(table, row, "parent_chat_id", f"{names[row]} waits for this chat in turn")
    first = list(range(len(ids)))
    think_s = np.zeros(len(ids))
    for row in sessions.in_causal_order(parents):
        for parent in parents[row]:
            first[row] = first[parent]
            think_s[row] = arrival_s[row] - arrival_s[parent]
    notes: tuple[str, ...] = ()
    if count := sum(map(bool, parents)):
        notes = (
            f"{count} turns wait for the one before, and then as long as lay between the two arrivals: when "
            "answers ended is not stated",
        )
    if unknown:
        notes += (f"{unknown} turns whose parent is not in the file start a session",)
    session_id = np.array([str(ids[lead]) for lead in first], dtype=object)
    return Waits(parents, np.maximum(think_s, 0.0), session_id, notes)
