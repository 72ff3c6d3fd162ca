"""Which prompts begin alike, told by the ids of their tokens; knows nothing of tokenizers or files."""

from __future__ import annotations

from typing import Any

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
