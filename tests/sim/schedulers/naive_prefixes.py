"""vLLM's scheduler over blocks one by one, as naively as its rules are told: the judge of our counting.

A block's hash is the tokens up to its end. Knows nothing of runs, leaps or our scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from real.validation.decisions import Decision
from tests.vllm.worlds import World


@dataclass(eq=False)
class Block:
    """One block of memory; `tokens`: those up to its end in the sequence that filled it, None: no hash."""

    holders: int = 0
    tokens: tuple[int, ...] | None = None


class Pool:
    """The free blocks in order, and the hashed ones in the order in which they got their hashes."""

    def __init__(self, num_blocks: int) -> None:
        self.blocks = [Block() for _ in range(num_blocks)]
        self.free = list(self.blocks)
        self.by_hash: dict[tuple[int, ...], list[Block]] = {}

    def lookup(self, tokens: tuple[int, ...]) -> Block | None:
        """The oldest block with these tokens."""
        found = self.by_hash.get(tokens)
        return found[0] if found else None

    def touch(self, block: Block) -> None:
        """One more holds it."""
        if not block.holders:
            self.free.remove(block)
        block.holders += 1

    def take(self) -> Block:
        """A free one, whose contents are lost."""
        block = self.free.pop(0)
        if block.tokens is not None:
            others = self.by_hash[block.tokens]
            others.remove(block)
            if not others:
                del self.by_hash[block.tokens]
            block.tokens = None
        block.holders = 1
        return block

    def fill(self, block: Block, tokens: tuple[int, ...]) -> None:
        """Its tokens are known."""
        block.tokens = tokens
        self.by_hash.setdefault(tokens, []).append(block)

    def release(self, blocks: list[Block]) -> None:
        """Given up, the last one first; those without a hash are taken before all others."""
        for block in blocks:
            block.holders -= 1
        free = [block for block in reversed(blocks) if not block.holders]
        self.free = [b for b in free if b.tokens is None] + self.free + [b for b in free if b.tokens]


@dataclass(eq=False)
class Sequence:
    """A request as it goes; `tokens` are all that are known, of which `computed` are in memory."""

    number: int
    rank: tuple[int, int, int]
    tokens: list[int]
    answer: list[int]
    blocks: list[Block] = field(default_factory=list)
    computed: int = 0
    decodes: bool = False


class NaiveScheduler:
    """Decides one iteration after the other."""

    def __init__(self, world: World, order: str = "", far_back: int = 0, starve_after: int = 0) -> None:
        assert not world.async_scheduling
        self.world, self.size = world, world.block_size
        self.order, self.far_back, self.starve_after = order, far_back, starve_after
        self.iteration, self.since = 0, dict[int, int]()  # from which on each waits, by number
        self.stuck: object = None  # who ran and who waited when the first that waits did not get in
        self.places: dict[int, int] = {}  # of those in the queue then
        self.pool = Pool(world.num_gpu_blocks - 1)
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []

    def rank(self, number: int) -> tuple[int, int, int]:
        """Who goes first, whatever memory holds."""
        asking = self.world.requests[number]
        if self.order == "shortest-uncached":
            return (asking.prompt_tokens, number, 0)
        return (asking.priority if self.world.priority else 0, asking.arrival, number)

    def allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for so many more tokens, hashed where they become full; False where there are too few."""
        end = sequence.computed + num_tokens
        needed = -(-end // self.size) - len(sequence.blocks)
        if needed > len(self.pool.free):
            return False
        hashed = sum(block.tokens is not None for block in sequence.blocks)
        sequence.blocks += [self.pool.take() for _ in range(needed)]
        for k in range(hashed, min(end, len(sequence.tokens)) // self.size):
            self.pool.fill(sequence.blocks[k], tuple(sequence.tokens[: (k + 1) * self.size]))
        return True

    def preempt(self, sequence: Sequence) -> None:
        """It gives up its memory and waits again, before those that came later."""
        self.running.remove(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.decodes = [], 0, False
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda waiting: waiting.rank)

    def schedule(self) -> tuple[dict[int, int], dict[int, int], list[int]]:
        """Tokens and found tokens by number, and who was preempted."""
        budget, tokens, preempted = self.world.max_num_batched_tokens, dict[int, int](), list[int]()
        position, has_room = 0, True
        while has_room and position < len(self.running) and budget > 0:
            sequence = self.running[position]
            num_tokens = min(len(sequence.tokens) - sequence.computed, budget)
            while not self.allocate(sequence, num_tokens):
                lowest = max(self.running, key=lambda running: running.rank)
                if not self.world.priority and not self.order:
                    lowest = self.running[-1]
                if self.running.index(lowest) < position:
                    position -= 1
                budget += tokens.pop(lowest.number, 0)
                self.preempt(lowest)
                preempted.append(lowest.number)
                if lowest is sequence:
                    has_room = False
                    break
            else:
                tokens[sequence.number] = num_tokens
                budget -= num_tokens
                position += 1
        found = {} if preempted else self.admit(budget, tokens)
        return tokens, found, preempted

    def hits(self, sequence: Sequence) -> list[Block]:
        """The blocks of its longest beginning in memory."""
        hits: list[Block] = []
        while len(hits) < (len(sequence.tokens) - 1) // self.size and self.world.prefix_caching:
            block = self.pool.lookup(tuple(sequence.tokens[: (len(hits) + 1) * self.size]))
            if block is None:
                break
            hits.append(block)
        return hits

    def by_memory(self, sequence: Sequence) -> tuple[int, tuple[int, int, int]]:
        """Who goes first by what memory holds."""
        found = len(self.hits(sequence)) * self.size
        is_longest = self.order == "longest-prefix-match"
        return -found if is_longest else len(sequence.tokens) - found, sequence.rank

    def who(self) -> tuple[set[int], set[int]]:
        """Those that run, and those that wait."""
        return {running.number for running in self.running}, {waiting.number for waiting in self.waiting}

    def put_in_order(self) -> None:
        """By memory, unless too many wait; as before, where nobody has come, left or been evicted since the
        first did not get in.
        """
        if not self.order:
            return
        if self.who() == self.stuck:
            self.waiting.sort(key=lambda waiting: self.places[waiting.number])
            return
        if len(self.waiting) <= self.far_back:
            self.waiting.sort(key=self.by_memory)
        for waiting in self.waiting:
            self.since.setdefault(waiting.number, self.iteration)
        starving = [w for w in self.waiting if self.iteration - self.since[w.number] >= self.starve_after > 0]
        starving.sort(key=lambda w: (self.since[w.number], self.waiting.index(w)))
        self.waiting = starving + [w for w in self.waiting if w not in starving]
        self.places = {waiting.number: place for place, waiting in enumerate(self.waiting)}

    def admit(self, budget: int, tokens: dict[int, int]) -> dict[int, int]:
        """Let the first of the queue in as long as budget, places and memory allow; tokens found of each."""
        found: dict[int, int] = {}
        is_out_of_budget = False
        if self.waiting and len(self.running) < self.world.max_num_seqs:
            self.put_in_order()
        while self.waiting and len(self.running) < self.world.max_num_seqs:
            sequence = self.waiting[0]
            hits = self.hits(sequence)
            left = len(sequence.tokens) - len(hits) * self.size
            if budget <= 0 or (left > budget and not self.world.chunked):
                is_out_of_budget = True
                break
            unheld = sum(not block.holders for block in hits)
            if -(-len(sequence.tokens) // self.size) - len(hits) + unheld > len(self.pool.free):
                break
            for block in hits:
                self.pool.touch(block)
            sequence.blocks, sequence.computed = hits, len(hits) * self.size
            num_tokens = min(left, budget)
            assert self.allocate(sequence, num_tokens)
            self.since.pop(self.waiting.pop(0).number, None)
            self.running.append(sequence)
            tokens[sequence.number] = num_tokens
            found[sequence.number] = sequence.computed
            budget -= num_tokens
        # After prompts that are computed now, the next iteration has more tokens left.
        has_prompts = any(not s.decodes and s.number in tokens for s in self.running)
        self.stuck = None if is_out_of_budget and has_prompts else self.who()
        return found

    def step(self, tokens: dict[int, int]) -> None:
        """What was scheduled is computed: a token for whoever has all its own in memory."""
        self.iteration += 1
        for sequence in list(self.running):
            sequence.computed += tokens.get(sequence.number, 0)
            if sequence.number in tokens and sequence.computed == len(sequence.tokens):
                sequence.decodes = True
                prompt_tokens = self.world.requests[sequence.number].prompt_tokens
                sequence.tokens.append(sequence.answer[len(sequence.tokens) - prompt_tokens])
                if len(sequence.tokens) == prompt_tokens + len(sequence.answer):
                    self.running.remove(sequence)
                    self.pool.release(sequence.blocks)
                    sequence.blocks = []


def decide(
    world: World, order: str = "", far_back: int = 0, starve_after: int = 0
) -> tuple[list[Decision], NaiveScheduler]:
    """All decisions, and the scheduler as it is in the end; with an `order` by memory where no more than
    `far_back` wait, before which those go that have waited for `starve_after` iterations.
    """
    scheduler = NaiveScheduler(world, order, far_back, starve_after)
    answers = [
        [1_000_000 + 1_000 * number + k for k in range(asking.output_tokens)]
        for number, asking in enumerate(world.requests)
    ]
    prompts = world.prompts(answers.__getitem__, 500_000)
    coming = list(range(len(prompts)))
    decisions, now, preempted = list[Decision](), 0, list[int]()
    while coming or scheduler.running or scheduler.waiting:
        if not scheduler.running and not scheduler.waiting:
            now = max(now, world.requests[coming[0]].arrival)
        while coming and world.requests[coming[0]].arrival <= now:
            number = coming.pop(0)
            sequence = Sequence(number, scheduler.rank(number), prompts[number], answers[number])
            scheduler.waiting.append(sequence)
        scheduler.waiting.sort(key=lambda waiting: waiting.rank)
        tokens, found, gone = scheduler.schedule()
        preempted += gone
        if tokens:
            used = len(scheduler.pool.blocks) - len(scheduler.pool.free)
            decisions.append(Decision(now, tokens, found, tuple(sorted(preempted)), used))
            scheduler.step(tokens)
            preempted, now = [], now + 1
    return decisions, scheduler
