"""Result: what became of every request, and the summary of a run, in vLLM's terms; whoever ran it.

Knows nothing of schedulers, SimPy or profiles. Times inside are seconds, reported latencies milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traces.trace import FloatArray, IntArray

from .ledger import BatchRecord, Ledger
from .token_gaps import Ramps

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("mean", "median", "std", "p90", "p99")
LATENCIES = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


class TokenUse(NamedTuple):
    """Decoded positions of a run by what they were good for (tokens; prompts excluded)."""

    useful: int
    padding: int
    recomputed: int
    perception: int


@dataclass(frozen=True, eq=False)
class Result:
    """One run of one policy.

    `summary`: the keys of vLLM's benchmark and the paper's, undefined values None. `columns`: per-request
    arrays in trace order, each of shape (n,). `batches`: every Work in the order in which it ran. `tokens`:
    where they went. `machines`: per-replica arrays.
    """

    summary: dict[str, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]
    batches: tuple[BatchRecord, ...]
    tokens: TokenUse
    machines: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

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
) -> Result:
    """Derive the tables and the summary from a ledger.

    `labels` are the summary's texts and settings (`policy predictor profile trace seed replicas version`);
    `goodput_ms` maps `ttft`, `tpot`, `e2el` to the bound that a request must meet.
    """
    columns = _columns(ledger, request_id, prompt_tokens, output_tokens, priority)
    arrival, finish, row_length = columns["arrival_s"], columns["finish_s"], columns["row_length"]
    latency = {name: columns[f"{name}_ms"] for name in GOODPUT_METRICS}
    done, failed_tokens = ~np.isnan(finish), columns["failed_tokens"]
    batches, lost = ledger.batches, sum(ledger.lost_tokens.values())
    perceived = [b for b in batches if b.kind == "Perceive"]
    tokens = TokenUse(
        useful=int(output_tokens[done].sum()),
        padding=int((row_length - output_tokens)[done].sum()),
        recomputed=int(failed_tokens.sum()) + lost,
        perception=sum(b.limit * len(b.request_ids) for b in perceived),
    )
    start, end = float(arrival.min()), float(finish[done].max()) if done.any() else None
    duration = None if end is None or end <= start else end - start
    completed, lengths = int(done.sum()), int(row_length[done].sum())
    total_in, total_out = int(prompt_tokens[done].sum()), tokens.useful
    machines = _replicas(ledger, columns["replica"], end)

    def ratio(part: float, whole: float | None) -> float | None:
        return part / whole if whole else None

    summary: dict[str, Any] = {
        "duration": duration,
        "completed": completed,
        "failed": len(arrival) - completed,
        "total_input_tokens": total_in,
        "total_output_tokens": total_out,
        "request_throughput": ratio(completed, duration),
        "request_goodput": ratio(_meeting(latency, done, goodput_ms), duration) if goodput_ms else None,
        "output_throughput": ratio(total_out, duration),
        "total_token_throughput": ratio(total_in + total_out, duration),
        "max_concurrent_requests": _most_at_once(arrival[done], finish[done]),
    }
    final_batch = np.asarray(ledger.final_batch)
    pooled = ledger.gaps.pooled(_gaps(batches, final_batch, output_tokens, done, finish))
    statistics = {name: _statistics(latency[name][done]) for name in GOODPUT_METRICS} | {"itl": pooled}
    for statistic in STATISTICS:
        for name in LATENCIES:
            summary[f"{statistic}_{name}_ms"] = statistics[name][statistic]
    summary |= {
        "average_length": ratio(lengths, completed),
        "average_length_all_attempts": ratio(lengths + tokens.recomputed, completed),
        "effective_token_ratio": ratio(total_out, lengths),
        "failure_ratio": ratio(int((failed_tokens > 0).sum()), len(arrival)),
        "iterations": int(machines["iterations"].sum()),
        "gpu_busy_fraction": ratio(float(machines["busy_s"].sum()) / len(ledger.replicas), duration),
        "perception_s": sum(b.end_s - b.start_s for b in perceived),
        "kv_peak_fraction": float(machines["kv_peak_fraction"].max()),
        "preemptions": int(machines["preemptions"].sum()),
        "reroutes": sum(ledger.reroutes.values()),
        **labels,
    }
    return Result(
        summary,
        MappingProxyType(_frozen(columns)),
        tuple(batches),
        tokens,
        MappingProxyType(_frozen(machines)),
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
    arrival, finish, first = (
        np.asarray(ledger.arrival_s),
        np.asarray(ledger.finish_s),
        np.asarray(ledger.first_token_s),
    )
    done, predicted = ~np.isnan(finish), np.asarray(ledger.predicted)
    alone = done & (np.asarray(ledger.final_batch) < 0)
    ttft_ms, e2el_ms = (first - arrival) * 1e3, (finish - arrival) * 1e3
    several = np.where(output_tokens > 1, output_tokens - 1, 1)
    # Where all have finished, one text stands for a whole column.
    status, reason = (np.broadcast_to(np.array(text, dtype=object), n) for text in ("completed", ""))
    if not done.all():
        status, reason = status.copy(), reason.copy()
    reroutes = np.zeros(n, dtype=np.int64)
    for i in np.flatnonzero(~done).tolist():
        status[i] = ledger.reason.get(i, "").partition(":")[0]
        reason[i] = ledger.reason.get(i, "")
    for i, count in ledger.reroutes.items():
        reroutes[i] = count
    return {
        "request_id": request_id,
        "status": status,
        "arrival_s": arrival,
        "scheduled_s": np.asarray(ledger.scheduled_s),
        "first_token_s": first,
        "finish_s": finish,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "predicted_tokens": np.where(predicted < 0, np.nan, predicted),
        "priority": np.zeros(n, dtype=np.int64) if priority is None else priority,
        "row_length": np.where(alone, output_tokens, np.asarray(ledger.row_length)),
        "failed_tokens": np.asarray(ledger.failed_tokens),
        "attempts": np.asarray(ledger.attempts) + alone,
        "ttft_ms": ttft_ms,
        "tpot_ms": np.where(output_tokens > 1, (e2el_ms - ttft_ms) / several, np.nan),
        "e2el_ms": e2el_ms,
        "replica": np.where(done, np.asarray(ledger.replica), -1).astype(np.int64),
        "reroutes": reroutes,
        "reason": reason,
    }


def _replicas(ledger: Ledger, finished_at: IntArray, end: float | None) -> dict[str, np.ndarray[Any, Any]]:
    """The per-replica table; time busy after the last finish does not count."""
    uses = ledger.replicas
    busy_s, iterations = [u.busy_s for u in uses], [u.iterations for u in uses]
    peaks, perceived_s = [u.kv_peak_tokens for u in uses], [0.0] * len(uses)
    for b in ledger.batches:
        if b.kind == "Iterations":
            continue
        iterations[b.replica] += b.iterations
        peaks[b.replica] = max(peaks[b.replica], b.kv_tokens)
        if end is not None and b.start_s < end:
            busy_s[b.replica] += min(b.end_s, end) - b.start_s
        if b.kind == "Perceive":
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
        "preemptions": np.array([u.preemptions for u in uses]),
        "failures": np.array([u.failures for u in uses]),
        "down_s": np.array([u.down_s for u in uses]),
    }


def _frozen(columns: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Views of the columns that cannot be written to."""
    views = {name: column.view() for name, column in columns.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _statistics(values: FloatArray) -> dict[str, float | None]:
    """Each of STATISTICS over the values that are there."""
    values = values[~np.isnan(values)]
    if not len(values):
        return dict.fromkeys(STATISTICS)
    median, p90, p99 = (float(q) for q in np.percentile(values, (50, 90, 99)))
    return {
        "mean": float(values.mean()),
        "median": median,
        "std": float(values.std()),
        "p90": p90,
        "p99": p99,
    }


def _meeting(latency: Mapping[str, FloatArray], done: Any, bounds: Mapping[str, float] | None) -> int:
    """Requests within every bound; a TPOT that a one-token answer does not have is met."""
    good = done.copy()
    for name, bound in (bounds or {}).items():
        good &= np.nan_to_num(latency[name], nan=0.0) <= bound
    return int(good.sum())


def _most_at_once(arrival: FloatArray, finish: FloatArray) -> int:
    """The most requests between arrival and finish at any time; one that finishes makes room for one that
    arrives.
    """
    came = np.sort(arrival, kind="stable")
    gone = np.searchsorted(np.sort(finish, kind="stable"), came, side="right")
    return int((np.arange(1, len(came) + 1) - gone).max(initial=0))


def _gaps(
    batches: Sequence[BatchRecord],
    final_batch: IntArray,
    output_tokens: IntArray,
    done: Any,
    finish: FloatArray,
) -> Ramps:
    """The gaps between a row's tokens: one ramp per row, and its last gap, which lasts until its batch
    returns.
    """
    rows = np.flatnonzero(done & (output_tokens > 1) & (final_batch >= 0))
    if not len(rows):
        return Ramps.empty()
    table = np.array([(b.first_step_s, b.step_slope_s, b.prefill_end_s) for b in batches])[final_batch[rows]]
    first, slope, prefill_end = table.T
    inner = output_tokens[rows] - 2  # gaps before the last one
    spent = inner * first + slope * inner * (inner - 1) / 2
    last = finish[rows] - prefill_end - spent
    one, zero = np.ones(len(rows), dtype=np.int64), np.zeros(len(rows))
    return Ramps(
        first_s=np.concatenate([first, last]),
        slope_s=np.concatenate([slope, zero]),
        counts=np.concatenate([inner, one]),
        weight=np.concatenate([one, one]),
    )
