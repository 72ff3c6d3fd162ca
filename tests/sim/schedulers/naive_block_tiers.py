"""`sim.schedulers.tiers` and `arc_tier` block by block: the judge of what is done there to spans."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from sim.schedulers.prefix_blocks import Path
from sim.schedulers.tiers import Link
from sim.work import MemoryTier

KEY_BITS = 40


def block_keys(path: Path, low: int, high: int) -> list[int]:
    """One key per block of a sequence, from block `low` up to `high`."""
    keys = list[int]()
    number = bisect_right(path.bounds, low)
    while low < high:
        until = min(path.bounds[number], high)
        first = path.keys[number] << KEY_BITS
        keys.extend(range(first + low, first + until))
        low, number = until, number + 1
    return keys


class NaiveTier:
    """The blocks of one tier by key, the least recently used first, and from when on each can be read.

    `busy_s`: until when a block is being read. `wanted`: by how many turns to come, of keys that are given up
    after all others. `num_evicted`: blocks given up for others.
    """

    __slots__ = ("busy_s", "into", "num_blocks", "num_evicted", "out", "ready_s", "wanted")

    def __init__(self, num_blocks: int, block_s: float) -> None:
        self.num_blocks, self.num_evicted = num_blocks, 0
        self.into, self.out = Link(block_s), Link(block_s)
        self.ready_s: OrderedDict[int, float] = OrderedDict()
        self.busy_s: dict[int, float] = {}
        self.wanted: Counter[int] = Counter()

    def make_room(self, blocks: int, kept: Collection[int], now: float) -> bool:
        """Give up what was used least recently, at last what is wanted, until so many more find room; False,
        and nothing done, where too many are `kept` or in use.
        """
        ready_s, busy_s, wanted = self.ready_s, self.busy_s, self.wanted
        too_many = len(ready_s) + blocks - self.num_blocks
        if too_many <= 0:
            return True
        leaving: list[int] = []
        last: list[int] = []
        for key, at_s in ready_s.items():
            if at_s <= now and key not in kept and busy_s.get(key, now) <= now:
                (last if key in wanted else leaving).append(key)
                if len(leaving) == too_many:
                    break
        missing = too_many - len(leaving)
        if len(last) < missing:
            return False
        for key in last[missing:]:
            ready_s.move_to_end(key)  # not looked at again before all others
        for key in (*leaving, *last[:missing]):
            del ready_s[key]
            busy_s.pop(key, None)
        self.num_evicted += too_many
        return True

    def want(self, keys: Sequence[int]) -> None:
        """One more turn to come wants these, those too that are not there yet."""
        self.wanted.update(keys)

    def want_no_more(self, keys: Sequence[int]) -> None:
        """One of the turns that wanted these wants them no longer; others still may."""
        wanted = self.wanted
        for key in keys:
            wanted[key] -= 1
            if not wanted[key]:
                del wanted[key]

    def offered(self, id: int, keys: Sequence[int], new: Sequence[int], now: float) -> None:
        """A request has these to store, of which those `new` are not there."""

    def add(self, id: int, keys: Sequence[int], ready_s: float) -> None:
        """There is room for these of a request, which can be read from then on."""
        self.ready_s.update(dict.fromkeys(keys, ready_s))

    def read(self, keys: Sequence[int], until_s: float) -> None:
        """These are being read; none of them is given up before."""
        busy_s = self.busy_s
        for key in keys:
            if busy_s.get(key, 0.0) < until_s:
                busy_s[key] = until_s

    def fetched(self, id: int, keys: Sequence[int]) -> None:
        """A request uses these."""

    def touch(self, id: int, keys: Sequence[int]) -> None:
        """A request that used these has ended, the first of them last."""
        ready_s = self.ready_s
        for key in reversed(keys):
            if key in ready_s:
                ready_s.move_to_end(key)

    def forget(self, id: int) -> None:
        """The request will not come back."""

    def lose(self, now: float, *, all_of_it: bool) -> None:
        """All is lost, or all that is not written yet; no transfer goes on, and nobody wants anything."""
        kept = {} if all_of_it else {key: at_s for key, at_s in self.ready_s.items() if at_s <= now}
        self.ready_s = OrderedDict(kept)
        self.busy_s.clear()
        self.wanted.clear()
        self.into.free_s = self.out.free_s = 0.0


class NaiveTiers:
    """CPU memory, of the class `cpu`, and perhaps a disk behind it."""

    def __init__(
        self, tiers: Sequence[MemoryTier], block_size: int, cpu: type[NaiveTier] = NaiveTier
    ) -> None:
        made = [
            (NaiveTier if number else cpu)(tier.kv_tokens // block_size, tier.token_s * block_size)
            for number, tier in enumerate(tiers)
        ]
        self.names = tuple(tier.name for tier in tiers)
        self.all = tuple(made)
        self.cpu, self.disk = made[0], made[1] if len(made) > 1 else None
        self.fetching: dict[int, float] = {}  # key -> when the GPU has the block that is on its way there
        self.promoted: dict[int, set[int]] = {}  # request id -> keys that were read from the disk for it

    def store(self, id: int, keys: Sequence[int], now: float) -> bool:
        """Copy those of a request's blocks that are not there; False, and nothing done, without room."""
        cpu, disk = self.cpu, self.disk
        new = [key for key in keys if key not in cpu.ready_s]
        cpu.offered(id, keys, new, now)
        if not new:
            return True
        kept = set(keys) if len(new) < len(keys) else ()
        if not cpu.make_room(len(new), kept, now):
            return False
        ready_s = cpu.into.carry(len(new), now)
        cpu.add(id, new, ready_s)
        if disk is not None:
            new = [key for key in new if key not in disk.ready_s]
            if new and disk.make_room(len(new), (), now):
                written_s = disk.into.carry(len(new), ready_s)
                disk.add(id, new, written_s)
                cpu.read(new, written_s)
        return True

    def find(self, id: int, keys: Sequence[int], now: float) -> tuple[int, float]:
        """How many of the first of these blocks are there for the request, and when all of them can be
        fetched; those that only the disk has are read from now on.
        """
        in_cpu, on_disk = self.cpu.ready_s, {} if self.disk is None else self.disk.ready_s
        found, until_s, wanted = 0, now, list[int]()
        first_wanted = 0
        for key in keys:
            at_s = in_cpu.get(key)
            if at_s is None:
                at_s = on_disk.get(key)
                if at_s is None:
                    break
                if not wanted:
                    first_wanted = found
                wanted.append(key)
            if at_s > until_s:
                until_s = at_s
            found += 1
        if wanted:
            self.cpu.offered(id, wanted, wanted, now)
            if self.cpu.make_room(len(wanted), set(keys[:found]), now):
                assert self.disk is not None
                until_s = self.disk.out.carry(len(wanted), until_s)
                self.cpu.add(id, wanted, until_s)
                self.disk.read(wanted, until_s)
                self.promoted.setdefault(id, set()).update(wanted)
            else:
                found = first_wanted
                until_s = max((in_cpu[key] for key in keys[:found]), default=now)
        if self.fetching:
            until_s = max(until_s, *(self.fetching.get(key, now) for key in keys[:found]), now)
        return found, max(until_s, now)

    def fetch(self, id: int, keys: Sequence[int], now: float) -> tuple[float, int]:
        """Bring blocks that are in CPU memory to the GPU; when they are there, and how many of them came from
        the disk.
        """
        there_s = self.cpu.out.carry(len(keys), now)
        self.cpu.fetched(id, keys)
        self.cpu.read(keys, there_s)
        self.fetching |= dict.fromkeys(keys, there_s)
        promoted = self.promoted.pop(id, set())
        return there_s, sum(key in promoted for key in keys)

    def fetched(self, keys: Sequence[int]) -> None:
        """They have arrived."""
        for key in keys:
            self.fetching.pop(key, None)

    def find_at_once(self, keys: Sequence[int], now: float) -> int:
        """How many of the first of these blocks can be read now, from wherever they are."""
        in_cpu, on_disk = self.cpu.ready_s, {} if self.disk is None else self.disk.ready_s
        for found, key in enumerate(keys):
            if in_cpu.get(key, on_disk.get(key, inf)) > now:
                return found
        return len(keys)

    def fetch_at_once(self, id: int, keys: Sequence[int], now: float) -> tuple[float, int]:
        """Bring blocks that were just found to the GPU, for which everything waits: the seconds that it
        takes, and how many of them came from the disk.
        """
        from_disk = [key for key in keys if key not in self.cpu.ready_s]
        seconds = len(keys) * self.cpu.out.block_s
        if from_disk:
            assert self.disk is not None
            seconds += len(from_disk) * self.disk.out.block_s
            self.cpu.offered(id, from_disk, from_disk, now)
            if self.cpu.make_room(len(from_disk), set(keys), now):
                self.cpu.add(id, from_disk, now + seconds)
            self.disk.read(from_disk, now + seconds)
        self.cpu.fetched(id, keys)
        self.cpu.read([key for key in keys if key in self.cpu.ready_s], now + seconds)
        return seconds, len(from_disk)

    def touch(self, id: int, keys: Sequence[int]) -> None:
        """A request that used these has ended."""
        for tier in self.all:
            tier.touch(id, keys)

    def let_in(self, id: int) -> None:
        """The request does not fetch what was read for it."""
        self.promoted.pop(id, None)

    def forget(self, id: int) -> None:
        """The request will not come back."""
        self.promoted.pop(id, None)
        self.cpu.forget(id)

    def fail(self, now: float) -> None:
        """The machine has failed: CPU memory is lost, and of the disk what was not written yet."""
        self.cpu.lose(now, all_of_it=True)
        if self.disk is not None:
            self.disk.lose(now, all_of_it=False)
        self.fetching.clear()
        self.promoted.clear()


@dataclass(slots=True)
class Access:
    """Keys that a request brought in, that it found and used, and that were looked for in vain."""

    inserted: set[int] = field(default_factory=set)
    reused: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)


class NaiveArcTier(NaiveTier):
    """A `NaiveTier` whose blocks stand in two lists: used by one request, and by several.

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
