"""Result: what became of every request, and the summary of a run, in vLLM's terms; whoever ran it.

Knows nothing of schedulers, SimPy or profiles. Times inside are seconds, reported latencies milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from traces.trace import IntArray

from ..work import Fetch
from .batch_record import BatchRecord
from .caps import share_at_cap
from .ledger import COUNTS, Ledger
from .metrics import request_latencies, summarise
from .padded_gaps import padded_gaps
from .prefix_use import fetches_of, prefix_figures
from .tables import RunTables, TokenUse, start_of
from .warmup import num_warmup

if TYPE_CHECKING:
    import pandas as pd

BoolArray = npt.NDArray[np.bool_]
ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Result:
    """One run of one policy.

    `summary`: the keys of vLLM's benchmark and the paper's, undefined values None. `columns`: per-request
    arrays in trace order, each of shape (n,). `batches`: every Work in the order in which it ran. `tokens`:
    where they went. `machines`: per-replica arrays. `fetches`: what came from slower memory, each with the
    replica that it came to.
    """

    summary: dict[str, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]
    batches: tuple[BatchRecord, ...]
    tokens: TokenUse
    machines: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    fetches: tuple[tuple[int, Fetch], ...] = ()

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: times in seconds, latencies in ms, NaN where the request did not complete."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))

    @cached_property
    def replicas(self) -> pd.DataFrame:
        """One row per replica: what it served, how busy it was, its memory, preemptions and outages."""
        import pandas as pd

        return pd.DataFrame(dict(self.machines))

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The decision log: per Work its kind, request ids in order, limit, chunks, evictions, iterations
        run.
        """
        return [b.decision() for b in self.batches]

    def to_json(self, path: str | Path | None = None) -> str:
        """The summary as one JSON object; also written to `path` where one is given."""
        text = json.dumps(self.summary, indent=2, allow_nan=False)
        if path is not None:
            from traces.files import atomic_write

            with atomic_write(path) as file:
                file.write(text + "\n")
        return text

    def save_requests(self, path: str | Path) -> None:
        """Write the per-request table as CSV."""
        _save(self.requests, path)

    def save_replicas(self, path: str | Path) -> None:
        """Write the per-replica table as CSV."""
        _save(self.replicas, path)


