"""Asks a model how long its answers will be, and reads the answers; knows nothing of schedulers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, NamedTuple

import torch

from ..engines.engine import Engine
from .adapter import Adapter
from .progress import Progress, silent
from .prompts import Prompts, with_question
from .read_length import read_length

SLOWDOWN_TURNS = 5

ASK_AT_ONCE = 128
"""Requests in a batch of questions (the paper's setting)."""


class Statements(NamedTuple):
    """Answers to the question: by request, the tokens and the stated length (or None); the time taken."""

    rows: list[list[int]]
    stated: list[int | None]
    seconds: float
    num_batches: int


@dataclass(frozen=True)
class Asking:
    """One way of asking: `question` is inserted into every prompt, `turn_tokens` before its end."""

    question: Sequence[int]
    turn_tokens: int
    answer_tokens: int
    tokenizer: Any
    eos_tokens: frozenset[int]
    adapter: Adapter | None

    @contextmanager
    def awake(self, engine: Engine) -> Iterator[None]:
        """Inside the block the adapter is on, and the engine's graphs, captured without it, are not used."""
        if self.adapter is None:
            yield
            return
        without_graphs: Callable[[], Any] = getattr(engine, "without_graphs", nullcontext)
        with self.adapter.awake(), without_graphs():
            yield

    def with_question(self, prompt: Sequence[int]) -> list[int]:
        """The prompt with the question."""
        return with_question(prompt, self.question, self.turn_tokens)

    def text(self, row: Sequence[int]) -> str:
        """The text of these tokens, up to an end token; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        end = next((k for k, token in enumerate(row) if token in self.eos_tokens), len(row))
        text: str = self.tokenizer.decode(list(row[:end]), skip_special_tokens=True)
        return text

    def read(self, row: Sequence[int]) -> int | None:
        """The length that an answer states; None where it states none."""
        return read_length(self.text(row), is_cut=not self.eos_tokens.intersection(row))

    def collect(
        self,
        engine: Engine,
        prompts: Prompts,
        batch_size: int = ASK_AT_ONCE,
        clock: Callable[[], float] = time.perf_counter,
        say: Callable[[str], None] = silent,
    ) -> Statements:
        """Ask for the lengths of all prompts, in order, in batches as large as memory allows.

        Prompts too long for the whole KV cache are left out. `say` is told now and then how far it is.
        """
        progress = Progress(say, "lengths asked for", len(prompts))
        rows: list[list[int]] = [[] for _ in prompts]
        seconds, batches = 0.0, list(self.batches(engine, prompts, batch_size))
        num_batches = 0
        with torch.no_grad(), self.awake(engine):
            while batches:
                batch = batches.pop(0)
                begin = clock()
                try:
                    answers = self.answers(engine, [self.with_question(prompts[i]) for i in batch])
                except torch.OutOfMemoryError:
                    engine.release()
                    if len(batch) == 1:
                        raise
                    batches[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
                    continue
                seconds += clock() - begin
                num_batches += 1
                progress.advance(len(batch))
                for i, answer in zip(batch, answers, strict=True):
                    rows[i] = answer
        return Statements(rows, [self.read(row) for row in rows], seconds, num_batches)

    def slowdown(
        self, engine: Engine, prompts: Prompts, clock: Callable[[], float] = time.perf_counter
    ) -> float:
        """Time of the passes with the adapter on over the time with it off; 1 without an adapter.

        The median over several turns of one batch, on and off in alternation.
        """
        batch = next(self.batches(engine, prompts, ASK_AT_ONCE), None)
        if self.adapter is None or batch is None:
            return 1.0
        questions = [self.with_question(prompts[i]) for i in batch]
        asleep = replace(self, adapter=None)
        ratios = []
        with torch.no_grad():
            for _ in range(SLOWDOWN_TURNS):
                times = []
                for way in (self, asleep):
                    with way.awake(engine):
                        begin = clock()
                        self.answers(engine, questions)
                        times.append(clock() - begin)
                ratios.append(times[0] / times[1])
        return median(ratios)

    def batches(
        self, engine: Engine, prompts: Prompts, batch_size: int, limits: Sequence[int] | None = None
    ) -> Iterator[list[int]]:
        """Consecutive requests that fit in the KV cache together; `limits`: tokens each may generate."""
        lengths = [len(prompt) + len(self.question) for prompt in prompts]
        most = limits or [self.answer_tokens] * len(prompts)
        return batches_that_fit(lengths, most, batch_size, engine.capacity_tokens)

    def answers(self, engine: Engine, questions: Sequence[Sequence[int]]) -> list[list[int]]:
        """The answers of one batch, computed as the executor does, and as the simulator charges it."""
        steps = [engine.prefill(questions, self.answer_tokens)]
        steps += [engine.decode() for _ in range(self.answer_tokens)]
        engine.release()
        return [list(row) for row in zip(*steps[: self.answer_tokens], strict=True)]


def batches_that_fit(
    lengths: Sequence[int], limits: Sequence[int], batch_size: int, capacity_tokens: int
) -> Iterator[list[int]]:
    """Indices of consecutive rows that fit in the KV cache together, each padded to the longest of its batch.

    `lengths`: tokens of each prompt. `limits`: tokens each may generate. A row too long for the whole cache
    is left out.
    """
    batch: list[int] = []
    longest = most = 0
    for i, (length, limit) in enumerate(zip(lengths, limits, strict=True)):
        if length + limit > capacity_tokens:
            continue
        size = (len(batch) + 1) * (max(longest, length) + max(most, limit))
        if batch and (len(batch) == batch_size or size > capacity_tokens):
            yield batch
            batch, longest, most = [], 0, 0
        batch.append(i)
        longest, most = max(longest, length), max(most, limit)
    if batch:
        yield batch
