"""Perception in advance: the model states a length in its first line, then answers, in one generation.

Knows nothing of schedulers, which ask for the length alone and run the answer later.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..engines.engine import Engine
from .asking import Asking, Statements
from .progress import Progress, silent
from .prompts import Prompts
from .read_length import read_length

BATCH = 16
"""Rows of a batch, each with a whole answer (the paper's setting)."""

LINE_CHARACTERS = 100
"""Only so much of the first line is read: a longer line is an answer that may begin with a length."""


class AdvanceAnswers(NamedTuple):
    """The statements, the length of the answer after each, and the time that the statements added.

    `answer_lengths`: tokens generated after the first line, None where nothing followed it. `added_seconds`:
    time of the longer prefill and of the decode steps for the statements.
    """

    statements: Statements
    answer_lengths: list[int | None]
    added_seconds: float


def generate(
    asking: Asking,
    engine: Engine,
    prompts: Prompts,
    answer_tokens: Sequence[int],
    *,
    may_end: bool,
    batch_size: int = BATCH,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = silent,
) -> AdvanceAnswers:
    """Have the model state a length and answer, for all prompts in order.

    Every row gets the steps for a statement and then its `answer_tokens`: all of them, or with `may_end`
    until its end token. Raises torch.OutOfMemoryError where a batch does not fit on the device.
    """
    limits = [asking.answer_tokens + most for most in answer_tokens]
    rows: list[list[int]] = [[] for _ in prompts]
    seconds = added = 0.0
    num_batches = 0
    progress = Progress(say, "answers in advance", len(prompts))
    with torch.no_grad(), asking.awake(engine):
        for batch in asking.batches(engine, prompts, batch_size, limits):
            limit = max(limits[i] for i in batch)
            plain = clock()
            engine.prefill([prompts[i] for i in batch], limit)
            plain = clock() - plain
            engine.release()
            begin = clock()
            steps = [engine.prefill([asking.with_question(prompts[i]) for i in batch], limit)]
            added += clock() - begin - plain
            ended = [False] * len(batch)
            while True:
                for row, token in enumerate(steps[-1]):
                    over = len(steps) >= limits[batch[row]]
                    ended[row] |= over or (may_end and token in asking.eos_tokens)
                if all(ended):
                    break
                before = clock()
                steps.append(engine.decode())
                if len(steps) <= asking.answer_tokens + 1:
                    added += clock() - before
            seconds += clock() - begin
            engine.release()
            num_batches += 1
            progress.advance(len(batch))
            for i, tokens in zip(batch, zip(*steps, strict=True), strict=True):
                rows[i] = list(tokens[: limits[i]])
    parts = [split(asking, row) for row in rows]
    statements = Statements(rows, [stated for stated, _ in parts], seconds, num_batches)
    return AdvanceAnswers(statements, [answer_lengths for _, answer_lengths in parts], added)


def split(asking: Asking, row: Sequence[int]) -> tuple[int | None, int | None]:
    """The length stated in the first line, and the number of tokens after that line; None if missing."""
    end = next((k for k, token in enumerate(row) if token in asking.eos_tokens), len(row))
    line, newline, _ = asking.text(row).lstrip().partition("\n")
    is_cut = not newline and end == len(row)
    stated = read_length(line[:LINE_CHARACTERS], is_cut)
    if not newline:
        return stated, None
    line_tokens = bisect_left(range(end), True, key=lambda k: "\n" in asking.text(row[:k]).lstrip())
    return stated, end - line_tokens
