"""CPU memory and a disk that hold blocks of KV beside the GPU: which are there, when they can be read, and
which are given up first.

The rules are those of vLLM 0.32's `OffloadingConnector` (`vllm/v1/kv_offload/cpu/manager.py`,
`cpu/policies/lru.py`, `tiering/manager.py`, `distributed/kv_transfer/kv_connector/v1/offloading/`): a full
block is stored when it is computed, not when the GPU gives it up; CPU memory gives up what was used least
recently (or goes by ARC, see `arc_tier`), and nothing that is being written or read; all that reaches it is
copied to the disk, and comes back through it. Each direction of each link carries one transfer after the
other.

The rules speak of single blocks, which are handled in spans here. Knows nothing of requests that run, of the
GPU's memory, or of clocks but by argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from ..work import MemoryTier
from .block_sets import block_set, union
from .prefix_blocks import Path
from .radix_tree import BlockRange, Node, RadixTree, between
from .spans import Order, Span, Spans, take_out, use


def count(parts: Sequence[Span] | Sequence[BlockRange]) -> int:
    """How many blocks these are."""
    blocks = 0
    for part in parts:
        blocks += part.high - part.low
    return blocks


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
    """The blocks of one tier, `spans`, and the order in which they were used.

    `into`, `out`: the links by which blocks come in, and are read. `keeps_wanted`: whether blocks that turns
    to come want are given up after all others. `num_evicted`: blocks given up for others.
    """

    __slots__ = ("into", "keeps_wanted", "num_blocks", "num_evicted", "order", "out", "spans")

    def __init__(self, num_blocks: int, block_s: float, *, keeps_wanted: bool = True) -> None:
        self.keeps_wanted = keeps_wanted
        self.num_blocks, self.num_evicted = num_blocks, 0
        self.into, self.out = Link(block_s), Link(block_s)
        self.spans, self.order = Spans(), Order()

    @property
    def num_held(self) -> int:
        """Blocks that are here, or on their way."""
        return self.order.num_blocks

    @property
    def nodes(self) -> Iterable[Node]:
        """Those of which it knows blocks."""
        return self.spans.by_node

    def make_room(self, blocks: int, kept: Collection[Span], now: float) -> bool:
        """Give up what was used least recently, at last what is wanted, until so many more find room; False,
        and nothing done, where too many are `kept` or in use.
        """
        too_many = self.num_held + blocks - self.num_blocks
        if too_many <= 0:
            return True
        unwanted, wanted = self._used_least_recently(too_many, kept, now)
        missing = too_many - count(unwanted)
        if missing > count(wanted):
            return False
        leaving, _ = self.spans.divide(unwanted, too_many)
        leaving_too, staying = self.spans.divide(wanted, missing)
        for span in staying:  # not looked at again before all others
            take_out(span)
            self.order.put(span)
        for span in (*leaving, *leaving_too):
            self.spans.remove(span)
        self.num_evicted += too_many
        return True

    def _used_least_recently(
        self, most: int, kept: Collection[Span], now: float
    ) -> tuple[list[Span], list[Span]]:
        """What may be given up, by last use, until so many blocks are wanted by no turn to come: those, and
        what is wanted.
        """
        unwanted: list[Span] = []
        wanted: list[Span] = []
        missing, end, keeps_wanted = most, self.order.end, self.keeps_wanted
        span = end.after
        while missing > 0 and span is not end:
            if span.ready_s <= now and span.busy_s <= now and span not in kept:
                until = max(span.node.wanted) if keeps_wanted and span.node.wanted else 0
                if span.low < until < span.high:
                    part = self.spans.cut(span, until)
                    span = part if span.is_reversed else span  # that of the two which was used first
                if span.low < until:
                    wanted.append(span)
                else:
                    unwanted.append(span)
                    missing -= span.high - span.low
            span = span.after
        return unwanted, wanted

    def offered(self, id: int, there: Sequence[Span], missing: Sequence[BlockRange], now: float) -> None:
        """A request has blocks to store, of which these are there, and these are not."""

    def add(self, id: int, blocks: Sequence[BlockRange], ready_s: float) -> None:
        """There is room for these of a request, which can be read from then on."""
        for node, low, high in blocks:
            self.spans.add(Span(node, low, high, ready_s), self.order)

    def read(self, blocks: Sequence[BlockRange], until_s: float) -> list[Span]:
        """Those of these that are here are being read; none of them is given up before."""
        there, _ = self.spans.find(blocks)
        for span in there:
            span.busy_s = max(span.busy_s, until_s)
        return there

    def fetched(self, id: int, blocks: Sequence[BlockRange]) -> None:
        """A request uses these."""

    def touch(self, id: int, blocks: Sequence[BlockRange]) -> None:
        """A request that used these has ended, the first of them last."""
        use(self.spans.find(blocks)[0], self.order)

    def forget(self, id: int) -> None:
        """The request will not come back."""

    def lose(self, now: float, *, all_of_it: bool) -> None:
        """All is lost, or all that is not written yet; no transfer goes on."""
        for span in [span for spans in self.spans.by_node.values() for span in spans]:
            span.busy_s = 0.0
            if all_of_it or span.ready_s > now:
                self.spans.remove(span)
        self.into.free_s = self.out.free_s = 0.0


class Tiers:
    """CPU memory, of the class `cpu`, and perhaps a disk behind it.

    `tree`: the names that blocks have in all tiers. `named`: those of a request's blocks, by its id, from
    when it was first asked about until it ends or is forgotten. `promoted`: the set of its blocks that were
    read from the disk for it.
    """

    def __init__(self, tiers: Sequence[MemoryTier], block_size: int, cpu: type[Tier] = Tier) -> None:
        sizes = [(tier.kv_tokens // block_size, tier.token_s * block_size) for tier in tiers]
        self.names = tuple(tier.name for tier in tiers)
        self.cpu = cpu(*sizes[0])
        self.disk = Tier(*sizes[1], keeps_wanted=False) if len(sizes) > 1 else None
        self.all = (self.cpu,) if self.disk is None else (self.cpu, self.disk)
        self.tree = RadixTree()
        self.promoted: dict[int, int] = {}
        self.named: dict[int, list[BlockRange]] = {}

    def _blocks(self, id: int, path: Path, low: int, high: int) -> list[BlockRange]:
        """Blocks of a request by the names that they have in all tiers."""
        if id not in self.named:
            if self.tree.is_large:
                self._forget_names()
            self.named[id] = self.tree.insert(path)
        return between(self.named[id], low, high)

    def _forget_names(self) -> None:
        """Forget those of blocks that no tier knows and nobody asks about."""
        asked = (blocks.node for named in self.named.values() for blocks in named)
        self.tree.sweep([*asked, *(node for tier in self.all for node in tier.nodes)])

    # Store

    def store(self, id: int, path: Path, low: int, high: int, now: float) -> bool:
        """Copy those blocks `low` up to `high` of a request that are not there; False, and nothing done,
        without room.
        """
        cpu, disk = self.cpu, self.disk
        there, new = cpu.spans.find(self._blocks(id, path, low, high))
        cpu.offered(id, there, new, now)
        if not new:
            return True
        if not cpu.make_room(count(new), set(there), now):
            return False
        ready_s = cpu.into.carry(count(new), now)
        cpu.add(id, new, ready_s)
        if disk is not None:
            _, new = disk.spans.find(new)
            if new and disk.make_room(count(new), (), now):
                written_s = disk.into.carry(count(new), ready_s)
                disk.add(id, new, written_s)
                cpu.read(new, written_s)
        return True

    # Fetch

    def _found(self, blocks: Sequence[BlockRange]) -> Iterator[tuple[Span, bool]]:
        """Where the first of these blocks are, up to one that is nowhere, and whether that is the disk: what
        CPU memory has is not looked for there.
        """
        for part in blocks:
            there, missing = self.cpu.spans.find([part])
            found = [(span, False) for span in there]
            if self.disk is not None and missing:
                there, missing = self.disk.spans.find(missing)
                found += [(span, True) for span in there]
                found.sort(key=lambda each: each[0].low)
            for span, is_on_disk in found:
                if missing and span.low > missing[0].low:
                    return
                yield span, is_on_disk
            if missing:
                return

    def find(self, id: int, path: Path, low: int, high: int, now: float) -> tuple[int, float]:
        """How many of the first of blocks `low` up to `high` are there for the request, and when all of them
        can be fetched; those that only the disk has are read from now on.
        """
        cpu, until_s = self.cpu, now
        in_cpu: list[Span] = []
        wanted: list[BlockRange] = []
        found = low
        for span, is_on_disk in self._found(self._blocks(id, path, low, high)):
            until_s, found = max(until_s, span.ready_s), span.high
            if is_on_disk:
                wanted.append(BlockRange(span.node, span.low, span.high))
            else:
                in_cpu.append(span)
        if wanted:
            cpu.offered(id, (), wanted, now)
            if cpu.make_room(count(wanted), set(in_cpu), now):
                assert self.disk is not None
                until_s = self.disk.out.carry(count(wanted), until_s)
                cpu.add(id, wanted, until_s)
                self.disk.read(wanted, until_s)
                self.promoted[id] = self.promoted.get(id, 0) | union(wanted)
            else:
                found = wanted[0].low
                in_cpu = [span for span in in_cpu if span.low < found]
                until_s = max((span.ready_s for span in in_cpu), default=now)
        return found - low, max((now, until_s, *(span.sent_s for span in in_cpu)))

    def fetch(self, id: int, path: Path, low: int, high: int, now: float) -> tuple[float, int]:
        """Bring blocks that are in CPU memory to the GPU; when they are there, and how many of them came from
        the disk.
        """
        blocks = self._blocks(id, path, low, high)
        there_s = self.cpu.out.carry(high - low, now)
        self.cpu.fetched(id, blocks)
        for span in self.cpu.read(blocks, there_s):
            span.sent_s = there_s
        return there_s, (self.promoted.pop(id, 0) & block_set(low, high)).bit_count()

    def find_at_once(self, id: int, path: Path, low: int, high: int, now: float) -> int:
        """How many of the first of these blocks can be read now, from wherever they are."""
        found = low
        for span, _ in self._found(self._blocks(id, path, low, high)):
            if span.ready_s > now:
                break
            found = span.high
        return found - low

    def fetch_at_once(self, id: int, path: Path, low: int, high: int, now: float) -> tuple[float, int]:
        """Bring blocks that were just found to the GPU, for which everything waits: the seconds that it
        takes, and how many of them came from the disk.
        """
        cpu, blocks = self.cpu, self._blocks(id, path, low, high)
        there, from_disk = cpu.spans.find(blocks)
        seconds = (high - low) * cpu.out.block_s
        if from_disk:
            assert self.disk is not None
            seconds += count(from_disk) * self.disk.out.block_s
            cpu.offered(id, (), from_disk, now)
            if cpu.make_room(count(from_disk), set(there), now):
                cpu.add(id, from_disk, now + seconds)
            self.disk.read(from_disk, now + seconds)
        cpu.fetched(id, blocks)
        cpu.read(blocks, now + seconds)
        return seconds, count(from_disk)

    # Keep

    def want(self, path: Path, num_blocks: int) -> list[BlockRange]:
        """One more turn to come wants the first so many blocks of a sequence, those too that are not here
        yet: CPU memory gives them up after all others. Returns which they are.
        """
        wanted = between(self.tree.insert(path), 0, num_blocks)
        for node, _, high in wanted:
            node.wanted.append(high)
        return wanted

    def want_no_more(self, wanted: Sequence[BlockRange]) -> None:
        """One of the turns that wanted these wants them no longer; others still may."""
        for node, _, high in wanted:
            node.wanted.remove(high)

    def touch(self, id: int, path: Path, low: int, high: int) -> None:
        """A request that used these blocks has ended."""
        blocks = self._blocks(id, path, low, high)
        for tier in self.all:
            tier.touch(id, blocks)
        del self.named[id]

    def let_in(self, id: int) -> None:
        """The request does not fetch what was read for it."""
        self.promoted.pop(id, None)

    def forget(self, id: int) -> None:
        """The request will not come back."""
        self.promoted.pop(id, None)
        self.named.pop(id, None)
        self.cpu.forget(id)

    def fail(self, now: float) -> None:
        """The machine has failed: CPU memory is lost, and of the disk what was not written yet."""
        self.cpu.lose(now, all_of_it=True)
        if self.disk is not None:
            self.disk.lose(now, all_of_it=False)
        self.promoted.clear()
        self.named.clear()
        self.tree.want_nothing()
