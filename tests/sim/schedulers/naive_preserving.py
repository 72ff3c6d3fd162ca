"""Sessions whose memory stays held between turns, block by block and second by second; for tests.

An iteration takes a second, and so does any prompt. Knows nothing of runs of blocks, leaps or our scheduler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.sim.schedulers.naive_prefixes import Block, NaiveScheduler, Sequence
from traces.trace import Trace


class Held(NamedTuple):
    """What is held for the turn after this one, and when that is due."""

    due: float
    blocks: list[Block]


@dataclass
class Replay:
    """Seconds at which turns were scheduled, had their first token and ended, by row."""

    scheduled: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    finish: dict[int, int] = field(default_factory=dict)
    found: int = 0
    preemptions: int = 0
    preserved: int = 0
    gave_way: int = 0


class NaivePreserving(NaiveScheduler):
    """vLLM's rules, and memory that is held for turns to come."""

    def __init__(self, world: Any, trace: Trace, way: str) -> None:
        super().__init__(world)
        self.trace, self.way, self.replay, self.now = trace, way, Replay(), 0
        assert trace.waits_for is not None
        self.parent: list[int] = trace.waits_for[:, 0].tolist()
        self.wait_s = {parent: float(trace.thinks_s[row]) for row, parent in enumerate(self.parent)}
        self.has_answers = trace.blocks is not None and trace.blocks.answers is not None
        self.held: dict[int, Held] = {}
        self.back: set[int] = set()

    def rank(self, number: int) -> tuple[int, int, int]:
        """Who comes back to what is held goes first."""
        return int(number not in self.back), self.world.requests[number].arrival, number

    def give_way(self) -> None:
        """What is due last is held no longer."""
        row = max(self.held, key=lambda row: (self.held[row].due, self.name(row)))
        self.pool.release(self.held.pop(row).blocks)
        self.replay.gave_way += 1

    def name(self, row: int) -> int:
        """The hash by which the next turn finds what a turn has left."""
        blocks = self.trace.blocks
        assert blocks is not None
        return blocks.of(row)[0][-1] if blocks.answers is None else int(blocks.answers[row])

    def can_go_on(self) -> bool:
        """Whether there is memory for the next token or chunk of all that run."""
        budget = self.world.max_num_batched_tokens - sum(each.decodes for each in self.running)
        needed = 0
        for each in self.running:
            num_tokens = 1 if each.decodes else min(len(each.tokens) - each.computed, budget)
            budget -= 0 if each.decodes else num_tokens
            needed += max(0, -(-(each.computed + num_tokens) // self.size) - len(each.blocks))
        return needed <= len(self.pool.free)

    def schedule(self) -> tuple[dict[int, int], dict[int, int], list[int]]:
        """As ever, where what is held gives way to those that run, and to others where nobody does."""
        while self.held and not self.can_go_on():
            self.give_way()
        tokens, found, preempted = super().schedule()
        while self.waiting and self.held and not self.running:
            self.give_way()
            found |= self.admit(self.world.max_num_batched_tokens, tokens)
        return tokens, found, preempted

    def admit(self, budget: int, tokens: dict[int, int]) -> dict[int, int]:
        """Who is let in holds itself what was held for it."""
        found = super().admit(budget, tokens)
        for number in found:
            if (held := self.held.pop(self.parent[number], None)) is not None:
                self.pool.release(held.blocks)
        return found

    def step(self, tokens: dict[int, int]) -> None:
        """What was scheduled is computed; what has ended is held or free."""
        ended: list[Sequence] = []
        for each in list(self.running):
            each.computed += tokens.get(each.number, 0)
            if each.number in tokens and each.computed == len(each.tokens):
                each.decodes = True
                prompt_tokens = self.world.requests[each.number].prompt_tokens
                self.replay.first.setdefault(each.number, self.now + 1)
                each.tokens.append(each.answer[len(each.tokens) - prompt_tokens])
                if len(each.tokens) == prompt_tokens + len(each.answer):
                    self.running.remove(each)
                    ended.append(each)
                    self.replay.finish[each.number] = self.now + 1
        left: list[Sequence] = []
        for each in ended:
            num_full = each.computed // self.size
            if not self.has_answers:
                num_full = self.world.requests[each.number].prompt_tokens // self.size
            if each.number in self.wait_s and num_full:
                self.pool.release(each.blocks[num_full:])
                each.blocks = each.blocks[:num_full]
                left.append(each)
            else:
                self.pool.release(each.blocks)
        in_use = sum(each.computed for each in self.running)
        for each in left:
            wait_s, tokens_left = self.wait_s[each.number], len(each.blocks) * self.size
            is_less = wait_s * tokens_left < 1.0 * (tokens_left + in_use)
            if self.way == "preserve" or (self.way == "least-waste" and is_less):
                self.held[each.number] = Held(self.now + 1 + wait_s, each.blocks)
                self.replay.preserved += 1
            else:
                self.pool.release(each.blocks)


def texts(trace: Trace) -> tuple[list[list[Any]], list[list[Any]]]:
    """Every prompt and every answer as tokens that are equal where they are known to be."""
    blocks = trace.blocks
    assert blocks is not None
    prompts, answers = list[list[Any]](), list[list[Any]]()
    for row in range(len(trace)):
        tokens: list[Any] = []
        for name, end in zip(*blocks.of(row), strict=True):
            tokens += [(name, at) for at in range(len(tokens), end)]
        length = int(trace.prompt_tokens[row])
        tokens += [("own", row, at) for at in range(len(tokens), length)]
        name = ("answer", row) if blocks.answers is None else int(blocks.answers[row])
        prompts.append(tokens)
        answers.append([(name, at) for at in range(length, length + int(trace.output_tokens[row]))])
    return prompts, answers


def replay(trace: Trace, blocks: int, seats: int, budget: int, way: str) -> Replay:
    """The whole trace."""
    assert trace.arrival_s is not None
    prompts, answers = texts(trace)
    requests = [
        SimpleNamespace(arrival=int(arrival), prompt_tokens=len(prompt))
        for arrival, prompt in zip(trace.arrival_s, prompts, strict=True)
    ]
    world = SimpleNamespace(
        block_size=16,
        num_gpu_blocks=blocks,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        chunked=True,
        prefix_caching=True,
        priority=True,
        async_scheduling=False,
        requests=requests,
    )
    scheduler = NaivePreserving(world, trace, way)
    done = scheduler.replay
    coming: dict[int, float] = {
        row: requests[row].arrival for row, parent in enumerate(scheduler.parent) if parent < 0
    }
    while coming or scheduler.running or scheduler.waiting:
        if not scheduler.running and not scheduler.waiting:
            scheduler.now = max(scheduler.now, math.ceil(min(coming.values())))
        for row in sorted(row for row, at in coming.items() if at <= scheduler.now):
            requests[row].arrival = int(coming.pop(row))
            if scheduler.parent[row] in scheduler.held:
                scheduler.back.add(row)
            scheduler.waiting.append(Sequence(row, scheduler.rank(row), prompts[row], answers[row]))
        scheduler.waiting.sort(key=lambda waiting: waiting.rank)
        tokens, found, gone = scheduler.schedule()
        done.preemptions += len(gone)
        for number, tokens_found in found.items():
            if number not in done.scheduled:
                done.scheduled[number] = scheduler.now
                done.found += tokens_found
        if tokens:
            before = set(done.finish)
            scheduler.step(tokens)
            scheduler.now += 1
            for row in set(done.finish) - before:
                coming |= {
                    follower: done.finish[row] + float(trace.thinks_s[follower])
                    for follower, parent in enumerate(scheduler.parent)
                    if parent == row
                }
    return done
