"""What a reader has to know of the traffic of a plan to read its answers; said wherever these stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .answer import Answer
from .question import Workload
from .replay import Replay
from .unservable import Unservable

STEADY = 1.1
"""How many times the mean rate the busiest tenth may have without being worth a note."""

FEW = 50
"""Pairs of a prompt and an answer length up to which a trace counts as few requests, repeated."""


def notes_of(
    workload: Workload,
    rate: float | None,
    replay: Replay | None,
    max_requests: int,
    answers: Sequence[Answer] = (),
    left_out: Sequence[Unservable | None] = (),
) -> tuple[str, ...]:
    """The notes on a plan for that rate (None: for the highest).

    `replay`: how its `answers` were tried on the trace itself, if any was; `max_requests`: of the longest
    runs; `left_out`: what fits no replica, where no answer says it as the reason that none was found.
    """
    is_replayed = any(point.is_replay for answer in answers for point in answer.points)
    about = (
        *dict.fromkeys(f"{lost}." for lost in left_out if lost),
        _about_the_rate(workload, rate, replay if is_replayed else None),
        _about_repetition(workload, max_requests),
    )
    return tuple(text for text in about if text)


def _about_the_rate(workload: Workload, rate: float | None, replay: Replay | None) -> str:
    """How the rate varies, and which part of it the answer is for."""
    peak = workload.peak
    if workload.burstiness is not None or peak is None:
        return ""
    busy = f"The busiest tenth of {workload.name} runs at {peak:.3g} times its mean rate"
    if rate is not None:
        busy += f" ({rate * peak:.4g} of {rate:.4g} requests/s)"
    if replay is not None:
        n, part = len(workload.example), replay.num_requests
        what = "replayed whole" if part == n else f"its busiest {part:,} requests replayed"
        return f"{busy}. Fleets were held against the trace itself, {what}: all of it and that tenth alone."
    if peak < STEADY:
        return ""
    for_it = "" if rate is None else f"; --request-rate {rate * peak:.3g} plans for that tenth"
    return f"{busy}; the answer is for windows scaled to the mean{for_it}."


def _about_repetition(workload: Workload, max_requests: int) -> str:
    """Whether runs see the same few requests again and again."""
    if isinstance(workload.source, str):
        return ""
    trace = workload.example
    n = len(trace)
    pairs = len(np.unique(np.stack([trace.prompt_tokens, trace.output_tokens], axis=1), axis=0))
    unlike = "the intervals do not speak of requests unlike these"
    if n < max_requests:
        times = max_requests / n
        often = f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
        return f"{workload.name} has {n:,} requests, which the longest runs repeat {often} times: {unlike}."
    if pairs <= min(FEW, n // 4):
        only = "one pair" if pairs == 1 else f"{pairs} pairs"
        return f"{workload.name} has but {only} of a prompt and an answer length, {n:,} times: {unlike}."
    return ""
