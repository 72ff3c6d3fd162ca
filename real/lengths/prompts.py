"""Token ids for the prompts of a trace: its texts, given these and a tokenizer; otherwise random ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from traces.prompt_blocks import PromptBlocks
from traces.trace import IntArray, Trace

from .conversation import PLAIN, Conversation

ADVANCE_QUESTION = (
    "\nBefore responding to the above instruction, you have to predict the length of your response. Print "
    "the estimated number of tokens in your response in the first line. Then change to a new line to respond "
    "to the instruction."
)
"""The paper's addition to a prompt that asks for a length first and then the answer."""

QUESTION = (
    "\nDon't output the response for the above instruction. Instead, you need to predict the number of "
    "tokens in your response. Output one number only."
)
"""The paper's addition to a prompt that asks for a length only."""

Prompts = Sequence[Sequence[int]]


def random_tokens(num_tokens: int, ordinary: IntArray, rng: np.random.Generator) -> list[int]:
    """That many of the `ordinary` ids, drawn at random."""
    ids: list[int] = ordinary[rng.integers(len(ordinary), size=num_tokens)].tolist()
    return ids


def random_prompts(
    prompt_tokens: Sequence[int],
    ordinary: IntArray,
    rng: np.random.Generator,
    blocks: PromptBlocks | None = None,
) -> Prompts:
    """Random ids, one list per prompt length; where `blocks` say that prompts begin alike, they do."""
    drawn: dict[int, list[int]] = {}
    prompts = []
    for row, count in enumerate(prompt_tokens):
        prompt: list[int] = []
        for hash_of, end in zip(*blocks.of(row), strict=True) if blocks is not None else ():
            block = drawn.setdefault(hash_of, [])
            block += random_tokens(max(0, end - len(prompt) - len(block)), ordinary, rng)
            prompt += block[: end - len(prompt)]
        prompts.append(prompt + random_tokens(int(count) - len(prompt), ordinary, rng))
    return prompts


def prompts_of(
    trace: Trace,
    tokenizer: Any,
    ordinary: IntArray,
    rng: np.random.Generator,
    conversation: Conversation = PLAIN,
) -> tuple[Trace, Prompts]:
    """The trace with the lengths of its prompts, and the prompts as token ids, in the chat template.

    Texts are tokenised given both a text column and a tokenizer; otherwise the `ordinary` ids are drawn at
    random, alike where the trace's blocks are, and the trace is unchanged.
    """
    if tokenizer is None or trace.prompt is None:
        return trace, random_prompts(trace.prompt_tokens.tolist(), ordinary, rng, trace.blocks)
    turn = turn_of(tokenizer, conversation)
    special = not conversation.has_begin_token
    prompts = [
        [*tokenizer(conversation.before + str(text), add_special_tokens=special)["input_ids"], *turn]
        for text in trace.prompt
    ]
    lengths = np.array([len(p) for p in prompts], dtype=np.int64)
    note = "prompt_tokens counted with the tokenizer of the model that ran"
    return replace(trace, prompt_tokens=lengths, notes=(*trace.notes, note)), prompts


def turn_of(tokenizer: Any, conversation: Conversation) -> list[int]:
    """The ids at the end of every prompt that give the turn to the assistant."""
    ids: list[int] = tokenizer(conversation.after, add_special_tokens=False)["input_ids"]
    return ids


def with_question(prompt: Sequence[int], question: Sequence[int], turn_tokens: int = 0) -> list[int]:
    """The prompt with the question after its instruction, before the assistant's turn."""
    end = len(prompt) - turn_tokens
    return [*prompt[:end], *question, *prompt[end:]]


def question(tokenizer: Any, num_tokens: int, ordinary: IntArray, rng: np.random.Generator) -> list[int]:
    """The question for a length as exactly `num_tokens` ids, so that it costs what the simulator charges."""
    ids = [] if tokenizer is None else tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    filler = random_tokens(num_tokens, ordinary, rng)
    return [*ids[:num_tokens], *filler[len(ids) :]]


SIZES = ((50, "tiny"), (100, "brief"), (150, "short"), (200, "medium"), (300, "long"), (400, "vast"))
SUBJECTS = (
    "rivers",
    "bread",
    "the moon",
    "a clock",
    "trains",
    "chess",
    "a garden",
    "winter",
    "music",
    "maps",
)


def made_up_texts(trace: Trace, rng: np.random.Generator) -> Trace:
    """The trace with made-up instructions, where it has no texts; their wording gives the answer's size away.

    With them a model can be asked for lengths, and trained, on a trace of numbers alone: an exercise, not
    real traffic.
    """
    if trace.prompt is not None:
        return trace
    subjects = rng.integers(len(SUBJECTS), size=len(trace))
    texts = [
        f"Tell a {next((size for bound, size in SIZES if length <= bound), 'endless')} tale of {SUBJECTS[k]}."
        for length, k in zip(trace.perceived_truth.tolist(), subjects.tolist(), strict=True)
    ]
    note = "prompt: made up; its wording gives the size of the answer away"
    return replace(trace, prompt=np.array(texts, dtype=object), notes=(*trace.notes, note))
