"""The table of metrics: every number of a summary by its key, what it is called, and how it is computed.

Whatever names a metric (SLOs, goodput bounds, tables, figures, reports, docs/metrics.md) looks it up here by
its key, at the time it is asked, so that a metric added to a table below appears there too. Definitions are
vLLM's where vLLM has one; `python -m sim.results.metrics` prints them. What is undefined is None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.trace import FloatArray

from . import offered_load
from .metric_kinds import STATISTICS, Latency, Metric, good_requests
from .session_metrics import SESSIONS, has_sessions
from .slo_metrics import OF_CLASS, OF_SESSIONS, OWN_SLOS, metric_of_class, slo_metrics
from .tables import Columns, RunTables


def _tpot_ms(t: Columns) -> FloatArray:
    after_first = (t["finish_s"] - t["arrival_s"]) * 1e3 - (t["first_token_s"] - t["arrival_s"]) * 1e3
    several = t["output_tokens"] > 1
    return np.where(several, after_first / np.where(several, t["output_tokens"] - 1, 1), np.nan)


LATENCIES = {
    latency.key: latency
    for latency in (
        Latency(
            "ttft",
            "TTFT",
            "Time to first token",
            "From a request's arrival to its first token.",
            lambda t: (t["first_token_s"] - t["arrival_s"]) * 1e3,
        ),
        Latency(
            "tpot",
            "TPOT",
            "Time per output token",
            "(E2EL − TTFT) / (output tokens − 1); of requests with more than one output token.",
            _tpot_ms,
            shown_unit="ms",
        ),
        Latency(
            "itl",
            "ITL",
            "Inter-token latency",
            "Between one token of an answer and the next, over all tokens of all requests.",
            None,
            shown_unit="ms",
        ),
        Latency(
            "e2el",
            "E2EL",
            "End-to-end latency",
            "From a request's arrival to its last token.",
            lambda t: (t["finish_s"] - t["arrival_s"]) * 1e3,
        ),
        Latency(
            "wait",
            "wait",
            "Queueing wait",
            "From a request's arrival until it first ran.",
            lambda t: (t["scheduled_s"] - t["arrival_s"]) * 1e3,
        ),
    )
}


def _ratio(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None


def _goodput(run: RunTables) -> float | None:
    if not run.bounds_ms:
        return None
    return _ratio(int(good_requests(run.requests, run.ended, run.bounds_ms).sum()), run.window_s)


def _outgrown(requests: Columns) -> int:
    """Requests that were run again though no replica had failed: what is lost then, or gone on from."""
    again = requests["attempts"] > 1 + requests["reroutes"]
    return int(((requests["failed_tokens"] > 0) | again).sum())


def _most_at_once(run: RunTables) -> int:
    """The most requests between arrival and finish; one that finishes makes room for one that arrives."""
    came = np.sort(run.requests["arrival_s"][run.done], kind="stable")
    gone = np.searchsorted(np.sort(run.requests["finish_s"][run.done], kind="stable"), came, side="right")
    return int((np.arange(1, len(came) + 1) - gone).max(initial=0))


def _busy_fraction(run: RunTables) -> float | None:
    busy_s = run.replicas["busy_s"]
    fraction = _ratio(float(busy_s.sum()) / len(busy_s), run.duration_s)
    # Rounding alone can bring a replica that is never idle above 1.
    return 1.0 if fraction is not None and 1 < fraction < 1 + 1e-9 else fraction


THROUGHPUT = (
    Metric(
        "duration", "duration", "s", "{:.1f}", "less", "From the first arrival to the last finish.",
        lambda run: run.duration_s,
    ),
    Metric(
        "completed", "completed requests", "", "{:,}", "more", "Requests that were answered to the end.",
        lambda run: run.completed, "completed",
    ),
    Metric(
        "failed", "failed requests", "", "{:,}", "less",
        "Requests that were rejected, expired, or cancelled with their session.",
        lambda run: len(run.done) - run.completed, "failed",
    ),
    Metric(
        "total_input_tokens", "input tokens", "", "{:,}", "neither",
        "Prompt tokens of the completed requests.",
        lambda run: run.total("prompt_tokens"),
    ),
    Metric(
        "total_output_tokens", "output tokens", "", "{:,}", "neither", "Tokens of the completed answers.",
        lambda run: run.tokens.useful,
    ),
    Metric(
        "request_throughput", "request throughput", "requests/s", "{:.3f}", "more",
        "Completed requests / duration.",
        lambda run: _ratio(int(run.ended.sum()), run.window_s), "requests/s",
    ),
    Metric(
        "request_goodput", "goodput", "requests/s", "{:.3f}", "more",
        "Requests within every goodput bound, or one of their own in its place / duration; a TPOT that a "
        "one-token answer lacks is within any.",
        _goodput,
    ),
    Metric(
        "request_goodput_from_schedule", "goodput from the schedule", "requests/s", "{:.3f}", "more",
        "The same, with latencies counted from when the trace has the request, not from when a bounded "
        "client sent it.",
        offered_load.goodput_from_schedule,
    ),
    Metric(
        "offered_rate", "offered rate", "requests/s", "{:.3f}", "neither",
        "(Requests − 1) / the span of their arrivals in the trace; null where all come at once.",
        offered_load.offered_rate,
    ),
    Metric(
        "queue_growth", "growth of the queue", "requests per arrival", "{:.3f}", "less",
        "By how much the queue grew over the second half of the run, 0 where it does not by the rule of a "
        "plan: else latencies grow with the length of the run. Null for fewer than 100 requests.",
        offered_load.queue_growth,
    ),
    Metric(
        "mean_held_ms", "mean time held back", "ms", "{:.2f}", "less",
        "For how long a client with `--max-concurrency` held a request back before it arrived.",
        offered_load.mean_held_ms,
    ),
    Metric(
        "mean_e2el_from_schedule_ms", "mean E2EL from the schedule", "ms", "{:.2f}", "less",
        "Mean E2EL counted from when the trace has the request.",
        offered_load.mean_e2el_from_schedule_ms,
    ),
    Metric(
        "output_throughput", "output throughput", "tokens/s", "{:.1f}", "more", "Output tokens / duration.",
        lambda run: run.rate_of("output_tokens"), "tokens/s",
    ),
    Metric(
        "total_token_throughput", "total token throughput", "tokens/s", "{:.1f}", "more",
        "Input and output tokens / duration.",
        lambda run: run.rate_of("prompt_tokens", "output_tokens"),
    ),
    Metric(
        "max_concurrent_requests", "most requests at once", "", "{:,}", "neither",
        "The most requests that had arrived and not finished at any time.", _most_at_once,
    ),
)  # fmt: skip
"""What comes before the latencies in a summary."""

EFFICIENCY = (
    Metric(
        "average_length", "average length", "tokens", "{:.1f}", "less",
        "Positions decoded for a request in its final attempt, padding included and prompt excluded, per "
        "completed request.",
        lambda run: _ratio(run.total("row_length"), run.completed), "average length",
    ),
    Metric(
        "average_length_all_attempts", "average length of all attempts", "tokens", "{:.1f}", "less",
        "The same, with the positions that failed attempts and failed replicas had decoded before.",
        lambda run: _ratio(run.total("row_length") + run.tokens.recomputed, run.completed), "all attempts",
    ),
    Metric(
        "effective_token_ratio", "effective tokens", "", "{:.1%}", "more",
        "Output tokens / positions decoded in final attempts.",
        lambda run: _ratio(run.tokens.useful, run.total("row_length")), "effective tokens",
    ),
    Metric(
        "failure_ratio", "requests that failed at first", "", "{:.1%}", "less",
        "Requests whose answer outgrew its prediction at least once / requests.",
        lambda run: _ratio(_outgrown(run.requests), len(run.done)), "failed at first",
    ),
    Metric(
        "iterations", "iterations", "", "{:,}", "less", "Forward passes that decoded, of all replicas.",
        lambda run: run.replica_total("iterations"),
    ),
    Metric(
        "gpu_busy_fraction", "busy", "", "{:.1%}", "neither",
        "Time in which replicas computed / (replicas × duration).", _busy_fraction,
    ),
    Metric(
        "perception_s", "perception time", "s", "{:.1f}", "less",
        "Time spent on asking the model for the lengths of its answers.",
        lambda run: sum(b.end_s - b.start_s for b in run.batches if b.is_question),
    ),
    Metric(
        "kv_peak_fraction", "KV peak", "", "{:.1%}", "neither",
        "The largest share of a replica's KV cache that was in use at any time.",
        lambda run: float(run.replicas["kv_peak_fraction"].max()),
    ),
    Metric(
        "preemptions", "preemptions", "", "{:,}", "less",
        "How often a running request gave up its KV blocks, to be recomputed.",
        lambda run: run.replica_total("preemptions"),
    ),
    Metric(
        "reroutes", "reroutes", "", "{:,}", "less", "How often a request lost its replica to a failure.",
        lambda run: int(run.requests["reroutes"].sum()),
    ),
)  # fmt: skip
"""What comes after the latencies in a summary."""


PER_REPLICA = (
    Metric("failures", "failures", "", "{:,}", "less", "How often the replica failed."),
    Metric("down_s", "down s", "s", "{:.1f}", "less", "Time in which it had failed or was starting again."),
)
"""What the table of replicas has beside figures that a summary has too."""


def table() -> dict[str, Metric]:
    """Every metric by its key, in the order of a summary; the last ones only where there are sessions, or
    requests with bounds.
    """
    latencies = [latency.metric(s) for s in STATISTICS for latency in LATENCIES.values()]
    last = (*SESSIONS, *OWN_SLOS, *OF_SESSIONS)
    return {metric.key: metric for metric in (*THROUGHPUT, *latencies, *EFFICIENCY, *last)}


def metric(key: str) -> Metric:
    """A metric by its key, that of a class of requests too; ValueError where there is none of that name."""
    if key.startswith(OF_CLASS):
        return metric_of_class(key.removeprefix(OF_CLASS))
    known = table()
    if key not in known:
        raise ValueError(f"metric ({key}) must be one of {', '.join(known)}")
    return known[key]


def request_latencies() -> dict[str, Latency]:
    """The latencies that every request has, by key: what SLOs and goodput may bound."""
    return {key: latency for key, latency in LATENCIES.items() if latency.of_requests is not None}


def summarise(run: RunTables) -> dict[str, Any]:
    """Every metric of a run by its key."""
    by_latency = {key: latency.statistics(run) for key, latency in LATENCIES.items()}
    summary: dict[str, Any] = {m.key: m.compute(run) for m in THROUGHPUT if m.compute}
    summary |= {f"{s}_{key}_ms": values[s] for s in STATISTICS for key, values in by_latency.items()}
    last = [*EFFICIENCY, *(SESSIONS if has_sessions(run) else ()), *slo_metrics(run)]
    return summary | {m.key: m.compute(run) for m in last if m.compute}


def markdown() -> str:
    """The definitions as tables for docs/metrics.md."""
    rows = [_row(metric.key, metric.unit, metric.better, metric.definition) for metric in THROUGHPUT]
    for latency in LATENCIES.values():
        text = f"{latency.title} ({latency.symbol}). {latency.definition}"
        rows.append(_row(f"{{{','.join(STATISTICS)}}}_{latency.column}", "ms", "less", text))
    last = (*EFFICIENCY, *SESSIONS, *OWN_SLOS, metric_of_class("{CLASS}"), *OF_SESSIONS)
    rows += [_row(metric.key, metric.unit, metric.better, metric.definition) for metric in last]
    return "\n".join([_row("key", "unit", "better", "what it is"), "|---|---|---|---|", *rows]) + "\n"


def _row(key: str, *cells: str) -> str:
    return f"| {key if key == 'key' else f'`{key}`'} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(markdown(), end="")
