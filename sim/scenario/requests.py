"""From the settings of a workload to the requests of a run, with their arrival times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from traces import quantities
from traces.errors import InputError
from traces.slo_classes import with_slo_classes
from traces.spec import nearest
from traces.trace import DEFAULT_MAX_NEW_TOKENS, IntArray, Trace

from ..results.metrics import request_latencies
from .settings import WorkloadSettings

MAX_OUTPUT_CAP = 10_000_000
CAPS = ("auto", "column", "shared", "own")
"""Where the cap of a request may come from."""


def requests_of(settings: WorkloadSettings, seed: int, *, whole_sessions: bool = False) -> Trace:
    """The requests chosen from the trace, lengths scaled and outputs capped; arrivals are the trace's own.

    Where requests have caps of their own, by the settings, the trace has them as `max_tokens`.

    `seed` feeds what a generator draws, `whole_sessions` is for one of sessions (`traces.load`). Raises
    InputError for anything that cannot be used.
    """
    import traces
    from traces import scaling
    from traces.loading import is_generator

    trace, cap = settings.trace, settings.max_new_tokens
    if isinstance(trace, str):
        is_file = not is_generator(trace)  # a permutation is one of all its requests
        first_cap = cap if settings.output_scale == 1 else None  # the cap is one on the scaled lengths
        trace = traces.load(
            trace,
            seed=seed,
            num_prompts=None if settings.sample_seed is not None and is_file else settings.num_prompts,
            max_new_tokens=first_cap,
            time_unit=settings.time_unit,
            whole_sessions=whole_sessions,
        )
    if not whole_sessions:
        trace = trace.sample(settings.num_prompts, settings.sample_seed)
    if settings.slo_classes is not None:
        trace = with_slo_classes(trace, settings.slo_classes, seed)
    trace = scaling.scale_lengths(trace, settings.prompt_scale, settings.output_scale)
    own = _own_caps(trace, settings)
    if own is None:
        return replace(trace, max_tokens=None).with_output_cap(output_cap(trace, cap))
    trace = replace(trace, max_tokens=own)
    if cap is not None:
        trace = trace.with_output_cap(output_cap(trace, cap))
    assert trace.max_tokens is not None
    return trace.with_outputs(
        np.minimum(trace.output_tokens, trace.max_tokens), max_new_tokens=int(trace.max_tokens.max())
    )


def _own_caps(trace: Trace, settings: WorkloadSettings) -> IntArray | None:
    """Each request's own cap, shape (n,); None where one stands for all."""
    kind = settings.cap
    if kind not in CAPS:
        hint = nearest(kind, CAPS) if isinstance(kind, str) else ""
        raise InputError(f"cap: {kind!r} is not one of {', '.join(CAPS)}{hint}")
    if kind == "column" and trace.max_tokens is None:
        raise InputError(f"cap: column, but {trace.name} has no column max_tokens")
    if kind == "own":
        return trace.output_tokens
    return None if kind == "shared" else trace.max_tokens


def arriving(trace: Trace, settings: WorkloadSettings, rng: np.random.Generator) -> Trace:
    """The requests with the arrival times of the settings; gaps that are drawn come from `rng`."""
    from traces import arrivals

    return arrivals.assign(
        trace,
        request_rate=settings.request_rate,
        burstiness=settings.burstiness,
        time_scale=settings.time_scale,
        rng=rng,
    )


def check_concurrency(settings: WorkloadSettings) -> None:
    """InputError for a bound on unfinished requests below 1."""
    if settings.max_concurrency is not None and settings.max_concurrency < 1:
        raise InputError(f"max_concurrency: {settings.max_concurrency} must be at least 1")


def output_cap(trace: Trace, max_new_tokens: int | None = None) -> int:
    """The given cap; else that of the trace's source; else the longest output, at least the usual 512."""
    if max_new_tokens is not None:
        if not 1 <= max_new_tokens <= MAX_OUTPUT_CAP:
            raise InputError(f"max_new_tokens: {max_new_tokens} must be between 1 and {MAX_OUTPUT_CAP}")
        return max_new_tokens
    if trace.max_new_tokens is not None:
        return trace.max_new_tokens
    return max(DEFAULT_MAX_NEW_TOKENS, int(trace.output_tokens.max()))


def goodput_bounds(goodput: Mapping[str, float] | Iterable[str] | None) -> dict[str, float]:
    """Bounds in ms by metric, from a mapping, or from texts (or one, with spaces between).

    A text is `METRIC:MS`, or `METRIC:2s` in another unit.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(goodput, Mapping):
        pairs = list(goodput.items())
    else:
        for text in goodput.split() if isinstance(goodput, str) else goodput or ():
            name, _, value = str(text).partition(":")
            pairs.append((name, value))
    bounds: dict[str, float] = {}
    for name, value in pairs:
        if name not in request_latencies():
            known = ", ".join(request_latencies())
            raise InputError(f"goodput: {name!r} is not one of {known}, as in ttft:2000")
        if name in bounds:
            raise InputError(f"goodput: {name} is given twice ({bounds[name]:g} and {value} ms)")
        try:
            bounds[name] = quantities.milliseconds(str(value))
        except ValueError:
            raise InputError(
                f"goodput: {name}:{value} is not a number of milliseconds, nor one "
                f"with a unit ({quantities.DURATION_UNITS})"
            ) from None
        if not bounds[name] > 0:
            raise InputError(f"goodput: {name}:{value} must be above 0 ms")
    return bounds
