"""Reads a log of a layer that sends a server so many requests at a time, and fits what the server takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from traces import checks
from traces.spec import parse
from traces.tables import open_table
from traces.trace import FloatArray, IntArray, Trace

from ..hardware.profile import Profile
from .log_fit import fit_read
from .server_log import Log, read_log

FIRST = "continuous"
"""First come, first served: what ran where nothing else is said."""
SENT = "scheduled_s"
"""When a request was sent to the server, by the clock of the arrivals."""
FITTED = ("e2el_ms", "tpot_ms")
"""What the server is fitted by: how long a request keeps its slot is what others wait for."""

Mask = npt.NDArray[np.bool_]


class SlotLog(NamedTuple):
    """A log, and when its requests were sent, in seconds from the first arrival; None: that is not known."""

    log: Log
    sent_s: FloatArray | None


def read(path: str | Path, time_unit: str | None) -> SlotLog:
    """The log in a file; InputError for one that is none, and for a request sent after its first token."""
    log = read_log(path, time_unit, also_used=(SENT,))
    table = open_table(path, lambda name: name in (SENT, "arrival_s"))
    rows = log.trace.source_rows
    if SENT not in table.columns or "arrival_s" not in table.columns or rows is None:
        return SlotLog(log, None)
    left_out = np.ones(table.num_rows, dtype=np.bool_)
    left_out[rows] = False
    waited = checks.times(table, SENT, unless=left_out) - checks.times(table, "arrival_s", unless=left_out)
    wait_s = np.maximum(waited[rows], 0.0)
    late = wait_s > log.latency["ttft_ms"] / 1e3 + 1e-3
    checks.refuse(table, SENT, _scattered(late, rows, table.num_rows), lambda i: "is after the first token")
    assert log.trace.arrival_s is not None
    return SlotLog(log, log.trace.arrival_s + wait_s)


def _scattered(values: Mask, rows: IntArray, n: int) -> Mask:
    all_rows = np.zeros(n, dtype=np.bool_)
    all_rows[rows] = values
    return all_rows


def slots_used(told: SlotLog) -> int:
    """The most requests that were with the server at once."""
    assert told.sent_s is not None and told.log.trace.arrival_s is not None
    end_s = told.log.trace.arrival_s + told.log.latency["e2el_ms"] / 1e3
    # Where one ends as the next is sent they are not there at once, however clocks are rounded.
    times = np.concatenate([told.sent_s + 1e-3, end_s])
    order = np.argsort(times, kind="stable")
    changes = np.concatenate([np.ones(len(end_s)), -np.ones(len(end_s))])[order]
    return max(1, int(np.cumsum(changes).max()))


def server_of(told: SlotLog, ran: str, slots: int | None, name: str) -> tuple[Profile, tuple[str, ...]]:
    """The server of the log as a profile, fitted to what it took from when requests were sent to it; where
    that is not known from their arrivals, under the policy that ran.
    """
    log, policy = told.log, ran
    if told.sent_s is not None:
        log, policy = _since_sent(told), FIRST
    else:
        log = replace(log, trace=bare(log.trace))
    fitted = fit_read({name: log}, name=name, policy=with_slots(policy, slots), fitted_figures=FITTED)
    return fitted.profile, tuple(note for note in fitted.notes if "one log:" not in note)


def _since_sent(told: SlotLog) -> Log:
    """The log as the server has seen it: arrivals are when requests were sent."""
    assert told.sent_s is not None and told.log.trace.arrival_s is not None
    wait_ms = 1e3 * (told.sent_s - told.log.trace.arrival_s)
    order = np.argsort(told.sent_s, kind="stable")
    latency = {
        key: (np.maximum(values - wait_ms, 0.0) if key != "tpot_ms" else values)[order]
        for key, values in told.log.latency.items()
    }
    trace = replace(bare(told.log.trace), arrival_s=None).select(order)
    sent = told.sent_s[order]
    return Log(replace(trace, arrival_s=sent - sent[0]), latency, ())


def with_slots(policy: str, slots: int | None) -> str:
    """The policy with at most so many requests at a time, where it is `continuous` and does not say."""
    name, options = parse(policy, "policy")
    if slots is None or name != "continuous" or "max_num_seqs" in options:
        return policy
    return f"{policy}{',' if options else '' if ':' in policy else ':'}max_num_seqs={slots}"


def bare(trace: Trace) -> Trace:
    """What is replayed of a log: no deadlines, sessions or prefixes, which were the server's affair."""
    return Trace(
        trace.name,
        np.arange(len(trace)),
        trace.prompt_tokens,
        trace.output_tokens,
        arrival_s=trace.arrival_s,
        predicted_tokens=trace.predicted_tokens,
        priority=trace.priority,
        prompt=trace.prompt,
        user=trace.user,
    )
