"""CPU memory and a disk that hold blocks of KV beside the GPU: which are there, when they can be read, and
which are given up first.

The rules are those of vLLM 0.32's `OffloadingConnector` (`vllm/v1/kv_offload/cpu/manager.py`,
`cpu/policies/lru.py`, `tiering/manager.py`, `distributed/kv_transfer/kv_connector/v1/offloading/`): a full
block is stored when it is computed, not when the GPU gives it up; CPU memory gives up what was used least
recently (or goes by ARC, see `arc_tier`), and nothing that is being written or read; all that reaches it is
copied to the disk, and comes back through it. Each direction of each link carries one transfer after the
other. Blocks are looked up one by one by keys; knows nothing of requests that run, of the GPU's memory, or of
clocks but by argument.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from math import inf

from ..work import MemoryTier


class Link:
    """Carries blocks one transfer after the other, each block in `block_s` seconds."""

    __slots__ = ("block_s", "free_s")

    def __init__(self, block_s: float) -> None:
        self.block_s, self.free_s = block_s, 0.0

    def carry(self, blocks: int, now: float) -> float:
        """When so many blocks have arrived that are sent at `now`, behind all that was sent before."""
        self.free_s = max(now, self.free_s) + blocks * self.block_s
        return self.free_s


class Tier:
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


class Tiers:
    """CPU memory, of the class `cpu`, and perhaps a disk behind it."""

    def __init__(self, tiers: Sequence[MemoryTier], block_size: int, cpu: type[Tier] = Tier) -> None:
        made = [
            (Tier if number else cpu)(tier.kv_tokens // block_size, tier.token_s * block_size)
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
