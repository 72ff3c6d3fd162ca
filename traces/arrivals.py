"""Gives a trace its arrival times: its own, scaled, all at once, or drawn; knows nothing of files or
schedulers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .checks import MAX_SPAN_S
from .errors import InputError
from .trace import FloatArray, Trace
from .whole_sessions import sessions_of

GOLDEN = 0.6180339887498949
"""Windows of a trace start at multiples of this share of it, modulo 1: they lie as far apart as can be."""


def assign(
    trace: Trace,
    *,
    request_rate: float | None = None,
    burstiness: float = 1.0,
    time_scale: float = 1.0,
    rng: np.random.Generator,
) -> Trace:
    """The trace with arrival times in seconds, rows in their order; lengths are untouched.

    `request_rate` None keeps the trace's own times multiplied by `time_scale` (above 1 slows the trace
    down); a trace without times arrives all at once, at 0. `inf` is all at once whatever the trace says.
    Otherwise it is requests per second, and the gaps between arrivals are independent and gamma distributed
    with shape `burstiness` and scale 1 / (request_rate * burstiness), as in `vllm bench serve`: mean 1 /
    request_rate, squared coefficient of variation 1 / burstiness, a Poisson process at 1. Unlike there the
    first request arrives at 0, not after a gap, since a trace counts its times from the first arrival. Where
    `burstiness` is not 1 the gaps are rescaled, as there, so that the mean rate of these very arrivals is the
    one asked for: few bursts could otherwise miss it by far. A Poisson process stays one, unlike there
    (`get_request` of vllm/benchmarks/serve.py rescales any gaps so that the last request comes at n /
    request_rate, to steady its figures), so that what queueing theory says of it holds: the mean rate of n
    arrivals then misses the one asked for by 1 / sqrt(n) or so.

    Of requests that wait for others of their session only the starts of sessions are scaled or drawn, at the
    rate that gives `request_rate` requests per second on average; what happens within a session keeps its
    distance from its start, and think times stay as they are.

    With an equal state of `rng`, times at two rates are proportional, so two loads see the same pattern.
    A deadline keeps its distance from the arrival. Raises InputError where `request_rate`, `burstiness` or
    `time_scale` is not above 0 or not finite (a rate may be `inf`), where a `time_scale` other than 1 meets a
    `request_rate` or a `burstiness` other than 1 meets none, which would leave it without effect, and where
    arrivals spread over more than MAX_SPAN_S, as of a file: steps of milliseconds are lost beside times that
    are much larger.
    """
    if request_rate is not None and not request_rate > 0:
        raise InputError(
            f"request_rate: {request_rate:g} is not above 0 (requests per second, or inf for all at once)"
        )
    for name, value in (("burstiness", burstiness), ("time_scale", time_scale)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}: {value:g} is not above 0 and finite")
    if request_rate is not None and time_scale != 1:
        raise InputError(
            f"time_scale: {time_scale:g} scales a trace's own times, which request_rate {request_rate:g} "
            "replaces; only 1 is allowed with it"
        )
    if request_rate is None and burstiness != 1:
        raise InputError(f"burstiness: {burstiness:g} needs a request_rate: gaps are drawn with a rate alone")
    grouped = sessions_of(trace)
    if grouped is not None:
        rate = None if request_rate is None else grouped.share(request_rate)
        starts = assign(
            grouped.starts, request_rate=rate, burstiness=burstiness, time_scale=time_scale, rng=rng
        )
        assert starts.arrival_s is not None
        return grouped.starting_at(starts.arrival_s)
    n = len(trace)
    if request_rate is None and trace.arrival_s is not None:
        with np.errstate(over="ignore"):
            times = trace.arrival_s * time_scale
    elif request_rate is None or math.isinf(request_rate):
        times = np.zeros(n)
    else:
        times = _gamma_times(n, request_rate, burstiness, rng)
    if not np.isfinite(times).all():
        cause = f"time_scale {time_scale:g}" if request_rate is None else f"request_rate {request_rate:g}"
        raise InputError(f"{trace.name}: {cause} gives arrival times that are not finite")
    if n and times.max() - times.min() > MAX_SPAN_S:
        cause = f"time_scale {time_scale:g}" if request_rate is None else f"request_rate {request_rate:g}"
        span_s = times.max() - times.min()
        raise InputError(f"{trace.name}: {cause} gives arrivals over {span_s:.3g} s; at most {MAX_SPAN_S:g}")
    deadline = trace.deadline_s
    if deadline is not None:
        deadline = deadline - (0.0 if trace.arrival_s is None else trace.arrival_s) + times
    return replace(trace, arrival_s=times, deadline_s=deadline)


def window(trace: Trace, seed: int, num_requests: int) -> Trace:
    """`num_requests` rows in a row, from a place in the trace that the seed decides, its start following its
    end.

    Rows keep their own gaps; where the start follows the end, or the trace goes round, the gap is the mean
    one. A longer window of the same seed begins with the shorter one. Sessions are kept whole: their starts
    are the rows, as many as have `num_requests` requests on average. Prompts that come again in a longer
    window than the trace begin like none of the time before: a cache would else find all of them.
    """
    grouped = sessions_of(trace)
    if grouped is not None:
        starts = window(grouped.numbered_starts, seed, max(1, round(grouped.share(num_requests))))
        return grouped.those(starts)
    n = len(trace)
    start = int(n * ((seed * GOLDEN) % 1.0))
    rows = (start + np.arange(num_requests)) % n
    own = trace.arrival_s
    bare = replace(trace, arrival_s=None, deadline_s=None, blocks=None)
    chosen = bare.select(rows)
    if trace.blocks is not None:
        chosen = replace(chosen, blocks=trace.blocks.again(rows, np.arange(num_requests) // n))
    if own is None:
        return chosen
    gaps = np.diff(own, prepend=own[0])
    gaps[0] = gaps[1:].mean() if n > 1 else 0.0
    times = np.cumsum(np.concatenate([[0.0], gaps[rows[1:]]]))
    deadline = None if trace.deadline_s is None else (trace.deadline_s - own)[rows] + times
    return replace(chosen, arrival_s=times, deadline_s=deadline)


def busiest(trace: Trace, num_requests: int) -> Trace:
    """The `num_requests` in a row that come in the shortest time, with their own gaps; at most all.

    Sessions are kept whole: as in a `window`.
    """
    grouped = sessions_of(trace)
    if grouped is not None:
        return grouped.those(busiest(grouped.numbered_starts, max(1, round(grouped.share(num_requests)))))
    n, own = len(trace), trace.arrival_s
    assert own is not None
    if n <= num_requests:
        return trace
    start = int(np.argmin(own[num_requests - 1 :] - own[: n - num_requests + 1]))
    rows = np.arange(start, start + num_requests)
    chosen = trace.select(rows)
    deadline = None if trace.deadline_s is None else trace.deadline_s[rows] - own[start]
    return replace(chosen, arrival_s=own[rows] - own[start], deadline_s=deadline)


def stretched(trace: Trace, factor: float) -> Trace:
    """The trace with its own arrival times multiplied by `factor`, those at which sessions start where there
    are any; a deadline keeps its distance.
    """
    grouped = sessions_of(trace)
    if grouped is not None:
        return grouped.those(stretched(grouped.numbered_starts, factor))
    assert trace.arrival_s is not None
    times = trace.arrival_s * factor
    deadline = None if trace.deadline_s is None else trace.deadline_s - trace.arrival_s + times
    return replace(trace, arrival_s=times, deadline_s=deadline)


def busiest_tenth(arrival_s: FloatArray) -> npt.NDArray[np.intp]:
    """The requests, by row, that arrive in the busiest of ten equal parts of the time that a trace lasts."""
    counts, edges = np.histogram(arrival_s, bins=10)
    k = int(counts.argmax())
    last = arrival_s <= edges[k + 1] if k == 9 else arrival_s < edges[k + 1]
    return np.flatnonzero((arrival_s >= edges[k]) & last)


def at_rate(trace: Trace, rate: float) -> Trace:
    """The trace with its own arrival times stretched or pressed, so that their mean rate is `rate`.

    Of sessions the starts are, to as many a second as have `rate` requests on average.
    """
    grouped = sessions_of(trace)
    if grouped is not None:
        return grouped.those(at_rate(grouped.numbered_starts, grouped.share(rate)))
    assert trace.arrival_s is not None
    span = float(trace.arrival_s[-1])
    if not span > 0:
        raise InputError(
            f"{trace.name}: {len(trace)} requests in a row all arrive at once, so they cannot be scaled to "
            f"{rate:g} requests/s; burstiness 1 draws Poisson arrivals"
        )
    times = trace.arrival_s / span * ((len(trace) - 1) / rate)
    deadline = None if trace.deadline_s is None else trace.deadline_s - trace.arrival_s + times
    return replace(trace, arrival_s=times, deadline_s=deadline)


def _gamma_times(n: int, request_rate: float, burstiness: float, rng: np.random.Generator) -> FloatArray:
    """Sorted arrival times in seconds, shape (n,), the first at 0; unless Poisson, the last at (n - 1) /
    rate.
    """
    # Gaps of mean 1 are summed before the rate divides them: the rate is then a pure scale, to the last bit.
    gaps = rng.standard_gamma(burstiness, size=n) / burstiness
    gaps[:1] = 0.0
    times = np.cumsum(gaps)
    if burstiness != 1 and n and times[-1] > 0:
        times = times / times[-1] * (n - 1)
    with np.errstate(over="ignore"):
        return np.asarray(times / request_rate, dtype=np.float64)
