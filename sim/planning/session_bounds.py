"""What bounds on sessions are held against: how long a task took, and what it lost in queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.sessions import numbered
from traces.trace import FloatArray, IntArray

from ..results.session_table import session_table


class SessionValues:
    """The sessions of one run, by the row that came first of each.

    A session is of the part of a run in which its first request came, with all that follows.
    """

    def __init__(self, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        done = ~np.isnan(columns["finish_s"])
        e2el_ms = (columns["finish_s"] - columns["arrival_s"]) * 1e3
        table = session_table({"wait_ms": np.zeros(len(done)), "e2el_ms": e2el_ms, **columns}, done, done)
        self.away_ms = np.maximum(table.span_ms - table.in_system_ms, 0.0)
        self.completed = table.completed
        self.values_ms: dict[str, FloatArray] = {"session": table.span_ms, "session_wait": table.wait_ms}
        self.first = _first_rows(columns["session_id"], columns["arrival_s"])

    def means_s(self, rows: npt.NDArray[np.intp]) -> tuple[float | None, float | None]:
        """How long those last that begin with one of these rows and complete, and how much of it none of
        their requests is here; None where there are none.
        """
        chosen = self.of(rows) & self.completed
        if not chosen.any():
            return None, None
        return float(self.values_ms["session"][chosen].mean()) / 1e3, float(self.away_ms[chosen].mean()) / 1e3

    def of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which sessions begin with one of these rows; all where none does: no bound is met by none."""
        begins: npt.NDArray[np.bool_] = np.isin(self.first, rows)
        return begins if begins.any() else ~begins


def _first_rows(session_id: npt.NDArray[Any], arrival_s: FloatArray) -> IntArray:
    """The row of each session that arrived first, in order of the first row of each."""
    number = numbered(session_id)
    by_arrival = np.lexsort((arrival_s, number))
    first: IntArray = by_arrival[np.unique(number[by_arrival], return_index=True)[1]]
    return first
