"""What is predicted of how long sessions wait between turns: for a tool to work, a person to read and type.

A predictor has its own way where it has a method `waits(truth_s, rng) -> seconds`, shape (n,). One that has
none predicts the mean wait of the trace for every turn, as LAMPS (arXiv 2410.18248) takes the mean of each
kind of call: traces tell no kinds. That another turn goes on from a request is known of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush

import numpy as np

from traces import sessions
from traces.errors import InputError, raised_outside
from traces.prompt_blocks import PromptBlocks
from traces.trace import FloatArray, Trace

from .predictors import Predictor
from .registry import name_of


def true_waits(trace: Trace) -> FloatArray:
    """Seconds from the end of each request until the first that waits for it and goes on from it comes, if
    others (sub-agents) take no time; NaN where none does, shape (n,). Where a trace does not say which
    prompts begin alike, all that wait go on.
    """
    if trace.waits_for is None:
        return np.full(len(trace), np.nan)
    if trace.blocks is None:
        return sessions.waits_after(trace.waits_for, trace.thinks_s)
    followers, thinks_s = sessions.followers_of(trace.waits_for), trace.thinks_s.tolist()
    goes_on = _goes_on(trace.blocks)
    waits_s = np.full(len(trace), np.nan)
    for row in followers:
        waits_s[row] = _wait_s(row, followers, thinks_s, goes_on)
    return waits_s


def _wait_s(
    row: int,
    followers: Mapping[int, Sequence[int]],
    thinks_s: Sequence[float],
    goes_on: Callable[[int, int], bool],
) -> float:
    """The wait of one request: along the requests between it and who goes on from it, the longest way."""
    if direct := [thinks_s[each] for each in followers[row] if goes_on(row, each)]:
        return min(direct)
    due_s, coming = {row: 0.0}, [row]
    while coming:
        at = heappop(coming)  # those that it waits for stand before it
        if at != row and goes_on(row, at):
            return due_s[at]
        for each in followers.get(at, ()):
            if each not in due_s:
                heappush(coming, each)
            due_s[each] = max(due_s.get(each, 0.0), due_s[at] + thinks_s[each])
    return np.nan


def _goes_on(blocks: PromptBlocks) -> Callable[[int, int], bool]:
    """Whether the prompt of another row goes on from one row, as `KnownBlocks.goes_on_from` has it."""
    hashes, offsets, answers = blocks.hashes, blocks.offsets, blocks.answers

    def goes_on(row: int, other: int) -> bool:
        if answers is not None:  # -1 where no prompt goes on
            return bool(answers[row] >= 0 and answers[row] in hashes[offsets[other] : offsets[other + 1]])
        last, most = offsets[row + 1] - offsets[row] - 1, offsets[other + 1] - offsets[other]
        return 0 <= last < most and any(
            hashes[offsets[other] + at] == hashes[offsets[row] + at] for at in (last, max(last - 1, 0))
        )

    return goes_on


def predicted_waits(predictor: Predictor, trace: Trace, rng: np.random.Generator) -> FloatArray:
    """What is predicted of `true_waits`, NaN where that is; InputError for what is no time of at least 0."""
    truth_s = true_waits(trace)
    known = ~np.isnan(truth_s)
    predicted = np.full(len(trace), np.nan)
    if not known.any():
        return predicted
    waits = getattr(predictor, "waits", None)
    if waits is None:
        predicted[known] = truth_s[known].mean()
        return predicted
    what = f"predictor {name_of(predictor)}: waits"
    try:
        seconds = np.asarray(waits(truth_s[known], rng), dtype=np.float64)
    except (Exception, SystemExit) as error:
        raise raised_outside(what, error) from error
    if seconds.shape != (int(known.sum()),):
        raise InputError(f"{what} returned shape {seconds.shape}; one time per turn is {(int(known.sum()),)}")
    if (bad := ~(np.isfinite(seconds) & (seconds >= 0))).any():
        raise InputError(f"{what} returned {seconds[bad][0]}; a time is at least 0 s and finite")
    predicted[known] = seconds
    return predicted
