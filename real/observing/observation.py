"""What came of the requests that were sent: the figures of vLLM's benchmark, a log, a result in detail.

A request that failed has no part in any latency, and its reason is kept. Latencies are from when it was sent;
when it was due is kept beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sim.execution.sessions import CANCELLED
from sim.results.failures import share_text
from sim.results.ledger import Ledger
from sim.results.metric_kinds import STATISTICS
from sim.results.result import Result, make_result
from sim.results.slo_metrics import is_of_own_bounds
from traces.files import atomic_write
from traces.prompt_blocks import PromptBlocks, block_columns
from traces.trace import Trace

from ..lengths.turns import places_of
from .sending import INTERRUPTED, NO_FILE, Sent

BoolArray = npt.NDArray[np.bool_]

COUNTED = (
    *("duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"),
    "max_concurrent_requests",
)
LATENCIES = ("ttft", "tpot", "itl", "e2el")
SUMMARY = (*COUNTED, *(f"{statistic}_{key}_ms" for key in LATENCIES for statistic in STATISTICS))
"""The figures of vLLM's benchmark; what else a result has, a client cannot see."""
LOG_COLUMNS = (
    *("request_id", "due_s", "arrival_s", "finish_s", "prompt_tokens", "output_tokens"),
    *("ttft_ms", "tpot_ms", "e2el_ms", "status", "error"),
)
SESSION_COLUMNS = ("session_id", "waits_for", "think_s")
"""What the log has besides where requests wait for others; and the trace's blocks, where it has any."""
SESSIONS = (
    *("sessions", "sessions_completed", "session_throughput"),
    *(f"{statistic}_session_ms" for statistic in ("mean", "median", "p90", "p99")),
)
"""Figures of them that a client sees."""
LATE_MS = 5.0
"""A median lag above this is said."""


@dataclass(frozen=True, eq=False)
class Observation:
    """`summary`: figures by vLLM's keys, and labels; of sessions, where there are any, how long they took.
    `log`: a row a request, with `LOG_COLUMNS`, and `SESSION_COLUMNS`, bounds and the columns that say which
    prompts begin alike where the trace has them. Times are in seconds from the first that was due: `due_s`,
    when the request ought to have been sent, `arrival_s`, when it was, from where latencies count.
    `detail`: lists a request, as `vllm bench serve --save-detailed` has.
    """

    summary: dict[str, Any]
    log: pd.DataFrame
    detail: dict[str, list[Any]]
    notes: tuple[str, ...]
    is_interrupted: bool = False

    def save_log(self, path: str | Path) -> None:
        """Write the log as CSV, for `seqsched validate --against`."""
        with atomic_write(path) as file:
            self.log.to_csv(file, index=False, lineterminator="\n")

    def to_json(self) -> str:
        """The summary as one JSON object."""
        return json.dumps(self.summary, indent=2, allow_nan=False)

    def save_result(self, path: str | Path) -> None:
        """Write summary and detail as one JSON object, with the keys of vLLM's benchmark."""
        with atomic_write(path) as file:
            file.write(json.dumps({**self.summary, **self.detail}, allow_nan=False) + "\n")


def observation(
    sent: Sent, trace: Trace, labels: Mapping[str, Any], goodput_ms: Mapping[str, float]
) -> Observation:
    """What `sent` says of the requests of a trace, whose order it has."""
    replies = sent.replies
    result, seen = _result(sent, trace, goodput_ms)
    columns = result.columns
    errors = [
        each.error
        if each is not None
        else result.columns["reason"][i]
        if i in sent.cancelled
        else INTERRUPTED
        for i, each in enumerate(replies)
    ]
    done = np.isfinite(columns["finish_s"])
    log = pd.DataFrame(
        {
            **{name: columns[name] for name in LOG_COLUMNS if name in columns},
            "output_tokens": np.where(done, columns["output_tokens"], 0),
            "status": np.where(done, "completed", "failed"),
            "error": errors,
        }
    )[list(LOG_COLUMNS)]
    for name in (*SESSION_COLUMNS, *trace.slo_columns):
        if name in trace.columns():
            log[name] = trace.cells(name)
    if trace.blocks is not None:
        for name, values in block_columns(_blocks(trace, trace.blocks, columns, done)).items():
            log[name] = values
    keys = (*SUMMARY, *SESSIONS, *filter(is_of_own_bounds, result.summary))
    summary = {key: result.summary[key] for key in keys if key in result.summary}
    reason = next((error for error in errors if error), None)
    detail = {
        "input_lens": columns["prompt_tokens"].tolist(),
        "output_lens": log["output_tokens"].tolist(),
        "ttfts": np.where(done, columns["ttft_ms"] / 1e3, 0.0).tolist(),
        "itls": [each.gaps_s if each is not None and not each.error else [] for each in replies],
        "start_times": columns["arrival_s"].tolist(),
        "errors": errors,
    }
    return Observation(
        {**summary, "failed_reason": reason, **labels},
        log,
        detail,
        _notes(sent, trace, seen, done),
        sent.is_interrupted,
    )


