"""Reads from a table which prompts begin alike: lists of hashes, or the id of a shared prefix.

Knows nothing of file formats: it sees a `Table` and column names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from . import checks
from .prompt_blocks import PromptBlocks, blocks_of_lists
from .tables import Table
from .trace import IntArray

BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Tokens of a block that the hashes of a file may stand for."""

MAX_HASH = 2**62


def hash_lists(
    table: Table, column: str, prompt_tokens: IntArray, usual: int, unless: checks.BoolArray | None = None
) -> tuple[PromptBlocks, int]:
    """The blocks of prompts whose `column` holds a list of hashes, one for each block or none at all, and the
    tokens of a block.

    These are `usual` where the lengths of all lists allow it, else the smallest of BLOCK_SIZES with which
    they do. InputError for a cell that is no list of whole numbers from 0 on, and for a list that is too
    short or too long. Rows where `unless` holds are not looked at, and have no blocks.
    """
    rows = _lists(table, column, unless)
    counts = np.array([len(row) for row in rows])
    agrees = [size for size in (usual, *BLOCK_SIZES) if _fits(counts, prompt_tokens, size).all()]
    if not agrees:
        bad = ~_fits(counts, prompt_tokens, usual)
        checks.refuse(
            table,
            column,
            bad,
            lambda i: (
                f"{counts[i]} hashes, where {prompt_tokens[i]} tokens have "
                f"{-(-prompt_tokens[i] // usual)} blocks of {usual}"
            ),
        )
    return blocks_of_lists(rows, agrees[0], prompt_tokens), agrees[0]


def _fits(counts: IntArray, prompt_tokens: IntArray, size: int) -> checks.BoolArray:
    fits: checks.BoolArray = (counts == -(-prompt_tokens // size)) | (counts == 0)
    return fits


def own_blocks(table: Table, prompt_tokens: IntArray, unless: checks.BoolArray | None) -> PromptBlocks | None:
    """The blocks by the columns of our own format (`block_columns`); None where it has none of them.

    `hash_tokens` may be left out: then all blocks but the last of a prompt are of one size.
    """
    has = set(table.columns)
    if "hash_ids" not in has:
        return _prefixes(table, prompt_tokens, unless) if "prefix_id" in has else None
    rows = _lists(table, "hash_ids", unless)
    if "hash_tokens" not in has:
        blocks, _ = hash_lists(table, "hash_ids", prompt_tokens, 512, unless)
    else:
        tokens = _lists(table, "hash_tokens", unless)
        ends = [sum(row) for row in tokens]
        for i, (row, sizes) in enumerate(zip(rows, tokens, strict=True)):
            if len(row) != len(sizes):
                raise checks.fault(table, i, "hash_tokens", f"{len(sizes)} numbers for {len(row)} hash_ids")
            if ends[i] > prompt_tokens[i]:
                what = f"{ends[i]} tokens are more than the prompt's {prompt_tokens[i]}"
                raise checks.fault(table, i, "hash_tokens", what)
        blocks = blocks_of_lists(rows, tokens, prompt_tokens)
    if "answer_id" not in has:
        return blocks
    answers = checks.whole_numbers(table, "answer_id", -1, checks.MAX_EXACT, unless)
    if blocks.hashes.tolist() != list(chain.from_iterable(rows)):
        answers = _numbered_anew(answers, rows, blocks)
    return PromptBlocks(blocks.hashes, blocks.ends, blocks.offsets, answers)


def _numbered_anew(answers: IntArray, rows: Sequence[Sequence[int]], blocks: PromptBlocks) -> IntArray:
    """The hashes of answers where those of `rows` stand for a block alone, and were numbered together with
    those before them: the number that a block has which follows a prompt's under the answer's hash; -1 where
    no prompt has one.
    """
    following: dict[tuple[int, int], int] = {}
    last: list[int] = []
    for i, row in enumerate(rows):
        before = -1
        for value, number in zip(row, blocks.of(i)[0], strict=True):
            following.setdefault((before, value), number)
            before = number
        last.append(before)
    found = [following.get(each, -1) for each in zip(last, answers.tolist(), strict=True)]
    return np.array(found, dtype=np.int64)


def _prefixes(table: Table, prompt_tokens: IntArray, unless: checks.BoolArray | None) -> PromptBlocks:
    """One block for each prompt, the first `prefix_tokens` of it, alike where the `prefix_id` is; 0: none."""
    if "prefix_tokens" not in table.columns:
        raise checks.fault(table, 0, "prefix_id", "needs a column prefix_tokens, the length of the prefix")
    tokens = checks.tokens(table, "prefix_tokens", 0, unless)
    checks.refuse(
        table,
        "prefix_tokens",
        tokens > prompt_tokens,
        lambda i: f"{tokens[i]} is above {prompt_tokens[i]}, the prompt's tokens",
    )
    lengths: dict[str, int] = {}
    names = [str(value) for value in table.raw("prefix_id")]
    rows: list[list[str]] = []
    for i, (name, length) in enumerate(zip(names, tokens.tolist(), strict=True)):
        rows.append([name] if length else [])
        if length and lengths.setdefault(name, length) != length:
            what = f"{length}, but {lengths[name]} in a row above with the same prefix_id, {name[:40]}"
            raise checks.fault(table, i, "prefix_tokens", what)
    numbers = [[_number(name) for name in row] for row in rows]
    is_whole = all(number is not None for row in numbers for number in row)
    each = [[length] if length else [] for length in tokens.tolist()]
    return blocks_of_lists(numbers if is_whole else rows, each, prompt_tokens)


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and str(int(name)) == name else None


def _lists(table: Table, column: str, unless: checks.BoolArray | None) -> list[Sequence[int]]:
    """The lists of whole numbers from 0 on in a column; CSV has them as JSON."""
    rows: list[Sequence[int]] = []
    for i, value in enumerate(table.raw(column)):
        if unless is not None and unless[i]:
            rows.append(())
            continue
        row = _parsed(value) if table.text_is_number else value
        if type(row) is not list:
            what = f"{checks.display(value)} is not a list of whole numbers"
            raise checks.fault(table, i, column, what)
        if not set(map(type, row)) <= {int} or (row and not 0 <= min(row) <= max(row) <= MAX_HASH):
            wrong = next(v for v in row if type(v) is not int or not 0 <= v <= MAX_HASH)
            what = f"{checks.display(wrong)} is not a whole number from 0 to {MAX_HASH}"
            raise checks.fault(table, i, column, what)
        rows.append(row)
    return rows


def _parsed(value: Any) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
