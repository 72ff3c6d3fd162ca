"""Continuous batching by SGLang's rules: prompts first, in batches of their own, and nobody reserves all that
an answer may need.

While a prefill batch runs, decoding pauses (with `mixed_chunk` it goes on beside the chunks). A request
enters where its prompt and its cap fit beside what running requests are expected to need yet: a share of
their caps, `new_token_ratio`, that falls with every decode iteration. Once a request did not fit, none is
tried until somebody has left. Where memory runs out nevertheless, the requests with the fewest tokens are
retracted: they queue again, behind all others, and are computed from their start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from ..kv_blocks import blocks_for
from ..request import Request
from ..work import Chunk, Iterations, Limits, Outcome, Work
from .continuous import ContinuousScheduler
from .kv_cache import KvCache
from .waiting import Entry

INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO_FACTOR = 0.14
NEW_TOKEN_RATIO_DECAY_STEPS = 600
RETRACT_DECODE_STEPS = 20
CLIP_MAX_NEW_TOKENS = 4096
"""SGLang's defaults; the last is the most of a cap that counts when a request is let in."""


@dataclass(slots=True)
class PrefillBudget:
    """What a prefill batch that is being put together may still take (tokens).

    `total`: memory, less what running requests are expected to need. `prefill` and `chunk`: computation.
    `blocks`: free blocks, so that memory is never exceeded where the expectation was wrong.
    """

    total: float
    prefill: int
    chunk: int
    blocks: int

    @property
    def is_out_of_memory(self) -> bool:
        """Whether nobody else can be let in before somebody leaves."""
        return self.total <= 0 or self.blocks <= 0

    @property
    def is_spent(self) -> bool:
        """Whether the batch is full, memory aside."""
        return self.prefill <= 0 or self.chunk <= 0


