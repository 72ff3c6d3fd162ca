"""Gives a trace its arrival times: its own, all at once, or drawn; knows nothing of files or schedulers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .errors import InputError
from .trace import FloatArray, Trace


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
    first request arrives at 0, not after a gap, since a trace counts its times from the first arrival, and
    the gaps are not rescaled to meet the rate.

    With an equal state of `rng`, times at two rates are proportional, so two loads see the same pattern.
    A deadline keeps its distance from the arrival. Raises InputError where `request_rate`, `burstiness` or
    `time_scale` is not above 0 or not finite (a rate may be `inf`), where a `time_scale` other than 1 meets a
    `request_rate`, which would leave it without effect, and where a time is too large for a float.
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
    deadline = trace.deadline_s
    if deadline is not None:
        deadline = deadline - (0.0 if trace.arrival_s is None else trace.arrival_s) + times
    return replace(trace, arrival_s=times, deadline_s=deadline)


def _gamma_times(n: int, request_rate: float, burstiness: float, rng: np.random.Generator) -> FloatArray:
    """Sorted arrival times in seconds, shape (n,), the first at 0."""
    # Gaps of mean 1 are summed before the rate divides them: the rate is then a pure scale, to the last bit.
    gaps = rng.standard_gamma(burstiness, size=n) / burstiness
    gaps[:1] = 0.0
    with np.errstate(over="ignore"):
        return np.asarray(np.cumsum(gaps) / request_rate, dtype=np.float64)
