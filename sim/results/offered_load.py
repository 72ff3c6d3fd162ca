"""What was asked of the fleet and how far it kept up: the rate by schedule, the client's wait, the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traces.trace import FloatArray

from .backlog import backlog
from .metric_kinds import good_requests
from .tables import RunTables, counted

LEAST_REQUESTS = 100
"""A shorter run says nothing of whether its queue grows."""

KEEPS_UP = 0.98
"""Share of the offered rate from which on requests end as fast as they come, but for the last ones."""

MANY_PREEMPTED = 0.1
"""Preemptions per request from which on requests that have begun may be waiting, too."""

FROM_ARRIVAL = ("ttft", "e2el", "wait")
"""Latencies that a client which holds a request back makes longer, if they count from its schedule."""


def offered_rate(run: RunTables) -> float | None:
    """Requests per second by their schedule, between the first that is no warm-up and the last; None where
    all come at once.
    """
    return _rate(run.requests["due_s"][counted(run.requests, run.warmup)])


def _rate(due_s: FloatArray) -> float | None:
    span_s = float(np.ptp(due_s)) if len(due_s) else 0.0
    return (len(due_s) - 1) / span_s if span_s > 0 else None


def mean_held_ms(run: RunTables) -> float | None:
    """How long the client held a completed request back, on average."""
    held_ms = run.requests["held_ms"][run.steady]
    return float(held_ms.mean()) if len(held_ms) else None


def mean_e2el_from_schedule_ms(run: RunTables) -> float | None:
    """From the time in the trace to the last token, on average over the completed requests."""
    e2el_ms = (run.requests["e2el_ms"] + run.requests["held_ms"])[run.steady]
    return float(e2el_ms.mean()) if len(e2el_ms) else None


def goodput_from_schedule(run: RunTables) -> float | None:
    """Requests per second within every bound of theirs, latencies counted from their schedule."""
    if not run.bounds_ms or not run.window_s:
        return None
    held_ms = run.requests["held_ms"]
    late = {
        f"{key}_ms": run.requests[f"{key}_ms"] + (held_ms if key in FROM_ARRIVAL else 0)
        for key in run.bounds_ms
    }
    return int(good_requests(late, run.ended, run.bounds_ms).sum()) / run.window_s


def queue_growth(run: RunTables) -> float | None:
    """By how many requests the queue grew per arrival over the second half of the run; 0 where it does not.

    It grows where fewer end than come, and not only those that run become more: those not started grow, by
    the rule of a plan, or those not finished, where many of them were preempted. None for runs of fewer than
    LEAST_REQUESTS requests, and where all come at once.
    """
    rate, n = _rate(run.requests["due_s"]), len(run.done)
    if n < LEAST_REQUESTS or rate is None or run.duration_s is None:
        return None
    if n / run.duration_s > KEEPS_UP * rate:
        return 0.0
    order = np.argsort(run.requests["due_s"], kind="stable")
    due_s: FloatArray = run.requests["due_s"][order]
    started_s = np.where(run.done, run.requests["scheduled_s"], np.nan)[order]
    unfinished, waiting = backlog(due_s, run.requests["finish_s"][order]), backlog(due_s, started_s)
    is_preempted = run.replica_total("preemptions") >= MANY_PREEMPTED * n
    grows = unfinished.rises and (waiting.grows or (is_preempted and unfinished.grows))
    return unfinished.drift if grows else 0.0


def load_texts(summary: Mapping[str, Any]) -> list[str]:
    """What a table of latencies has to say beside them, a sentence each; none where the fleet keeps up."""
    texts = []
    if summary["mean_held_ms"]:
        held_s, e2el_s = summary["mean_held_ms"] / 1e3, summary["mean_e2el_from_schedule_ms"] / 1e3
        good = summary["request_goodput_from_schedule"]
        text = f"The client held requests back by {held_s:,.4g} s on average: latencies run from sending"
        text += f", mean E2EL from the schedule is {e2el_s:,.4g} s"
        texts.append(text + ("." if good is None else f", goodput from it {good:.4g} requests/s."))
    if growth := summary["queue_growth"]:
        offered, served = summary["offered_rate"], summary["request_throughput"]
        rates = f"{offered:.4g} requests/s offered, {served:.4g} served"
        texts.append(
            f"The queue grows by {growth:.2g} requests per arrival ({rates}): "
            "latencies grow with the length of the run."
        )
    return texts
