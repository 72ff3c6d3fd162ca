"""Paged KV memory in which the blocks of a turn may stay held after its end, for the turn that goes on from
it.

They are held like those of any sequence, until that turn is let in and holds them itself, or until they are
given up. Knows nothing of queues, waits or clocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..request import KnownBlocks, Request
from .kv_cache import KvCache
from .prefix_blocks import Path, Piece
from .prefixes import SharedPrefixes
from .radix_tree import BlockRange
from .tiered_memory import TieredKvCache, TieredPrefixes
from .tiers import Tiers


class Preserved(NamedTuple):
    """The full blocks of a turn of a session that has ended, of which `known` is known; the next one is
    predicted to come after `wait_s`, at `due_s`.
    """

    session: Hashable
    known: KnownBlocks
    wait_s: float
    due_s: float
    num_blocks: int
    pieces: list[Piece]
    path: Path


class Swapped(NamedTuple):
    """The blocks of such a turn, of which CPU memory is to keep its copies."""

    session: Hashable
    known: KnownBlocks
    blocks: list[BlockRange]


class OfTurn(Protocol):
    """What is kept of a turn for the next one of its session."""

    @property
    def session(self) -> Hashable: ...  # noqa: D102

    @property
    def known(self) -> KnownBlocks: ...  # noqa: D102


Kept = TypeVar("Kept", bound=OfTurn)


class ForTurns(Generic[Kept]):
    """What is kept for turns to come, by session: others may begin alike, and have no claim to it."""

    def __init__(self) -> None:
        self.by_session: dict[Hashable, list[Kept]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_session)

    def __iter__(self) -> Iterator[Kept]:
        for kept in self.by_session.values():
            yield from kept

    def add(self, kept: Kept) -> None:
        """Keep this."""
        self.by_session.setdefault(kept.session, []).append(kept)

    def remove(self, kept: Kept) -> None:
        """Keep this no longer."""
        others = [each for each in self.by_session.pop(kept.session) if each is not kept]
        if others:
            self.by_session[kept.session] = others

    def of(self, request: Request) -> list[Kept]:
        """What is kept for this request: its session's, as far as its prompt goes on from there."""
        blocks = request.blocks
        if blocks is None or request.session_id not in self.by_session:
            return []
        return [each for each in self.by_session[request.session_id] if blocks.goes_on_from(each.known)]


class PreservedPrefixes(SharedPrefixes):
    """`SharedPrefixes` that keeps hold of what a turn leaves that another is predicted to go on from.

    `coming_back`: (session, what is known, predicted wait, when it is over) of requests about to end.
    `undecided`: what the last of them left, held until something is decided of it. `preserved`: what is held.
    """

    def clear(self) -> None:
        """Nothing is in memory."""
        super().clear()
        self.coming_back: dict[int, tuple[Hashable, KnownBlocks, float, float]] = {}
        self.undecided: list[Preserved] = []
        self.preserved = ForTurns[Preserved]()
        self.preserved_blocks = 0
        self.request: Request | None = None  # who was looked for last
        self.has_let_go = False  # since it was asked last how long memory lasts
        self.num_let_go = 0  # blocks that fell free when a turn came back, and are not counted yet

    @property
    def shared_tokens(self) -> int:
        """Those of running requests only: what is held for turns to come is taken off."""
        return super().shared_tokens - self.preserved_blocks * self.block_size

    def ended(self, id: int, blocks: int, full_blocks: int) -> int:
        """Its blocks are free, or stay held for the turn that goes on from it."""
        turn, path = self.coming_back.pop(id, None), self.paths[id]
        is_known = path.keys[-1] >= 0
        if turn is not None and is_known:
            self._add(id, full_blocks)
        pieces = self.pieces[id]
        if turn is None or not pieces or len(path.keys) < 2 - is_known:
            return super().ended(id, blocks, full_blocks)
        if not is_known:
            pieces = self._prompt_alone(path, pieces, full_blocks)
        self.blocks.unhashed += blocks - full_blocks
        left = Preserved(*turn, pieces[-1][1], pieces, path)
        self.undecided.append(left)
        self.preserved_blocks += left.num_blocks
        del self.paths[id], self.pieces[id]
        return left.num_blocks

    def _prompt_alone(self, path: Path, pieces: list[Piece], full_blocks: int) -> list[Piece]:
        """What is held of a request whose answer nobody looks for, without that; it is free."""
        self.blocks.release_unknown(full_blocks - pieces[-1][1])
        bound = path.bounds[-2]
        if pieces[-1][1] > bound:  # it was evicted, and found some of its answer again
            shorter = [(run, min(until, bound)) for run, until in pieces if run.first < bound]
            self.blocks.hold(shorter)
            self.blocks.release(pieces)
            pieces = shorter
        self.blocks.forget(path.keys[-1])
        return pieces

    def find(self, request: Request, most: int) -> int:
        """The longest beginning that any request has left, or computes."""
        self.request = request
        return super().find(request, most)

    def reuse(self, id: int) -> int:
        """The request holds what was found, and nothing is held for it any more."""
        num_untouched = super().reuse(id)
        assert self.request is not None
        for preserved in self.preserved.of(self.request):
            self.preserved.remove(preserved)
            self.num_let_go += self.let_go(preserved)
        return num_untouched

    def let_go(self, preserved: Preserved) -> int:
        """These blocks are held no longer; how many of them nobody holds now."""
        self.has_let_go = True
        freed = self.blocks.release(preserved.pieces)
        self.num_held_twice -= preserved.num_blocks - freed
        self.preserved_blocks -= preserved.num_blocks
        return freed


