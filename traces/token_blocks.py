"""Which prompts begin alike, told by the ids of their tokens; knows nothing of tokenizers but that they give
these, nor of files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .prompt_blocks import blocks_of_lists
from .trace import Trace

BLOCK_TOKENS = 16
"""Prompts are compared in blocks of so many tokens."""


class TokenHashes:
    """Numbers for blocks of tokens together with all that stands before them: alike only where that is."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, tuple[int, ...]], int] = {}

    def chain(self, before: int, tokens: tuple[int, ...]) -> int:
        """The number of a block behind the block with the number `before` (-1: none)."""
        return self.numbers.setdefault((before, tokens), len(self.numbers))

    def own(self) -> int:
        """A number that nothing else has."""
        return self.numbers.setdefault((-2 - len(self.numbers), ()), len(self.numbers))


class Conversation:
    """The turns of one session, whose prompts may go on from the prompt and the answer before."""

    def __init__(self, hashes: TokenHashes) -> None:
        self.hashes = hashes
        self.said: list[int] = []  # prompt and answer of the turn before
        self.blocks: list[tuple[int, int]] = []  # their blocks: (hash, tokens)

    def turn(self, prompt: Any, answer: Any) -> dict[str, Any]:
        """`hash_ids`, `hash_tokens` and `answer_id` of a turn with these token ids; nothing without them."""
        if not _are_tokens(prompt):
            self.said, self.blocks = [], []
            return {}
        goes_on = bool(self.said) and prompt[: len(self.said)] == self.said
        blocks = list(self.blocks) if goes_on else []
        rest = prompt[len(self.said) :] if goes_on else prompt
        before = blocks[-1][0] if blocks else -1
        for start in range(0, len(rest), BLOCK_TOKENS):
            tokens = tuple(rest[start : start + BLOCK_TOKENS])
            before = self.hashes.chain(before, tokens)
            blocks.append((before, len(tokens)))
        row = {"hash_ids": [one for one, _ in blocks], "hash_tokens": [count for _, count in blocks]}
        if not _are_tokens(answer):
            self.said, self.blocks = [], []
            return row | {"answer_id": -1}
        number = self.hashes.own()
        self.said, self.blocks = [*prompt, *answer], [*blocks, (number, len(answer))]
        return row | {"answer_id": number}


def _are_tokens(ids: Any) -> bool:
    return isinstance(ids, list) and bool(ids) and set(map(type, ids)) <= {int}


def with_text_blocks(trace: Trace, encode: Callable[[str], list[int]]) -> Trace:
    """The trace with the blocks of its prompts by the tokens of their texts; as it is where it has no texts,
    or says already which begin alike.

    Where `prompt_tokens` are fewer than the tokens of a text, the blocks end there; where they are more, as
    with a chat template, what is beyond the text is like nobody else's.
    """
    if trace.prompt is None or trace.blocks is not None:
        return trace
    hashes, rows, sizes = TokenHashes(), list[list[int]](), list[list[int]]()
    for text, most in zip(trace.prompt.tolist(), trace.prompt_tokens.tolist(), strict=True):
        ids, before, row = encode(str(text))[:most], -1, list[int]()
        for start in range(0, len(ids), BLOCK_TOKENS):
            before = hashes.chain(before, tuple(ids[start : start + BLOCK_TOKENS]))
            row.append(before)
        rows.append(row)
        sizes.append([min(BLOCK_TOKENS, len(ids) - start) for start in range(0, len(ids), BLOCK_TOKENS)])
    return replace(trace, blocks=blocks_of_lists(rows, sizes, trace.prompt_tokens))
