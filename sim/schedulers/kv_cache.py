"""The paged KV memory of one accelerator as its scheduler counts it: blocks, not their contents.

Counts in closed form over many iterations. Knows nothing of queues, budgets, clocks or predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..kv_blocks import blocks_ahead, blocks_for, iterations_within
from ..request import Request
from ..work import Chunk
from .prefixes import Caching, OwnPrefixes, Prefixes, SharedPrefixes

FAR = 64
"""Iterations that a leap seldom reaches: where memory lasts longer, its end is computed to a round only."""


class KvCache:
    """Blocks that running sequences hold, take and free.

    A sequence holds the KV of its tokens in whole blocks. While its prompt is incomplete it stands in
    `partial`, with its tokens in memory. Then it decodes, one token an iteration, and stands in `births`:
    tokens in memory minus the number of the iteration, which stays the same. `takers` counts, by iteration
    modulo the block size, how many decoding sequences take a block then (see `blocks_ahead`). `need`: blocks
    that the next iteration takes, of the `free` ones. `least_free`: the fewest that were ever free. A
    sequence that only waits for its last token takes nothing more: it stands in `complete`, with its tokens
    in memory.

    `unknown_tokens`: how many of a decoding sequence's tokens in memory are not known yet when it leaves, as
    the iterations that yield them are still in flight. The block that they complete has no hash.

    Where memory is short, the next iteration is put together sequence by sequence: `begin_scan`, `go_on` and
    `evict` in turns, `end_scan`.
    """

    __slots__ = (
        "births",
        "block_size",
        "complete",
        "free",
        "iteration",
        "least_free",
        "may_find",
        "need",
        "num_blocks",
        "out_of_queue",
        "partial",
        "paused",
        "prefix_caching",
        "prefixes",
        "takers",
        "unknown_tokens",
    )  # fmt: skip

    def __init__(
        self, num_blocks: int, block_size: int, prefix_caching: Caching = "own", unknown_tokens: int = 0
    ) -> None:
        self.num_blocks, self.block_size, self.prefix_caching = num_blocks, block_size, prefix_caching
        self.unknown_tokens = unknown_tokens
        self.least_free = num_blocks
        self.prefixes: Prefixes = (
            SharedPrefixes(num_blocks, block_size) if prefix_caching == "on" else OwnPrefixes()
        )
        self.clear()

    def clear(self) -> None:
        """Empty the memory; `least_free` stays."""
        self.free = self.num_blocks
        self.iteration = 0
        # Blocks that the next iteration takes; those of them that are used again, or were seen to be taken.
        self.need = self.out_of_queue = 0
        self.paused: list[int] = []  # ids of who decodes, but not in the next iteration
        self.partial: dict[int, int] = {}
        self.births: dict[int, int] = {}
        self.complete: dict[int, int] = {}
        self.takers = [0] * self.block_size
        self.prefixes.clear()
        # Whether something may be found again, or is by the next iteration: it matters then which block is
        # taken.
        self.may_find = self.prefixes.may_find

    @property
    def peak_tokens(self) -> int:
        """The most memory ever held, in tokens of whole blocks."""
        return (self.num_blocks - self.least_free) * self.block_size

    @property
    def free_tokens(self) -> int:
        """Tokens that the free blocks hold."""
        return self.free * self.block_size

    def held(self, id: int) -> int:
        """Tokens of a running sequence in memory."""
        if id in self.births:
            return self.births[id] + self.iteration
        return self.partial[id] if id in self.partial else self.complete[id]

    def decode_need(self) -> int:
        """Blocks that the decoding sequences take in the next iteration."""
        return self.takers[self.iteration % self.block_size]

    def iterations_that_fit(self) -> int:
        """How many iterations memory lasts for, the next included, while all decode and nobody comes or
        leaves; beyond `FAR` perhaps fewer.
        """
        left = self.free - self.need
        # Every sequence takes a block a round.
        iterations = 1 + left // len(self.births) * self.block_size
        if iterations < FAR:
            return 1 + iterations_within(self.takers, self.iteration + 1, left)
        return iterations

    def cached_tokens(self, request: Request, length: int) -> int:
        """First tokens of a sequence of `length` that need not be computed when it is admitted to the next
        iteration; its last one always is. What is said of admission from now on is said of this sequence.
        """
        self.prefixes.take(self.need - self.out_of_queue)
        self.out_of_queue = self.need
        return self.prefixes.find(request, (length - 1) // self.block_size) * self.block_size

    def can_admit(self, tokens: int) -> bool:
        """Whether the next iteration can also hold `tokens` tokens of one more sequence."""
        return self.need + blocks_for(tokens, self.block_size) - self.prefixes.num_shared <= self.free

    def admit(self, id: int, tokens: int, is_last: bool) -> bool:
        """Bring a sequence in with the next iteration, with `tokens` in memory after it; it decodes from then
        on where `is_last`. False, and nothing done, where memory is short.
        """
        size = self.block_size
        need = self.need - -tokens // size
        if self.may_find:
            need -= self.prefixes.num_shared
        if need > self.free:
            return False
        self.need = need
        if is_last:
            self.births[id] = birth = tokens - self.iteration - 1
            self.takers[-birth % size] += 1
        else:
            self.partial[id] = tokens
        return True

    def reuse(self, id: int, tokens: int) -> None:
        """A sequence just admitted, of which `tokens` will be in memory, uses its `cached_tokens` again."""
        self.out_of_queue += self.prefixes.reuse(id)
        self.prefixes.computed(id, tokens // self.block_size)

    def can_extend(self, chunks: Iterable[Chunk]) -> bool:
        """Whether memory suffices for the next iteration with these chunks of incomplete prompts."""
        size, need = self.block_size, self.need
        for chunk in chunks:
            tokens = self.partial[chunk.request.id]
            need += -tokens // size - -(tokens + chunk.num_tokens) // size
        return need <= self.free

    def extend(self, chunk: Chunk) -> None:
        """Compute a further chunk of an incomplete prompt in the next iteration."""
        before, size = self.partial[chunk.request.id], self.block_size
        self.need += -before // size - -(before + chunk.num_tokens) // size
        self._compute(chunk)

    def _compute(self, chunk: Chunk) -> None:
        """A chunk will be in memory; who has its whole prompt there decodes."""
        id = chunk.request.id
        tokens = self.partial[id] + chunk.num_tokens
        if self.may_find:
            self.prefixes.computed(id, tokens // self.block_size)
        if chunk.last:
            del self.partial[id]
            self.births[id] = birth = tokens - self.iteration - 1
            self.takers[-birth % self.block_size] += 1
        else:
            self.partial[id] = tokens

    def pause_all(self) -> None:
        """Nobody who decodes gets a token in the next iteration: it computes only what is admitted or
        extended from now on, and the number of the iteration is the same after it.
        """
        self.iteration -= 1
        self.need = 0

    def begin_scan(self) -> None:
        """Nothing is taken yet."""
        if self.prefix_caching == "on" and self.unknown_tokens:
            self.prefixes.num_in_flight = self.prefixes.num_held_twice
        self.need = self.out_of_queue = 0

    def go_on(self, id: int, num_tokens: int) -> bool:
        """Take the blocks for so many more tokens of a running sequence; False, and nothing done, where
        memory is short.
        """
        tokens, size = self.held(id), self.block_size
        blocks = -tokens // size - -(tokens + num_tokens) // size
        if self.need + blocks > self.free:
            return False
        self.need += blocks
        if self.may_find:
            self.prefixes.take(blocks)
            self.out_of_queue += blocks
        return True

    def evict(self, id: int, length: int, num_tokens: int) -> None:
        """Free the blocks of a running sequence; those too that it took for `num_tokens` more, which are
        hashed before they are computed. `length`: how many of its tokens were known when it was admitted.
        """
        held, size = self.held(id), self.block_size
        tokens = held + num_tokens
        before, blocks = blocks_for(held, size), blocks_for(tokens, size)
        if self.prefix_caching != "off":
            if not self.may_find:
                self.out_of_queue = self.need
                self.may_find = True
            known = tokens if tokens <= length else tokens - self.unknown_tokens
            self.prefixes.lost_tokens += held
            self.free -= self.prefixes.evicted(id, self.free - self.need, blocks, known // size)
            self.out_of_queue -= blocks - before
        self.need -= blocks - before
        self.free += before
        if self.partial.pop(id, None) is None and self.complete.pop(id, None) is None:
            self.takers[-self.births.pop(id) % size] -= 1

    def end_scan(self, chunks: Sequence[Chunk], paused: Sequence[Request], *, is_empty: bool) -> None:
        """What goes on computes these chunks; who is paused takes no block in the next iteration.

        `is_empty`: nobody goes on, and so there is no such iteration.
        """
        if is_empty:
            self.need, self.out_of_queue = self.decode_need(), 0
            return
        for chunk in chunks:
            self._compute(chunk)
        self.paused = [request.id for request in paused]

    def begin(self) -> None:
        """The next iteration is in progress, and will never end: its blocks are taken."""
        self.prefixes.take(min(self.need, self.free) - self.out_of_queue)

    def forget(self, id: int) -> None:
        """A request that was evicted never comes back."""
        self.prefixes.forget(id)

    def stop(self, id: int) -> None:
        """A decoding sequence takes no more tokens; it keeps its blocks."""
        self.complete[id] = self.held(id)
        self.takers[-self.births.pop(id) % self.block_size] -= 1
        self.need = self.decode_need()

    def advance(self, iterations: int, finished: Sequence[Request]) -> None:
        """Take the blocks of `iterations` iterations, then free those of finished sequences."""
        takers, size, need = self.takers, self.block_size, self.need
        if iterations != 1:
            need = need + blocks_ahead(takers, self.iteration + 1, iterations - 1) if iterations else 0
        if self.may_find:
            self.prefixes.take(need - self.out_of_queue)
            self.out_of_queue = 0
            self.may_find = self.prefixes.may_find
            self.prefixes.num_in_flight = 0
        free = self.free - need
        if free < self.least_free:
            self.least_free = free
        self.iteration = iteration = self.iteration + iterations
        if self.paused:
            self._end_pause()
        if finished:
            births, may_find = self.births, self.may_find
            if may_find and len(finished) > 1:
                finished = self.prefixes.as_let_in(finished)
            for request in finished:
                birth = births.pop(request.id, None)
                if birth is None:
                    tokens = self.complete.pop(request.id)
                else:
                    takers[-birth % size] -= 1
                    tokens = birth + iteration
                free -= -tokens // size
                if may_find:
                    known = tokens if birth is None else tokens - self.unknown_tokens
                    free -= self.prefixes.ended(request.id, -(-tokens // size), known // size)
        self.free = free
        self.need = takers[iteration % size]

    def _end_pause(self) -> None:
        """Who was paused is a token behind."""
        births, takers, size = self.births, self.takers, self.block_size
        for id in self.paused:
            birth = births[id]
            takers[-birth % size] -= 1
            births[id] = birth = birth - 1
            takers[-birth % size] += 1
        self.paused = []
