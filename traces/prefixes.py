"""How much of the prompts of a trace was seen before, by its hashes of blocks; knows nothing of caches."""

from __future__ import annotations

from .tables import Table

BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Tokens of a block that hashes may stand for; the smallest that covers every prompt is taken."""


def share_seen_before(table: Table, hashes: str, lengths: list[int]) -> float | None:
    """The share of all prompt tokens that lie in leading blocks which an earlier request had too.

    `hashes` is the column of lists, one hash a block. None where it holds anything else.
    """
    rows = table.raw(hashes)
    if set(map(type, rows)) != {list} or not all(rows):
        return None
    needed = max(-(-length // len(row)) for row, length in zip(rows, lengths, strict=True))
    block = next((size for size in BLOCK_SIZES if size >= needed), None)
    if block is None:
        return None
    seen: set[object] = set()
    again = 0
    try:
        for row, length in zip(rows, lengths, strict=True):
            for leading, value in enumerate(row):
                if value not in seen:
                    again += min(block * leading, length)
                    seen.update(row[leading:])
                    break
            else:
                again += length
    except TypeError:  # a block's hash is itself a list
        return None
    return again / sum(lengths)