class PreservedTieredPrefixes(TieredPrefixes, PreservedPrefixes):
    """The same with tiers, in which blocks that were swapped out are given up last until their turn comes
    back.
    """

    def clear(self) -> None:
        """Nothing is in memory."""
        super().clear()
        self.swapped = ForTurns[Swapped]()

    def reuse(self, id: int) -> int:
        """What was swapped out for it is on its way, or was given up."""
        assert self.request is not None
        self.give_up_copies(self.request)
        return super().reuse(id)

    def give_up_copies(self, request: Request) -> bool:
        """What was swapped out for the request is like any other copy, but where another turn to come wants
        it too; whether there was anything.
        """
        swapped = self.swapped.of(request)
        for each in swapped:
            self.swapped.remove(each)
            self.tiers.want_no_more(each.blocks)
        return bool(swapped)

    def swap(self, left: Preserved) -> None:
        """Keep the copies of what a turn left in CPU memory."""
        blocks = self.tiers.want(left.path, left.num_blocks)
        self.swapped.add(Swapped(left.session, left.known, blocks))


class Preserving(KvCache):
    """A `KvCache` some of whose blocks are held for turns to come."""

    __slots__ = ()
    kept: PreservedPrefixes

    def iterations_that_fit(self) -> int:
        """As ever, but one where blocks have fallen free: somebody may have been refused before."""
        has_let_go, self.kept.has_let_go = self.kept.has_let_go, False
        return 1 if has_let_go else super().iterations_that_fit()

    def reuse(self, id: int, tokens: int) -> None:
        """As ever; what was held for the sequence and is not in it falls free."""
        super().reuse(id, tokens)
        self._count_let_go()

    def preserve(self, left: Preserved) -> None:
        """Hold on to what a turn left."""
        self.kept.preserved.add(left)

    def give_up(self, preserved: Preserved) -> None:
        """Hold this no longer."""
        self.kept.preserved.remove(preserved)
        self.let_go(preserved)

    def give_up_for(self, request: Request) -> bool:
        """Keep nothing for the request any longer; whether anything was kept."""
        preserved = self.kept.preserved.of(request)
        for each in preserved:
            self.give_up(each)
        return bool(preserved)

    def let_go(self, left: Preserved) -> None:
        """Hold what a turn left no longer: it is found again until it is taken."""
        self.free += self.kept.let_go(left)

    def _count_let_go(self) -> None:
        self.free += self.kept.num_let_go
        self.kept.num_let_go = 0


class PreservingKvCache(Preserving):
    """The same over `PreservedPrefixes`."""

    __slots__ = ("kept",)

    def __init__(self, num_blocks: int, block_size: int, unknown_tokens: int = 0) -> None:
        super().__init__(num_blocks, block_size, "on", unknown_tokens)
        self.kept = PreservedPrefixes(num_blocks, block_size)
        self.prefixes = self.kept


class PreservingTieredKvCache(Preserving, TieredKvCache):
    """The same with slower memory beside it."""

    __slots__ = ("kept",)
    kept: PreservedTieredPrefixes

    def __init__(self, num_blocks: int, block_size: int, tiers: Tiers, unknown_tokens: int = 0) -> None:
        super().__init__(num_blocks, block_size, tiers, unknown_tokens)
        self.kept = PreservedTieredPrefixes(num_blocks, block_size, tiers)
        self.tiered = self.prefixes = self.kept

    def give_up_for(self, request: Request) -> bool:
        """Keep nothing for the request any longer, here or on the host; whether anything was kept."""
        has_copies = self.kept.give_up_copies(request)
        return super().give_up_for(request) or has_copies

    def hold(self, id: int, tokens: int) -> None:
        """As ever; what was held for the sequence and is not in it falls free."""
        super().hold(id, tokens)
        self._count_let_go()
