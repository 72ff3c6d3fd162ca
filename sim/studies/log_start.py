"""Where a fit to logs begins: quantities of iterations that follow from a log by linear algebra alone.

The time that an answer took after its first token is that of its iterations, and how many others decoded
meanwhile follows from the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import nnls

from traces.trace import FloatArray

from .server_log import Log

GROWTH = 4
"""Batch sizes at which the time of a decode iteration is fitted lie so many times apart."""

MOST_CONTEXT = 1 / 3000
"""What a context token takes at most, as a share of the iteration of one sequence: a LLaMA of 135 million
parameters computes 1/3,500 for it, a larger one less. Of a server whose slots are always all in use nothing
else tells contexts, which grow with answers, from sequences.
"""


@dataclass(frozen=True)
class _Timeline:
    """What a server did between the first and the last tokens of a log: by instant, how many decoded and how
    many tokens of context they had, until the next instant; and how long they decoded until then, in seconds.
    """

    instants: FloatArray
    decoding: FloatArray
    context: FloatArray
    lasting: FloatArray

    @classmethod
    def of(cls, log: Log, prompt_s: float = 0.0) -> _Timeline:
        """That of a log, in which a context counts as half grown from its first token to its last; prompts
        took `prompt_s` a token of the time before their first tokens.
        """
        first_s, last_s = _decoding_spans(log)
        half_grown = log.trace.prompt_tokens + log.trace.output_tokens / 2
        times = np.concatenate([first_s, last_s])
        order = np.argsort(times, kind="stable")
        ones = np.concatenate([np.ones(len(first_s)), -np.ones(len(last_s))])[order]
        tokens = np.concatenate([half_grown, -half_grown])[order]
        instants = times[order]
        lasting = np.diff(instants)
        at = np.searchsorted(instants, first_s) - 1  # the last one before, whoever else has a token then
        prompts = np.bincount(at[at >= 0], log.trace.prompt_tokens[at >= 0], len(lasting))
        lasting = np.maximum(lasting - prompt_s * prompts, np.minimum(lasting, 1e-6))
        return cls(instants, np.cumsum(ones), np.cumsum(tokens), lasting)

    def mean_over(self, values: FloatArray, start_s: FloatArray, end_s: FloatArray) -> FloatArray:
        """The mean, while they decoded, of what has these values by instant, from each start to each end."""

        def between(each: FloatArray) -> FloatArray:
            total = np.concatenate([[0.0], np.cumsum(each * self.lasting)])
            return np.asarray(
                np.interp(end_s, self.instants, total) - np.interp(start_s, self.instants, total)
            )

        return between(values[:-1]) / np.maximum(between(np.ones(len(self.lasting))), 1e-9)


def _decoding_spans(log: Log) -> tuple[FloatArray, FloatArray]:
    """When each request had its first and its last token, in seconds."""
    assert log.trace.arrival_s is not None
    first_s = log.trace.arrival_s + log.latency["ttft_ms"] / 1e3
    return first_s, log.trace.arrival_s + log.latency["e2el_ms"] / 1e3


def sizes_of(logs: Sequence[Log]) -> tuple[float, ...]:
    """Batch sizes at which the time of an iteration is fitted: 1, 4, 16 and so on up to the largest seen."""
    most = max(float(_Timeline.of(log).decoding.max()) for log in logs)
    sizes = [1.0]
    while sizes[-1] * GROWTH <= most:
        sizes.append(sizes[-1] * GROWTH)
    return tuple(sizes) if len(sizes) > 1 else (1.0, max(2.0, most))


def start_of(logs: Sequence[Log], sizes: tuple[float, ...], passes: int = 1) -> FloatArray:
    """Seconds, shape (len(sizes) + 3,): what each of `sizes` adds to a decode iteration, per context token,
    per prompt token, and before a request can be scheduled.

    They are those by which answers take as long as measured after their first token: non-negative least
    squares on the relative error. What cannot be told is small, but not 0.

    How many decoded is a mean over time in the first of `passes`, in which an iteration with a long prompt
    weighs more than others; in the next ones what prompts took by the one before is left out of the time.
    """
    found = np.zeros(len(sizes) + 3)
    for _ in range(passes):
        found = _solved(logs, sizes, float(found[-2]))
    return found


def _solved(logs: Sequence[Log], sizes: tuple[float, ...], prompt_s: float) -> FloatArray:
    """`start_of` in one pass, where a prompt token took `prompt_s`."""
    rows = np.concatenate([_equations(log, sizes, prompt_s) for log in logs])
    found, _ = nnls(rows, np.ones(len(rows)))
    if found[-2] > MOST_CONTEXT * found[0]:
        rows[:, 0] += MOST_CONTEXT * rows[:, -2]
        rows[:, -2] = 0.0
        found, _ = nnls(rows, np.ones(len(rows)))
        found[-2] = MOST_CONTEXT * found[0]
    base_s = max(float(found[0]), 1e-5)
    floors = [base_s, *[0.01 * base_s] * (len(sizes) - 1), 1e-6 * base_s, 1e-4 * base_s]
    found = np.maximum(found, floors)
    prompt_s = float(found[-1])
    waits = [
        np.median(log.latency["ttft_ms"] / 1e3 - prompt_s * log.trace.prompt_tokens - 1.5 * base_s)
        for log in logs
    ]
    return np.append(found, max(float(min(waits)), 0.1 * base_s))


def _equations(log: Log, sizes: tuple[float, ...], prompt_s: float) -> FloatArray:
    """A row per request of several tokens: what each quantity but the last counts for in the time after its
    first token, over that time.
    """
    trace, timeline = log.trace, _Timeline.of(log, prompt_s)
    first_s, last_s = _decoding_spans(log)
    several = (trace.output_tokens > 1) & (last_s > first_s)
    start_s, end_s = first_s[several], last_s[several]
    iterations = trace.output_tokens[several] - 1
    # The time at a size is that of the sizes below and what is added on the way: 0 up to the one below, then
    # rising to 1.
    at_least = [np.ones(len(timeline.decoding))]
    for below, size in pairwise(sizes):
        beyond = (timeline.decoding - below) / (size - below)
        at_least.append(np.maximum(beyond, 0.0) if size == sizes[-1] else np.clip(beyond, 0.0, 1.0))
    columns = [timeline.mean_over(share, start_s, end_s) * iterations for share in at_least]
    columns.append(timeline.mean_over(timeline.context, start_s, end_s) * iterations)
    order = np.argsort(first_s)
    prefilled = np.concatenate([[0.0], np.cumsum(trace.prompt_tokens[order])])
    until_end, until_start = (
        prefilled[np.searchsorted(first_s[order], at, side="right")] for at in (end_s, start_s)
    )
    columns.append(until_end - until_start)
    return np.stack(columns, axis=1) / (end_s - start_s)[:, None]
