"""CPU memory and a disk beside the pool of `naive_prefixes`, block by block and iteration by iteration, as
naively as the rules are told: the judge of our tiers.

A block is named by the tokens up to its end. Knows nothing of keys, runs, leaps or our scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from real.validation.decisions import Decision
from tests.sim.schedulers.naive_prefixes import Block, NaiveScheduler, Sequence
from tests.vllm.worlds import World

Name = tuple[int, ...]


@dataclass(eq=False)
class Stored:
    """A block in a tier: from when on it can be read, until when it is, and when it was used last."""

    ready: float
    busy: float
    rank: int


@dataclass(eq=False)
class NaiveTier:
    """So many blocks, each of which takes `block_s` to come or to go."""

    capacity: int
    block_s: float
    blocks: dict[Name, Stored] = field(default_factory=dict)
    into_free: float = 0.0
    out_free: float = 0.0
    num_evicted: int = 0

    def room(self, wanted: int, kept: list[Name], now: float) -> bool:
        idle = [n for n, b in self.blocks.items() if b.ready <= now and b.busy <= now and n not in kept]
        idle.sort(key=lambda name: self.blocks[name].rank)
        gone = max(0, len(self.blocks) + wanted - self.capacity)
        if gone > len(idle):
            return False
        for name in idle[:gone]:
            del self.blocks[name]
        self.num_evicted += gone
        return True


class Waiting(NamedTuple):
    """In memory, and until when its blocks with these names are on their way."""

    sequence: Sequence
    there: float
    names: list[Name]


@dataclass(eq=False)
class Stores:
    """What each request has stored up to, and the first block that it used in the tiers."""

    up_to: int = 0
    first: int | None = None


class NaiveTiers(NaiveScheduler):
    """Decides one iteration after the other, at the times that it is told."""

    def __init__(self, world: World, tiers: list[NaiveTier], *, overlaps: bool) -> None:
        super().__init__(world)
        self.cpu, self.disk, self.tiers = tiers[0], (tiers[1] if len(tiers) > 1 else None), tiers
        self.overlaps, self.now, self.ranks = overlaps, 0.0, 0
        self.held: list[Waiting] = []
        self.until: dict[int, float] = {}
        self.promoted: dict[int, set[Name]] = {}
        self.stores = [Stores() for _ in world.requests]
        self.fetched: dict[int, list[int]] = {}  # number -> blocks from CPU memory and disk, in turns
        self.stall = 0.0

    def rank_next(self) -> int:
        self.ranks += 1
        return self.ranks

    def names(self, sequence: Sequence, low: int, high: int) -> list[Name]:
        return [tuple(sequence.tokens[: (k + 1) * self.size]) for k in range(low, high)]

    def shared_blocks(self, number: int) -> int:
        """Full blocks of the prompt that others may have: what it goes on from, and its texts."""
        asking = self.world.requests[number]
        known = sum(length for _, length in asking.texts)
        if asking.after >= 0:
            before = self.world.requests[asking.after]
            known += before.prompt_tokens + before.output_tokens
        return known // self.size

    # Store

    def store(self, sequence: Sequence, until: int) -> None:
        state = self.stores[sequence.number]
        offered = self.names(sequence, state.up_to, until)
        new = [name for name in offered if name not in self.cpu.blocks]
        if not self.cpu.room(len(new), offered, self.now):
            return
        state.up_to = max(state.up_to, until)
        if not new:
            return
        self.cpu.into_free = max(self.cpu.into_free, self.now) + len(new) * self.cpu.block_s
        for name in new:
            self.cpu.blocks[name] = Stored(self.cpu.into_free, 0.0, self.rank_next())
        if self.disk is None:
            return
        unwritten = [name for name in new if name not in self.disk.blocks]
        if unwritten and self.disk.room(len(unwritten), [], self.now):
            start = max(self.disk.into_free, self.cpu.into_free)
            self.disk.into_free = start + len(unwritten) * self.disk.block_s
            for name in unwritten:
                self.disk.blocks[name] = Stored(self.disk.into_free, 0.0, self.rank_next())
                self.cpu.blocks[name].busy = self.disk.into_free

    def allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        if not super().allocate(sequence, num_tokens):
            return False
        if not sequence.decodes:
            full = (sequence.computed + num_tokens) // self.size
            self.store(sequence, min(full, self.shared_blocks(sequence.number)))
        return True

    def preempt(self, sequence: Sequence) -> None:
        self.store(sequence, sum(block.tokens is not None for block in sequence.blocks))
        super().preempt(sequence)

    def end(self, sequence: Sequence) -> None:
        """All it has is stored, and most recent from now on, its first block most of all."""
        full = sum(block.tokens is not None for block in sequence.blocks)
        self.store(sequence, full)
        first = self.stores[sequence.number].first or 0
        for name in reversed(self.names(sequence, first, full)):
            rank = self.rank_next()
            for tier in self.tiers:
                if name in tier.blocks:
                    tier.blocks[name].rank = rank

    def step(self, tokens: dict[int, int]) -> None:
        last = [
            sequence
            for sequence in self.running
            if sequence.number in tokens
            and sequence.computed + tokens[sequence.number] == len(sequence.tokens)
            and len(sequence.tokens) + 1
            == self.world.requests[sequence.number].prompt_tokens + len(sequence.answer)
        ]
        for sequence in last:
            self.end(sequence)
        super().step(tokens)

    # Fetch

    def arrive(self) -> None:
        for waiting in self.held:
            sequence = waiting.sequence
            if waiting.there <= self.now:
                for k, block in enumerate(sequence.blocks):
                    if block.tokens is None:
                        self.pool.fill(block, tuple(sequence.tokens[: (k + 1) * self.size]))

    def look_up(self, sequence: Sequence, num_hits: int) -> tuple[list[Name], float]:
        """Names behind the hits that are in a tier, and when all of them can be fetched."""
        found, wanted, until = list[Name](), list[Name](), self.now
        for name in self.names(sequence, num_hits, len(sequence.tokens) // self.size):
            if name in self.cpu.blocks:
                until = max(until, self.cpu.blocks[name].ready)
            elif self.disk is not None and name in self.disk.blocks:
                until = max(until, self.disk.blocks[name].ready)
                wanted.append(name)
            else:
                break
            found.append(name)
        if wanted and self.disk is not None:
            if self.cpu.room(len(wanted), found, self.now):
                until = self.disk.out_free = max(self.disk.out_free, until) + len(wanted) * self.disk.block_s
                for name in wanted:
                    self.cpu.blocks[name] = Stored(until, 0.0, self.rank_next())
                    self.disk.blocks[name].busy = until
                self.promoted.setdefault(sequence.number, set()).update(wanted)
            else:
                found = found[: found.index(wanted[0])]
                until = max([self.now, *(self.cpu.blocks[name].ready for name in found)])
        for waiting in self.held:
            if waiting.there > self.now and set(waiting.names) & set(found):
                until = max(until, waiting.there)
        return found, until

    def at_once(self, sequence: Sequence, num_hits: int) -> list[Name]:
        found: list[Name] = []
        for name in self.names(sequence, num_hits, len(sequence.tokens) // self.size):
            there = self.cpu.blocks.get(name) or (self.disk.blocks.get(name) if self.disk else None)
            if there is None or there.ready > self.now:
                break
            found.append(name)
        return found

    def note(self, sequence: Sequence, names: list[Name], num_hits: int, num_from_disk: int) -> None:
        state = self.stores[sequence.number]
        state.first = num_hits if state.first is None and not state.up_to else min(state.first or 0, num_hits)
        state.up_to = max(state.up_to, num_hits + len(names))
        self.fetched.setdefault(sequence.number, []).extend([len(names) - num_from_disk, num_from_disk])

    def admit(self, budget: int, tokens: dict[int, int]) -> dict[int, int]:
        found: dict[int, int] = {}
        if not self.admit_held(budget, tokens, found):
            return found
        budget -= sum(tokens[number] for number in found)
        for sequence in list(self.waiting):
            if len(self.running) == self.world.max_num_seqs:
                break
            if self.until.get(sequence.number, -1.0) > self.now:
                continue
            if budget <= 0 or not self.try_one(sequence, budget, tokens, found):
                break
            if sequence.number in found:
                budget -= tokens[sequence.number]
        return found

    def admit_held(self, budget: int, tokens: dict[int, int], found: dict[int, int]) -> bool:
        """Who waits in memory and has all blocks; False where nobody else may be let in."""
        for waiting in list(self.held):
            sequence = waiting.sequence
            if waiting.there > self.now:
                continue
            if len(self.running) == self.world.max_num_seqs or budget <= 0:
                return False
            sequence.computed = min(len(sequence.blocks) * self.size, len(sequence.tokens) - 1)
            num_tokens = min(len(sequence.tokens) - sequence.computed, budget)
            if not self.allocate(sequence, num_tokens):
                return False
            self.held.remove(waiting)
            self.running.append(sequence)
            tokens[sequence.number], found[sequence.number] = num_tokens, sequence.computed
            budget -= num_tokens
        return True

    def try_one(self, sequence: Sequence, budget: int, tokens: dict[int, int], found: dict[int, int]) -> bool:
        """Let it in, have it fetched or pass it over; False where it has to wait for memory."""
        hits, length = self.hits(sequence), len(sequence.tokens)
        unheld = sum(not block.holders for block in hits)
        if -(-length // self.size) - len(hits) + unheld > len(self.pool.free):
            return False
        if self.overlaps:
            names, until = self.look_up(sequence, len(hits))
            if until > self.now:
                self.until[sequence.number] = until
                return True
            if names:
                return self.fetch(sequence, hits, names)
        else:
            names = self.at_once(sequence, len(hits))
            if names:
                self.fetch_now(sequence, names, len(hits))
        self.promoted.pop(sequence.number, None)
        for block in hits:
            self.pool.touch(block)
        sequence.blocks = hits
        sequence.computed = min((len(hits) + len(names)) * self.size, length - 1)
        num_tokens = min(length - sequence.computed, budget)
        assert self.allocate(sequence, num_tokens)
        self.waiting.remove(sequence)
        self.running.append(sequence)
        tokens[sequence.number], found[sequence.number] = num_tokens, sequence.computed
        return True

    def fetch(self, sequence: Sequence, hits: list[Block], names: list[Name]) -> bool:
        """It gets memory and waits for its blocks; False where others have yet to take what is free."""
        unheld = sum(not block.holders for block in hits)
        others = [s for s in self.running if not s.decodes] + [w.sequence for w in self.held]
        reserved = sum(-(-len(other.tokens) // self.size) - len(other.blocks) for other in others)
        if len(names) + unheld + reserved > len(self.pool.free):
            return False
        for block in hits:
            self.pool.touch(block)
        sequence.blocks = hits + [self.pool.take() for _ in names]
        self.cpu.out_free = max(self.cpu.out_free, self.now) + len(names) * self.cpu.block_s
        for name in names:
            self.cpu.blocks[name].busy = max(self.cpu.blocks[name].busy, self.cpu.out_free)
        promoted = self.promoted.pop(sequence.number, set())
        self.note(sequence, names, len(hits), sum(name in promoted for name in names))
        self.waiting.remove(sequence)
        self.held.append(Waiting(sequence, self.cpu.out_free, names))
        return True

    def fetch_now(self, sequence: Sequence, names: list[Name], num_hits: int) -> None:
        """The iteration waits for these."""
        from_disk = [name for name in names if name not in self.cpu.blocks]
        seconds = len(names) * self.cpu.block_s
        if from_disk and self.disk is not None:
            seconds += len(from_disk) * self.disk.block_s
            if self.cpu.room(len(from_disk), names, self.now):
                for name in from_disk:
                    self.cpu.blocks[name] = Stored(self.now + seconds, 0.0, self.rank_next())
            for name in from_disk:
                self.disk.blocks[name].busy = max(self.disk.blocks[name].busy, self.now + seconds)
        for name in names:
            if name in self.cpu.blocks:
                self.cpu.blocks[name].busy = max(self.cpu.blocks[name].busy, self.now + seconds)
        self.stall += seconds
        self.note(sequence, names, num_hits, len(from_disk))


def decide(world: World, tiers: list[NaiveTier], *, overlaps: bool) -> tuple[list[Decision], NaiveTiers]:
    """All decisions, each iteration a second long but for what it waits for, and the scheduler in the end."""
    scheduler = NaiveTiers(world, tiers, overlaps=overlaps)
    answers = [
        [1_000_000 + 1_000 * number + k for k in range(asking.output_tokens)]
        for number, asking in enumerate(world.requests)
    ]
    prompts = world.prompts(answers.__getitem__, 500_000)
    coming = list(range(len(prompts)))
    decisions, now, preempted = list[Decision](), 0.0, list[int]()
    while coming or scheduler.running or scheduler.waiting or scheduler.held:
        while coming and world.requests[coming[0]].arrival <= now:
            number = coming.pop(0)
            sequence = Sequence(number, scheduler.rank(number), prompts[number], answers[number])
            scheduler.waiting.append(sequence)
        scheduler.waiting.sort(key=lambda waiting: waiting.rank)
        scheduler.now = now
        scheduler.arrive()
        scheduler.stall = 0.0
        tokens, found, gone = scheduler.schedule()
        preempted += gone
        if tokens:
            used = len(scheduler.pool.blocks) - len(scheduler.pool.free)
            decisions.append(Decision(round(now), tokens, found, tuple(sorted(preempted)), used))
            now += 1 + scheduler.stall
            scheduler.now = now
            scheduler.step(tokens)
            preempted = []
            continue
        if gone:  # an iteration in which nobody could go on takes no time
            continue
        later = [world.requests[coming[0]].arrival] if coming else []
        later += [waiting.there for waiting in scheduler.held]
        later += [scheduler.until.get(waiting.number, 0.0) for waiting in scheduler.waiting]
        now = min(at for at in later if at > now)
    return decisions, scheduler