class SglangScheduler(ContinuousScheduler):
    """Iteration-level scheduling over paged KV memory, as SGLang does it."""

    NUM_KEPT = 0
    __slots__ = ("decays", "is_full", "least_ratio", "ratio", "stale", "start_ratio")

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        o, size = self.options, limits.block_size
        if o.chunked and o.chunked_prefill_size % size:
            bound = f"a multiple of the block size ({size})"
            raise ValueError(f"chunked_prefill_size: {o.chunked_prefill_size} must be {bound}")
        # No prompt is too long to be computed at once.
        self.max_num_batched_tokens = sys.maxsize
        self.surely_fits_tokens = self.limits.kv_tokens - self.limits.perception_tokens
        # What a retracted request had in memory is given up at once.
        self.kv = KvCache(self.kv.num_blocks, size, prefix_caching="off")

    def _clear(self) -> None:
        super()._clear()
        self.start_ratio = min(1.0, INIT_NEW_TOKEN_RATIO * self.options.schedule_conservativeness)
        self.least_ratio = min(1.0, self.start_ratio * MIN_NEW_TOKEN_RATIO_FACTOR)
        self.ratio = self.start_ratio  # before it began to fall
        self.decays = 0  # decode iterations since
        self.is_full = False  # somebody did not fit, and nobody has left since
        # Tokens that requests which have ended might yet have got, as long as they count as running.
        self.stale: list[int] = []

    @property
    def new_token_ratio(self) -> float:
        """The share of what running requests may yet generate for which memory is kept."""
        if not self.decays:
            return self.ratio
        decay = (self.start_ratio - self.least_ratio) / NEW_TOKEN_RATIO_DECAY_STEPS
        return max(self.ratio - decay * self.decays, self.least_ratio)

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, or be asked about."""
        return not self.is_full and super().has_place

    def wants(self, request: Request) -> bool:
        """Whether it would be let in beside all that waits here already; once it would not, nobody is until
        somebody has left.
        """
        waiting = [r for *_, r in self.waiting if r.id not in self.withdrawn] + self.unperceived
        if self.stale and not (self.running or waiting):
            self.stale, self.is_full = [], False  # there is no other decode that they would wait for
        if self.is_full or len(self.running) + len(waiting) >= self.max_num_seqs:
            return False
        budget = self._budget(0)
        for other in (*waiting, request):
            length = self._length(other)
            if not self._fits(other, length, budget) and (self.running or waiting):
                self.is_full = bool(self.running)
                return False
            self._charge(budget, length, self._may_generate(other))
        return True

    def next_work(self, now: float) -> Work | None:
        """Turn away or perceive, else compute prompts, else decode."""
        is_unusual = bool(self.drops or self.deadlines or self.unperceived)
        if is_unusual:
            work = self._turn_away_or_ask(now)
            if work is not None:
                return work
        is_mixed = self.options.mixed_chunk and bool(self.kv.births)
        evict = self._retract(now) if is_mixed else ()
        if evict or not (work := self._prefill(is_mixed)):
            is_tried_again = bool(self.stale) and self.is_full
            if self.stale:
                self.stale, self.is_full = [], False
                if not self.running:
                    work = self._prefill(is_mixed=False)
                    if work is not None:
                        return work
            work = self._decode(now, evict or self._retract(now), is_unusual)
            if is_tried_again and work is not None:
                work.at_most = 1  # who did not fit, here or in a queue that others share
        if work is None and not self.waiting:
            self.ratio, self.decays = self.start_ratio, 0
        return work

    def _prefill(self, is_mixed: bool) -> Iterations | None:
        """The next prefill batch; None where nothing can be computed, or nobody waits for it."""
        partial = next(iter(self.kv.partial), None)
        if partial is None and (self.is_full or not self.waiting):
            return None
        decoding = len(self.kv.births)
        budget = self._budget(decoding if is_mixed else 0)
        places = self.max_num_seqs - decoding - len(self.stale)
        if places <= 0 and partial is None:
            self.is_full = True
            return None
        chunks: list[Chunk] = []
        if partial is not None:
            chunks += self._continued(partial, budget)
            if not chunks:
                return None
        entered = self._select(chunks, places, budget)
        if not chunks:
            return None
        paused = [] if is_mixed else [self.running[id][2] for id in self.kv.births]
        if is_mixed:
            self.stale = []
        else:
            self.kv.pause_all()
        if partial is not None:
            self.kv.extend(chunks[0])
        for entry, chunk in entered:
            request = entry[2]
            self.running[request.id] = entry
            assert self.kv.admit(request.id, chunk.num_tokens, chunk.last)
            if request.deadline_s is not None or self.on_admission is not None:
                self._note_admission(request, chunk.num_tokens)
        if is_mixed:  # those that decode join the batch, behind its prompts
            first = {chunk.request.id: self.running[chunk.request.id] for chunk in chunks}
            self.running = first | self.running
        return Iterations(chunks, (), 1, False, pause=paused)

    def _decode(self, now: float, evict: Sequence[Request], is_unusual: bool) -> Iterations | None:
        """Decode as long as nothing can change."""
        kv = self.kv
        if not kv.births:
            return None
        is_settled = not evict and not kv.partial and (self.is_full or not self.waiting)
        at_most = kv.iterations_that_fit() if is_settled else 1
        until_s = self._until_s(now) if is_unusual else inf
        return Iterations((), evict, at_most, not self.is_full or self.perceives, until_s)

    # Admission

    def _budget(self, num_mixed: int) -> PrefillBudget:
        """What the next prefill batch may take, beside `num_mixed` requests that decode with it."""
        o, kv = self.options, self.kv
        yet = sum(self.stale)
        for id in kv.births:
            yet += self._may_generate(self.running[id][2], kv.held(id))
        chunk = o.chunked_prefill_size if o.chunked else sys.maxsize
        return PrefillBudget(
            total=kv.free_tokens - num_mixed - self.new_token_ratio * yet,
            prefill=o.max_prefill_tokens - num_mixed,
            chunk=chunk - num_mixed,
            blocks=kv.free - (kv.need if num_mixed else 0),
        )

    def _may_generate(self, request: Request, held: int | None = None) -> int:
        """Tokens that a request may yet generate, as far as they count; `held` in memory if it decodes."""
        prompt = request.prompt_tokens
        generated = self.generated.get(request.id, 0) if held is None else held - prompt + 1
        return min(max(0, request.max_new_tokens - generated), CLIP_MAX_NEW_TOKENS)

    def _fits(self, request: Request, length: int, budget: PrefillBudget) -> bool:
        """Whether a request of `length` tokens may enter."""
        size = self.kv.block_size
        return length + self._may_generate(request) + size < budget.total

    def _charge(self, budget: PrefillBudget, tokens: int, to_generate: int) -> None:
        """Take what a request costs that computes so many tokens."""
        size = self.kv.block_size
        whole = blocks_for(tokens, size) * size
        budget.total -= whole + to_generate + size
        budget.prefill -= whole
        budget.chunk -= whole
        budget.blocks -= whole // size

    def _continued(self, id: int, budget: PrefillBudget) -> list[Chunk]:
        """The next chunk of the prompt that is incomplete, which goes first."""
        kv, size = self.kv, self.kv.block_size
        request, done = self.running[id][2], kv.partial[id]
        left = self._length(request) - done
        room = budget.blocks * size + -done % size
        tokens = min(left, room, budget.chunk)
        if tokens < left:
            tokens = max(0, tokens) // size * size
        if tokens <= 0:
            return []
        is_last = tokens == left
        self._charge(budget, tokens, min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS) if is_last else 0)
        return [Chunk(request, tokens, is_last)]

    def _select(self, chunks: list[Chunk], places: int, budget: PrefillBudget) -> list[tuple[Entry, Chunk]]:
        """Take requests from the queue into the batch `chunks`, as far as it and memory go."""
        entered: list[tuple[Entry, Chunk]] = []
        size, waiting = self.kv.block_size, self.waiting
        while waiting:
            entry = waiting[0]
            request = entry[2]
            if request.id in self.withdrawn:
                self.withdrawn.remove(request.id)
                waiting.pop_first()
                continue
            if len(chunks) >= places:
                self.is_full = True
            if self.is_full:
                break
            length = self._length(request)
            is_alone = not (self.running or chunks)
            if not (self._fits(request, length, budget) or is_alone):
                self.is_full = True
                break
            whole = blocks_for(length, size) * size
            if not self.options.chunked and chunks and whole >= budget.prefill:
                break
            tokens, to_generate = length, min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS)
            if whole > budget.chunk:
                tokens, to_generate = max(0, budget.chunk) // size * size, 0
                if not tokens:
                    break
            if blocks_for(tokens, size) > budget.blocks:
                self.is_full = True
                break
            waiting.pop_first()
            chunk = Chunk(request, tokens, tokens == length)
            chunks.append(chunk)
            entered.append((entry, chunk))
            self._charge(budget, tokens, to_generate)
            if budget.is_out_of_memory:
                self.is_full = True
                break
            if budget.is_spent:
                break
        return entered

    # Retraction

    def _retract(self, now: float) -> list[Request]:
        """Take requests out of memory until the others can decode; they queue again, behind all others."""
        kv, retracted = self.kv, list[Request]()
        if kv.need <= kv.free:
            return retracted
        running = self.running
        order = sorted(
            (id for id in running if id in kv.births),
            key=lambda id: (kv.held(id) - running[id][2].prompt_tokens, -running[id][2].prompt_tokens),
            reverse=True,
        )
        order = [*kv.partial, *order]  # a prompt that is incomplete goes last
        while kv.need > kv.free and len(order) > 1:
            id = order.pop(0 if len(order) == 1 + len(kv.partial) else -1)
            request = running.pop(id)[2]
            generated = self.generated.get(id, 0)
            if id in kv.births:
                generated = kv.held(id) - request.prompt_tokens + 1
            kv.evict(id, self._length(request), 0)
            kv.need = kv.decode_need()
            self.generated[id] = generated
            rank = now if self.is_fcfs else self.rank(request, generated)
            self.waiting.push((rank, self.num_queued, request))
            self.num_queued += 1
            retracted.append(request)
        kept = [running[id][2] for id in order if id in kv.births]
        self.running = {id: running[id] for id in order}
        generated = sum(kv.held(r.id) - r.prompt_tokens + 1 + RETRACT_DECODE_STEPS for r in kept)
        self.ratio = min(1.0, generated / (sum(r.max_new_tokens for r in kept) + 1))
        self.decays = 0
        self.stale, self.is_full = [], False
        return retracted

    # Record

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Count the memory taken, free that of finished requests; queue those whose length is known now."""
        finished, kv = outcome.finished, self.kv
        if isinstance(work, Iterations) and work.chunks:
            if finished or not work.chunks[-1].last:
                self.is_full = False
        elif isinstance(work, Iterations):
            self.decays += outcome.iterations - bool(work.evict)
            reached = kv.iteration + outcome.iterations
            self.stale = [self._may_generate(r, kv.births[r.id] + reached) for r in finished]
        super().record(work, outcome, now)
