"""Statistics of a trace: distributions, arrival rate and burstiness as numbers; draws no figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .reuse import reuse_facts, reuse_of
from .sessions import session_sizes
from .trace import FloatArray, IntArray, Trace

if TYPE_CHECKING:
    import pandas as pd

_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
_MIN_WINDOWS = 10


def describe(trace: Trace) -> pd.DataFrame:
    """The distribution of each numeric column: a row per column; count, min, p10, p50, mean, p90, p99, max.

    Times are in seconds (`interarrival_s`: the n-1 gaps between arrivals; `think_s`: of what waits for
    another), deadlines and bounds (in ms) of the requests that state one, lengths in
    tokens, samples under `L_<name>`; `session_requests` is of sessions.
    """
    import pandas as pd

    numeric = (
        *("arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens", "priority"),
        "max_tokens",
    )
    columns: dict[str, FloatArray | IntArray] = {
        c: getattr(trace, c) for c in numeric if c in trace.columns()
    }
    bounds = trace.slos if trace.deadline_s is None else {"deadline_s": trace.deadline_s, **trace.slos}
    columns |= {c: stated for c, each in bounds.items() if len(stated := each[np.isfinite(each)])}
    if trace.arrival_s is not None and len(trace) > 1:
        columns["interarrival_s"] = np.diff(trace.arrival_s)
    if (ids := trace.sessions) is not None:
        columns["session_requests"] = session_sizes(ids)
    if (waiting := trace.is_waiting).any():
        columns["think_s"] = trace.thinks_s[waiting]
    if trace.samples is not None:
        columns |= {f"L_{name}": trace.samples[:, k] for k, name in enumerate(trace.sample_names)}
    order = ("count", "min", "p10", "p50", "mean", "p90", "p99", "max")
    return pd.DataFrame.from_dict(
        {c: _summary(v) for c, v in columns.items()}, orient="index", columns=list(order)
    )


def _summary(values: FloatArray | IntArray) -> list[float]:
    p10, p50, p90, p99 = np.quantile(values, list(_QUANTILES.values()))
    ends = float(values.min()), float(values.max())
    return [
        len(values),
        ends[0],
        float(p10),
        float(p50),
        float(values.mean()),
        float(p90),
        float(p99),
        ends[1],
    ]


def facts(trace: Trace) -> dict[str, float | int | None]:
    """Single numbers about a trace; what is undefined (no times, a single request, no cap) is None.

    requests; span_s (last arrival - first); mean_rate_per_s ((n-1)/span); interarrival_cv (coefficient of
    variation of the gaps) and burstiness (1/cv², as `vllm bench serve` means it: 1 is Poisson, less is
    burstier); max_new_tokens and share_at_cap (outputs that reach
    it, or the request's own cap); sample_correlation (mean Pearson
    correlation over pairs of samples). Of sessions their number, where there are any, and what caches of
    prefixes find (`reuse_facts`), where that is known.
    """
    cv = _interarrival_cv(trace)
    span = None if trace.arrival_s is None else float(trace.arrival_s.max() - trace.arrival_s.min())
    cap = trace.max_new_tokens
    caps = cap if trace.max_tokens is None else trace.max_tokens
    return {
        "requests": len(trace),
        "prompt_tokens": int(trace.prompt_tokens.sum()),
        "output_tokens": int(trace.output_tokens.sum()),
        "span_s": span,
        "mean_rate_per_s": trace.mean_rate,
        "interarrival_cv": cv,
        "burstiness": 1 / cv**2 if cv else None,
        "max_new_tokens": cap,
        "share_at_cap": None if caps is None else float((trace.output_tokens >= caps).mean()),
        "sample_correlation": _sample_correlation(trace),
        **({} if trace.sessions is None else {"sessions": len(session_sizes(trace.sessions))}),
        **reuse_facts(reuse_of(trace)),
    }


def _interarrival_cv(trace: Trace) -> float | None:
    if trace.arrival_s is None or len(trace) < 3:
        return None
    gaps = np.diff(np.sort(trace.arrival_s))
    return float(gaps.std() / gaps.mean()) if gaps.mean() > 0 else None


def _sample_correlation(trace: Trace) -> float | None:
    if trace.samples is None or trace.samples.shape[1] < 2 or not (np.ptp(trace.samples, axis=0) > 0).all():
        return None
    matrix = np.atleast_2d(np.corrcoef(trace.samples, rowvar=False))
    return float(matrix[np.triu_indices_from(matrix, k=1)].mean())


def arrival_rate(trace: Trace, bins: int = 100) -> tuple[FloatArray, FloatArray]:
    """Requests per second over time: (edges in s, shape (bins+1,); rates, shape (bins,)).

    Raises InputError where the trace has no times, or all arrive at once, or `bins` is below 1.
    """
    if bins < 1:
        raise InputError(f"bins: {bins} is below 1")
    times, span = _times(trace)
    counts, edges = np.histogram(times, bins=bins, range=(0.0, span))
    return edges, counts / np.diff(edges)


def burstiness_over_scales(trace: Trace, scales: int = 30) -> tuple[FloatArray, FloatArray]:
    """Index of dispersion of counts (variance/mean of arrivals per window) against window length.

    Returns (window lengths in s, index), each of shape (k,), k at most `scales`, from the mean gap to a tenth
    of the span. A Poisson process is at 1 on every scale; a rate that drifts rises with the window.
    Raises InputError where the trace has no times, or all arrive at once, or `scales` is below 1.
    """
    if scales < 1:
        raise InputError(f"scales: {scales} is below 1")
    times, span = _times(trace)
    shortest, longest = span / max(len(times) - 1, 1), span / _MIN_WINDOWS
    windows = (
        np.geomspace(shortest, max(longest, shortest), scales) if longest > shortest else np.array([shortest])
    )
    index = np.empty(len(windows))
    for k, window in enumerate(windows):
        whole = max(int(span / window), 1)  # a last window that the span does not fill would count too few
        counts = np.histogram(times, bins=whole, range=(0.0, whole * window))[0]
        index[k] = counts.var() / counts.mean()
    return windows, index


def _times(trace: Trace) -> tuple[FloatArray, float]:
    if trace.arrival_s is None:
        raise InputError(f"{trace.name}: has no arrival times, so no arrival rate")
    times = trace.arrival_s - trace.arrival_s.min()
    span = float(times.max())
    if span <= 0:
        raise InputError(f"{trace.name}: all {len(trace)} requests arrive at once, so no arrival rate")
    return times, span