def _blocks(
    trace: Trace, blocks: PromptBlocks, columns: Mapping[str, npt.NDArray[Any]], done: BoolArray
) -> PromptBlocks:
    """The blocks of the prompts as they were: with answers as long as they came, where words were drawn, and
    none behind the end of a prompt by the server's count.
    """
    if trace.prompt is None:
        longer = np.zeros(len(trace), dtype=np.int64)
        for row, places in places_of(blocks).items():
            if done[row]:
                longer[row] = columns["output_tokens"][row] - (places[0].end - places[0].start)
        blocks, _ = blocks.with_answers(longer, trace.prompt_tokens)
    rows = np.repeat(np.arange(len(trace)), np.diff(blocks.offsets))
    ends = np.minimum(blocks.ends, columns["prompt_tokens"][rows])
    names, codes = np.unique(blocks.hashes, return_inverse=True)
    shortest = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(shortest, codes, ends)  # a hash ends at one place in every prompt
    apart = rows * (int(ends.max(initial=0)) + 1)
    return replace(blocks, ends=np.maximum.accumulate(shortest[codes] + apart) - apart)


def _result(sent: Sent, trace: Trace, goodput_ms: Mapping[str, float]) -> tuple[Result, BoolArray]:
    """The replies as a ledger's result; and whether the server counted the tokens of each, shape (n,)."""
    assert trace.arrival_s is not None
    ledger = Ledger(len(trace), np.array(sent.due_s))
    prompts, outputs = trace.prompt_tokens.copy(), trace.output_tokens.copy()
    seen = np.ones(len(trace), dtype=np.bool_)
    for i, reply in enumerate(sent.replies):
        if reply is None:
            ledger.reason[i] = f"failed: {INTERRUPTED}"
            if (root := sent.cancelled.get(i)) is not None:
                ledger.reason[i] = f"{CANCELLED}: an earlier request of its session failed"
                ledger.arrival_s[i] = ledger.due_s[i] = ledger.arrival_s[root]
            continue
        ledger.arrival_s[i] = ledger.scheduled_s[i] = reply.sent_s - sent.start_s
        if reply.error:
            ledger.reason[i] = f"failed: {reply.error}"
            continue
        ledger.first_token_s[i], ledger.finish_s[i] = (
            reply.first_s - sent.start_s,
            reply.last_s - sent.start_s,
        )
        seen[i] = reply.output_tokens is not None
        outputs[i] = reply.output_tokens or reply.chunks
        prompts[i] = reply.prompt_tokens or prompts[i]
        last_s = ledger.first_token_s[i]
        for gap_s in reply.gaps_s:
            ledger.gaps.add(gap_s, 0.0, 1, 1, last_s)
            last_s += gap_s
    result = make_result(
        ledger,
        request_id=trace.request_id,
        prompt_tokens=prompts,
        output_tokens=outputs,
        priority=None,
        labels={},
        goodput_ms=goodput_ms,
        session_id=trace.sessions if trace.is_waiting.any() else None,
        slos=trace.slo_columns,
    )
    return result, seen


def _notes(
    sent: Sent, trace: Trace, seen: np.ndarray[Any, Any], done: np.ndarray[Any, Any]
) -> tuple[str, ...]:
    """What a reader of the figures has to know of how they came about."""
    notes = []
    if sent.is_interrupted:
        never = sum(reply is None for reply in sent.replies)
        notes.append(f"interrupted: {never:,} of {len(trace):,} requests were not sent")
    if sent.lags_s:
        median, p99 = (1e3 * float(q) for q in np.percentile(sent.lags_s, [50, 99]))
        if median > LATE_MS:
            notes.append(
                f"sent {median:.3g} ms after they were due (median; p99 {p99:.3g} ms): this client cannot "
                "keep up, so that latencies hold its own delays"
            )
    if without := sum(each is not None and NO_FILE in each.error for each in sent.replies):
        notes.append(
            f"{without:,} requests failed for want of open files, not by the server: raise the limit "
            "(ulimit -n), or send fewer at a time (--max-concurrency)"
        )
    answered = max(int(done.sum()), 1)
    if uncounted := int((done & ~seen).sum()):
        notes.append(
            f"{share_text(uncounted / answered)} of the answers have no usage: their chunks were counted as "
            "tokens, and their prompts have the trace's lengths"
        )
    lengths = [0 if reply is None else reply.output_tokens or 0 for reply in sent.replies]
    if other := int((done & seen & (lengths != trace.output_tokens)).sum()):
        share = share_text(other / answered)
        notes.append(f"{share} of the answers have another length than was asked for")
    return tuple(notes)
