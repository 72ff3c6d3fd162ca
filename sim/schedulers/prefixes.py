"""What of KV memory may be found again when a sequence is let in.

Knows nothing of budgets, iterations or clocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias

from ..request import Request
from ..work import TierUse
from .prefix_blocks import ENDLESS, Path, Piece, PrefixBlocks

Caching: TypeAlias = Literal["off", "own", "on"]

NOBODY = -1


class Prefixes(ABC):
    """What free blocks still hold of sequences, and which of them is taken next.

    The free blocks form a queue, and new ones are taken from its head. Blocks are counted from the start of a
    sequence; a block that is full and whose tokens are known has a hash, by which it is found.
    """

    num_shared: int = 0
    """Of the blocks found last, those that others hold: they are there without a free one being taken."""
    num_held_twice: int = 0
    """Blocks that are held, for each holder but the first."""
    num_in_flight: int = 0
    """The same in the iteration in flight, where the next one is decided before its end."""
    lost_tokens: int = 0
    """Tokens of all that was evicted so far."""
    may_find: bool
    """Whether there is anything to find, so that the order of the queue matters."""

    @abstractmethod
    def clear(self) -> None:
        """Nothing is in memory."""

    @abstractmethod
    def take(self, blocks: int) -> None:
        """So many blocks leave the head of the queue; fewer than none come back."""

    @abstractmethod
    def find(self, request: Request, most: int) -> int:
        """How many of the first blocks of the request are in memory, `most` at most."""

    @abstractmethod
    def reuse(self, id: int) -> int:
        """The request, just found, is let in and holds what was found; how many blocks left the queue."""

    @abstractmethod
    def computed(self, id: int, full_blocks: int) -> None:
        """A prompt that is being computed has so many blocks by the next iteration."""

    @abstractmethod
    def evicted(self, id: int, free_before: int, blocks: int, full_blocks: int) -> int:
        """A request that will come back gives up its blocks, to a queue of `free_before`; how many of them
        others still hold. `full_blocks` have a hash.
        """

    @abstractmethod
    def ended(self, id: int, blocks: int, full_blocks: int) -> int:
        """The same of a request that will not come back."""

    def as_let_in(self, requests: Sequence[Request]) -> Sequence[Request]:
        """These, which have ended, in the order in which they give up their blocks."""
        return requests

    @abstractmethod
    def sums(self) -> tuple[int, ...]:
        """What was counted so far of those that were let in."""

    @abstractmethod
    def take_back(self, sums: tuple[int, ...]) -> None:
        """What was counted since then never came about."""

    @abstractmethod
    def forget(self, id: int) -> None:
        """A request that was evicted will not come back."""


class OwnPrefixes(Prefixes):
    """How much of an evicted request's KV is still in memory when it comes back; nothing is shared.

    Of what a request frees, the blocks that have a hash join the tail of the queue, the last one first;
    a last block that has none can never be found again and joins the head (vLLM's `BlockPool.free_blocks`).
    What is freed keeps its content until it is taken, so a request that comes back in time finds the first of
    its blocks intact. Counting is enough: but for those at the head, block number k to be taken since the
    start is block number k.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing is in memory."""
        self.taken = 0  # blocks ever taken from the queue, without those that had joined its head
        self.unhashed = 0  # blocks at the head of the queue that joined it there
        self.parts: dict[int, tuple[int, int]] = {}  # id -> first of its numbers, full blocks
        self.found = 0

    @property
    def may_find(self) -> bool:  # type: ignore[override]
        """Whether anybody is evicted."""
        return bool(self.parts)

    def take(self, blocks: int) -> None:
        """So many blocks leave the head of the queue."""
        unhashed = min(self.unhashed, blocks)
        self.unhashed -= unhashed
        self.taken += blocks - unhashed

    def evicted(self, id: int, free_before: int, blocks: int, full_blocks: int) -> int:
        """All of them are free."""
        if not self.parts:
            self.unhashed = 0  # what is free already all stands before them, whatever it holds
        self.parts[id] = (self.taken + free_before - self.unhashed, full_blocks)
        self.unhashed += blocks - full_blocks
        return 0

    def ended(self, id: int, blocks: int, full_blocks: int) -> int:
        """All of them are free."""
        self.unhashed += blocks - full_blocks
        return 0

    def sums(self) -> tuple[int, ...]:
        """Nothing is counted."""
        return ()

    def take_back(self, sums: tuple[int, ...]) -> None:
        """There is nothing to take back."""

    def forget(self, id: int) -> None:
        """Its blocks are like any others."""
        self.parts.pop(id, None)

    def find(self, request: Request, most: int) -> int:
        """Its own blocks, as far as they were not taken."""
        part = self.parts.get(request.id)
        if part is None:
            self.found = 0
        else:
            first, full_blocks = part
            self.found = max(0, min(first + full_blocks - self.taken, full_blocks, most))
        return self.found

    def reuse(self, id: int) -> int:
        """It takes them out of the queue; what was freed later moves up."""
        part = self.parts.pop(id, None)
        if part is None:
            return 0
        for other, (first, full_blocks) in self.parts.items():
            if first > part[0]:
                self.parts[other] = (first - self.found, full_blocks)
        return self.found

    def computed(self, id: int, blocks: int) -> None:
        """Nobody else can find them."""


class SharedPrefixes(Prefixes):
    """What memory holds of all sequences that ran, for any that begins alike, by vLLM's rules.

    Blocks are found from the moment on at which a prompt is to be computed in the next iteration. Those of an
    answer are found when it has left memory.
    """

    may_find = True

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.num_evicted = 0  # with blocks of before memory was cleared
        self.found_tokens = self.refound_tokens = 0
        self.let_in_tokens = 0
        self.blocks = PrefixBlocks(num_blocks)
        self.clear()

    def clear(self) -> None:
        """Nothing is in memory."""
        self.num_evicted += self.blocks.num_evicted
        self.blocks = PrefixBlocks(self.num_blocks)
        self.num_shared = self.num_held_twice = self.num_in_flight = 0
        self.away: set[int] = set()  # who was evicted and has not come back
        self.paths: dict[int, Path] = {}  # by request id, of those in memory
        self.pieces: dict[int, list[Piece]] = {}  # what they hold
        self.asked, self.path = NOBODY, Path((), ())  # who was looked for last, and its path
        self.prompt_tokens = 0  # of the same one
        self.found: list[Piece] = []
        self.num_untouched = 0  # of the blocks found last, those that nobody holds

    @property
    def tier_use(self) -> TierUse | None:
        """None: what is given up is lost."""
        return None

    @property
    def shared_tokens(self) -> int:
        """Tokens in memory that several requests hold, counted for each of them but the first; perhaps too
        many where the iteration after the one in flight is decided.
        """
        return max(self.num_held_twice, self.num_in_flight) * self.block_size

    @property
    def recomputed_tokens(self) -> int:
        """Tokens lost by preemptions, less those found when their request came back."""
        return self.lost_tokens - self.refound_tokens

    @property
    def evicted_tokens(self) -> int:
        """Tokens given up so far that might still have been found."""
        return (self.num_evicted + self.blocks.num_evicted) * self.block_size

    def take(self, blocks: int) -> None:
        """From the head of the queue."""
        self.blocks.take(blocks)

    def find(self, request: Request, most: int) -> int:
        """The longest beginning that any request has left, or computes."""
        if request.id != self.asked:
            self.asked, self.path = request.id, path_of(request, self.block_size)
            self.prompt_tokens = request.prompt_tokens
        path = self.path
        pieces = self.blocks.find(path, most)
        free = 0
        for run, until in pieces:
            if until > run.top:
                free += until - run.top
        found = pieces[-1][1] if pieces else 0
        self.found, self.num_untouched, self.num_shared = pieces, free, found - free
        return found

    def reuse(self, id: int) -> int:
        """It holds them; those that nobody held leave the queue."""
        self.paths[id], self.pieces[id] = self.path, self.found
        self.blocks.hold(self.found)
        self.num_held_twice += self.num_shared
        tokens = (self.num_untouched + self.num_shared) * self.block_size
        if id in self.away:
            self.away.remove(id)
            self.refound_tokens += tokens
        else:
            self.found_tokens += tokens
            self.let_in_tokens += self.prompt_tokens
        return self.num_untouched

    def computed(self, id: int, full_blocks: int) -> None:
        """Others can find them from now on, as far as anything is known of the prompt."""
        path = self.paths[id]
        most = path.bounds[-2] if len(path.bounds) > 1 else 0
        self._add(id, full_blocks if full_blocks < most else most)

    def _add(self, id: int, until: int) -> None:
        pieces = self.pieces[id]
        if until > (pieces[-1][1] if pieces else 0):
            self.blocks.add(self.paths[id], pieces, until)

    def evicted(self, id: int, free_before: int, blocks: int, full_blocks: int) -> int:
        """Anybody finds them again."""
        self._add(id, full_blocks)
        self.blocks.unhashed += blocks - full_blocks
        del self.paths[id]
        self.away.add(id)
        kept = full_blocks - self.blocks.release(self.pieces.pop(id))
        self.num_held_twice -= kept
        return kept

    def ended(self, id: int, blocks: int, full_blocks: int) -> int:
        """Others that begin alike find them again."""
        key, pieces = self.paths[id].keys[-1], self.pieces[id]
        unknown = 0
        if key < 0:
            # Nobody else has what follows its last known block.
            unknown = full_blocks - (pieces[-1][1] if pieces else 0)
            self.blocks.release_unknown(unknown)
        else:
            self._add(id, full_blocks)
        freed = unknown + self.blocks.release(pieces)
        self.blocks.unhashed += blocks - full_blocks
        del self.paths[id], self.pieces[id]
        if key < 0:
            self.blocks.forget(key)
        self.num_held_twice -= full_blocks - freed
        return full_blocks - freed

    def sums(self) -> tuple[int, ...]:
        """What was found, asked for, lost and given up."""
        lost, given_up = self.lost_tokens, self.blocks.num_evicted
        return self.found_tokens, self.let_in_tokens, self.refound_tokens, lost, given_up

    def take_back(self, sums: tuple[int, ...]) -> None:
        """All of that is as it was then."""
        self.found_tokens, self.let_in_tokens, self.refound_tokens, lost, given_up = sums
        self.lost_tokens, self.blocks.num_evicted = lost, given_up

    def as_let_in(self, requests: Sequence[Request]) -> Sequence[Request]:
        """In the order in which they were let in."""
        left = {request.id: request for request in requests}
        return [left[id] for id in self.pieces if id in left]

    def forget(self, id: int) -> None:
        """Nobody looks any more for what only it had."""
        self.away.discard(id)
        self.blocks.forget(own_key(id))


def own_key(id: int) -> int:
    """The key of what nobody but this request has."""
    return -1 - id


def path_of(request: Request, block_size: int) -> Path:
    """The keys of a request's blocks: the hashes that are known of its prompt, and one for all that follows:
    the hash of its answer, or its own.
    """
    blocks = request.blocks
    if blocks is None:
        return Path((own_key(request.id),), (ENDLESS,))
    keys, bounds, before = list[int](), list[int](), 0
    for value, end in zip(blocks.hashes, blocks.ends, strict=True):
        bound = end // block_size
        if bound > before:
            keys.append(value)
            bounds.append(bound)
            before = bound
    keys.append(blocks.answer if blocks.answer >= 0 else own_key(request.id))
    bounds.append(ENDLESS)
    return Path(keys, bounds)
