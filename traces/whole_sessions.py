"""Traces cut and moved in time by whole sessions: their starts move, what happens within stays.

Think times are what people and tools take, so no replay makes them longer or shorter. Knows nothing of rates.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import sessions
from .trace import FloatArray, IntArray, Trace


@dataclass(frozen=True)
class Sessions:
    """The sessions of a trace whose requests wait for each other; one that is of none is its own.

    `first`: the first row of each row's session, shape (n,); `leads`: these rows, by rising arrival, (m,).
    """

    trace: Trace
    first: IntArray
    leads: IntArray

    @property
    def starts(self) -> Trace:
        """The requests with which sessions start, which wait for none."""
        return self.trace.select(self.leads)

    @property
    def numbered_starts(self) -> Trace:
        """The same, each with its place in `leads` as its row in the source."""
        return replace(self.starts, source_rows=np.arange(len(self.leads)))

    def those(self, starts: Trace) -> Trace:
        """The sessions that begin with these starts, taken from `numbered_starts`, at their times."""
        assert starts.arrival_s is not None and starts.source_rows is not None
        return self.chosen(starts.source_rows, starts.arrival_s)

    def share(self, number: float) -> float:
        """So many requests, in sessions."""
        return number * len(self.leads) / len(self.trace)

    def starting_at(self, start_s: FloatArray) -> Trace:
        """The trace with its sessions starting at these times, shape (m,), by rising arrival."""
        return self.chosen(np.arange(len(self.leads)), start_s)

    def chosen(self, numbers: IntArray, start_s: FloatArray) -> Trace:
        """These sessions, by their place in `leads`, starting at these times.

        One may come several times, each time with another id and prompts like none of the time before.
        """
        trace, sizes, by_session = self.trace, *self._members()
        ends = np.cumsum(sizes)
        rows = np.concatenate([by_session[ends[k] - sizes[k] : ends[k]] for k in numbers.tolist()])
        copy = np.repeat(np.arange(len(numbers)), sizes[numbers])  # which of `numbers` each row is of
        own = np.zeros(len(trace)) if trace.arrival_s is None else trace.arrival_s
        times = start_s[copy] + (own[rows] - own[self.first[rows]])
        order = np.argsort(times, kind="stable")
        turns = _turns(numbers)[copy]
        bare = replace(
            trace, arrival_s=None, deadline_s=None, waits_for=None, think_s=None, blocks=None, session_id=None
        )
        columns: dict[str, Any] = {"arrival_s": times[order], "think_s": trace.thinks_s[rows][order]}
        columns["waits_for"] = self._waits_for(rows, copy, np.cumsum(sizes[numbers]) - sizes[numbers], order)
        if trace.deadline_s is not None:
            columns["deadline_s"] = ((trace.deadline_s - own)[rows] + times)[order]
        if trace.session_id is not None:
            columns["session_id"] = _named(trace.session_id[rows], turns)[order]
        if trace.blocks is not None:
            columns["blocks"] = trace.blocks.again(rows[order], turns[order])
        return replace(bare.select(rows[order]), **columns)

    def _members(self) -> tuple[IntArray, IntArray]:
        """How many rows each session has, and all rows, session by session."""
        place = np.searchsorted(self.leads, self.first)
        return np.bincount(place, minlength=len(self.leads)), np.argsort(place, kind="stable")

    def _waits_for(self, rows: IntArray, copy: IntArray, begins: IntArray, order: IntArray) -> IntArray:
        """Who waits for whom among the rows, each of a copy of its session that begins there, reordered."""
        waits_for = self.trace.waits_for
        assert waits_for is not None
        within = np.zeros(len(self.trace), dtype=np.int64)
        within[rows] = np.arange(len(rows)) - begins[copy]
        parents = np.where(waits_for[rows] >= 0, begins[copy][:, None] + within[waits_for[rows]], -1)
        place = np.empty(len(rows), dtype=np.int64)
        place[order] = np.arange(len(rows))
        moved: IntArray = np.where(parents >= 0, place[parents], sessions.NOBODY)[order]
        return moved


def sessions_of(trace: Trace) -> Sessions | None:
    """The sessions of a trace; None where nobody waits for anybody."""
    if trace.waits_for is None or not trace.is_waiting.any():
        return None
    first = sessions.session_of(trace.waits_for, trace.session_id)
    return Sessions(trace, first, np.unique(first))


def _turns(numbers: IntArray) -> IntArray:
    """How often each number came before, shape as `numbers`."""
    count, turns = Counter[int](), []
    for number in numbers.tolist():
        turns.append(count[number])
        count[number] += 1
    return np.array(turns, dtype=np.int64)


def _named(session_id: Any, turns: IntArray) -> Any:
    """The ids of the rows' sessions; one that comes again has the number of its turn behind its id."""
    if not turns.any():
        return session_id
    again = turns.astype(bool) & ~np.array([sessions.is_blank(one) for one in session_id.tolist()])
    named = session_id.astype(object)
    named[again] = [f"{one}#{turn + 1}" for one, turn in zip(named[again], turns[again], strict=True)]
    return named