def make_result(
    ledger: Ledger,
    *,
    request_id: np.ndarray[Any, Any],
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    priority: IntArray | None,
    labels: Mapping[str, Any],
    goodput_ms: Mapping[str, float] | None = None,
    warmup: str | int | None = None,
    caps: IntArray | None = None,
    session_id: np.ndarray[Any, Any] | None = None,
    slos: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Result:
    """Derive the tables and the summary from a ledger.

    The summary has every metric, `failed_reason` (why the first request that did not complete did not; None
    where all did), and the labels. `labels` are its texts and settings (`policy predictor profile trace seed
    replicas version`); `goodput_ms` maps latencies (of `request_latencies`) to the bound that a good
    request meets. With a `warmup` (`num_warmup`) so many requests have no part in latencies; throughput,
    goodput and gaps between tokens are of what ends after the next has arrived. The summary has their number
    as `warmup_requests` and how long that was as `warmup_s`. With `caps`, the requests' own, shape (n,), it
    has `share_at_cap`, the share of them that are the answer's length. With `session_id`, shape (n,), the
    tables and the summary know of sessions; with prefix caching it has what `prefix_figures` says.
    With `slos`, the bounds that requests state (`ttft_slo_ms`, …), each of shape (n,), NaN for none, and
    their `slo_class`, the table has them, and a request is good by its own.
    """
    columns = _columns(ledger, request_id, prompt_tokens, output_tokens, priority)
    if session_id is not None:
        columns["session_id"] = session_id
    columns |= slos or {}
    finish = columns["finish_s"]
    done, batches = ~np.isnan(finish), ledger.batches
    end = float(finish[done].max()) if done.any() else None
    replicas = _replicas(ledger, columns["replica"], end)
    gaps = padded_gaps(ledger, output_tokens, finish)
    tokens = TokenUse(
        useful=int(output_tokens[done].sum()),
        padding=int((columns["row_length"] - output_tokens)[done].sum()),
        recomputed=int(columns["failed_tokens"].sum()) + sum(ledger.lost_tokens.values()),
        perception=sum(b.limit * len(b.request_ids) for b in batches if b.is_question),
    )
    left_out = num_warmup(warmup, columns)
    since_s = start_of(columns, left_out) if left_out else -math.inf
    pooled = ledger.gaps.pooled(gaps, since_s)
    run = RunTables(columns, replicas, batches, tokens, pooled, dict(goodput_ms or {}), left_out)
    lost = np.flatnonzero(~done)
    why = {"failed_reason": str(columns["reason"][lost[0]]) if len(lost) else None}
    begins_s = float(columns["arrival_s"].min())
    warm = {} if warmup is None else {"warmup_requests": left_out, "warmup_s": run.since_s - begins_s}
    capped = {} if caps is None else {"share_at_cap": share_at_cap(caps, output_tokens)}
    found = prefix_figures(ledger.replicas)
    return Result(
        {**summarise(run), **why, **warm, **capped, **found, **labels},
        MappingProxyType(_frozen(columns)),
        tuple(batches),
        tokens,
        MappingProxyType(_frozen(replicas)),
        fetches_of(ledger.replicas),
    )


def _save(table: pd.DataFrame, path: str | Path) -> None:
    from traces.files import atomic_write

    with atomic_write(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")


def _columns(
    ledger: Ledger,
    request_id: np.ndarray[Any, Any],
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    priority: IntArray | None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The per-request table; what finished outside of padded batches has rows as long as its answers."""
    n = ledger.num_requests
    done, predicted = ~np.isnan(np.asarray(ledger.finish_s)), np.asarray(ledger.predicted)
    continuous = done & (np.asarray(ledger.final_batch) < 0)
    status, reason = _endings(ledger, done)
    reroutes = np.zeros(n, dtype=np.int64)
    for i, count in ledger.reroutes.items():
        reroutes[i] = count
    columns = {
        "request_id": request_id,
        "status": status,
        "arrival_s": np.asarray(ledger.arrival_s),
        "scheduled_s": np.asarray(ledger.scheduled_s),
        "first_token_s": np.asarray(ledger.first_token_s),
        "finish_s": np.asarray(ledger.finish_s),
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "predicted_tokens": np.where(predicted < 0, np.nan, predicted),
        "priority": np.zeros(n, dtype=np.int64) if priority is None else priority,
        "row_length": np.where(continuous, output_tokens, np.asarray(ledger.row_length)),
        "failed_tokens": np.asarray(ledger.failed_tokens),
        "attempts": np.asarray(ledger.attempts) + continuous,
    }
    latencies = {latency.column: latency.values_ms(columns) for latency in request_latencies().values()}
    return {
        **columns,
        **latencies,
        "due_s": ledger.due_s,
        "held_ms": (columns["arrival_s"] - ledger.due_s) * 1e3,
        "replica": np.where(done, np.asarray(ledger.replica), -1).astype(np.int64),
        "reroutes": reroutes,
        "reason": reason,
    }


def _endings(ledger: Ledger, done: BoolArray) -> tuple[ObjectArray, ObjectArray]:
    """How each request ended, and why, where it did not complete."""
    # Where all have finished, one text stands for a whole column.
    n = ledger.num_requests
    status, reason = (np.broadcast_to(np.array(text, dtype=object), n) for text in ("completed", ""))
    if not done.all():
        status, reason = status.copy(), reason.copy()
    for i in np.flatnonzero(~done).tolist():
        reason[i] = ledger.reason.get(i, "")
        status[i] = reason[i].partition(":")[0]
    return status, reason


def _replicas(ledger: Ledger, finished_at: IntArray, end: float | None) -> dict[str, np.ndarray[Any, Any]]:
    """The per-replica table; time busy after the last finish does not count."""
    uses = ledger.replicas
    busy_s = [u.busy_s if end is None else u.busy_until_s(end) for u in uses]
    iterations = [u.iterations for u in uses]
    peaks, perceived_s = [u.kv_peak_tokens for u in uses], [0.0] * len(uses)
    for b in ledger.batches:
        if not b.is_padded:
            continue
        iterations[b.replica] += b.iterations
        peaks[b.replica] = max(peaks[b.replica], b.kv_tokens)
        if end is not None and b.start_s < end:
            busy_s[b.replica] += min(b.end_s, end) - b.start_s
        if b.is_question:
            perceived_s[b.replica] += b.end_s - b.start_s
    capacity = np.array([u.kv_capacity_tokens for u in uses])
    return {
        "replica": np.arange(len(uses)),
        "profile": np.array([u.profile for u in uses], dtype=object),
        "completed": np.bincount(finished_at[finished_at >= 0], minlength=len(uses)),
        "iterations": np.array(iterations),
        "busy_s": np.array(busy_s),
        "perception_s": np.array(perceived_s),
        "kv_capacity_tokens": capacity,
        "kv_peak_fraction": np.array(peaks) / np.maximum(capacity, 1),
        **{name: np.array([getattr(use, name) for use in uses]) for name in COUNTS},
    }


def _frozen(columns: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Views of the columns that cannot be written to."""
    views = {name: column.view() for name, column in columns.items()}
    for view in views.values():
        view.flags.writeable = False
    return views
