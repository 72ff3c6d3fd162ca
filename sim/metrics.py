"""Result: what became of every request, and the summary of a run, in vLLM's terms; whoever ran it.

Knows nothing of schedulers, SimPy or profiles. Times inside are seconds, reported latencies milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traces.trace import FloatArray, IntArray

from .inter_token import RampLog, Ramps, pooled_latency

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("mean", "median", "std", "p90", "p99")
LATENCIES = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


class BatchRecord(NamedTuple):
    """One Work as it was carried out: what was decided, and when it ran.

    `limit` is its token limit (a Perceive: the tokens of an answer), `prompt_tokens` the padded prompt. The
    decode iteration j = 0, 1, ... after the prefill took `first_step_s + j * step_slope_s`. `replica` is the
    accelerator that ran it, `num_waiting` the requests that waited there meanwhile.
    """

    kind: str
    request_ids: tuple[int, ...]
    limit: int
    iterations: int
    start_s: float
    prefill_end_s: float
    end_s: float
    prompt_tokens: int = 0
    first_step_s: float = 0.0
    step_slope_s: float = 0.0
    kv_tokens: int = 0
    chunks: tuple[tuple[int, bool], ...] = ()
    evicted: tuple[int, ...] = ()
    replica: int = 0
    num_waiting: int = 0

    def decision(self) -> dict[str, Any]:
        """The entry of the decision log: what was decided, and how many iterations it ran."""
        entry: dict[str, Any] = {"kind": self.kind, "requests": list(self.request_ids), "limit": self.limit}
        if self.kind == "Iterations":
            entry |= {"chunks": [list(chunk) for chunk in self.chunks], "evicted": list(self.evicted)}
        return {**entry, "iterations": self.iterations}


@dataclass
class Ledger:
    """What an executor writes down while it runs: one entry per request (by request id) and per Work.

    Continuous batching is only summed up (`gaps` between tokens, `iterations`, `busy_s`, `kv_peak_tokens`,
    `preemptions`); its Works are recorded one by one where `log` is set.
    """

    num_requests: int
    arrival_s: list[float]
    batches: list[BatchRecord] = field(default_factory=list)
    log: bool = False
    gaps: RampLog = field(default_factory=RampLog)
    iterations: int = 0
    busy_s: float = 0.0
    kv_peak_tokens: int = 0
    preemptions: int = 0

    def __post_init__(self) -> None:
        n = self.num_requests
        self.scheduled_s = [math.nan] * n  # first time that it ran
        self.first_token_s, self.finish_s = [math.nan] * n, [math.nan] * n
        self.row_length, self.attempts = [0] * n, [0] * n  # positions decoded in its last attempt; attempts
        self.failed_tokens = [0] * n  # positions decoded in attempts that failed
        self.final_batch = [-1] * n  # index in `batches` of the padded batch in which it finished
        self.predicted: list[int | None] = [None] * n
        self.reason: list[str] = [""] * n

    def ended(self, request_id: int) -> bool:
        """Whether the request has finished or was dropped."""
        return self.finish_s[request_id] == self.finish_s[request_id] or bool(self.reason[request_id])


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
    where they went.
    """

    summary: dict[str, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]
    batches: tuple[BatchRecord, ...]
    tokens: TokenUse

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: times in seconds, latencies in ms, NaN where the request did not complete."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))

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
        from traces.files import atomic_write

        with atomic_write(path) as file:
            self.requests.to_csv(file, index=False, lineterminator="\n")


