"""Paged KV memory with slower tiers beside it: what is stored there, and what is on its way back.

Knows nothing of queues, budgets or predictions; the time comes in by `now`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from ..work import Fetch, TierUse
from .kv_cache import KvCache
from .prefix_blocks import Path
from .prefixes import SharedPrefixes
from .tiers import Tiers


class TieredPrefixes(SharedPrefixes):
    """`SharedPrefixes` whose blocks are stored in tiers too.

    Those of a prompt that others may have are stored with the iteration that computes them, all others when
    their request leaves memory (vLLM stores those as they fill up, too; nobody can look for them before).
    `offered`: of each request, the first block that it used in the tiers, and up to where it has stored.
    `held_tokens`: in memory for requests that wait for more to come.
    """

    def __init__(self, num_blocks: int, block_size: int, tiers: Tiers) -> None:
        self.tiers, self.now = tiers, 0.0
        self.fetches: list[Fetch] = []
        self.fetched_tokens = [0] * len(tiers.all)  # by tier, of requests that are let in for the first time
        super().__init__(num_blocks, block_size)

    def clear(self) -> None:
        """Nothing is in memory, and what the machine's failure leaves is in the tiers."""
        super().clear()
        self.offered: dict[int, tuple[int, int]] = {}
        self.held_tokens = 0
        self.held_in_flight: float = inf  # the same in the iteration in flight, where the next is decided
        self.tiers.fail(self.now)

    @property
    def shared_tokens(self) -> int:
        """Those of running requests only: what is held for others that wait is taken off; perhaps too little
        where the iteration after the one in flight is decided.
        """
        return super().shared_tokens - int(min(self.held_tokens, self.held_in_flight))

    @property
    def tier_use(self) -> TierUse:
        """What the tiers were good for."""
        evicted = tuple(tier.num_evicted * self.block_size for tier in self.tiers.all)
        return TierUse(self.tiers.names, tuple(self.fetched_tokens), evicted, tuple(self.fetches))

    def fetch(self, id: int, blocks: int, from_disk: int, since_s: float, there_s: float) -> None:
        """The request looked up last is let in with so many blocks, behind those that were found."""
        first = self.found[-1][1] if self.found else 0
        tokens = [(blocks - from_disk) * self.block_size, from_disk * self.block_size]
        if id in self.away:
            self.refound_tokens += sum(tokens)
        else:
            for number in range(len(self.fetched_tokens)):
                self.fetched_tokens[number] += tokens[number]
        self.fetches.append(Fetch(id, since_s, there_s, tokens[0], tokens[1]))
        low, high = self.offered.get(id, (first, 0))
        self.offered[id] = min(low, first), max(high, first + blocks)

    def arrived(self, id: int, blocks: int) -> None:
        """The first so many blocks of the request are in memory: others find them."""
        self._add(id, blocks)

    def let_in(self, id: int, tokens: int) -> None:
        """The request runs, and what it held while it waited with it."""
        self.held_tokens -= tokens
        self.pieces[id] = self.pieces.pop(id)  # behind those who run already

    def computed(self, id: int, full_blocks: int) -> None:
        """Others can find them from now on, and they are stored."""
        super().computed(id, full_blocks)
        path = self.paths[id]
        most = path.bounds[-2] if len(path.bounds) > 1 else 0
        self._offer(id, path, min(full_blocks, most))

    def evicted(self, id: int, free_before: int, blocks: int, full_blocks: int) -> int:
        """Stored, and found again by anybody."""
        self._offer(id, self.paths[id], full_blocks)
        return super().evicted(id, free_before, blocks, full_blocks)

    def ended(self, id: int, blocks: int, full_blocks: int) -> int:
        """Stored, and all that it used is most recent now, its last block least so."""
        path = self.paths[id]
        self._offer(id, path, full_blocks)
        low, _ = self.offered.pop(id, (0, 0))
        self.tiers.touch(id, path, low, full_blocks)
        return super().ended(id, blocks, full_blocks)

    def forget(self, id: int) -> None:
        """It fetches nothing more."""
        super().forget(id)
        self.offered.pop(id, None)
        self.tiers.forget(id)

    def _offer(self, id: int, path: Path, until: int) -> None:
        """Store the request's blocks up to there; what finds no room is offered again with the next ones."""
        low, high = self.offered.get(id, (0, 0))
        if until > high and self.tiers.store(id, path, high, until, self.now):
            self.offered[id] = low, until


class TieredKvCache(KvCache):
    """A `KvCache` some of whose sequences are in memory but cannot run yet, as blocks are on their way.

    `held`: their tokens in memory, by request id, of whole blocks.
    """

    __slots__ = ("tiered", "waiting")

    def __init__(self, num_blocks: int, block_size: int, tiers: Tiers, unknown_tokens: int = 0) -> None:
        self.waiting: dict[int, int] = {}
        self.tiered = TieredPrefixes(num_blocks, block_size, tiers)
        super().__init__(num_blocks, block_size, "on", unknown_tokens)
        self.prefixes = self.tiered

    def clear(self) -> None:
        """Empty the memory; what the machine's failure leaves stays in the tiers."""
        super().clear()
        self.waiting.clear()

    def can_hold(self, tokens: int, reserved_blocks: int) -> bool:
        """Whether the first `tokens` of the sequence looked up last fit beside the next iteration and so many
        blocks that others will take.
        """
        blocks = tokens // self.block_size - self.prefixes.num_shared
        return self.need + blocks + reserved_blocks <= self.free

    def hold(self, id: int, tokens: int) -> None:
        """The sequence looked up last takes memory for its first `tokens` at once, iteration or none."""
        prefixes = self.prefixes
        blocks = tokens // self.block_size - prefixes.num_shared
        prefixes.take(blocks - prefixes.reuse(id))
        self.free -= blocks
        self.least_free = min(self.least_free, self.free)
        self.waiting[id] = tokens
        self.tiered.held_tokens += tokens

    def admit_held(self, id: int, tokens: int, is_last: bool) -> bool:
        """`admit` for a sequence that has waited in memory."""
        size, held = self.block_size, self.waiting[id]
        need = self.need - -tokens // size - held // size
        if need > self.free:
            return False
        self.need = need
        del self.waiting[id]
        self.tiered.let_in(id, held)
        if is_last:
            self.births[id] = birth = tokens - self.iteration - 1
            self.takers[-birth % size] += 1
        else:
            self.partial[id] = tokens
        self.prefixes.computed(id, tokens // size)
        return True

    def reserved_blocks(self, lengths: Sequence[tuple[int, int]]) -> int:
        """Blocks that sequences will yet take for their prompts: (id, tokens of the prompt) of each."""
        size = self.block_size
        return sum(
            -(-length // size) + -self.partial.get(id, self.waiting.get(id, 0)) // size
            for id, length in lengths
        )
