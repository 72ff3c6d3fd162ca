"""Continuous batching by vLLM v1's rules: every iteration, running requests first, then the queue, within
budgets.

Counts KV blocks, in closed form over many iterations; knows nothing of clocks, costs or how long an answer
will be. A request whose answer outlives its prediction runs on, and from then on counts with the memory it
really holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, Literal

from ..kv_blocks import BlockPhases, EvictedPrefixes, blocks_for, split_to_fit
from ..request import Request
from ..work import Chunk, Drop, Iterations, Limits, Outcome, Perceive, Work
from .admission import EXPIRED, rejection
from .binning import expected_tokens
from .order import PREDICTED_ORDERS, Order, discipline


@dataclass(frozen=True)
class ContinuousOptions:
    """Options of the `continuous` policy; the defaults are vLLM's."""

    max_num_seqs: int = 256
    """Most requests that run at a time."""
    max_num_batched_tokens: int = 2048
    """Most tokens that an iteration computes."""
    chunked: bool = True
    """Split prompts that exceed what is left of the token budget over several iterations."""
    order: Order = "fcfs"
    """Queue discipline: fcfs, shortest-predicted, shortest-remaining, priority, fair."""
    aging_s: float = 0.0
    """Under order=priority: seconds of waiting that are worth one level; 0: no ageing."""
    admission: Literal["chunk", "prompt", "predicted"] = "prompt"
    """Memory that must be free to let a request in: its first chunk, its prompt, or all that is predicted."""
    prefix_caching: bool = True
    """Use again what memory still holds of an evicted request (shared prompts are not modelled)."""
    margin: float = 0.0
    """Safety margin on predictions: whole tokens or, between 0 and 1, a quantile of the true length."""
    perceive_batch: int = 128
    """Requests asked for their length in one batch."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "perceive_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} must be at least max_num_seqs "
                f"({self.max_num_seqs}), or running requests could not all get their next token"
            )
        if not 0.0 <= self.aging_s < 1e9:
            raise ValueError(f"aging_s: {self.aging_s} must be at least 0 and below 1000000000")
        if not 0.0 <= self.margin < 1e6:
            raise ValueError(f"margin: {self.margin} must be at least 0 and below 1000000")


class ContinuousScheduler:
    """Iteration-level scheduling over paged KV; hands out as many iterations at once as nothing can change
    in.
    """

    Options = ContinuousOptions
    wake_at: float | None = None

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
        self.upper_quantile = o.margin if 0.0 < o.margin < 1.0 else None
        self.perceives = o.order in PREDICTED_ORDERS or o.admission == "predicted"
        self.waiting: list[tuple[float, int, Request]] = []  # heap by (rank, order of submission)
        self.unknown: list[Request] = []  # arrived, length not yet perceived
        self.drops: deque[Drop] = deque()
        self.prefilling: dict[int, tuple[Request, int]] = {}  # id -> request, tokens computed
        self.decoding: dict[int, tuple[Request, int]] = {}  # id -> request, context minus iteration
        self.place: dict[int, tuple[float, int]] = {}  # id of what runs -> (rank, order of submission)
        self.generated: dict[int, int] = {}  # id -> tokens kept over its evictions
        self.phases = BlockPhases(self.block)
        self.prefixes = EvictedPrefixes()
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

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        drop = rejection(request, self.limits, question=self.perceives) or self._too_long(request)
        if drop is not None:
            self.drops.append(drop)
            return
        if request.deadline_s is not None:
            heappush(self.deadlines, (request.deadline_s, request.id, request))
        if self.perceives and request.predicted_tokens is None:
            self.unknown.append(request)
        else:
            self._enqueue(request)

    def next_work(self, now: float) -> Work | None:
        """Turn away, perceive, evict where memory is short, else admit; then run as long as nothing can
        change.
        """
        if self.deadlines:
            self._expire(now)
        if self.drops:
            return self.drops.popleft()
        if self.unknown and len(self.place) < self.options.max_num_seqs:
            work = self._perceive()
            if work is not None:
                return work
        chunks, need = self._running()
        evict: list[Request] = []
        while need > self.free:
            evict.append(self._evict_lowest())
            chunks, need = self._running()
        settled = not evict
        self.first_reused = 0
        if settled and self._queued() and len(self.place) < self.options.max_num_seqs:
            need, settled = self._admit(chunks, need)
        if not self.place:
            return None
        self.first_need = need
        num_complete = 0
        for request, _, last, _ in chunks:
            if last:
                self.phases.add(self._length(request) - self.iteration - 1)
                num_complete += 1
        at_most = 1
        if settled and num_complete == len(self.prefilling) and not self.deadlines:
            at_most += self.phases.iterations_within(self.iteration + 1, self.free - need)
        behind = bool(self.waiting) and self.options.order == "fcfs" and not self.perceives
        stop = len(self.place) < self.options.max_num_seqs and not behind
        return Iterations(tuple(chunks), tuple(evict), at_most, stop)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Take the blocks that were filled, move prompts along, free what has finished."""
        if isinstance(work, Perceive):
            for request, prediction in zip(work.requests, outcome.predictions, strict=True):
                request.predicted_tokens, request.predicted_upper_tokens = prediction
                self._enqueue(request)
            del self.unknown[: len(work.requests)]
        if not isinstance(work, Iterations):
            return
        need = self.first_need
        if outcome.iterations > 1:
            need += self.phases.need(self.iteration + 1, outcome.iterations - 1)
        self.free -= need
        self.prefixes.taken += need - self.first_reused
        self.peak_blocks = max(self.peak_blocks, self.num_blocks - self.free)
        for request, num_tokens, last, cached in work.chunks:
            if last:
                del self.prefilling[request.id]
                self.decoding[request.id] = (request, self._length(request) - self.iteration - 1)
            else:
                computed = self.prefilling[request.id][1]
                self.prefilling[request.id] = (request, computed + cached + num_tokens)
        self.iteration += outcome.iterations
        for request in outcome.finished:
            self._leave(request.id)
            self.generated.pop(request.id, None)
            if self.on_end is not None:
                self.on_end(request)

    def drain(self, now: float) -> list[Request]:
        """All that was running, waited or was to be turned away."""
        running = [request for request, _ in (*self.decoding.values(), *self.prefilling.values())]
        waiting = [request for *_, request in sorted(self.waiting) if request.id not in self.gone]
        left = [*running, *waiting, *self.unknown, *(r for drop in self.drops for r in drop.requests)]
        peak = self.peak_blocks
        self.__init__(self.limits, **vars(self.options))  # type: ignore[misc]
        self.peak_blocks = peak
        return left

    def _length(self, request: Request) -> int:
        """Tokens to compute before its next token: the prompt, and what it generated before evictions."""
        return request.prompt_tokens + self.generated.get(request.id, 0)

    def _enqueue(self, request: Request) -> None:
        rank = self.rank(request, self.generated.get(request.id, 0))
        heappush(self.waiting, (rank, self.num_queued, request))
        self.num_queued += 1

    def _too_long(self, request: Request) -> Drop | None:
        """Without chunks one iteration must hold a prompt, and what is recomputed after an eviction."""
        need, bound = request.prompt_tokens + request.max_new_tokens, self.options.max_num_batched_tokens
        if self.options.chunked or need <= bound:
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
            self.unknown = [r for r in self.unknown if r.id not in self.gone]
            self.drops.append(Drop(tuple(late), EXPIRED))

    def _queued(self) -> bool:
        """Whether anybody waits; what has expired is swept from the queue's head."""
        while self.waiting and self.waiting[0][-1].id in self.gone:
            self.gone.remove(heappop(self.waiting)[-1].id)
        return bool(self.waiting)

    def _perceive(self) -> Work | None:
        """Ask for lengths, as many at a time as the options and the free memory allow."""
        free_tokens, extra = self.free * self.block, self.limits.perception_tokens
        batch = next(split_to_fit(self.unknown[: self.options.perceive_batch], extra, free_tokens))
        fits = len(batch) * (max(r.prompt_tokens for r in batch) + extra) <= free_tokens
        return Perceive(tuple(batch)) if fits else None

    def _running(self) -> tuple[list[Chunk], int]:
        """What running requests do next: the chunks of unfinished prompts, and the blocks needed by all."""
        need = self.phases.counts[-self.iteration % self.block] if self.decoding else 0
        chunks: list[Chunk] = []
        budget = self.options.max_num_batched_tokens - len(self.decoding)
        for request, computed in self.prefilling.values():
            num_tokens = min(self._length(request) - computed, budget)
            if num_tokens <= 0:
                break
            budget -= num_tokens
            need += blocks_for(computed + num_tokens, self.block) - blocks_for(computed, self.block)
            chunks.append(Chunk(request, num_tokens, computed + num_tokens == self._length(request)))
        return chunks, need

    def _admit(self, chunks: list[Chunk], need: int) -> tuple[int, bool]:
        """Admit from the queue, adding to `chunks`; the blocks needed then, and whether the queue has to wait
        for memory or a place (so that the next iteration could admit no more).
        """
        o, waiting = self.options, self.waiting
        budget = o.max_num_batched_tokens - len(self.decoding) - sum(c.num_tokens for c in chunks)
        while self._queued() and len(self.place) < o.max_num_seqs:
            rank, order, request = waiting[0]
            length = self._length(request)
            reused = self.prefixes.intact(request.id, need - self.first_reused) if o.prefix_caching else 0
            cached = reused * self.block
            left = length - cached
            num_tokens = left if left <= budget else budget if o.chunked else 0
            if num_tokens <= 0:
                return need, False
            blocks = blocks_for(cached + num_tokens, self.block)
            if need + blocks > self.free or not self._may_enter(request, length, need):
                return need, True
            heappop(waiting)
            self.prefixes.reuse(request.id, reused)
            self.first_reused += reused
            need += blocks
            budget -= num_tokens
            chunks.append(Chunk(request, num_tokens, num_tokens == left, cached))
            if request.deadline_s is not None:
                self.begun.add(request.id)
            self.prefilling[request.id] = (request, 0)
            self.place[request.id] = (rank, order)
            if self.on_admission is not None:
                self.on_admission(request)
        return need, True

    def _may_enter(self, request: Request, length: int, need: int) -> bool:
        """Whether memory allows to admit the request, beyond its first chunk, by the option `admission`."""
        if self.options.admission == "chunk":
            return True
        if self.options.admission == "prompt":
            return need + blocks_for(length, self.block) <= self.free
        held = [(r, c) for r, c in self.prefilling.values()]
        held += [(r, birth + self.iteration) for r, birth in self.decoding.values()]
        planned = sum(blocks_for(max(self._planned(r), tokens), self.block) for r, tokens in held)
        return (
            not held
            or planned + blocks_for(max(self._planned(request), length), self.block) <= self.num_blocks
        )

    def _planned(self, request: Request) -> int:
        """Tokens that the request will have in memory in the end, as predicted."""
        return request.prompt_tokens + min(
            expected_tokens(request, self.options.margin), request.max_new_tokens
        )

    def _evict_lowest(self) -> Request:
        """Take the lowest-ranked running request out of memory; what it has generated is kept, and it queues
        again.
        """
        lowest = max(self.place, key=self.place.__getitem__)
        order = self.place[lowest][1]
        if lowest in self.decoding:
            request, birth = self.decoding[lowest]
            tokens = birth + self.iteration
            generated = tokens - request.prompt_tokens + 1
        else:
            request, tokens = self.prefilling[lowest]
            generated = self.generated.get(lowest, 0)
        free_before = self.free
        self._leave(lowest)
        self.prefixes.evicted(lowest, free_before, self.free - free_before, tokens // self.block)
        self.generated[lowest] = generated
        heappush(self.waiting, (self.rank(request, generated), order, request))
        return request

    def _leave(self, id: int) -> None:
        """Free the blocks of a running request."""
        del self.place[id]
        if id in self.decoding:
            _, birth = self.decoding.pop(id)
            self.phases.remove(birth)
            tokens = birth + self.iteration
        else:
            _, tokens = self.prefilling.pop(id)
        self.free += blocks_for(tokens, self.block)
