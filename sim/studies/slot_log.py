"""Reads a log of a layer that sends a server so many requests at a time, and fits what the server takes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date as Date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from traces import checks
from traces.errors import InputError
from traces.spec import parse
from traces.tables import open_table
from traces.trace import FloatArray, IntArray, Trace

from ..hardware.profile import Profile, Provenance
from ..kv_blocks import blocks_for
from ..scenario.scenario import scenario
from .log_fit import IterationModel, check_enough
from .log_start import sizes_of, start_of
from .server_log import Log, read_log

FIRST = "continuous"
"""First come, first served: what ran where nothing else is said."""
SENT = "scheduled_s"
"""When a request was sent to the server, by the clock of the arrivals."""
SAME = 0.25
"""Tokens are of one iteration where they were seen within this share of the time between two of an answer."""
PASSES = 6
"""Of the linear algebra; from about the fourth on they find the same."""
STEPS, CLOSE = 12, 0.002
"""The most replays until requests keep their slots as long as they did, and how near that is to be."""

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


def begun_first(log: Log, slots: int | None) -> int:
    """How many requests a server that queues by itself began while it had a slot left, from the beginning: it
    knew of no others then, so that no order would have begun with others.
    """
    assert log.trace.arrival_s is not None
    first_s = np.sort(log.trace.arrival_s + log.latency["ttft_ms"] / 1e3)
    iterations = np.diff(together(first_s, _width_s(log))) > 0
    begun = np.flatnonzero(iterations) + 1  # until each iteration but the last
    return int(begun[begun < min(slots or 1, len(first_s))].max(initial=0))


def server_of(told: SlotLog, path: str | Path, ran: str, slots: int | None) -> Profile:
    """The server of the log as a profile.

    How long tokens take by how many decode at once follows from the log by linear algebra (`log_start`); all
    of it is then scaled until requests keep their slots as long, in the mean, as they did, where the log is
    replayed under the policy that ran. Where it does not say when requests were sent on, until they take as
    long from their arrival. InputError, naming `path`, for a log with too few requests.
    """
    log = _since_sent(told)
    check_enough(path, log)
    clear = seen_at_once(log)
    sizes = sizes_of([clear])
    seconds = start_of([clear], sizes, PASSES)
    seconds[-1] = 1e-6  # what comes before an iteration is not waited for by each request in turn
    model = IterationModel(sizes, Path(path).stem)
    trace, policy = bare(told.log.trace), with_slots(ran, slots)
    target = float(log.latency["e2el_ms"].mean())
    for _ in range(STEPS):
        result = scenario(
            trace,
            profile=model.profile(seconds),
            kv_blocks=enough_blocks(trace),
            predictor="exact" if trace.predicted_tokens is None else "trace",
        ).run(policy)
        if failed := result.summary["failed"]:
            reason = result.summary["failed_reason"]
            raise InputError(f"{path}: {failed} requests cannot be served under {policy} ({reason})")
        kept_ms = result.columns["e2el_ms"]
        if told.sent_s is not None:
            kept_ms = 1e3 * (result.columns["finish_s"] - result.columns["scheduled_s"])
        ratio = target / float(kept_ms.mean())
        seconds = seconds * np.clip(ratio, 0.1, 10.0)
        if abs(ratio - 1) < CLOSE:
            break
    about = f"fitted to {len(trace):,} requests as their clients saw them; no iteration was timed"
    provenance = Provenance("measured", Date.today().isoformat(), about, source=Path(path).name)
    return replace(model.profile(seconds), provenance=provenance)


def enough_blocks(trace: Trace) -> int:
    """KV blocks that are enough for all requests at once: a layer before a server counts slots alone."""
    return len(trace) * blocks_for(int((trace.prompt_tokens + trace.output_tokens).max()), 16)


def _since_sent(told: SlotLog) -> Log:
    """The log as the server has seen it: arrivals are when requests were sent, where that is known."""
    if told.sent_s is None:
        return replace(told.log, trace=bare(told.log.trace))
    assert told.log.trace.arrival_s is not None
    wait_ms = 1e3 * (told.sent_s - told.log.trace.arrival_s)
    order = np.argsort(told.sent_s, kind="stable")
    latency = {
        key: (np.maximum(values - wait_ms, 0.0) if key != "tpot_ms" else values)[order]
        for key, values in told.log.latency.items()
    }
    trace = replace(bare(told.log.trace), arrival_s=None).select(order)
    sent = told.sent_s[order]
    return Log(replace(trace, arrival_s=sent - sent[0]), latency, ())


def seen_at_once(log: Log) -> Log:
    """The log with first and last tokens of one iteration at one time; a client sees them a moment apart.

    Were they left so, it would be chance which of two prompts of an iteration counts for the other's answer,
    and prompts would be taken for cheap.
    """
    arrival_s = log.trace.arrival_s
    assert arrival_s is not None
    ends = [arrival_s + log.latency[key] / 1e3 for key in ("ttft_ms", "e2el_ms")]
    moved = together(np.concatenate(ends), _width_s(log))
    first_ms, last_ms = (1e3 * (each - arrival_s) for each in np.split(moved, 2))
    return replace(log, latency={**log.latency, "ttft_ms": first_ms, "e2el_ms": last_ms})


def _width_s(log: Log) -> float:
    """Seconds within which tokens are of one iteration."""
    between_s = log.latency["tpot_ms"][log.trace.output_tokens > 1] / 1e3
    return SAME * float(np.percentile(between_s, 5))


def together(times: FloatArray, width: float) -> FloatArray:
    """Times with their mean in place of those that lie within `width`, from the earliest of them on."""
    order = np.argsort(times, kind="stable")
    ordered, start = times[order], 0
    while start < len(ordered):
        end = int(np.searchsorted(ordered, ordered[start] + width, side="right"))
        ordered[start:end] = ordered[start:end].mean()
        start = end
    result = np.empty_like(times)
    result[order] = ordered
    return result


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
        **trace.slo_columns,
    )
