"""Continuous batching by vLLM v1's rules: every iteration, running requests first, then the queue, within
budgets.

Counts KV blocks, in closed form over many iterations; knows nothing of clocks, costs or how long an answer
will be. A request whose answer outlives its prediction runs on, and from then on counts with the memory it
really holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from operator import itemgetter
from typing import Any, TypeAlias

from ..kv_blocks import BlockPhases, EvictedPrefixes, blocks_for, split_to_fit
from ..request import Request
from ..work import Chunk, Drop, Iterations, Limits, Outcome, Perceive, Work
from .admission import EXPIRED, rejection
from .binning import expected_tokens
from .continuous_options import ContinuousOptions
from .order import PREDICTED_ORDERS, discipline
from .planned_memory import PlannedMemory

Entry: TypeAlias = tuple[float, int, Request]
"""A request with its rank and the order of its submission: its place in the queue, also when evicted."""


class ContinuousScheduler:
    """Iteration-level scheduling over paged KV; hands out as many iterations at once as nothing can change
    in.
    """

    Options = ContinuousOptions

    def __init__(self, limits: Limits, **options: Any) -> None:
        o = ContinuousOptions(**options)
        self.block = limits.block_size
        self.num_blocks = self.free = limits.kv_tokens // limits.block_size
        self.limits, self.options = replace(limits, kv_tokens=self.num_blocks * self.block), o
        self.rank = discipline(o.order, o.aging_s)
        self.on_admission, self.on_end = (
            getattr(self.rank, "admitted", None),
            getattr(self.rank, "ended", None),
        )
        # What needs no more than this is turned away for no reason.
        self.fits_surely = self.limits.kv_tokens - self.limits.perception_tokens
        if not o.chunked:
            self.fits_surely = min(self.fits_surely, o.max_num_batched_tokens)
        self.upper_quantile = o.margin if 0.0 < o.margin < 1.0 else None
        self.perceives = o.order in PREDICTED_ORDERS or o.admission == "predicted"
        self.is_fcfs = o.order == "fcfs" and not self.perceives
        self.wake_at: float | None = None
        self.waiting: list[Entry] = []  # heap
        self.unknown: list[Request] = []  # arrived, length not yet perceived
        self.unknown_since = inf
        self.drops: deque[Drop] = deque()
        self.running: dict[int, Entry] = {}  # by request id
        self.computed: dict[int, int] = {}  # id -> tokens in memory, of those whose prompt is incomplete
        # Of the others: tokens in memory minus the number of the iteration, which stays while they decode.
        self.births: dict[int, int] = {}
        self.generated: dict[int, int] = {}  # id -> tokens kept over its evictions
        self.phases = BlockPhases(self.block)
        self.prefixes = EvictedPrefixes()
        self.plans = PlannedMemory(self.block) if o.admission == "predicted" else None
        self.refused: int | None = None  # by plan; it may ask again when somebody has left
        self.iteration = self.num_queued = self.peak_blocks = 0
        self.first_need = self.first_reused = (
            0  # blocks of the first iteration handed out, and those used again
        )
        self.deadlines: list[tuple[float, int, Request]] = []  # heap of what may expire while it waits
        self.begun: set[int] = set()  # ids with a deadline that were admitted in time
        self.gone: set[int] = set()  # ids that expired but still stand in the queue

    @property
    def kv_peak_tokens(self) -> int:
        """The most KV memory ever held, in tokens of whole blocks."""
        return self.peak_blocks * self.block

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside."""
        waits = self.waiting or self.unknown
        return not waits and len(self.running) < self.options.max_num_seqs

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        if request.prompt_tokens + request.max_new_tokens > self.fits_surely:
            drop = rejection(request, self.limits, question=self.perceives) or self._too_long(request)
            if drop is not None:
                self.drops.append(drop)
                return
        if request.deadline_s is not None:
            heappush(self.deadlines, (request.deadline_s, request.id, request))
        if self.perceives and request.predicted_tokens is None:
            self.unknown.append(request)
            self.unknown_since = min(self.unknown_since, request.arrival_s)
        else:
            heappush(self.waiting, (self.rank(request, 0), self.num_queued, request))
            self.num_queued += 1

    def wants(self, request: Request) -> bool:
        """Whether a place and the memory for its prompt are there, beside all that waits here already."""
        waiting = [r for *_, r in self.waiting if r.id not in self.gone] + self.unknown
        if len(self.running) + len(waiting) >= self.options.max_num_seqs:
            return False
        need = self.phases.need(self.iteration, 1)
        need += sum(blocks_for(self._length(r), self.block) for r in (*waiting, request))
        return need <= self.free or not (self.running or waiting)

    def next_work(self, now: float) -> Work | None:
        """Turn away, perceive, evict where memory is short, else admit; then run as long as nothing can
        change.
        """
        running, computed = self.running, self.computed
        if self.deadlines:
            self._expire(now)
        if self.drops:
            return self.drops.popleft()
        if self.unknown and self._ask_now(now):
            work = self._perceive()
            if work is not None:
                return work
        need = self.phases.need(self.iteration, 1)
        chunks: list[Chunk] = []
        evict: list[Request] = []
        if computed:
            chunks, need = self._continue_prompts(need)
        while need > self.free:
            evict.append(self._evict_lowest())
            chunks, need = self._continue_prompts(self.phases.need(self.iteration, 1))
        settled = not evict
        self.first_reused = 0
        num_decode = self.phases.total
        for chunk in chunks:
            self._progress(chunk)
        has_place = len(running) < self.options.max_num_seqs
        if has_place and self.waiting and settled:
            need, settled = self._admit(chunks, need, num_decode)
            has_place = len(running) < self.options.max_num_seqs
        if not running:
            return None
        self.first_need = need
        at_most = 1
        if settled and not computed:
            # Memory lasts for so many rounds of a block each; in the last one it matters how long exactly.
            rounds = (self.free - need) // self.phases.total
            if rounds:
                at_most += rounds * self.block
            else:
                at_most += self.phases.iterations_within(self.iteration + 1, self.free - need)
        until_s = self._until(now) if self.deadlines or self.unknown else inf
        # Under fcfs an arrival stands behind those that wait already.
        stop = has_place and not (self.is_fcfs and self.waiting)
        return Iterations(tuple(chunks), tuple(evict), at_most, stop, until_s)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Take the blocks that were filled, free what has finished; queue those whose length is known now."""
        if not isinstance(work, Iterations):
            self._learn(work, outcome)
            return
        need = self.first_need
        if outcome.iterations > 1:
            need += self.phases.need(self.iteration + 1, outcome.iterations - 1)
        self.free -= need
        self.prefixes.taken += need - self.first_reused
        if self.num_blocks - self.free > self.peak_blocks:
            self.peak_blocks = self.num_blocks - self.free
        self.iteration += outcome.iterations
        for request in outcome.finished:
            del self.running[request.id]
            birth = self.births.pop(request.id)
            self.phases.remove(birth)
            self.free -= -(birth + self.iteration) // self.block
            if self.generated:
                self.generated.pop(request.id, None)
            if self.plans is not None:
                self._unplan(request.id)
            if self.on_end is not None:
                self.on_end(request)

    def _learn(self, work: Work, outcome: Outcome) -> None:
        """Queue those whose lengths are known now."""
        if isinstance(work, Perceive):
            for request, prediction in zip(work.requests, outcome.predictions, strict=True):
                request.predicted_tokens, request.predicted_upper_tokens = prediction
                heappush(self.waiting, (self.rank(request, 0), self.num_queued, request))
                self.num_queued += 1
            del self.unknown[: len(work.requests)]
            self.unknown_since = self.unknown[0].arrival_s if self.unknown else inf

    def drain(self, now: float) -> list[Request]:
        """All that was running, waited or was to be turned away."""
        running = [request for *_, request in self.running.values()]
        waiting = [request for *_, request in sorted(self.waiting) if request.id not in self.gone]
        left = [*running, *waiting, *self.unknown, *(r for drop in self.drops for r in drop.requests)]
        peak = self.peak_blocks
        self.__init__(self.limits, **vars(self.options))  # type: ignore[misc]
        self.peak_blocks = peak
        return left

    def _length(self, request: Request) -> int:
        """Tokens to compute before its next token: the prompt, and what it generated before evictions."""
        return request.prompt_tokens + self.generated.get(request.id, 0)

    def _too_long(self, request: Request) -> Drop | None:
        """Without chunks one iteration must hold a prompt, and what is recomputed after an eviction."""
        if self.options.chunked:
            return None
        need, bound = request.prompt_tokens + request.max_new_tokens, self.options.max_num_batched_tokens
        if need <= bound:
            return None
        reason = f"prompt + max_new_tokens ({need}) exceeds max_num_batched_tokens ({bound}), chunked=off"
        return Drop((request,), f"rejected: {reason}")

    def _expire(self, now: float) -> None:
        """Give up what has waited beyond its deadline; forget the deadlines of what was admitted in time."""
        late = []
        while self.deadlines and (self.deadlines[0][0] < now or self.deadlines[0][1] in self.begun):
            _, id, request = heappop(self.deadlines)
            if id in self.begun:
                self.begun.remove(id)
            else:
                late.append(request)
                self.gone.add(id)
        if late:
            unknown = [r for r in self.unknown if r.id not in self.gone]
            self.gone -= {r.id for r in self.unknown}
            self.unknown = unknown
            self.drops.append(Drop(tuple(late), EXPIRED))

    def _until(self, now: float) -> float:
        """When a deadline passes, or a question has waited long enough."""
        while self.deadlines and self.deadlines[0][1] in self.begun:
            self.begun.remove(heappop(self.deadlines)[1])
        until_s = self.deadlines[0][0] if self.deadlines else inf
        ask_s = self.unknown_since + self.options.perceive_wait_s
        if now < ask_s and len(self.running) < self.options.max_num_seqs:
            until_s = min(until_s, ask_s)
        return until_s

    def _ask_now(self, now: float) -> bool:
        """Whether to ask now: a batch is full, nobody runs, or the first has waited enough."""
        o = self.options
        if len(self.running) >= o.max_num_seqs:
            return False
        is_full = len(self.unknown) >= o.perceive_batch
        return is_full or not self.running or now >= self.unknown_since + o.perceive_wait_s

    def _perceive(self) -> Work | None:
        """Ask for lengths, as many at a time as the options and the free memory allow."""
        free_tokens, extra = self.free * self.block, self.limits.perception_tokens
        batch = next(split_to_fit(self.unknown[: self.options.perceive_batch], extra, free_tokens))
        fits = len(batch) * (max(r.prompt_tokens for r in batch) + extra) <= free_tokens
        return Perceive(tuple(batch)) if fits else None

    def _continue_prompts(self, need: int) -> tuple[list[Chunk], int]:
        """The next chunks of unfinished prompts; `need`, the blocks of those that decode, and of these."""
        chunks: list[Chunk] = []
        budget = self.options.max_num_batched_tokens - self.phases.total
        for id, computed in self.computed.items():
            request = self.running[id][2]
            left = self._length(request) - computed
            num_tokens = min(left, budget)
            if num_tokens <= 0:
                break
            budget -= num_tokens
            need += blocks_for(computed + num_tokens, self.block) - blocks_for(computed, self.block)
            chunks.append(Chunk(request, num_tokens, num_tokens == left))
        return chunks, need

    def _admit(self, chunks: list[Chunk], need: int, num_decode: int) -> tuple[int, bool]:
        """Admit from the queue, adding to `chunks` what the token budget allows beside them and what decodes;
        the blocks needed then, and whether the queue has to wait for memory or a place (so that the next
        iteration could admit no more).
        """
        o, waiting, running, free, block = self.options, self.waiting, self.running, self.free, self.block
        kept, gone, phases, births = self.generated, self.gone, self.phases, self.births
        is_planned, next_iteration = self.plans is not None, self.iteration + 1
        budget = o.max_num_batched_tokens - num_decode
        for chunk in chunks:
            budget -= chunk.num_tokens
        reusable = o.prefix_caching and bool(self.prefixes.parts)
        reused = cached = 0
        while waiting and len(running) < o.max_num_seqs:
            entry = waiting[0]
            request = entry[2]
            id, length = request.id, request.prompt_tokens
            if id in gone:
                gone.remove(id)
                heappop(waiting)
                continue
            if id in kept:
                length += kept[id]
            if reusable:
                reused = self.prefixes.intact(id, need - self.first_reused)
                cached = reused * block
            num_tokens = left = length - cached
            if left > budget:
                num_tokens = budget if o.chunked else 0
                if num_tokens <= 0:
                    return need, False
            blocks = -(-(cached + num_tokens) // block)
            if need + blocks > free or (
                (is_planned or num_tokens < left) and not self._may_enter(request, length, need)
            ):
                return need, True
            heappop(waiting)
            if reusable:
                self.prefixes.reuse(id, reused)
                self.first_reused += reused
            need += blocks
            budget -= num_tokens
            chunks.append(Chunk(request, num_tokens, num_tokens == left, cached))
            running[id] = entry
            if num_tokens == left:
                births[id] = birth = length - next_iteration
                phases.add(birth)
            else:
                self.computed[id] = cached + num_tokens
            if is_planned:
                self._plan(request, length, length - next_iteration)
            if request.deadline_s is not None:
                self.begun.add(id)
            if self.on_admission is not None:
                self.on_admission(request)
        return need, True

    def _may_enter(self, request: Request, length: int, need: int) -> bool:
        """Whether memory allows to admit the request, beyond its first chunk, by the option `admission`."""
        if self.options.admission == "chunk":
            return True
        if self.options.admission == "prompt":
            return need - -length // self.block <= self.free
        assert self.plans is not None
        if not self.running:
            return True
        if request.id != self.refused:
            birth = length - self.iteration - 1
            peak = self.plans.peak_blocks(self.iteration, max(self._planned(request), length), birth)
            self.refused = request.id if peak > self.num_blocks else None
        return request.id != self.refused

    def _plan(self, request: Request, length: int, birth: int) -> None:
        """Set memory aside for a request that computes `length` tokens before its next one."""
        assert self.plans is not None
        self.plans.put(request.id, max(self._planned(request), length), birth)

    def _unplan(self, id: int) -> None:
        """The sequence has left the memory; who was refused for want of it may ask again."""
        assert self.plans is not None
        self.plans.leave(id)
        self.refused = None

    def _planned(self, request: Request) -> int:
        """Tokens that the request will have in memory in the end, as predicted."""
        return request.prompt_tokens + min(
            expected_tokens(request, self.options.margin), request.max_new_tokens
        )

    def _held(self, id: int) -> int:
        """Tokens that a running request has in memory."""
        return self.computed[id] if id in self.computed else self.births[id] + self.iteration

    def _progress(self, chunk: Chunk) -> None:
        """Count what a further chunk computes; with the last of its prompt a request decodes."""
        request, id = chunk.request, chunk.request.id
        self.computed[id] += chunk.num_tokens
        if chunk.last:
            length = self.computed.pop(id)
            self.births[id] = birth = length - self.iteration - 1
            self.phases.add(birth)
            if self.plans is not None:
                self._plan(request, length, birth)

    def _evict_lowest(self) -> Request:
        """Take the lowest-ranked running request out of memory; what it has generated is kept, and it queues
        again.
        """
        _, order, request = max(self.running.values(), key=itemgetter(0, 1))
        id = request.id
        tokens, generated = self._held(id), self.generated.get(id, 0)
        if id not in self.computed:
            generated = tokens - request.prompt_tokens + 1
        free_before = self.free
        self._leave(id)
        self.prefixes.evicted(id, free_before, self.free - free_before, tokens // self.block)
        self.generated[id] = generated
        heappush(self.waiting, (self.rank(request, generated), order, request))
        return request

    def _leave(self, id: int) -> None:
        """Free the blocks of a running request."""
        self.free += blocks_for(self._held(id), self.block)
        del self.running[id]
        if self.plans is not None:
            self._unplan(id)
        if self.computed.pop(id, None) is None:
            self.phases.remove(self.births.pop(id))
