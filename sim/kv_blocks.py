"""Counting KV memory in tokens and blocks, for schedulers; bytes and capacities live in hardware/."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from .request import Request


def padded_tokens(requests: Sequence[Request], token_limit: int) -> int:
    """KV tokens that a padded batch reserves: rows x (longest prompt + token limit)."""
    return len(requests) * (max(r.prompt_tokens for r in requests) + token_limit)


def split_to_fit(requests: Iterable[Request], token_limit: int, kv_tokens: int) -> Iterator[list[Request]]:
    """Cut a batch into consecutive batches, each as large as `kv_tokens` can hold when padded.

    A single request that is too large alone comes out alone: reject those before
    (`sim.schedulers.admission`).
    """
    batch: list[Request] = []
    longest = 0
    for request in requests:
        longest = max(longest, request.prompt_tokens)
        if batch and (len(batch) + 1) * (longest + token_limit) > kv_tokens:
            yield batch
            batch, longest = [], request.prompt_tokens
        batch.append(request)
    if batch:
        yield batch


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // block_size)


def blocks_ahead(takers: Sequence[int], iteration: int, num_iterations: int) -> int:
    """New KV blocks that decoding sequences take over `num_iterations` iterations from `iteration` on.

    A sequence with c tokens in memory takes a new block in an iteration when c is a multiple of the block
    size. While it decodes, c minus the iteration's number stays the same (its birth), so that it takes its
    blocks in the iterations that are -birth modulo the block size. `takers`: how many do so, by iteration
    modulo the block size; that makes it O(block size), whatever the number of sequences.
    """
    size = len(takers)
    rounds, rest = divmod(num_iterations, size)
    first = iteration % size
    end = first + rest
    blocks = sum(takers[first:end]) if end <= size else sum(takers[first:]) + sum(takers[: end - size])
    return rounds * sum(takers) + blocks if rounds else blocks


def iterations_within(takers: list[int], iteration: int, free_blocks: int) -> int:
    """The most iterations from `iteration` on that take no more than `free_blocks` (at least one sequence);
    `takers` as in `blocks_ahead`.
    """
    size = len(takers)
    first = iteration % size
    taken = list(accumulate(takers[first:] + takers[:first]))
    rounds, rest = divmod(free_blocks, taken[-1])
    return rounds * size + bisect_right(taken, rest)
