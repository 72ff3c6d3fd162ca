"""Which prompts of a trace begin alike, by hashes of their blocks; knows nothing of caches or schedulers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PromptBlocks:
    """The prompts of n requests as rows of blocks, each with a hash.

    A hash stands for its block and for all before it: two prompts with the same hash agree in every token up
    to the end of that block. Row i is `hashes[offsets[i]:offsets[i + 1]]`, and `ends` holds, for each of
    these, the tokens from the start of the prompt to the block's end. So blocks may differ in size: those of
    a file are of one size but for the last of a prompt, and a shared system prompt of any length is one
    block. Tokens behind the last block, and a row without blocks, are like nobody else's.

    `answers`, shape (n,): the hash of a request's prompt with its answer, for a later prompt that goes on
    from there: it has this hash for the block that is the answer. -1: no prompt does. No two answers have the
    same one.

    Raises InputError for offsets that are none, a negative hash, ends that fall along a row, and answers that
    are not one per row or share a hash.
    """

    hashes: IntArray
    ends: IntArray
    offsets: IntArray
    answers: IntArray | None = None

    def __post_init__(self) -> None:
        offsets, ends, hashes = self.offsets, self.ends, self.hashes
        if len(hashes) != len(ends):
            raise InputError(f"blocks: {len(ends)} ends of {len(hashes)} hashes")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(hashes) or (np.diff(offsets) < 0).any():
            raise InputError(f"blocks: offsets do not go from 0 up to {len(hashes)}, the number of hashes")
        if len(hashes):
            self._refuse("hash", hashes < 0, lambda k: f"{hashes[k]} is below 0")
            before = np.concatenate([[0], ends[:-1]])
            before[offsets[:-1][np.diff(offsets) > 0]] = 0
            self._refuse("end", ends < before, lambda k: f"{ends[k]} is below {before[k]}, where it begins")
        if (answers := self.answers) is not None:
            if len(answers) != len(self):
                raise InputError(f"blocks: {len(answers)} answers of {len(self)} prompts")
            named = answers[answers >= 0]
            if len(np.unique(named)) != len(named):
                raise InputError("blocks: two answers have the same hash; each needs one of its own")

    def _refuse(self, what: str, bad: npt.NDArray[np.bool_], said: Any) -> None:
        if bad.any():
            k = int(bad.argmax())
            row = int(np.searchsorted(self.offsets, k, side="right"))
            raise InputError(f"blocks, row {row}, {what}: {said(k)}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> tuple[list[int], list[int]]:
        """The hashes and the ends of one prompt's blocks."""
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        return self.hashes[start:stop].tolist(), self.ends[start:stop].tolist()

    @property
    def last_ends(self) -> IntArray:
        """Tokens of each prompt up to the end of its last block, shape (n,)."""
        ends = np.zeros(len(self), dtype=np.int64)
        has = np.diff(self.offsets) > 0
        ends[has] = self.ends[self.offsets[1:][has] - 1]
        return ends

    @property
    def starts(self) -> IntArray:
        """Tokens of the prompt before each block, shape as `ends`."""
        starts = np.concatenate([[0], self.ends])[: len(self.ends)].astype(np.int64)
        starts[self.offsets[:-1][np.diff(self.offsets) > 0]] = 0
        return starts

    def __getitem__(self, rows: IntArray | npt.NDArray[np.bool_] | slice) -> PromptBlocks:
        """These rows in this order: indices, a mask or a slice."""
        index = np.arange(len(self))[rows]
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        answers = None if self.answers is None else self.answers[index]
        return PromptBlocks(self.hashes[at], self.ends[at], offsets, answers)

    def scaled(self, factor: float, prompt_tokens: IntArray) -> PromptBlocks:
        """The blocks of prompts whose lengths were multiplied by `factor`, and are now `prompt_tokens`: what
        was shared is in the same proportion.
        """
        most = np.repeat(prompt_tokens, np.diff(self.offsets))
        ends = np.minimum(np.rint(self.ends * factor).astype(np.int64), most)
        return PromptBlocks(self.hashes, ends, self.offsets, self.answers)

    def again(self, rows: IntArray, rounds: IntArray) -> PromptBlocks:
        """These rows in this order, each in a round, shape as `rows`: what comes again in another round is
        like nothing of the rounds before.
        """
        answers = np.full(len(self), -1) if self.answers is None else self.answers
        chosen = PromptBlocks(self.hashes, self.ends, self.offsets)[rows]
        names, codes = np.unique(np.concatenate([chosen.hashes, answers[rows]]), return_inverse=True)
        if not rounds.any():
            codes = names[codes]
        shift = rounds * len(names)
        hashes = codes[: len(chosen.hashes)] + np.repeat(shift, np.diff(chosen.offsets))
        moved = np.where(answers[rows] >= 0, codes[len(chosen.hashes) :] + shift, -1)
        return PromptBlocks(hashes, chosen.ends, chosen.offsets, None if self.answers is None else moved)

    def with_answers(self, longer: IntArray, prompt_tokens: IntArray) -> tuple[PromptBlocks, IntArray]:
        """The blocks and the lengths of the prompts, shape (n,), where answers are so many tokens `longer`,
        shape (n,): each block that is an answer is so too, and its prompt with it.
        """
        if self.answers is None or not longer.any() or not (self.answers >= 0).any():
            return self, prompt_tokens
        rows = np.flatnonzero(self.answers >= 0)
        rows = rows[np.argsort(self.answers[rows])]
        named = self.answers[rows]
        at = np.minimum(np.searchsorted(named, self.hashes), len(named) - 1)
        is_answer = named[at] == self.hashes
        change = np.where(is_answer, np.maximum(longer[rows[at]], self.starts - self.ends), 0)
        total = np.concatenate([[0], np.cumsum(change)])
        before, behind = total[self.offsets[:-1]], total[self.offsets[1:]]
        ends = self.ends + total[1:] - np.repeat(before, np.diff(self.offsets))
        blocks = PromptBlocks(self.hashes, ends, self.offsets, self.answers)
        return blocks, prompt_tokens + behind - before

    def engine_blocks(self, row: int, block_size: int) -> list[tuple[int, int]]:
        """The full blocks of `block_size` tokens of a prompt, as far as its own blocks cover them: (hash,
        number), alike where all tokens up to the block's end are known to be.

        An engine's block has the hash of that block of the trace in which it ends.
        """
        found: list[tuple[int, int]] = []
        for value, end in zip(*self.of(row), strict=True):
            found += [(value, number) for number in range(len(found), end // block_size)]
        return found


def blocks_of_lists(
    rows: Sequence[Sequence[Hashable]],
    tokens: Sequence[Sequence[int]] | int,
    prompt_tokens: Sequence[int] | IntArray,
) -> PromptBlocks:
    """Blocks with any values as hashes, and the `tokens` of each: one number where all are of that size, but
    for the last block of a prompt, which has what is left.

    Whole numbers from 0 on stay as they are. Others are numbered as they come; so are all where one stands
    for blocks with different beginnings: it is then the hash of a block alone, and counts together with those
    before it.
    """
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    first = np.repeat(offsets[:-1], counts)
    if isinstance(tokens, int):
        number = np.arange(offsets[-1]) - first + 1
        ends = np.minimum(number * tokens, np.repeat(np.asarray(prompt_tokens, dtype=np.int64), counts))
    else:
        total = np.concatenate([[0], np.cumsum(list(chain.from_iterable(tokens)))]).astype(np.int64)
        ends = total[1:] - total[first]
    return PromptBlocks(_chained(rows, ends), ends, offsets)


def _chained(rows: Sequence[Sequence[Hashable]], ends: IntArray) -> IntArray:
    """Numbers that stand for each hash together with those before it in its row, shape as `ends`."""
    numbers: dict[tuple[int, Hashable, int], int] = {}
    chained: list[int] = []
    until = iter(ends.tolist())
    for row in rows:
        before = -1
        for value in row:
            before = numbers.setdefault((before, value, next(until)), len(numbers))
            chained.append(before)
    values = {value for _, value, _ in numbers}
    if len(values) == len(numbers) and all(type(v) is int and 0 <= v < 2**62 for v in values):
        return np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=len(ends))
    return np.array(chained, dtype=np.int64)


def share_found_again(blocks: PromptBlocks, prompt_tokens: IntArray) -> float:
    """The share of all prompt tokens in leading blocks that an earlier prompt had too."""
    values = blocks.hashes
    if not len(values):
        return 0.0
    seen_before = np.ones(len(values), dtype=bool)
    seen_before[np.unique(values, return_index=True)[1]] = False
    tokens = (blocks.ends - blocks.starts)[seen_before]
    return float(tokens.sum() / prompt_tokens.sum())


def block_columns(blocks: PromptBlocks) -> dict[str, list[Any]]:
    """The columns that stand for the blocks in a file of ours, as `Seqsched` reads them.

    `prefix_id` and `prefix_tokens` where no prompt has more than one block, and there are no answers; else
    `hash_ids`, lists, with `hash_tokens`, lists of each block's own tokens, and `answer_id`.
    """
    tokens, bounds = blocks.ends - blocks.starts, blocks.offsets.tolist()
    if blocks.answers is None and not (np.diff(blocks.offsets) > 1).any():
        has = np.diff(blocks.offsets) > 0
        ids = np.full(len(blocks), -1)
        ids[has] = blocks.hashes
        return {"prefix_id": ids.tolist(), "prefix_tokens": blocks.last_ends.tolist()}
    pairs = list(pairwise(bounds))
    columns: dict[str, list[Any]] = {
        "hash_ids": [blocks.hashes[a:b].tolist() for a, b in pairs],
        "hash_tokens": [tokens[a:b].tolist() for a, b in pairs],
    }
    if blocks.answers is not None:
        columns["answer_id"] = blocks.answers.tolist()
    return columns
