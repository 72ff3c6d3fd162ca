"""An executor that carries out the work of a continuous scheduler an iteration a second, and keeps an
account of the memory of its own, block by block; for tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sim.kv_blocks import blocks_for
from sim.request import Request
from sim.schedulers import ContinuousScheduler
from sim.work import Drop, Iterations, Limits, Outcome, Perceive, Prediction


class Line(NamedTuple):
    """One iteration: who left the memory, which chunks were computed, who got another token."""

    evicted: list[int]
    chunks: list[tuple[int, int]]
    decoding: list[int]


class Pool:
    """Real blocks: a queue of free ones, whose content lasts until they are taken from its head."""

    def __init__(self, blocks: int) -> None:
        self.free = deque(range(blocks))
        self.content: dict[int, tuple[int, int]] = {}  # full block -> whose, which of his
        self.table: dict[int, list[int]] = {}

    def hold(self, i: int, tokens: int) -> None:
        """The request has so many tokens now."""
        table = self.table.setdefault(i, [])
        while len(table) < blocks_for(tokens, 16):
            self.content.pop(self.free[0], None)
            table.append(self.free.popleft())

    def release(self, i: int, tokens: int) -> None:
        """It leaves: full blocks keep their content and are taken last, beginning with its last one."""
        table, num_full = self.table.pop(i), tokens // 16
        self.content |= {table[k]: (i, k) for k in range(num_full)}
        self.free.extend(reversed(table[:num_full]))
        self.free.extendleft(table[num_full:])

    def reuse(self, i: int) -> int:
        """It is back: its blocks from the first on, as far as they are still there."""
        there = {self.content[b][1]: b for b in self.free if self.content.get(b, (None, 0))[0] == i}
        table = []
        while len(table) in there:
            table.append(there[len(table)])
            self.free.remove(table[-1])
        self.table[i] = table
        return len(table)


class Desk:
    """Carries out a scheduler's work, an iteration a second, and keeps an account of the memory of its own.

    `lengths` maps ids to true lengths; `answers` to what a Perceive answers, the true length where it is not
    there. `blocks`: those that requests can hold.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        lengths: Sequence[int],
        answers: Mapping[int, Prediction] | None = None,
        *,
        blocks: int = 10_000,
        perception_tokens: int = 0,
        **options: Any,
    ) -> None:
        limits = Limits(16 * (blocks + 1), perception_tokens=perception_tokens)
        self.scheduler, self.blocks = ContinuousScheduler(limits, **options), blocks
        self.pending = sorted(requests, key=lambda r: r.arrival_s)
        self.requests = {request.id: request for request in requests}
        self.lengths, self.answers = lengths, dict(answers or {})
        self.now = 0.0
        self.tokens: dict[int, int] = {}  # id -> tokens in memory
        self.pool = Pool(blocks)
        self.generated: dict[int, int] = {}  # id -> tokens generated
        self.begun: set[int] = set()  # ids that ever had a chunk
        self.lines: list[Line] = []
        self.asked: list[list[int]] = []
        self.dropped: dict[int, str] = {}
        self.finished: list[int] = []

    def step(self) -> bool:
        """One Work, or a wait for the next arrival; False where nothing is left."""
        scheduler = self.scheduler
        while self.pending and self.pending[0].arrival_s <= self.now:
            scheduler.submit(self.pending.pop(0), self.now)
        work = scheduler.next_work(self.now)
        outcome = Outcome()
        if work is None:
            if not self.pending:
                return False
            self.now = self.pending[0].arrival_s
            return True
        if isinstance(work, Perceive):
            self.asked.append([r.id for r in work.requests])
            answers = [self.answers.get(r.id, Prediction(self.lengths[r.id])) for r in work.requests]
            outcome, self.now = Outcome(predictions=answers), self.now + 1
        elif isinstance(work, Drop):
            self.dropped |= {r.id: work.reason for r in work.requests}
        else:
            assert isinstance(work, Iterations)
            outcome, self.now = self.iterate(work), self.now + 1
        scheduler.record(work, outcome, self.now)
        assert scheduler.kv.free == len(self.pool.free)
        assert sum(scheduler.kv.takers) == len(scheduler.kv.births)
        assert scheduler.kv.free == self.blocks - sum(blocks_for(n, 16) for n in self.tokens.values())
        return True

    def iterate(self, work: Iterations) -> Outcome:
        o = self.scheduler.options
        before = {i: n for i, n in self.tokens.items() if i not in {r.id for r in work.evict}}
        requests = {c.request.id: c.request for c in work.chunks}
        self.begun |= requests.keys()
        incomplete = self.scheduler.kv.partial
        paused = {request.id for request in work.pause}
        assert paused <= before.keys() - incomplete.keys() - requests.keys()
        assert not paused or (work.evict and work.at_most == 1)
        decoding = [i for i in before if i not in requests and i not in incomplete and i not in paused]
        if work.evict:
            self.make_room(work.evict)
        for i in decoding:
            self.tokens[i] += 1
            self.pool.hold(i, self.tokens[i])
        for chunk in work.chunks:
            i = chunk.request.id
            if o.prefix_caching != "off" and i not in self.tokens:
                assert chunk.cached == 16 * self.pool.reuse(i)
            done = self.tokens.get(i, 0) + chunk.cached + chunk.num_tokens
            self.pool.hold(i, done)
            assert chunk.last == (done == chunk.request.prompt_tokens + self.generated.get(i, 0))
            self.tokens[i] = done
        assert work.at_most >= 1
        assert work.chunks or decoding
        assert len(decoding) + sum(c.num_tokens for c in work.chunks) <= o.max_num_batched_tokens
        assert len(self.tokens) <= o.max_num_seqs
        assert sum(blocks_for(n, 16) for n in self.tokens.values()) <= self.blocks
        # Where nobody could go on, others may have been let in beside those that are left.
        assert not paused or set(requests) <= set(before)
        if not work.evict and len(self.tokens) < o.max_num_seqs:
            budget = o.max_num_batched_tokens - len(decoding) - sum(c.num_tokens for c in work.chunks)
            self.assert_first_in_queue_has_no_room(budget)
        self.lines.append(
            Line([r.id for r in work.evict], [(c.request.id, c.num_tokens) for c in work.chunks], decoding)
        )
        came = [c.request.id for c in work.chunks if c.last]
        known = {i: request for i, (_, _, request) in self.scheduler.running.items()}
        finished = []
        for i in [*decoding, *came]:
            self.generated[i] = self.generated.get(i, 0) + 1
            if self.generated[i] == self.lengths[i]:
                finished.append(known[i])
                self.pool.release(i, self.tokens.pop(i))
        self.finished += [r.id for r in finished]
        return Outcome(1, finished)

    def make_room(self, evicted: Sequence[Request]) -> None:
        """Who is evicted leaves when somebody finds no block, in the order of those that run: what went on
        before has its blocks by then, also where it is one that leaves.
        """
        leaving = deque(request.id for request in evicted)
        while leaving:
            self.go_on_until_short(leaving)

    def go_on_until_short(self, leaving: deque[int]) -> None:
        budget, given = self.scheduler.max_num_batched_tokens, dict[int, int]()
        for i in list(self.tokens):
            if i not in self.tokens:
                continue
            length = self.requests[i].prompt_tokens + self.generated.get(i, 0)
            num_tokens = min(length - self.tokens[i], budget)
            need = blocks_for(self.tokens[i] + num_tokens, 16) - len(self.pool.table[i])
            while need > len(self.pool.free):
                gone = leaving.popleft()
                returned = given.pop(gone, 0)
                budget += returned
                self.pool.release(gone, self.tokens.pop(gone) + returned)
                if gone == i:
                    return
            given[i] = num_tokens
            budget -= num_tokens
            self.pool.hold(i, self.tokens[i] + num_tokens)
        assert not leaving, "more were evicted than had to be"

    def assert_first_in_queue_has_no_room(self, budget: int) -> None:
        """What an eviction left in memory, and what was predicted, is left out of account."""
        o, scheduler = self.scheduler.options, self.scheduler
        waiting = [
            request for *_, request in sorted(scheduler.waiting) if request.id not in scheduler.withdrawn
        ]
        if not waiting or waiting[0].id in self.begun or o.admission == "predicted" or not budget:
            return
        length = waiting[0].prompt_tokens
        at_once = min(length, budget) if o.chunked else length
        needed = length if o.admission == "prompt" else at_once
        free = self.blocks - sum(blocks_for(n, 16) for n in self.tokens.values())
        assert at_once > budget or blocks_for(needed, 16) > free

    def run(self, most_steps: int = 20_000) -> list[Line]:
        for _ in range(most_steps):
            if not self.step():
                assert self.scheduler.kv.free == self.blocks
                return self.lines
        raise AssertionError(f"still at work after {most_steps} steps")


def chunks(lines: Sequence[Line]) -> list[list[tuple[int, int]]]:
    return [line.chunks for line in lines]
