"""CPU memory that gives up blocks by ARC, the Adaptive Replacement Cache (Megiddo and Modha, FAST 2003), as
vLLM 0.32 has it beside LRU (`vllm/v1/kv_offload/cpu/policies/arc.py`, `cpu/manager.py`).

Knows nothing of what is computed, of links, or of clocks but by argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from .block_sets import ranges, union
from .radix_tree import BlockRange, Node, between
from .spans import Order, Span, Spans, use
from .tiers import Tier, count


@dataclass(slots=True)
class Access:
    """Blocks that a request brought in, that it found and used, and that were looked for in vain, each as a
    set of its blocks.
    """

    inserted: int = 0
    reused: int = 0
    missed: int = 0


class ArcTier(Tier):
    """A `Tier` whose blocks stand in two orders: used by one request, and by several.

    `order`, `often`: blocks in each; `gone_once`, `gone_often`: those given up of either, as many as the tier
    has blocks at most. A block among these that is wanted again shows which should be larger: `target` is the
    size that `order` is let grow to. A request counts as one use, when it ends; what it brought in itself is
    no use of it.
    """

    __slots__ = ("accesses", "gone", "gone_often", "gone_once", "often", "target")

    def __init__(self, num_blocks: int, block_s: float) -> None:
        super().__init__(num_blocks, block_s, keeps_wanted=False)
        self.often = Order()
        self.accesses: dict[int, Access] = {}
        self._forget_gone()

    def _forget_gone(self) -> None:
        self.target = 0.0
        self.gone, self.gone_once, self.gone_often = Spans(), Order(), Order()

    @property
    def num_held(self) -> int:
        """Blocks that are here, or on their way."""
        return self.order.num_blocks + self.often.num_blocks

    @property
    def nodes(self) -> Iterable[Node]:
        """Those of which it knows blocks."""
        return (*self.spans.by_node, *self.gone.by_node)

    def offered(self, id: int, there: Sequence[Span], missing: Sequence[BlockRange], now: float) -> None:
        """What is there and can be read is used; what was given up moves the target, once a request."""
        access = self.accesses.setdefault(id, Access())
        access.reused |= union(span for span in there if span.ready_s <= now) & ~access.inserted
        if missing:
            for low, high in ranges(union(missing) & ~access.missed):
                known, _ = self.gone.find(between(missing, low, high))
                for span in reversed(known):
                    self._learn(span)
            access.missed |= union(missing)

    def _learn(self, span: Span) -> None:
        """Blocks that were given up are wanted again, one by one."""
        once, often = self.gone_once.num_blocks, self.gone_often.num_blocks
        for _ in range(span.low, span.high):
            if span.order is self.gone_once:
                self.target = min(self.target + max(1.0, often / once), self.num_blocks)
            else:
                self.target = max(self.target - max(1.0, once / often), 0.0)
        use([span])

    def make_room(self, blocks: int, kept: Collection[Span], now: float) -> bool:
        """Give up blocks of the order that is larger than it should be, else of the other."""
        too_many = self.num_held + blocks - self.num_blocks
        if too_many <= 0:
            return True
        too_large = self.order.num_blocks - int(self.target) + 1
        leaving = self._idle(self.order, min(too_many, too_large), kept, now)
        for order in (self.often, self.order):
            if (missing := too_many - count(leaving)) > 0:
                leaving += self._idle(order, missing, {*kept, *leaving}, now)
        if count(leaving) < too_many:
            return False
        for span in leaving:
            gone = self.gone_once if span.order is self.order else self.gone_often
            self.spans.remove(span)
            self.gone.add(span, gone)
        for gone in (self.gone_once, self.gone_often):
            for span in self.gone.first(gone, gone.num_blocks - self.num_blocks):
                self.gone.remove(span)
        self.num_evicted += too_many
        return True

    def _idle(self, order: Order, most: int, kept: Collection[Span], now: float) -> list[Span]:
        """At most so many blocks that may be given up, those used least recently."""
        idle = (s for s in order if s.ready_s <= now and s.busy_s <= now and s not in kept)
        return self.spans.first(idle, most)

    def add(self, id: int, blocks: Sequence[BlockRange], ready_s: float) -> None:
        """There is room for these, which can be read from then on."""
        super().add(id, blocks, ready_s)
        self.accesses.setdefault(id, Access()).inserted |= union(blocks)
        for span in self.gone.find(blocks)[0]:
            self.gone.remove(span)

    def fetched(self, id: int, blocks: Sequence[BlockRange]) -> None:
        """A request uses these."""
        access = self.accesses.setdefault(id, Access())
        access.reused |= union(blocks) & ~access.inserted

    def touch(self, id: int, blocks: Sequence[BlockRange]) -> None:
        """A request that used these has ended: what it found is used by several now."""
        access = self.accesses.pop(id, Access())
        reused = set(ranges(access.reused))
        for low, high in sorted([*reused, *ranges(access.inserted & ~access.reused)], reverse=True):
            there, _ = self.spans.find(between(blocks, low, high))
            use(there, self.often if (low, high) in reused else None)

    def forget(self, id: int) -> None:
        """The request will not come back."""
        self.accesses.pop(id, None)

    def lose(self, now: float, *, all_of_it: bool) -> None:
        """All is lost, and what was learnt with it."""
        super().lose(now, all_of_it=all_of_it)
        self.accesses.clear()
        self._forget_gone()
