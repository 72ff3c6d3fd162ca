"""One row per session: requests of which some wait for others. Knows nothing of who ran them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.sessions import numbered
from traces.trace import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SessionTable:
    """One row per session, in order of the first row of each; times in ms.

    `number`: of which session each request is, of shape (requests,). `counted`: which have completed and are
    no warm-up. `span_ms`: from the first arrival to the last finish; `wait_ms`: queueing waits, summed over
    the requests; `in_system_ms`: latencies, summed likewise.
    """

    number: IntArray
    completed: BoolArray
    counted: BoolArray
    span_ms: FloatArray
    wait_ms: FloatArray
    in_system_ms: FloatArray

    def all_of(self, requests: BoolArray) -> BoolArray:
        """Which sessions have all of their requests among these."""
        return _all_of(self.number, requests)

    def any_of(self, requests: BoolArray) -> BoolArray:
        """Which sessions have one of their requests among these."""
        return ~_all_of(self.number, ~requests)


def session_table(
    requests: Mapping[str, npt.NDArray[Any]], done: BoolArray, steady: BoolArray
) -> SessionTable:
    """The sessions of per-request columns, of which these completed, and these are no warm-up besides."""
    number = numbered(requests["session_id"])
    n = int(number.max()) + 1

    def sum_of(column: str) -> FloatArray:
        values = np.nan_to_num(requests[column])
        return np.asarray(np.bincount(number, weights=values, minlength=n), dtype=np.float64)

    first, last = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(first, number, requests["arrival_s"])
    np.maximum.at(last, number, np.nan_to_num(requests["finish_s"], nan=-np.inf))
    return SessionTable(
        number=number,
        completed=_all_of(number, done),
        counted=_all_of(number, steady),
        span_ms=(last - first) * 1e3,
        wait_ms=sum_of("wait_ms"),
        in_system_ms=sum_of("e2el_ms"),
    )


def _all_of(number: IntArray, rows: BoolArray) -> BoolArray:
    every: BoolArray = np.bincount(number, weights=rows) == np.bincount(number)
    return every
