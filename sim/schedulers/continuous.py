"""Continuous batching by vLLM v1's rules: every iteration, running requests first, then the queue, within
budgets.

Hands out as many iterations at once as nothing can change in. Knows nothing of clocks, costs or how long an
answer will be. A request whose answer outlives its prediction runs on, and from then on counts with the
memory it really holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from typing import Any

from ..kv_blocks import blocks_for, split_to_fit
from ..request import Request
from ..work import Chunk, Drop, Iterations, Limits, Outcome, Perceive, Work, tell
from .admission import EXPIRED, rejection, unsplit_rejection
from .continuous_options import ContinuousOptions
from .disciplines import discipline
from .kv_cache import KvCache
from .order import NEEDS
from .paged import Paged
from .planned_memory import PlannedMemory, planned_memory
from .preemption import next_chunks, scan
from .waiting import ByRank, Entry, InOrder


class ContinuousScheduler(Paged):
    """Iteration-level scheduling over paged KV memory, as vLLM v1 does it."""

    Options = ContinuousOptions
    NUM_IN_FLIGHT = 0
    """Iterations whose tokens are not known when the next is decided."""
    NUM_KEPT = 1
    """Blocks that no request ever gets: vLLM's null block."""
    PREEMPTS = False
    """Whether who arrives may take the place of who runs, so that every arrival matters."""
    # Attribute access is faster with slots than with a dict.
    __slots__ = (
        "admitted_in_time", "deadlines", "drops", "generated", "has_end_hooks", "is_ahead", "is_fcfs",
        "is_stuck", "kv", "limits", "max_num_batched_tokens", "max_num_seqs", "needs", "num_queued",
        "on_admission", "on_end", "options", "perceives", "plans", "rank", "refused", "running",
        "surely_fits_tokens", "unperceived", "unperceived_since_s", "upper_quantile", "waiting",
        "wake_at", "withdrawn",
    )  # fmt: skip

    def __init__(self, limits: Limits, **options: Any) -> None:
        self.options = o = ContinuousOptions(**options)
        num_blocks = max(0, limits.kv_tokens // limits.block_size - self.NUM_KEPT)
        self.limits = replace(limits, kv_tokens=num_blocks * limits.block_size)
        self.kv = KvCache(num_blocks, limits.block_size, o.prefix_caching, self.NUM_IN_FLIGHT)
        self.max_num_seqs, self.max_num_batched_tokens = o.max_num_seqs, o.max_num_batched_tokens
        # A request that needs no more than this is never rejected.
        self.surely_fits_tokens = self.limits.kv_tokens - self.limits.perception_tokens
        if not o.chunked:
            self.surely_fits_tokens = min(self.surely_fits_tokens, o.max_num_batched_tokens)
        self.upper_quantile = o.margin if 0.0 < o.margin < 1.0 else None
        self.needs, self.perceives = o.needs, o.order in NEEDS or o.is_planned
        self.is_fcfs = o.order == "fcfs" and not self.perceives
        self.wake_at: float | None = None
        self._clear()

    def _clear(self) -> None:
        """Start with no requests and an empty memory."""
        self.kv.clear()
        self.rank = discipline(self.options, self.limits)
        self.on_admission = getattr(self.rank, "admitted", None)
        self.on_end = getattr(self.rank, "ended", None)
        self.waiting = InOrder() if self.options.order == "fcfs" else ByRank()
        self.num_queued = 0
        self.unperceived: list[Request] = []  # arrived, length not yet perceived
        self.unperceived_since_s = inf
        self.drops: deque[Drop] = deque()
        self.running: dict[int, Entry] = {}  # by request id
        self.generated: dict[int, int] = {}  # id -> tokens kept over its evictions
        self.plans: PlannedMemory | None = planned_memory(self.options, self.kv.block_size)
        self.has_end_hooks = self.plans is not None or self.on_end is not None
        self.refused: int | None = None  # by plan; it may ask again when somebody has left
        self.is_ahead = False  # whether an iteration is in flight whose outcome is not known
        self.is_stuck = False  # nobody who waits can start before somebody leaves, or more is known
        self.deadlines: list[tuple[float, int, Request]] = []  # heap of what may expire while it waits
        self.admitted_in_time: set[int] = set()  # ids with a deadline
        self.withdrawn: set[int] = set()  # ids that still stand in the queue though they have ended

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, or be asked about."""
        return not self.waiting and len(self.running) + len(self.unperceived) < self.max_num_seqs

    # Submit

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        if request.prompt_tokens + request.max_new_tokens > self.surely_fits_tokens:
            drop = rejection(request, self.limits, question=self.perceives)
            if drop is None and not self.options.chunked:
                never_evicts = self.options.never_evicts
                drop = unsplit_rejection(request, self.max_num_batched_tokens, never_evicts=never_evicts)
            if drop is not None:
                self.drops.append(drop)
                return
        if request.deadline_s is not None:
            heappush(self.deadlines, (request.deadline_s, request.id, request))
        if self.is_fcfs:  # the commonest discipline, without a call
            rank = request.arrival_s
        elif self.perceives and request.predicted_tokens is None:
            self.unperceived.append(request)
            self.unperceived_since_s = min(self.unperceived_since_s, request.arrival_s)
            return
        else:
            rank = self.rank(request, 0)
        self.waiting.push((rank, self.num_queued, request))
        self.num_queued += 1

    def wants(self, request: Request) -> bool:
        """Whether a place and the memory for its prompt are there, beside all that waits here already."""
        waiting = [r for *_, r in self.waiting if r.id not in self.withdrawn] + self.unperceived
        if self.is_stuck or len(self.running) + len(waiting) >= self.max_num_seqs:
            return False
        need = self.kv.decode_need() + sum(map(self._blocks_to_take, (*waiting, request)))
        return need <= self.kv.free or not (self.running or waiting)

    def _blocks_to_take(self, request: Request) -> int:
        """Blocks that a request in the queue takes until its next token."""
        return blocks_for(self._length(request), self.kv.block_size)

    def _length(self, request: Request) -> int:
        """Tokens to compute before its next token: the prompt, and what it generated before evictions."""
        return request.prompt_tokens + self.generated.get(request.id, 0)

    # Choose

    def next_work(self, now: float) -> Work | None:
        """Turn away, perceive, evict where memory is short, else admit; then run as long as nothing can
        change.
        """
        is_unusual = False
        if self.drops or self.deadlines or self.unperceived:
            is_unusual = True
            work = self._turn_away_or_ask(now)
            if work is not None:
                return work
        running, kv = self.running, self.kv
        chunks: list[Chunk] = []
        evict: Sequence[Request] = ()
        pause: Sequence[Request] = ()
        budget: int | None = self.max_num_batched_tokens - len(kv.births)
        if kv.need > kv.free or kv.partial:
            chunks, evict, pause, budget = self._continue_running()
        is_settled = budget is not None
        self.is_stuck = False
        if budget is not None and self.waiting and len(running) < self.max_num_seqs:
            is_settled = self._admit(chunks, budget)
            self.is_stuck = is_settled and bool(self.waiting)
        if not running:
            return None
        if evict and self.unperceived:
            is_settled = False  # a question may fit now
        at_most = kv.iterations_that_fit() if is_settled and kv.births and not kv.partial else 1
        until_s = self._until_s(now) if is_unusual else inf
        # Under fcfs an arrival stands behind those that wait already.
        stop = len(running) < self.max_num_seqs and not (self.is_fcfs and self.waiting)
        return Iterations(chunks, evict, at_most, stop, until_s, (), pause)

    def _turn_away_or_ask(self, now: float) -> Work | None:
        """A Drop or a Perceive that goes before all iterations, if any."""
        if self.deadlines:
            self._expire(now)
        if self.drops:
            return self.drops.popleft()
        return self._perceive() if self.unperceived and self._ask_now(now) else None

    def _expire(self, now: float) -> None:
        """Give up what has waited beyond its deadline; forget the deadlines of what was admitted in time."""
        late = []
        while self.deadlines and (
            self.deadlines[0][0] < now or self.deadlines[0][1] in self.admitted_in_time
        ):
            _, id, request = heappop(self.deadlines)
            if id in self.admitted_in_time:
                self.admitted_in_time.remove(id)
            else:
                late.append(request)
                self.withdrawn.add(id)
        if late:
            if self.on_end is not None:
                for request in late:
                    self.on_end(request)
            unperceived = [r for r in self.unperceived if r.id not in self.withdrawn]
            self.withdrawn -= {r.id for r in self.unperceived}
            self.unperceived = unperceived
            self.drops.append(Drop(tuple(late), EXPIRED))

    def _ask_now(self, now: float) -> bool:
        """Whether to ask now: a batch is full, nothing runs, or the first has waited long enough."""
        if len(self.running) >= self.max_num_seqs and not self.PREEMPTS:
            return False
        is_full = len(self.unperceived) >= self.options.perceive_batch
        return is_full or not self.running or now >= self.unperceived_since_s + self.options.perceive_wait_s

    def _perceive(self) -> Work | None:
        """Ask for lengths, as many at a time as the options and the free memory allow."""
        free_tokens, extra = self.kv.free_tokens, self.limits.perception_tokens
        batch = next(split_to_fit(self.unperceived[: self.options.perceive_batch], extra, free_tokens))
        fits = len(batch) * (max(r.prompt_tokens for r in batch) + extra) <= free_tokens
        return Perceive(tuple(batch)) if fits else None

    def _until_s(self, now: float) -> float:
        """The time (s) of the next deadline, or at which a question has waited long enough."""
        while self.deadlines and self.deadlines[0][1] in self.admitted_in_time:
            self.admitted_in_time.remove(heappop(self.deadlines)[1])
        until_s = self.deadlines[0][0] if self.deadlines else inf
        ask_s = self.unperceived_since_s + self.options.perceive_wait_s
        if now < ask_s and (self.PREEMPTS or len(self.running) < self.max_num_seqs):
            until_s = min(until_s, ask_s)
        return until_s

    def _admit(self, chunks: list[Chunk], budget: int) -> bool:
        """Admit from the queue, appending to `chunks`, as far as memory and the token `budget` allow.

        Returns whether those still queued have to wait for somebody to leave, so that the next iteration
        could admit no more.
        """
        waiting, running, kv = self.waiting, self.running, self.kv
        kept, withdrawn = self.generated, self.withdrawn
        places = self.max_num_seqs - len(running)
        is_planned, may_find = self.plans is not None, kv.may_find
        has_hooks = is_planned or self.on_admission is not None or self.deadlines
        while places and waiting:
            entry = waiting[0]
            request = entry[2]
            id, length = request.id, request.prompt_tokens
            if withdrawn and id in withdrawn:
                withdrawn.remove(id)
                waiting.pop_first()
                continue
            if kept and id in kept:
                length += kept[id]
            cached = kv.cached_tokens(request, length) if may_find and budget > 0 else 0
            tokens, is_last = length, True
            if length - cached > budget:
                if budget <= 0 or not self.options.chunked:
                    return not chunks  # the budget is the same at the next iteration
                tokens, is_last = cached + budget, False
            if (is_planned or not is_last) and not self._may_enter(request, tokens, length):
                return True
            if not kv.admit(id, tokens, is_last):
                return True
            if may_find:
                kv.reuse(id, tokens)
            waiting.pop_first()
            budget -= tokens - cached
            chunks.append(Chunk(request, tokens - cached, is_last, cached))
            running[id] = entry
            places -= 1
            if has_hooks:
                self._note_admission(request, length)
        return True

    def _note_admission(self, request: Request, length: int) -> None:
        """Tell the plan of the memory, the deadlines and the order of an admission."""
        if self.plans is not None:
            self._plan(request, length)
        if request.deadline_s is not None:
            self.admitted_in_time.add(request.id)
        if self.on_admission is not None:
            self.on_admission(request)

    def _may_enter(self, request: Request, tokens: int, length: int) -> bool:
        """Whether memory allows to admit the request with its first `tokens` of `length`, by the option
        `admission`.
        """
        kv = self.kv
        if self.options.admission == "chunk":
            return True
        if self.options.admission == "prompt":
            return kv.can_admit(length)
        if not kv.can_admit(tokens):
            return False
        assert self.plans is not None
        if not self.running:
            return True
        if request.id != self.refused:
            fits = self.plans.fits(request, length, kv.iteration, kv.num_blocks)
            self.refused = None if fits else request.id
        return request.id != self.refused

    def _plan(self, request: Request, length: int) -> None:
        """Set memory aside for a request that computes `length` tokens before its next one."""
        assert self.plans is not None
        self.plans.plan(request, length, length - self.kv.iteration - 1)

    # Preempt

    def _continue_running(self) -> tuple[list[Chunk], list[Request], list[Request], int | None]:
        """Continue what runs where prompts are incomplete or memory is short.

        Returns the next chunks, who is evicted, who is paused, and the token budget that is left; None in an
        iteration for which somebody had to leave: nobody is admitted then. One in which nobody could go on is
        none: what is left is scanned again, be it when what is in flight has ended (all are paused then).
        """
        evict: list[Request] = []
        pause: list[Request] = []
        running, kv, most = self.running, self.kv, self.max_num_batched_tokens
        while not kv.can_extend(chunks := next_chunks(running, kv, most, self._length)):
            found = scan(running.values(), kv, most, self._length, self._evict)
            evict += found.evicted
            if found.num_going_on or self.is_ahead:
                chunks, pause, budget = found.chunks, found.paused, None
                break
        else:
            budget = most - len(kv.births)
            for chunk in chunks:
                kv.extend(chunk)
                budget -= chunk.num_tokens
        if self.plans is not None:
            for chunk in chunks:
                if chunk.last:
                    self._plan(chunk.request, self._length(chunk.request))
        return chunks, evict, pause, budget

    def _evict(self, entry: Entry, num_tokens: int) -> None:
        """Take a running request out of memory, with `num_tokens` that it was to compute next; what it has
        generated is kept, and it queues again.
        """
        _, order, request = entry
        id = request.id
        generated = self.generated.get(id, 0)
        if id in self.kv.births:
            generated = self.kv.held(id) - request.prompt_tokens + 1
        self.kv.evict(id, self._length(request), num_tokens)
        del self.running[id]
        if self.plans is not None:
            self._unplan(id)
        self.generated[id] = generated
        self.waiting.push((self.rank(request, generated), order, request))

    def _unplan(self, id: int) -> None:
        """Forget the plan of a sequence that left the memory; a request refused before may now fit."""
        assert self.plans is not None
        self.plans.leave(id)
        self.refused = None

    # Record

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Count the memory taken, free that of finished requests; queue those whose length is known now."""
        if not isinstance(work, Iterations):
            self._learn(work, outcome)
            return
        finished = outcome.finished
        self.kv.advance(outcome.iterations, finished)
        if finished:
            self._leave(finished)

    def _leave(self, finished: Sequence[Request]) -> None:
        """Those that have finished, and whose memory is free, run no longer."""
        running = self.running
        for request in finished:
            del running[request.id]
        self.is_stuck = False
        if self.generated or self.has_end_hooks:
            self._forget(finished)

    def _learn(self, work: Work, outcome: Outcome) -> None:
        """Queue the requests whose lengths are known now."""
        self.is_stuck = False
        if isinstance(work, Perceive):
            for request, prediction in zip(work.requests, outcome.predictions, strict=True):
                tell(request, prediction)
                self.waiting.push((self.rank(request, 0), self.num_queued, request))
                self.num_queued += 1
            del self.unperceived[: len(work.requests)]
            self.unperceived_since_s = self.unperceived[0].arrival_s if self.unperceived else inf

    def _forget(self, requests: Sequence[Request]) -> None:
        """Discard what was kept of ended requests beside their memory."""
        for request in requests:
            self.generated.pop(request.id, None)
            if self.plans is not None:
                self._unplan(request.id)
            if self.on_end is not None:
                self.on_end(request)

    def drain(self, now: float) -> list[Request]:
        """Everything submitted that has not ended; the scheduler is empty afterwards."""
        if not self.NUM_IN_FLIGHT:
            self.kv.begin()
        running = [request for *_, request in self.running.values()]
        waiting = [request for *_, request in sorted(self.waiting) if request.id not in self.withdrawn]
        left = [*running, *waiting, *self.unperceived, *(r for drop in self.drops for r in drop.requests)]
        self._clear()
        return left
