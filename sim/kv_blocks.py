"""Counting KV memory in tokens and blocks, for schedulers; bytes and capacities live in hardware/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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


class BlockPhases:
    """How many KV blocks a set of decoding sequences needs over the iterations to come, in O(block size).

    A sequence with c tokens in memory takes a new block in an iteration when c is a multiple of the block
    size. While it decodes, c minus the iteration's number stays the same (its birth), so that sequences of
    one birth modulo the block size take their blocks together.
    """

    __slots__ = ("block_size", "counts", "total")

    def __init__(self, block_size: int) -> None:
        self.block_size, self.counts, self.total = block_size, [0] * block_size, 0

    def add(self, birth: int) -> None:
        """A sequence whose context at iteration i is birth + i."""
        self.counts[birth % self.block_size] += 1
        self.total += 1

    def remove(self, birth: int) -> None:
        """That sequence is gone."""
        self.counts[birth % self.block_size] -= 1
        self.total -= 1

    def need(self, iteration: int, num_iterations: int) -> int:
        """New blocks over `num_iterations` iterations from `iteration` on."""
        rounds, rest = divmod(num_iterations, self.block_size)
        need = rounds * self.total
        for i in range(iteration, iteration + rest):
            need += self.counts[-i % self.block_size]
        return need

    def iterations_within(self, iteration: int, free_blocks: int) -> int:
        """The most iterations from `iteration` on that need no more than `free_blocks` (at least one
        sequence).
        """
        rounds, free_blocks = divmod(free_blocks, self.total)
        num_iterations = rounds * self.block_size
        for i in range(iteration, iteration + self.block_size):
            free_blocks -= self.counts[-i % self.block_size]
            if free_blocks < 0:
                break
            num_iterations += 1
        return num_iterations
