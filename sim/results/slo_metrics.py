"""Metrics of bounds on single requests: how many requests, of a class or of a session, are within theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.trace import ALL_CLASSES

from .metric_kinds import Metric, good_requests
from .own_slos import bounds_of, own_slos, states_bounds
from .session_metrics import has_sessions
from .tables import Columns, RunTables, counted

BoolArray = npt.NDArray[np.bool_]

OF_CLASS = "slo_attainment_"
"""How the keys of single classes begin."""


def classes_of(requests: Columns) -> list[str]:
    """The names of the classes that requests are of, in alphabetical order."""
    return sorted(set(requests["slo_class"].tolist()) - {""}) if "slo_class" in requests else []


def attainments(requests: Columns, done: BoolArray, rows: npt.NDArray[np.intp]) -> dict[str, float] | None:
    """The share of these rows that are within their own bounds, of those that state any: of all under the
    name `ALL_CLASSES`, and of each class under its own; None where none states any.
    """
    if not own_slos(requests):
        return None
    states, good = states_bounds(requests), good_requests(requests, done, bounds_of(requests, {}))
    groups = {ALL_CLASSES: np.ones(len(done), dtype=bool)}
    groups |= {name: requests["slo_class"] == name for name in classes_of(requests)}
    chosen = {name: rows[(states & group)[rows]] for name, group in groups.items()}
    return {name: float(good[among].mean()) for name, among in chosen.items() if len(among)} or None


def shares_text(shares: Mapping[str, float]) -> str:
    """Such shares for people: `96.2% (batch 99.0%, chat 95.1%)`."""
    by_class = [f"{name} {share:.1%}" for name, share in shares.items() if name != ALL_CLASSES]
    return f"{shares[ALL_CLASSES]:.1%}" + (f" ({', '.join(by_class)})" if by_class else "")


def _attainment(run: RunTables, name: str = ALL_CLASSES) -> float | None:
    """Of those of a class, or of all, that state bounds and are no warm-up."""
    rows = np.flatnonzero(counted(run.requests, run.warmup))
    return (attainments(run.requests, run.done, rows) or {}).get(name)


def _good(run: RunTables) -> BoolArray:
    """Which requests completed within all bounds that they state, of shape (n,)."""
    return good_requests(run.requests, run.done, bounds_of(run.requests, {}))


def _session_attainment(run: RunTables) -> float | None:
    """Of those of which nothing is warm-up."""
    table = run.sessions
    states = table.any_of(states_bounds(run.requests)) & table.all_of(counted(run.requests, run.warmup))
    return float(table.all_of(_good(run))[states].mean()) if states.any() else None


def _session_goodput(run: RunTables) -> float | None:
    good = run.sessions.all_of(good_requests(run.requests, run.done, run.bounds_ms))
    return int(good.sum()) / run.duration_s if run.duration_s else None


OWN_SLOS = (
    Metric(
        "slo_attainment", "within their own bounds", "", "{:.1%}", "more",
        "Requests that completed within the bounds that they state themselves / requests that state any.",
        _attainment, "within own SLO",
    ),
)  # fmt: skip
"""What a summary has where the trace has bounds of single requests."""

OF_SESSIONS = (
    Metric(
        "session_goodput", "session goodput", "sessions/s", "{:.3f}", "more",
        "Sessions all of whose requests are within every goodput bound, or one of their own in its place / "
        "duration.",
        _session_goodput,
    ),
    Metric(
        "session_slo_attainment", "sessions within their own bounds", "", "{:.1%}", "more",
        "Sessions all of whose requests completed, within the bounds that they state / sessions in which one "
        "states any.",
        _session_attainment, "sessions within own SLO",
    ),
)  # fmt: skip
"""What it has besides where the requests are of sessions; the first with any bounds, the second with own."""


def metric_of_class(name: str) -> Metric:
    """The share of the requests of a class that are within their own bounds."""
    return Metric(
        f"{OF_CLASS}{name}", f"within their own bounds, {name}", "", "{:.1%}", "more",
        f"The same, of the requests of class {name}.",
        _of_class(name), f"{name} within own SLO",
    )  # fmt: skip


def _of_class(name: str) -> Callable[[RunTables], Any]:
    return lambda run: _attainment(run, name)


def is_of_own_bounds(key: str) -> bool:
    """Whether a key of a summary says how many are within bounds of their own."""
    return key in ("slo_attainment", "session_slo_attainment") or key.startswith(OF_CLASS)


def slo_metrics(run: RunTables) -> list[Metric]:
    """The metrics of bounds that a run has."""
    found = list[Metric]()
    if own_slos(run.requests):
        found += [*OWN_SLOS, *map(metric_of_class, classes_of(run.requests))]
    if has_sessions(run):
        goodput, attainment = OF_SESSIONS
        found += [goodput] if run.bounds_ms else []
        found += [attainment] if own_slos(run.requests) else []
    return found
