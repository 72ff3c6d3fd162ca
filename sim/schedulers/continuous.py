"""Continuous batching by vLLM v1's rules: every iteration, running requests first, then the queue, within
budgets.

Counts KV blocks, in closed form over many iterations; knows nothing of clocks, costs or how long an answer
will be. A request whose answer outlives its prediction runs on, and from then on counts with the memory it
really holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from operator import itemgetter
from typing import Any, TypeAlias

from ..kv_blocks import EvictedPrefixes, blocks_ahead, blocks_for, iterations_within, split_to_fit
from ..request import Request
from ..work import Chunk, Drop, Iterations, Limits, Outcome, Perceive, Work
from .admission import EXPIRED, rejection
from .binning import expected_tokens
from .continuous_options import ContinuousOptions
from .order import PREDICTED_ORDERS, discipline
from .planned_memory import PlannedMemory

Entry: TypeAlias = tuple[float, int, Request]
"""A request with its rank and the order of its submission: its place in the queue, also when evicted."""

FAR = 64
"""Iterations ahead that a leap seldom gets to: where memory lasts longer, its end is told to a round."""


class ContinuousScheduler:
    """Iteration-level scheduling over paged KV; hands out as many iterations at once as nothing can change
    in.
    """

    Options = ContinuousOptions
    # So many attributes are found sooner in slots than in a dict.
    __slots__ = (
        "begun", "births", "block", "computed", "deadlines", "drops", "first_need", "first_reused",
        "fits_surely", "free", "generated", "gone", "is_fcfs", "is_stuck", "iteration",
        "least_free", "limits", "max_num_batched_tokens", "max_num_seqs", "num_blocks",
        "num_queued", "on_admission", "on_end", "options", "perceives", "plans", "prefixes", "rank",
        "refused", "running", "takers", "tells_ends", "unknown", "unknown_since", "upper_quantile",
        "waiting", "wake_at",
    )  # fmt: skip

    def __init__(self, limits: Limits, **options: Any) -> None:
        o = ContinuousOptions(**options)
        self.block = limits.block_size
        self.num_blocks = self.free = self.least_free = limits.kv_tokens // limits.block_size
        self.limits, self.options = replace(limits, kv_tokens=self.num_blocks * self.block), o
        self.max_num_seqs, self.max_num_batched_tokens = o.max_num_seqs, o.max_num_batched_tokens
        self.rank = discipline(o.order, o.aging_s)
        self.on_admission = getattr(self.rank, "admitted", None)
        self.on_end = getattr(self.rank, "ended", None)
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
        self.takers = [0] * self.block  # of a KV block while decoding, see `blocks_ahead`
        self.prefixes = EvictedPrefixes()
        self.plans = PlannedMemory(self.block) if o.admission == "predicted" else None
        self.tells_ends = self.plans is not None or self.on_end is not None
        self.refused: int | None = None  # by plan; it may ask again when somebody has left
        self.is_stuck = False  # nobody who waits can start before somebody leaves, or more is known
        self.iteration = self.num_queued = 0
        # Blocks of the first iteration handed out, and those of them that are used again.
        self.first_need = self.first_reused = 0
        self.deadlines: list[tuple[float, int, Request]] = []  # heap of what may expire while it waits
        self.begun: set[int] = set()  # ids with a deadline that were admitted in time
        self.gone: set[int] = set()  # ids that expired but still stand in the queue

    @property
    def kv_peak_tokens(self) -> int:
        """The most KV memory ever held, in tokens of whole blocks."""
        return (self.num_blocks - self.least_free) * self.block

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, or be asked about."""
        return not self.waiting and len(self.running) + len(self.unknown) < self.max_num_seqs

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
            # The commonest discipline, without a call.
            rank = request.arrival_s if self.is_fcfs else self.rank(request, 0)
            heappush(self.waiting, (rank, self.num_queued, request))
            self.num_queued += 1

    def wants(self, request: Request) -> bool:
        """Whether a place and the memory for its prompt are there, beside all that waits here already."""
        waiting = [r for *_, r in self.waiting if r.id not in self.gone] + self.unknown
        if self.is_stuck or len(self.running) + len(waiting) >= self.max_num_seqs:
            return False
        need = self.takers[self.iteration % self.block]
        need += sum(blocks_for(self._length(r), self.block) for r in (*waiting, request))
        return need <= self.free or not (self.running or waiting)

    def next_work(self, now: float) -> Work | None:
        """Turn away, perceive, evict where memory is short, else admit; then run as long as nothing can
        change.
        """
        unusual = False
        if self.drops or self.deadlines or self.unknown:
            unusual = True
            work = self._turn_away_or_ask(now)
            if work is not None:
                return work
        running, births, free = self.running, self.births, self.free
        need = self.takers[self.iteration % self.block]
        chunks: list[Chunk] = []
        evict: Sequence[Request] = ()
        budget = self.max_num_batched_tokens - len(births)
        self.first_reused = 0
        if need > free or self.computed:
            chunks, evict, need, budget = self._go_on(need)
            free = self.free
        settled = not evict
        self.is_stuck = False
        if settled and self.waiting and len(running) < self.max_num_seqs:
            need, settled = self._admit(chunks, need, budget)
            self.is_stuck = settled and bool(self.waiting)
        if not running:
            return None
        self.first_need = need
        at_most = 1
        if settled and not self.computed:
            # Memory lasts for so many rounds of a block each, and for a while beyond.
            at_most += (free - need) // len(births) * self.block
            if at_most < FAR:
                at_most = 1 + iterations_within(self.takers, self.iteration + 1, free - need)
        until_s = self._until(now) if unusual else inf
        # Under fcfs an arrival stands behind those that wait already.
        stop = len(running) < self.max_num_seqs and not (self.is_fcfs and self.waiting)
        return Iterations(chunks, evict, at_most, stop, until_s)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Take the blocks that were filled, free what has finished; queue those whose length is known now."""
        if not isinstance(work, Iterations):
            self._learn(work, outcome)
            return
        iterations, need = outcome.iterations, self.first_need
        if iterations > 1:
            need += blocks_ahead(self.takers, self.iteration + 1, iterations - 1)
        if self.prefixes.parts:
            self.prefixes.taken += need - self.first_reused
        free = self.free - need
        if free < self.least_free:
            self.least_free = free
        self.iteration = iteration = self.iteration + iterations
        if outcome.finished:
            running, births = self.running, self.births
            takers, block = self.takers, self.block
            for request in outcome.finished:
                id = request.id
                del running[id]
                birth = births.pop(id)
                takers[-birth % block] -= 1
                free -= -(birth + iteration) // block
            self.is_stuck = False
            if self.generated or self.tells_ends:
                self._forget(outcome.finished)
        self.free = free

    def _forget(self, requests: Sequence[Request]) -> None:
        """What was kept of these beside their memory is of no use any more."""
        for request in requests:
            self.generated.pop(request.id, None)
            if self.plans is not None:
                self._unplan(request.id)
            if self.on_end is not None:
                self.on_end(request)

    def _learn(self, work: Work, outcome: Outcome) -> None:
        """Queue those whose lengths are known now."""
        self.is_stuck = False
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
        least_free = self.least_free
        self.__init__(self.limits, **vars(self.options))  # type: ignore[misc]
        self.least_free = least_free
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
            if self.on_end is not None:
                for request in late:
                    self.on_end(request)
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
        if now < ask_s and len(self.running) < self.max_num_seqs:
            until_s = min(until_s, ask_s)
        return until_s

    def _turn_away_or_ask(self, now: float) -> Work | None:
        """What goes before all iterations."""
        if self.deadlines:
            self._expire(now)
        if self.drops:
            return self.drops.popleft()
        return self._perceive() if self.unknown and self._ask_now(now) else None

    def _ask_now(self, now: float) -> bool:
        """Whether to ask now: a batch is full, nobody runs, or the first has waited enough."""
        if len(self.running) >= self.max_num_seqs:
            return False
        is_full = len(self.unknown) >= self.options.perceive_batch
        return is_full or not self.running or now >= self.unknown_since + self.options.perceive_wait_s

    def _perceive(self) -> Work | None:
        """Ask for lengths, as many at a time as the options and the free memory allow."""
        free_tokens, extra = self.free * self.block, self.limits.perception_tokens
        batch = next(split_to_fit(self.unknown[: self.options.perceive_batch], extra, free_tokens))
        fits = len(batch) * (max(r.prompt_tokens for r in batch) + extra) <= free_tokens
        return Perceive(tuple(batch)) if fits else None

    def _go_on(self, need: int) -> tuple[list[Chunk], list[Request], int, int]:
        """Go on with those that run, some with incomplete prompts or short of the `need` blocks: the next
        chunks, who has to leave for that, the blocks needed then, and the token budget that is left.
        """
        evict: list[Request] = []
        chunks, need = self._continue_prompts(need)
        while need > self.free:
            evict.append(self._evict_lowest())
            chunks, need = self._continue_prompts(self.takers[self.iteration % self.block])
        budget = self.max_num_batched_tokens - len(self.births)
        for chunk in chunks:
            self._progress(chunk)
            budget -= chunk.num_tokens
        return chunks, evict, need, budget

    def _continue_prompts(self, need: int) -> tuple[list[Chunk], int]:
        """The next chunks of unfinished prompts; `need`, the blocks of those that decode, and of these."""
        chunks: list[Chunk] = []
        budget = self.max_num_batched_tokens - len(self.births)
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

    def _admit(self, chunks: list[Chunk], need: int, budget: int) -> tuple[int, bool]:
        """Admit from the queue, adding to `chunks` what memory and the token `budget` allow beside the `need`
        blocks of those that run; the blocks needed then, and whether the queue has to wait for somebody to
        leave (so that the next iteration could admit no more).
        """
        waiting, running, births = self.waiting, self.running, self.births
        kept, gone = self.generated, self.gone
        free, block, max_num_seqs = self.free, self.block, self.max_num_seqs
        is_planned = self.plans is not None
        reusable = bool(self.prefixes.parts)
        reused = cached = 0
        next_iteration = self.iteration + 1
        while waiting and len(running) < max_num_seqs:
            entry = waiting[0]
            request = entry[2]
            id, length = request.id, request.prompt_tokens
            if gone and id in gone:
                gone.remove(id)
                heappop(waiting)
                continue
            if kept and id in kept:
                length += kept[id]
            if reusable:
                reused = self.prefixes.intact(id, need - self.first_reused)
                cached = reused * block
            num_tokens, last = length - cached, True
            if num_tokens > budget:
                if budget <= 0 or not self.options.chunked:
                    return need, not chunks  # without chunks the budget is the same at the next iteration
                num_tokens, last = budget, False
            then = need - -(cached + num_tokens) // block
            if then > free or ((is_planned or not last) and not self._may_enter(request, length, need)):
                return need, True
            heappop(waiting)
            if reusable:
                self.prefixes.reuse(id, reused)
                self.first_reused += reused
            need = then
            budget -= num_tokens
            chunks.append(Chunk(request, num_tokens, last, cached))
            running[id] = entry
            if last:
                births[id] = birth = length - next_iteration
                self.takers[-birth % block] += 1
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
            self.takers[-birth % self.block] += 1
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
        if self.options.prefix_caching:
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
            self.takers[-self.births.pop(id) % self.block] -= 1
