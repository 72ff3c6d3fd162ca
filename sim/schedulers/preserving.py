"""Continuous batching in which the memory of a turn may stay held, or its copy on the host, while its session
waits (InferCept, arXiv 2402.01869; LAMPS, arXiv 2410.18248).

A turn that another is predicted to go on from leaves its full blocks held when it ends; what becomes of them
is decided at once (`Retention`), by its real context and by what else runs. The turn that comes back to
memory that is held, or was swapped out, goes before all that wait, and computes only what is new.

Memory that is held gives way to those that run, before any of them is evicted, and to those that wait only
where nobody runs: that of the turn which is due last goes first. It is then found again like anything that a
request has left, until it is taken. Nothing is held any longer for a turn that is turned away, or of which a
router says that it was sent to another replica.
"""

from __future__ import annotations

from typing import Any

from ..request import Request
from ..work import Chunk, Drop, Iterations, Limits, Outcome, Work
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .preemption import next_chunks
from .preserved_memory import Preserved, Preserving, PreservingKvCache, PreservingTieredKvCache
from .ranked import AheadRankedScheduler, RankedScheduler
from .retention import Retention
from .tiered import AheadTieredScheduler, TieredScheduler

BACK = -1e9
"""The ranks of those that come back begin here, so that they go before all others that do not starve."""


def _due_last(held: Preserved) -> tuple[float, int]:
    known = held.known
    return held.due_s, known.answer if known.answer >= 0 else known.hashes[-1]


class PreservingScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` over a `PreservingKvCache`."""

    kv: Preserving

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        self.kv = self._memory()
        self.retention = Retention(self.options.waits, self.limits)
        self.is_fcfs = False  # who comes back overtakes

    def _memory(self) -> Preserving:
        """The memory, empty."""
        return PreservingKvCache(self.kv.num_blocks, self.kv.block_size, self.NUM_IN_FLIGHT)

    def _clear(self) -> None:
        super()._clear()
        self.back: set[int] = set()  # ids of those that found memory held for them when they came
        self.elsewhere: list[Request] = []  # sent to other replicas since the last decision
        self.by_order, self.rank = self.rank, self._rank_back

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        if self._is_kept_for(request):
            self.back.add(request.id)
        super().submit(request, now)

    def sent_elsewhere(self, request: Request) -> bool:
        """Keep nothing for a turn that another replica serves; whether anything was kept here.

        It falls free when the iteration in progress has ended: the blocks of those before it are then taken,
        whether or not they were one leap.
        """
        if not self._is_kept_for(request):
            return False
        self.elsewhere.append(request)
        self.is_stuck = False
        return True

    def next_work(self, now: float) -> Work | None:
        """As ever; nothing is kept for those that were sent elsewhere.

        Whoever comes ends the iterations, be there a place or not: what is kept for a turn falls free
        where it is turned away, and whether it overtakes is decided by what is kept as it comes.
        """
        if self.elsewhere:
            for request in self.elsewhere:
                self.kv.give_up_for(request)
            self.elsewhere.clear()
        work = super().next_work(now)
        if isinstance(work, Iterations) and work.at_most > 1:
            work.stop_on_arrival = True
        return work

    def _is_kept_for(self, request: Request) -> bool:
        """Whether something is held for the request."""
        return bool(self.kv.kept.preserved.of(request))

    def _rank_back(self, request: Request, generated: int) -> float:
        """First those that come back, in that order, then all others by theirs."""
        rank = self.by_order(request, generated)  # by which an order may know the request, too
        return BACK + request.arrival_s if request.id in self.back else rank

    # Give way

    def _continue_running(self) -> tuple[list[Chunk], list[Request], list[Request], int | None]:
        """Continue what runs; memory that is held gives way to it."""
        kv, most = self.kv, self.max_num_batched_tokens
        while kv.kept.preserved and not kv.can_extend(next_chunks(self.running, kv, most, self._length)):
            self._give_way()
        return super()._continue_running()

    def _admit(self, chunks: list[Chunk], budget: int) -> bool:
        """Admit from the queue; memory that is held gives way where nobody could run else."""
        is_settled = super()._admit(chunks, budget)
        while self.waiting and self.kv.kept.preserved and self._is_idle():
            self._give_way()
            is_settled = super()._admit(chunks, budget)
        return is_settled

    def _is_idle(self) -> bool:
        """Whether nobody runs or is about to."""
        return not self.running

    def _perceive(self) -> Work | None:
        """Ask for lengths; memory that is held gives way where nobody could run else."""
        work = super()._perceive()
        while work is None and self.kv.kept.preserved and self._is_idle():
            self._give_way()
            work = super()._perceive()
        return work

    def _give_way(self) -> None:
        """Give up what is held for the turn that is due last."""
        self.kv.give_up(max(self.kv.kept.preserved, key=_due_last))

    # Record

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """As ever; decide what becomes of the memory of turns that others go on from."""
        kept = self.kv.kept
        for request in outcome.finished:
            blocks, wait_s = request.blocks, request.predicted_wait_s
            if blocks is not None and wait_s is not None:
                kept.coming_back[request.id] = request.session_id, blocks, wait_s, now + wait_s
        super().record(work, outcome, now)
        dropped = work.requests if isinstance(work, Drop) else ()
        for request in dropped:
            self.kv.give_up_for(request)
        if self.back:
            self.back.difference_update(request.id for request in dropped or outcome.finished)
        kept.coming_back.clear()  # of whom the decision in hand had evicted
        if kept.undecided:
            undecided, kept.undecided = kept.undecided, []
            running_tokens = sum(self.kv.held(id) for id in self.running)
            for left in undecided:
                self._decide_on(left, running_tokens)

    def _decide_on(self, left: Preserved, running_tokens: int) -> None:
        """Hold the blocks of a turn for the next one, or not."""
        tokens = left.num_blocks * self.kv.block_size
        if self.retention.way(left.wait_s, tokens, running_tokens) == "preserve":
            self.kv.preserve(left)
        else:
            self.kv.let_go(left)


class AheadPreservingScheduler(PreservingScheduler, AheadScheduler):
    """The same, with one decision in hand."""

    def sent_elsewhere(self, request: Request) -> bool:
        """Keep nothing for a turn that another replica serves; whether anything was kept here."""
        is_freed = super().sent_elsewhere(request)
        self.has_news |= is_freed
        return is_freed


class PreservingRankedScheduler(PreservingScheduler, RankedScheduler):
    """The same, with a guard against starvation."""


class AheadPreservingRankedScheduler(AheadPreservingScheduler, AheadRankedScheduler):
    """The same, with one decision in hand."""


class PreservingTieredScheduler(PreservingScheduler, TieredScheduler):
    """A `PreservingScheduler` with slower memory, where the blocks of a turn may stay until the next one."""

    kv: PreservingTieredKvCache

    def _memory(self) -> PreservingTieredKvCache:
        """The memory, empty."""
        blocks, size = self.kv.num_blocks, self.kv.block_size
        return PreservingTieredKvCache(blocks, size, self.tiers, self.NUM_IN_FLIGHT)

    def _is_kept_for(self, request: Request) -> bool:
        """Whether something is held for the request, here or on the host."""
        return super()._is_kept_for(request) or bool(self.kv.kept.swapped.of(request))

    def _is_idle(self) -> bool:
        """Whether nobody runs or waits for blocks that are on their way."""
        return not (self.running or self.coming or self.num_passed_over)

    def _decide_on(self, left: Preserved, running_tokens: int) -> None:
        """Hold the blocks of a turn for the next one, here or on the host, or not."""
        super()._decide_on(left, running_tokens)
        tokens = left.num_blocks * self.kv.block_size
        if self.retention.way(left.wait_s, tokens, running_tokens) == "swap":
            self.kv.kept.swap(left)


class AheadPreservingTieredScheduler(
    PreservingTieredScheduler, AheadPreservingScheduler, AheadTieredScheduler
):
    """The same, with one decision in hand."""