def make_result(
    ledger: Ledger,
    *,
    request_id: np.ndarray[Any, Any],
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    priority: IntArray | None,
    labels: Mapping[str, Any],
    kv_capacity_tokens: int,
    goodput_ms: Mapping[str, float] | None = None,
) -> Result:
    """Derive the per-request table and the summary from a ledger.

    `labels` are the summary's texts and settings (`policy predictor profile trace seed replicas version`);
    `goodput_ms` maps `ttft`, `tpot`, `e2el` to the bound that a request must meet.
    """
    arrival, finish = np.asarray(ledger.arrival_s, dtype=float), np.asarray(ledger.finish_s)
    first, done = np.asarray(ledger.first_token_s), ~np.isnan(finish)
    row_length, failed_tokens = np.asarray(ledger.row_length), np.asarray(ledger.failed_tokens)
    attempts = np.asarray(ledger.attempts)
    latency = {"ttft": (first - arrival) * 1e3, "e2el": (finish - arrival) * 1e3}
    several = np.where(output_tokens > 1, output_tokens - 1, 1)
    latency["tpot"] = np.where(output_tokens > 1, (latency["e2el"] - latency["ttft"]) / several, np.nan)
    perceived = [b for b in ledger.batches if b.kind == "Perceive"]
    tokens = TokenUse(
        useful=int(output_tokens[done].sum()),
        padding=int((row_length - output_tokens)[done].sum()),
        recomputed=int(failed_tokens.sum()),
        perception=sum(b.limit * len(b.request_ids) for b in perceived),
    )
    columns = {
        "request_id": request_id,
        "status": np.array(
            [
                "completed" if ok else text.partition(":")[0]
                for ok, text in zip(done, ledger.reason, strict=True)
            ]
        ),
        "arrival_s": arrival,
        "scheduled_s": np.asarray(ledger.scheduled_s),
        "first_token_s": first,
        "finish_s": finish,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "predicted_tokens": np.array([np.nan if p is None else p for p in ledger.predicted]),
        "priority": np.zeros(len(arrival), dtype=np.int64) if priority is None else priority,
        "row_length": row_length,
        "failed_tokens": failed_tokens,
        "attempts": attempts,
        "ttft_ms": latency["ttft"],
        "tpot_ms": latency["tpot"],
        "e2el_ms": latency["e2el"],
        "reason": np.array(ledger.reason),
    }
    start, end = float(arrival.min()), float(finish[done].max()) if done.any() else None
    duration = None if end is None or end <= start else end - start
    completed, lengths = int(done.sum()), int(row_length[done].sum())
    total_in, total_out = int(prompt_tokens[done].sum()), tokens.useful
    batches = [b for b in ledger.batches if b.kind != "Iterations"]
    ran = [b for b in batches if end is not None and b.start_s < end]
    busy = ledger.busy_s + sum(min(b.end_s, end) - b.start_s for b in ran if end is not None)
    kv_peak = max((ledger.kv_peak_tokens, *(b.kv_tokens for b in batches)))

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
    gaps = (_gaps(ledger.batches, final_batch, output_tokens, done, finish), ledger.gaps.ramps())
    pooled = pooled_latency(Ramps(*(np.concatenate(columns) for columns in zip(*gaps, strict=True))))
    for statistic in STATISTICS:
        for name in LATENCIES:
            value = pooled[statistic] if name == "itl" else _statistic(latency[name][done], statistic)
            summary[f"{statistic}_{name}_ms"] = value
    summary |= {
        "average_length": ratio(lengths, completed),
        "average_length_all_attempts": ratio(lengths + tokens.recomputed, completed),
        "effective_token_ratio": ratio(total_out, lengths),
        "failure_ratio": ratio(int((failed_tokens > 0).sum()), len(arrival)),
        "iterations": ledger.iterations + sum(b.iterations for b in batches),
        "gpu_busy_fraction": ratio(busy, duration),
        "perception_s": sum(b.end_s - b.start_s for b in perceived),
        "kv_peak_fraction": kv_peak / kv_capacity_tokens,
        "preemptions": ledger.preemptions,
        **labels,
    }
    return Result(summary, MappingProxyType(_frozen(columns)), tuple(ledger.batches), tokens)


def _frozen(columns: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Views of the columns that cannot be written to."""
    views = {name: column.view() for name, column in columns.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _statistic(values: FloatArray, statistic: str) -> float | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if statistic in ("mean", "std"):
        return float(getattr(values, statistic)())
    return float(np.percentile(values, {"median": 50, "p90": 90, "p99": 99}[statistic]))


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
    times = np.concatenate([finish, arrival])
    steps = np.concatenate([np.full(len(finish), -1), np.full(len(arrival), 1)])
    return int(steps[np.argsort(times, kind="stable")].cumsum().max(initial=0))


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
