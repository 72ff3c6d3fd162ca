"""How much of a trace's prompts a cache of prefixes would find again, by its size and over time.

One pass of stack distances (Mattson et al., Evaluation techniques for storage hierarchies, 1970) gives the
whole curve. Knows nothing of engines: requests are served one after the other, whole, and the
cache gives up what was used least recently, of one request the end before the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .trace import FloatArray, IntArray, Trace


@dataclass(frozen=True, eq=False)
class Reuse:
    """Every block of every prompt, in order: its request, its tokens, and the smallest cache that finds it.

    `cache_tokens` is infinite for what was not there before. Each of shape (k,); `prompt_tokens`: of all
    prompts together, what lies in no block included.
    """

    row: IntArray
    tokens: IntArray
    cache_tokens: FloatArray
    prompt_tokens: int

    @property
    def most(self) -> float:
        """The share of all prompt tokens that an endless cache finds."""
        return float(self.tokens[np.isfinite(self.cache_tokens)].sum()) / self.prompt_tokens

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """Sizes of a cache in tokens, rising, and the share of all prompt tokens that each finds: it is
        constant between one and the next.
        """
        found = np.isfinite(self.cache_tokens)
        order = np.argsort(self.cache_tokens[found], kind="stable")
        sizes = self.cache_tokens[found][order]
        shares = np.cumsum(self.tokens[found][order]) / self.prompt_tokens
        last = np.append(sizes[1:] > sizes[:-1], True) if len(sizes) else np.zeros(0, dtype=bool)
        return sizes[last], shares[last]

    def share(self, cache_tokens: float) -> float:
        """The share of all prompt tokens that a cache of this size finds."""
        return float(self.tokens[self.cache_tokens <= cache_tokens].sum()) / self.prompt_tokens

    def size_for(self, part: float) -> float | None:
        """The smallest cache, in tokens, that finds this part of what an endless one does; None for none."""
        sizes, shares = self.curve()
        if not len(sizes):
            return None
        return float(sizes[int(np.searchsorted(shares, part * shares[-1] * (1 - 1e-12)))])


class _Tree:
    """Sums over a row of numbers that change (Fenwick, 1994)."""

    def __init__(self, size: int) -> None:
        self.sums = [0] * (size + 1)

    def add(self, place: int, value: int) -> None:
        place += 1
        while place < len(self.sums):
            self.sums[place] += value
            place += place & -place

    def up_to(self, place: int) -> int:
        """The sum of the numbers from the first to this one."""
        place, total = place + 1, 0
        while place:
            total += self.sums[place]
            place -= place & -place
        return total


def reuse_of(trace: Trace) -> Reuse | None:
    """What of each prompt was there before, and how large a cache still has it; None without blocks.

    Answers, and what of a prompt lies in no block, take their place in the cache too. Time: O(n log n) in
    requests, and O(1) for each block.
    """
    blocks = trace.blocks
    if blocks is None:
        return None
    names, codes = np.unique(blocks.hashes, return_inverse=True)
    tokens, bounds = blocks.ends - blocks.starts, blocks.offsets.tolist()
    answers = np.full(len(trace), -1) if blocks.answers is None else blocks.answers
    at = np.minimum(np.searchsorted(names, answers), max(len(names) - 1, 0))
    # The answer of each request as a block of a later prompt, -1 where it is none.
    answer_codes = np.where(names[at] == answers, at, -1).tolist() if len(names) else [-1] * len(trace)
    beside = (trace.prompt_tokens - blocks.last_ends + trace.output_tokens).tolist()
    used = np.full(len(names), -1)  # the last request that had a block
    needs = np.full(len(codes), np.inf)
    tree, total = _Tree(len(trace)), 0  # tokens by the last request that had them
    for row, (start, stop) in enumerate(pairwise(bounds)):
        code, size = codes[start:stop], tokens[start:stop]
        before = used[code]
        # A block stands for all before it, so what was used before leads, the most recently used first.
        cuts = [0, *(np.flatnonzero(np.diff(before)) + 1).tolist(), len(before)] if len(before) else []
        for first, end in pairwise(cuts):
            request = int(before[first])
            if request >= 0:
                depth = np.cumsum(size[first:end])
                needs[start + first : start + end] = total - tree.up_to(request) + depth
        for first, end in pairwise(cuts):
            request = int(before[first])
            if request >= 0:
                moved = int(size[first:end].sum())
                tree.add(request, -moved)
                total -= moved
        used[code] = row
        if answer_codes[row] >= 0:
            used[answer_codes[row]] = row
        here = int(size.sum()) + beside[row]
        tree.add(row, here)
        total += here
    rows = np.repeat(np.arange(len(trace)), np.diff(blocks.offsets))
    return Reuse(rows, tokens, needs, int(trace.prompt_tokens.sum()))


def share_over_time(trace: Trace, reuse: Reuse, bins: int = 60) -> tuple[FloatArray, FloatArray]:
    """The share of prompt tokens found again by an endless cache, of arrivals in equal spans of time.

    Returns (edges in s, shape (bins + 1,); shares, shape (bins,), NaN where nothing arrived). A trace without
    times, or all at once, is one span.
    """
    times = np.zeros(len(trace)) if trace.arrival_s is None else trace.arrival_s - trace.arrival_s[0]
    span = float(times[-1])
    edges = np.linspace(0.0, span, bins + 1) if span > 0 else np.array([0.0, 1.0])
    found = np.isfinite(reuse.cache_tokens)
    again = np.bincount(reuse.row[found], weights=reuse.tokens[found], minlength=len(trace))
    part = np.histogram(times, edges, weights=again)[0]
    whole = np.histogram(times, edges, weights=trace.prompt_tokens)[0]
    shares: FloatArray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return edges, shares


def reuse_facts(reuse: Reuse | None) -> dict[str, float | None]:
    """Single numbers about reuse: what an endless cache finds, and the caches that find half and nine tenths
    of that; none where nothing is known.
    """
    if reuse is None:
        return {}
    return {
        "found_again_fraction": reuse.most,
        "cache_tokens_for_half": reuse.size_for(0.5),
        "cache_tokens_for_90_percent": reuse.size_for(0.9),
    }
