"""Sets of blocks of one sequence as integers: bit k for block k."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol


class Blocks(Protocol):
    """Blocks `low` up to `high`."""

    @property
    def low(self) -> int: ...  # noqa: D102

    @property
    def high(self) -> int: ...  # noqa: D102


def block_set(low: int, high: int) -> int:
    """Blocks `low` up to `high`."""
    return (1 << high) - (1 << low)


def union(parts: Iterable[Blocks]) -> int:
    """All blocks of these."""
    blocks = 0
    for part in parts:
        blocks |= block_set(part.low, part.high)
    return blocks


def ranges(blocks: int) -> Iterator[tuple[int, int]]:
    """Consecutive blocks of a set, the last ones first: from which up to which."""
    while blocks:
        high = blocks.bit_length()
        low = (~blocks & (1 << high) - 1).bit_length()
        yield low, high
        blocks &= (1 << low) - 1
