"""Continuous batching with slower memory beside the GPU's: whose blocks are there waits until they have come,
and others go on (vLLM 0.32's scheduler with its `OffloadingConnector`, `vllm/v1/core/sched/scheduler.py`).

A request is looked up in GPU memory first, then block by block in CPU memory and on the disk. What is found
behind the GPU's blocks gets memory at once and is fetched; the request waits for it (vLLM's
WAITING_FOR_REMOTE_KVS), holds its memory, cannot be preempted, and is let in before all others then. One that
finds blocks on their way, from the disk or into another request's memory, waits for them without memory. The
last token is always computed. Where transfers do not overlap, the iteration that a request joins waits for
its blocks instead.

Times of transfers follow from the limits, so that a leap ends with the next one: an executor does nothing
for it.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from ..request import Request
from ..work import Chunk, Iterations, Limits, Outcome, Work
from .ahead import AheadScheduler
from .arc_tier import ArcTier
from .continuous import ContinuousScheduler
from .tiered_memory import TieredKvCache
from .tiers import Tier, Tiers
from .waiting import Entry


class Held(NamedTuple):
    """Who waits in memory, with how many tokens, and until when for the last of their blocks."""

    entry: Entry
    tokens: int
    there_s: float


class TieredScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` over a `TieredKvCache`."""

    kv: TieredKvCache

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        cpu = ArcTier if limits.tiers_eviction == "arc" else Tier
        self.tiers = Tiers(limits.tiers, limits.block_size, cpu)
        blocks = self.kv.num_blocks
        self.kv = TieredKvCache(blocks, limits.block_size, self.tiers, self.NUM_IN_FLIGHT)

    def _clear(self) -> None:
        super()._clear()
        self.now = 0.0
        self.held: dict[int, Held] = {}  # who has memory and does not run, by request id, the first first
        self.coming: set[int] = set()  # those of them whose blocks have not come
        self.blocked: dict[int, float] = {}  # who has no memory and waits for blocks, and until when
        self.since_s: dict[int, float] = {}  # and since when
        self.num_passed_over = 0  # of those that wait, when the last iteration was decided
        self.stall_s = 0.0  # that it waits for blocks
        self.unsaid: list[Request] = []  # who was evicted, which the executor has not been told
        self.num_let_in = 0

    def drain(self, now: float) -> list[Request]:
        """Everything submitted that has not ended; what was written to a disk stays there."""
        self.kv.tiered.now = now
        return super().drain(now)

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, or be asked about."""
        has_seat = len(self.running) + len(self.unperceived) < self.max_num_seqs
        return has_seat and len(self.waiting) == self.num_passed_over

    def _blocks_to_take(self, request: Request) -> int:
        """The same, less those that it has while it waits for what comes into them."""
        return super()._blocks_to_take(request) - self.kv.waiting.get(request.id, 0) // self.kv.block_size

    def next_work(self, now: float) -> Work | None:
        """What to run, until the next blocks have come at the latest."""
        self.now = self.kv.tiered.now = now
        self.num_passed_over = 0
        if self.NUM_IN_FLIGHT:
            self.kv.tiered.held_in_flight = self.kv.tiered.held_tokens
        if self.coming:
            self._let_arrive()
        num_coming = len(self.coming)
        work = super().next_work(now)
        until_s = min((self.held[id].there_s for id in self.coming), default=inf)
        until_s = min(until_s, min((at_s for at_s in self.blocked.values() if at_s > now), default=inf))
        self.wake_at = until_s if until_s < inf else None
        if isinstance(work, Iterations):
            work.evict, self.unsaid = self.unsaid, []
            work.until_s = min(work.until_s, until_s)
            work.stall_s, self.stall_s = self.stall_s, 0.0
            if len(self.coming) > num_coming:
                work.at_most = 1  # who shares what it found takes less memory than `wants` counted
            if self.waiting and len(self.waiting) == self.num_passed_over:
                self.is_stuck = False
                work.stop_on_arrival = len(self.running) < self.max_num_seqs
        return work

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Count the memory taken, free that of finished requests, and store what they leave."""
        self.kv.tiered.now = now
        super().record(work, outcome, now)

    def _let_arrive(self) -> None:
        """Blocks that have come by now can be found by others."""
        for id, held in self.held.items():
            if id in self.coming and held.there_s <= self.now:
                self.coming.remove(id)
                self.kv.tiered.arrived(id, held.tokens // self.kv.block_size)

    def _continue_running(self) -> tuple[list[Chunk], list[Request], list[Request], int | None]:
        """Continue what runs; who had to leave is told with the next iteration, be it this one or not."""
        chunks, evict, pause, budget = super()._continue_running()
        self.unsaid += evict
        return chunks, evict, pause, budget

    # Let in

    def _admit(self, chunks: list[Chunk], budget: int) -> bool:
        """Admit whose blocks have come, then from the queue, passing over who waits for blocks."""
        num_before, budget_before = len(chunks), budget
        for id, held in list(self.held.items()):
            if id in self.coming:
                continue
            if len(self.running) >= self.max_num_seqs:
                return True
            if budget <= 0:
                return not chunks
            request = held.entry[2]
            length = self._length(request)
            cached = min(held.tokens, length - 1)
            tokens = min(length, cached + budget)
            if not self.kv.admit_held(id, tokens, tokens == length):
                return True
            self.waiting.take_out(held.entry)
            del self.held[id]
            self._enter(held.entry, chunks, tokens, cached)
            budget = budget_before - sum(chunk.num_tokens for chunk in chunks[num_before:])
        passed_over: list[Entry] = []
        is_settled = self._admit_waiting(chunks, budget, passed_over)
        self.waiting.put_back(passed_over)
        self.num_passed_over = len(passed_over)
        return is_settled

    def _admit_waiting(self, chunks: list[Chunk], budget: int, passed_over: list[Entry]) -> bool:
        """The same of the queue; who was `passed_over` has been taken out."""
        waiting, kv = self.waiting, self.kv
        while waiting and len(self.running) < self.max_num_seqs:
            entry = waiting[0]
            request = entry[2]
            id = request.id
            if id in self.withdrawn:
                self._forget_waiting(id)
                waiting.pop_first()
                continue
            if id in self.held or self.blocked.get(id, -inf) > self.now:
                passed_over.append(waiting.pop_first())
                continue
            if budget <= 0:
                return not chunks
            length = self._length(request)
            cached = kv.cached_tokens(request, length)
            if not kv.can_admit(length):
                return True
            blocks, ready_s = self._found_in_tiers(id, length, cached)
            if ready_s > self.now:
                self.blocked[id] = ready_s
                self.since_s.setdefault(id, self.now)
                passed_over.append(waiting.pop_first())
                continue
            if blocks and self.limits.tiers_overlap:
                if not self._fetch(entry, cached, blocks):
                    return False  # what is found may be less after each iteration
                passed_over.append(waiting.pop_first())
                continue
            first = cached // kv.block_size
            cached = min(cached + blocks * kv.block_size, length - 1)
            tokens = min(length, cached + budget)
            is_let_in = kv.admit(id, tokens, tokens == length)
            assert is_let_in
            if blocks:
                self._stall(id, first, blocks)
            self._end_wait(id)
            kv.reuse(id, tokens)
            waiting.pop_first()
            self._enter(entry, chunks, tokens, cached)
            budget -= tokens - cached
        return True

    def _enter(self, entry: Entry, chunks: list[Chunk], tokens: int, cached: int) -> None:
        """The request runs, with its first chunk; under fcfs, who was let in last is the first to leave."""
        rank, order, request = entry
        length = self._length(request)
        chunks.append(Chunk(request, tokens - cached, tokens == length, cached))
        self.num_let_in += 1
        if self.options.order == "fcfs":
            rank = float(self.num_let_in)
        self.running[request.id] = (rank, order, request)
        self._note_admission(request, length)

    def _found_in_tiers(self, id: int, length: int, cached: int) -> tuple[int, float]:
        """How many blocks behind those that GPU memory has are in slower memory, and when they can be
        fetched.
        """
        size, path = self.kv.block_size, self.kv.tiered.path
        if not self.limits.tiers_overlap:
            return self.tiers.find_at_once(id, path, cached // size, length // size, self.now), self.now
        return self.tiers.find(id, path, cached // size, length // size, self.now)

    def _fetch(self, entry: Entry, cached: int, blocks: int) -> bool:
        """Give a request memory for what it fetches, beside what prompts in progress will yet take; False
        where there is too little.
        """
        kv, request = self.kv, entry[2]
        tokens = cached + blocks * kv.block_size
        unfinished = [(id, self._length(self.running[id][2])) for id in kv.partial]
        unfinished += [(id, self._length(held.entry[2])) for id, held in self.held.items()]
        if not kv.can_hold(tokens, kv.reserved_blocks(unfinished)):
            return False
        first, until = cached // kv.block_size, tokens // kv.block_size
        there_s, from_disk = self.tiers.fetch(request.id, kv.tiered.path, first, until, self.now)
        since_s = self.since_s.pop(request.id, self.now)
        self.blocked.pop(request.id, None)
        kv.tiered.fetch(request.id, blocks, from_disk, since_s, there_s)
        kv.hold(request.id, tokens)
        self.held[request.id] = Held(entry, tokens, there_s)
        self.coming.add(request.id)
        if request.deadline_s is not None:
            self.admitted_in_time.add(request.id)
        return True

    def _stall(self, id: int, first: int, blocks: int) -> None:
        """The next iteration waits for so many blocks of a request."""
        path = self.kv.tiered.path
        seconds, from_disk = self.tiers.fetch_at_once(id, path, first, first + blocks, self.now)
        self.stall_s += seconds
        self.kv.tiered.fetch(id, blocks, from_disk, self.now, self.now + self.stall_s)

    def _end_wait(self, id: int) -> None:
        """Whatever it waited for is there, or is so no more."""
        if self.blocked:
            self.blocked.pop(id, None)
            self.since_s.pop(id, None)
            self.tiers.let_in(id)

    def _forget_waiting(self, id: int) -> None:
        """A request that waited has ended."""
        self.withdrawn.remove(id)
        self._end_wait(id)
        self.tiers.forget(id)


class AheadTieredScheduler(AheadScheduler, TieredScheduler):
    """The same, with one decision in hand."""

    _choose = TieredScheduler.next_work

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Note who has finished, count the iteration in hand as done, and store what they leave."""
        self.kv.tiered.now = now
        super().record(work, outcome, now)
