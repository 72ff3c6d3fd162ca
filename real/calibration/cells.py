"""The iterations that are measured for a profile: cells of decode, of padded prefill, and of both mixed.

Pure arithmetic; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

STEPS_PER_VISIT = 11
"""Decode steps timed on one visit to a cell; odd, so that their mean context is a whole number."""

WARM_UP_STEPS = 8
"""Decode steps on a visit, as far as the context is long enough, before those that are timed on a processor.

A cache that was set up at once takes longer to grow than one that has been growing: 16 rows of 128 tokens
take 1.49 ms a step after one step, 1.42 after four, 1.40 after 16, 1.36 after 40. In a run it always has.
"""

HEADROOM_TOKENS = STEPS_PER_VISIT + 2
"""Tokens by which a row grows beyond its cell's context on a visit, at most."""


SHORTEST_CONTEXT = 16
"""Decode is measured from this context on."""

UNEVEN_ROWS = 4
"""The fewest sequences whose contexts are made to differ."""

FLOOR_CONTEXT, FLOOR_ROWS = 512, 64
"""Decode iterations are compared with the memory floor at this context, for batches of at most FLOOR_ROWS."""


class Cell(NamedTuple):
    """One kind of iteration: `rows` decoding with `context` tokens each, beside one prefill chunk or none.

    Where `rows` is 0, `chunks` prompts of `chunk_tokens` are prefilled together as a padded batch. Where
    `longest` is not 0, contexts differ: a quarter of the rows have so many tokens, and the mean is `context`.
    """

    rows: int
    context: int
    chunks: int = 0
    chunk_tokens: int = 0
    history: int = 0
    longest: int = 0

    @property
    def kind(self) -> str:
        """decode, prefill or mixed."""
        return "decode" if not self.chunks else "mixed" if self.rows else "prefill"

    @property
    def contexts(self) -> list[int]:
        """The context tokens of every row that decodes."""
        if not self.longest:
            return [self.context] * self.rows
        long = max(1, self.rows // 4)
        short, over = divmod(self.rows * self.context - long * self.longest, self.rows - long)
        return [self.longest] * long + [short + (k < over) for k in range(self.rows - long)]

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed."""
        return self.chunks * self.chunk_tokens

    @property
    def prefill_attention(self) -> float:
        """Q = sum of chunk * (history + chunk / 2)."""
        return self.prefill_tokens * (self.history + self.chunk_tokens / 2)

    @property
    def kv_tokens(self) -> int:
        """KV tokens that must be free to measure it."""
        held = self.rows * (max(self.context, self.longest) + HEADROOM_TOKENS)
        return held + self.chunks * (self.history + self.chunk_tokens + HEADROOM_TOKENS)


@dataclass(frozen=True)
class CellBounds:
    """Bounds of the measurement, each inclusive and at least 1."""

    max_rows: int = 256
    max_context: int = 1024
    max_prompt: int = 512
    max_prefill_tokens: int = 16_384
    mixed: bool = False
    uneven: bool = False
    """Include decode cells whose contexts differ; an engine that pads them has no use for that."""
    floor: bool = True
    """Include the cells that are compared with the memory floor."""

    def cells(self, capacity_tokens: int) -> list[Cell]:
        """The cells that a KV cache of `capacity_tokens` can hold."""
        cells = [*self._decode(capacity_tokens), *self._prefill(), *(self._mixed() if self.mixed else ())]
        if self.uneven:
            cells += uneven_cells(self.max_rows, self.max_context, capacity_tokens)
        return sorted({cell for cell in cells if cell.kv_tokens <= capacity_tokens})

    def _decode(self, capacity_tokens: int) -> Iterator[Cell]:
        """Every batch size, up to the longest context that the cache can hold with it."""
        for rows in batch_sizes(self.max_rows):
            longest = min(self.max_context, capacity_tokens // rows - HEADROOM_TOKENS)
            for context in halvings(longest, SHORTEST_CONTEXT, 4) if longest > 0 else ():
                yield Cell(rows, context)
            if self.floor and rows <= FLOOR_ROWS and longest >= FLOOR_CONTEXT:
                yield Cell(rows, FLOOR_CONTEXT)

    def _prefill(self) -> Iterator[Cell]:
        for chunks in batch_sizes(self.max_rows):
            for tokens in halvings(self.max_prompt, 8, 4):
                if chunks * tokens <= self.max_prefill_tokens:
                    yield Cell(0, 0, chunks, tokens)

    def _mixed(self) -> Iterator[Cell]:
        for rows in halvings(self.max_rows, 1, 4):
            for context in halvings(self.max_context, 16, 2)[-2:]:
                for tokens in halvings(self.max_prompt, 16, 3):
                    for history in (0, self.max_prompt):
                        yield Cell(rows, context, 1, tokens, history)


def uneven_cells(max_rows: int, max_context: int, capacity_tokens: int) -> Iterator[Cell]:
    """Decode cells whose longest context is twice the mean: some batch sizes, two contexts each.

    Both the mean and the longest lie between contexts of `CellBounds`, which the fit compares them with.
    """
    for rows in halvings(max_rows, UNEVEN_ROWS, 4):
        longest = min(max_context, capacity_tokens // rows - HEADROOM_TOKENS)
        for most in (longest // 2, longest):
            if rows >= UNEVEN_ROWS and most >= 2 * SHORTEST_CONTEXT:
                yield Cell(rows, most // 2, longest=most)


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to `largest`, from 32 on with one more size between them, and `largest` itself."""
    powers = [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
    between = [3 * p // 2 for p in powers if p >= 32 and 3 * p // 2 <= largest]
    return sorted({*powers, *between, largest})


def halvings(largest: int, smallest: int, most: int = 99) -> list[int]:
    """Sizes from `smallest` (or below) to `largest`, ascending: powers of two and the largest itself.

    With `most`, at most that many of them, evenly spread, including both ends.
    """
    sizes = [largest]
    size = 1 << (max(1, largest - 1).bit_length() - 1)
    while size >= smallest:
        sizes.append(size)
        size //= 2
    sizes = sorted(set(sizes))
    if len(sizes) <= most:
        return sizes
    return sorted({sizes[round(k * (len(sizes) - 1) / (most - 1))] for k in range(most)})
