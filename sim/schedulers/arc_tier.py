"""CPU memory that gives up blocks by ARC, the Adaptive Replacement Cache (Megiddo and Modha, FAST 2003), as
vLLM 0.32 has it beside LRU (`vllm/v1/kv_offload/cpu/policies/arc.py`, `cpu/manager.py`).

Knows nothing of what is computed, of links, or of clocks but by argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from .tiers import Tier


@dataclass(slots=True)
class Access:
    """Keys that a request brought in, that it found and used, and that were looked for in vain."""

    inserted: set[int] = field(default_factory=set)
    reused: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)


class ArcTier(Tier):
    """A `Tier` whose blocks stand in two lists: used by one request, and by several.

    `once`, `often`: keys in each, the least recently used first; `gone_once`, `gone_often`: those given up of
    either, as many as the tier has blocks at most. A key among these that is wanted again shows which list
    should be larger: `target` is the size that `once` is let grow to. A request counts as one use, when it
    ends; what it brought in itself is no use of it.
    """

    __slots__ = ("accesses", "gone_often", "gone_once", "often", "once", "target")

    def __init__(self, num_blocks: int, block_s: float) -> None:
        super().__init__(num_blocks, block_s)
        self.accesses: dict[int, Access] = {}
        self._forget_all()

    def _forget_all(self) -> None:
        self.target = 0.0
        self.once: OrderedDict[int, None] = OrderedDict()
        self.often: OrderedDict[int, None] = OrderedDict()
        self.gone_once: OrderedDict[int, None] = OrderedDict()
        self.gone_often: OrderedDict[int, None] = OrderedDict()

    def offered(self, id: int, keys: Sequence[int], new: Sequence[int], now: float) -> None:
        """What is there and can be read is used; what was given up moves the target, once a request."""
        access = self.accesses.setdefault(id, Access())
        if len(new) < len(keys):
            ready_s = self.ready_s
            there = [key for key in keys if key in ready_s and ready_s[key] <= now]
            access.reused.update(key for key in there if key not in access.inserted)
        for key in reversed(new):
            if key not in access.missed:
                access.missed.add(key)
                self._learn(key)

    def _learn(self, key: int) -> None:
        once, often = self.gone_once, self.gone_often
        if key in once:
            self.target = min(self.target + max(1.0, len(often) / len(once)), self.num_blocks)
            once.move_to_end(key)
        elif key in often:
            self.target = max(self.target - max(1.0, len(once) / len(often)), 0.0)
            often.move_to_end(key)

    def make_room(self, blocks: int, kept: Collection[int], now: float) -> bool:
        """Give up blocks of the list that is larger than it should be, else of the other."""
        too_many = len(self.ready_s) + blocks - self.num_blocks
        if too_many <= 0:
            return True
        once, often = self._idle(self.once, kept, now), self._idle(self.often, kept, now)
        num_once, leaving = len(self.once), list[tuple[int, bool]]()
        while len(leaving) < too_many:
            key = next(once, None) if num_once >= int(self.target) else None
            is_once = key is not None
            if key is None:
                key = next(often, None)
            if key is None:
                key, is_once = next(once, None), True
            if key is None:
                return False
            num_once -= is_once
            leaving.append((key, is_once))
        for key, is_once in leaving:
            del self.ready_s[key], (self.once if is_once else self.often)[key]
            self.busy_s.pop(key, None)
            (self.gone_once if is_once else self.gone_often)[key] = None
        for gone in (self.gone_once, self.gone_often):
            while len(gone) > self.num_blocks:
                gone.popitem(last=False)
        self.num_evicted += too_many
        return True

    def _idle(self, keys: OrderedDict[int, None], kept: Collection[int], now: float) -> Iterator[int]:
        ready_s, busy_s = self.ready_s, self.busy_s
        return (k for k in keys if ready_s[k] <= now and k not in kept and busy_s.get(k, now) <= now)

    def add(self, id: int, keys: Sequence[int], ready_s: float) -> None:
        """There is room for these, which can be read from then on."""
        super().add(id, keys, ready_s)
        self.accesses.setdefault(id, Access()).inserted.update(keys)
        for key in keys:
            self.once[key] = None
            self.gone_once.pop(key, None)
            self.gone_often.pop(key, None)

    def fetched(self, id: int, keys: Sequence[int]) -> None:
        """A request uses these."""
        access = self.accesses.setdefault(id, Access())
        access.reused.update(key for key in keys if key not in access.inserted)

    def touch(self, id: int, keys: Sequence[int]) -> None:
        """A request that used these has ended: what it found is used by several now."""
        once, often, access = self.once, self.often, self.accesses.pop(id, Access())
        for key in reversed(keys):
            if key in access.reused:
                if key in once:
                    del once[key]
                    often[key] = None
                elif key in often:
                    often.move_to_end(key)
            elif key in access.inserted:
                if key in once:
                    once.move_to_end(key)
                elif key in often:
                    often.move_to_end(key)

    def forget(self, id: int) -> None:
        """The request will not come back."""
        self.accesses.pop(id, None)

    def lose(self, now: float, *, all_of_it: bool) -> None:
        """All is lost, and what was learnt with it."""
        super().lose(now, all_of_it=all_of_it)
        self.accesses.clear()
        self._forget_all()
