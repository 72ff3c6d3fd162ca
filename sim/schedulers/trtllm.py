"""Continuous batching by TensorRT-LLM's rules: prompts beside running requests, and who is in stays in.

By `guaranteed_no_evict` a request enters only if its prompt and its cap fit beside the prompts and caps of
all that run, so that memory never runs out. By `max_utilization` it enters where its prompt fits; where
memory runs out, those that came last are paused, and computed again later. Prompts may be held back for some
iterations, until there are more of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from operator import itemgetter
from typing import Any

from ..kv_blocks import blocks_for
from ..request import Request
from ..work import Chunk, Iterations, Limits, Outcome, Work
from .continuous import ContinuousScheduler
from .waiting import Entry


class TrtllmScheduler(ContinuousScheduler):
    """Iteration-level scheduling over paged KV memory, as TensorRT-LLM does it."""

    NUM_KEPT = 0
    __slots__ = ("is_waiting", "never_evicts", "reserved", "waited")

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        o, size = self.options, limits.block_size
        self.never_evicts = o.never_evicts
        if o.chunked and o.max_num_batched_tokens < size:
            raise ValueError(
                f"max_num_batched_tokens: {o.max_num_batched_tokens} must be at least a block ({size})"
            )

    def _clear(self) -> None:
        super()._clear()
        self.reserved = 0  # blocks that the prompts and caps of all that run may take
        self.waited = 0  # iterations for which prompts have been held back
        self.is_waiting = False  # they are in the next one

    @property
    def has_place(self) -> bool:
        """Whether one more request would start with the next iteration, memory aside, be asked about, or wait
        with those that are held back until there are more.
        """
        if not self.is_waiting:
            return super().has_place
        return len(self.running) + len(self.waiting) + len(self.unperceived) < self.max_num_seqs

    def wants(self, request: Request) -> bool:
        """Whether a place and the memory are there, beside all that waits here already."""
        if not self.never_evicts:
            return super().wants(request)
        waiting = [r for *_, r in self.waiting if r.id not in self.withdrawn] + self.unperceived
        if len(self.running) + len(waiting) >= self.max_num_seqs:
            return False
        need = self.reserved + sum(map(self._blocks_at_most, (*waiting, request)))
        return need <= self.kv.num_blocks or not (self.running or waiting)

    def _blocks_at_most(self, request: Request) -> int:
        """Blocks of a request's prompt and its cap."""
        return blocks_for(request.prompt_tokens + request.max_new_tokens, self.kv.block_size)

    def next_work(self, now: float) -> Work | None:
        """Turn away or perceive, pause where memory is short, else let in; then run as long as nothing can
        change.
        """
        is_unusual = bool(self.drops or self.deadlines or self.unperceived)
        if is_unusual:
            work = self._turn_away_or_ask(now)
            if work is not None:
                return work
        kv, running = self.kv, self.running
        evict: list[Request] = []
        while not kv.can_extend(self._next_chunks()):
            evict.append(self._pause_last())
        if not running and not self.waiting:
            return None
        fitting = [] if evict else self._fitting()
        chunks: list[Chunk] = []
        left_over = bool(fitting)
        self.is_waiting = self._holds_back(fitting)
        if not self.is_waiting:
            chunks = self._next_chunks()
            for chunk in chunks:
                kv.extend(chunk)
            left_over = self._start(fitting, chunks)
        for entry in fitting:
            self.waiting.push(entry)
        if not running:
            return None
        if self.is_waiting:
            at_most = self.options.batch_wait_timeout_iters - self.waited if self.never_evicts else 1
            at_most = min(at_most, kv.iterations_that_fit())
        else:
            is_settled = not (evict or kv.partial or left_over)
            at_most = kv.iterations_that_fit() if is_settled else 1
        until_s = self._until_s(now) if is_unusual else inf
        is_blocked = self.is_fcfs and bool(self.waiting) and not self.is_waiting
        return Iterations(
            chunks, evict, at_most, len(running) < self.max_num_seqs and not is_blocked, until_s
        )

    # Choose

    def _fitting(self) -> list[Entry]:
        """Take those from the queue, in its order, for which a place and memory are there."""
        fitting: list[Entry] = []
        waiting, kv = self.waiting, self.kv
        places = self.max_num_seqs - len(self.running)
        size = kv.block_size
        free = kv.num_blocks - self.reserved if self.never_evicts else kv.free - kv.need
        if not self.never_evicts:
            for chunk in self._next_chunks():
                held = kv.partial[chunk.request.id]
                free -= blocks_for(held + chunk.num_tokens, size) - blocks_for(held, size)
        while waiting and len(fitting) < places:
            request = waiting[0][2]
            if request.id in self.withdrawn:
                self.withdrawn.remove(request.id)
                waiting.pop_first()
                continue
            if self.never_evicts:
                free -= self._blocks_at_most(request)
            else:
                free -= blocks_for(self._length(request), size)
            if free < 0:
                break
            fitting.append(waiting.pop_first())
        return fitting

    def _start(self, fitting: list[Entry], chunks: list[Chunk]) -> bool:
        """Start those for which there are tokens, appending to `chunks`; the others stay in `fitting`.

        Returns whether any stayed.
        """
        kv = self.kv
        budget = self.max_num_batched_tokens - len(kv.births)
        # Those whose prompt is complete now have been counted as decoding.
        budget -= sum(chunk.num_tokens - chunk.last for chunk in chunks)
        stayed: list[Entry] = []
        for place, entry in enumerate(fitting):
            request = entry[2]
            length = self._length(request)
            cached = kv.cached_tokens(request, length) if kv.may_find else 0
            tokens = self._chunk_size(length - cached, budget)
            if not tokens:
                if not self.options.chunked or budget <= 0:
                    stayed += fitting[place:]
                    break
                stayed.append(entry)
                continue
            is_last = cached + tokens == length
            if not kv.admit(request.id, cached + tokens, is_last):
                stayed += fitting[place:]
                break
            if kv.may_find:
                kv.reuse(request.id, cached + tokens)
            budget -= tokens
            chunks.append(Chunk(request, tokens, is_last, cached))
            self.running[request.id] = entry
            self.reserved += self._blocks_at_most(request)
            if request.deadline_s is not None or self.on_admission is not None:
                self._note_admission(request, length)
        fitting[:] = stayed
        return bool(stayed)

    def _next_chunks(self) -> list[Chunk]:
        """The next chunks of incomplete prompts, as the token budget allows."""
        budget = self.max_num_batched_tokens - len(self.kv.births)
        chunks: list[Chunk] = []
        for id, done in self.kv.partial.items():
            request = self.running[id][2]
            left = self._length(request) - done
            tokens = self._chunk_size(left, budget)
            if tokens:
                budget -= tokens
                chunks.append(Chunk(request, tokens, tokens == left))
        return chunks

    def _chunk_size(self, left: int, budget: int) -> int:
        """Tokens of a prompt to compute of those that are `left`: all, or else whole blocks of them."""
        if left <= budget:
            return left
        size = self.kv.block_size
        return max(0, budget) // size * size if self.options.chunked else 0

    def _holds_back(self, fitting: list[Entry]) -> bool:
        """Whether prompts wait for more of them, though they could be computed."""
        o, decoding = self.options, len(self.kv.births)
        if not (o.batch_wait_timeout_iters and o.batch_wait_max_tokens_ratio and decoding):
            return False
        tokens = sum(self._sizes(fitting))
        if not tokens:
            return False
        enough = o.batch_wait_max_tokens_ratio * o.max_num_batched_tokens
        if self.waited >= o.batch_wait_timeout_iters or decoding + tokens >= enough:
            self.waited = 0
            return False
        return True

    def _sizes(self, fitting: list[Entry]) -> Iterator[int]:
        """Tokens of the prompts that could be computed in the next iteration."""
        budget = self.max_num_batched_tokens - len(self.kv.births)
        for chunk in self._next_chunks():
            budget -= chunk.num_tokens
            yield chunk.num_tokens
        for *_, request in fitting:
            tokens = self._chunk_size(self._length(request), budget)
            budget -= tokens
            yield tokens
            if not tokens and not self.options.chunked:
                return

    # Record

    def _pause_last(self) -> Request:
        """Take the one that came last out of memory; it queues again."""
        entry = max(self.running.values(), key=itemgetter(0, 1))
        self.kv.begin_scan()
        self._evict(entry, 0)
        self.kv.need = self.kv.decode_need()
        self.reserved -= self._blocks_at_most(entry[2])
        return entry[2]

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Count the memory taken, free that of finished requests; queue those whose length is known now."""
        if isinstance(work, Iterations):
            self.reserved -= sum(map(self._blocks_at_most, outcome.finished))
            if self.is_waiting:
                self.waited += outcome.iterations
        super().record(work, outcome, now)
