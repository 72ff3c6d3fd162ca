"""The lengths of the model's own answers, found by letting it answer every prompt once.

Where the model ends its answers itself, these and not the lengths of a trace are what a prediction is to be
held against. Knows nothing of schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from sim.scenario.scenario import Scenario
from traces.trace import IntArray, Trace

from ..engines.engine import Engine
from .asking import batches_that_fit
from .in_advance import BATCH
from .progress import Progress
from .prompts import Prompts

NOTE = "output_tokens: the model's own, from a first run that answered every prompt greedily"


def with_own_lengths(
    scenario: Scenario,
    engine: Engine,
    prompts: Prompts,
    eos_tokens: frozenset[int],
    say: Callable[[str], None],
) -> Scenario:
    """The scenario with the lengths of the model's own answers for the trace's; answers all prompts now."""
    say_that_lengths_are_found(len(scenario.trace), say)
    lengths = own_lengths(engine, prompts, caps_of(scenario).tolist(), eos_tokens, say)
    return replace(scenario, trace=with_lengths(scenario.trace, lengths))


def say_that_lengths_are_found(num_answers: int, say: Callable[[str], None]) -> None:
    """Before the run that does."""
    say(
        "a first run finds the model's own lengths, which predictions are held against: "
        f"{num_answers} answers"
    )


def caps_of(scenario: Scenario) -> IntArray:
    """The most tokens that the answer to each prompt may have."""
    trace = scenario.trace
    if trace.max_tokens is not None:
        return trace.max_tokens
    return np.full(len(trace), scenario.max_new_tokens, dtype=np.int64)


def with_lengths(trace: Trace, lengths: IntArray) -> Trace:
    """The trace with these lengths of the model's own answers."""
    return replace(trace, output_tokens=lengths, samples=None, sample_names=(), notes=(*trace.notes, NOTE))


def own_lengths(
    engine: Engine,
    prompts: Prompts,
    most: Sequence[int],
    eos_tokens: frozenset[int],
    say: Callable[[str], None],
) -> IntArray:
    """Tokens of the greedy answer to each prompt, its end token included, at most `most` each, shape (n,).

    A prompt that does not fit in the KV cache with its `most` tokens keeps these as its length.
    """
    lengths = np.array(most, dtype=np.int64)
    progress = Progress(say, "answers", len(prompts))
    with torch.no_grad():
        for batch in batches_that_fit([len(p) for p in prompts], most, BATCH, engine.capacity_tokens):
            left = dict(enumerate(batch))
            tokens = engine.prefill([prompts[i] for i in batch], max(most[i] for i in batch))
            for length in range(1, max(most[i] for i in batch) + 1):
                for row in [row for row, i in left.items() if tokens[row] in eos_tokens or length == most[i]]:
                    lengths[left.pop(row)] = length
                if not left:
                    break
                tokens = engine.decode()
            engine.release()
            progress.advance(len(batch))
    return lengths
