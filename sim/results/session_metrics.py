"""Metrics of sessions: how long a task took, what it lost in queues, whether all lost alike.

A session has completed where all of its requests have.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traces.trace import FloatArray

from .metric_kinds import Metric
from .tables import RunTables

SESSION_BOUNDS = {"session": "Session time", "session_wait": "Queueing waits of a session"}
"""What may be bounded of sessions, key -> title: `{statistic}_{key}_ms` of a summary."""

STATISTICS: dict[str, Callable[[FloatArray], float]] = {
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
    "p90": lambda values: float(np.percentile(values, 90)),
    "p99": lambda values: float(np.percentile(values, 99)),
}


def has_sessions(run: RunTables) -> bool:
    """Whether requests are of sessions."""
    return "session_id" in run.requests


def jains_index(values: FloatArray) -> float | None:
    """(Σx)² / (n Σx²): 1 where all are equal, 1 / n where one has all; None for nothing.

    Jain, Chiu and Hawe, A Quantitative Measure of Fairness, DEC-TR-301 (1984).
    """
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares > 0 else None


def _fairness(run: RunTables) -> float | None:
    """Jain's index over how many times as long as without queues each session's requests took."""
    table = run.sessions
    served_ms = (table.in_system_ms - table.wait_ms)[table.counted]
    slowdown = table.in_system_ms[table.counted] / np.where(served_ms > 0, served_ms, np.nan)
    return jains_index(slowdown[~np.isnan(slowdown)])


def _statistic(name: str, column: str) -> Callable[[RunTables], float | None]:
    def compute(run: RunTables) -> float | None:
        table = run.sessions
        values: FloatArray = getattr(table, column)[table.counted]
        return STATISTICS[name](values) if len(values) else None

    return compute


def _times(column: str, key: str, name: str, definition: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(
            f"{statistic}_{key}_ms", f"{statistic} {name}", "ms", "{:.2f}", "less",
            f"{statistic} of: {definition}", _statistic(statistic, column),
            f"{statistic} {name} s", "s",
        )
        for statistic in STATISTICS
    )  # fmt: skip


SESSIONS = (
    Metric(
        "sessions", "sessions", "", "{:,}", "neither",
        "Sessions that the requests are of; a request of none is one of its own.",
        lambda run: len(run.sessions.completed),
    ),
    Metric(
        "sessions_completed", "completed sessions", "", "{:,}", "more",
        "Sessions all of whose requests completed.",
        lambda run: int(run.sessions.completed.sum()),
    ),
    Metric(
        "cancelled", "cancelled requests", "", "{:,}", "less",
        "Requests that never came, since one that they waited for was rejected or expired.",
        lambda run: int((run.requests["status"] == "cancelled").sum()),
    ),
    Metric(
        "session_throughput", "session throughput", "sessions/s", "{:.3f}", "more",
        "Completed sessions / duration.",
        lambda run: int(run.sessions.completed.sum()) / run.duration_s if run.duration_s else None,
    ),
    *_times(
        "span_ms", "session", "session",
        "From the first arrival of a completed session to its last token, think times included.",
    ),
    *_times(
        "wait_ms", "session_wait", "session wait",
        "Queueing waits of a completed session, summed over its requests.",
    ),
    Metric(
        "session_fairness", "fairness between sessions", "", "{:.3f}", "more",
        "Jain's index over the slowdowns of completed sessions, ΣE2EL / Σ(E2EL − wait): 1 where all are "
        "slowed down alike.",
        _fairness,
    ),
)  # fmt: skip
"""What a summary has behind all else, where the requests are of sessions."""
