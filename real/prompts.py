"""Token ids for the prompts of a trace: its texts where there are any and a tokenizer, else random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from traces.trace import Trace

FIRST_ORDINARY_TOKEN = 3
"""Ids below are padding, begin and end in the vocabularies of LLaMA."""

QUESTION = (
    "\nDon't output the response for the above instruction. Instead, you need to predict the number of "
    "tokens in your response. Output one number only."
)
"""What the paper appends to ask for a length."""

Prompts = Sequence[Sequence[int]]


def random_prompts(prompt_tokens: Sequence[int], vocab: int, rng: np.random.Generator) -> Prompts:
    """Random ids, one list per prompt length."""
    return [rng.integers(FIRST_ORDINARY_TOKEN, vocab, int(n)).tolist() for n in prompt_tokens]


def prompts_of(trace: Trace, tokenizer: Any, vocab: int, rng: np.random.Generator) -> tuple[Trace, Prompts]:
    """The prompts as token ids, and the trace with the prompt lengths that they have.

    Texts are tokenised where both a text column and a tokenizer are there; else ids are drawn, and the trace
    stays as it is.
    """
    if tokenizer is None or trace.prompt is None:
        return trace, random_prompts(trace.prompt_tokens.tolist(), vocab, rng)
    prompts = [tokenizer(str(text))["input_ids"] for text in trace.prompt]
    lengths = np.array([len(p) for p in prompts], dtype=np.int64)
    note = "prompt_tokens counted with the tokenizer of the model that ran"
    return replace(trace, prompt_tokens=lengths, notes=(*trace.notes, note)), prompts


def question(tokenizer: Any, num_tokens: int, vocab: int, rng: np.random.Generator) -> list[int]:
    """The question for a length, always `num_tokens` ids, so that it costs what the simulator charges."""
    ids = [] if tokenizer is None else tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    filler = rng.integers(FIRST_ORDINARY_TOKEN, vocab, num_tokens).tolist()
    return [*ids[:num_tokens], *filler[len(ids) :]]
