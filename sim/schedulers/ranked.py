"""Continuous batching in which ranks matter to those that run, too: a waiting request that ranks before a
running one takes its place.

It does so where it lacks a place or memory, and gets it so: the running requests that rank last leave until
its prompt fits, unless not enough of them may; their tokens are kept and recomputed. While a prompt is being
computed in chunks, nobody has to leave. A request that has a share `preempt_until` of its predicted answer
makes way no more (TRAIL, arXiv 2410.01035: what is nearly done has most to be recomputed), but for lack of
memory. One that has waited for `starve_after` iterations goes before all others, those that wait longest
first, and makes way for nobody for its next `quantum` tokens (vllm-ltr, arXiv 2408.15792). Those that decode
are asked again every `ask_every` iterations how long their answers will be (ELIS, arXiv 2505.09142).

Ranks are looked at whenever something is decided, and a decision holds for as many iterations as no rank that
matters can change in. Knows nothing of clocks, costs or how long an answer will be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

from ..kv_blocks import blocks_for
from ..request import Request
from ..work import Chunk, Iterations, Limits, Outcome, Prediction, Work
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .waiting import ByRank, Entry

FIRST = -1e15
"""The ranks of those that starve begin here, so that they go before all others."""


class Guard(NamedTuple):
    """Who has starved has this `rank`, and makes way for nobody, until it has so many tokens."""

    rank: float
    until: int


class RankedScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` that preempts by rank, guards against starvation, and asks again."""

    PREEMPTS = True

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(limits, **options)
        self.limit, self.starves_after = self.options.preempts_until, self.options.starves_after

    def _clear(self) -> None:
        super()._clear()
        self.waiting = ByRank()
        self.has_end_hooks, self.is_choosing = True, False
        self.discipline, self.rank = self.rank, self._rank
        self.until_above = getattr(self.discipline, "until_above", None)
        self.first_predicted: dict[int, int] = {}  # id -> what was predicted before it was asked about again
        self.guards: dict[int, Guard] = {}  # by id
        # Who waits: id -> since which iteration; the same as (iteration, id), in order, with some that do no
        # longer.
        self.waits: dict[int, int] = {}
        self.queued: deque[tuple[int, int]] = deque()
        self.arrived: list[int] = []  # ids that wait from the next decision on

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        num_queued = self.num_queued
        super().submit(request, now)
        if self.starves_after and self.num_queued > num_queued:
            self.arrived.append(request.id)

    # Choose

    def next_work(self, now: float) -> Work | None:
        """As ever, once those have left that make way; to hold until a rank that matters changes."""
        if self.drops or self.deadlines or self.unperceived:
            work = self._turn_away_or_ask(now)
            if work is not None:
                return work
        left, was_partial = self._make_way() if self.waiting else [], bool(self.kv.partial)
        self.is_choosing = True
        work = super().next_work(now)
        self.is_choosing = False
        if not isinstance(work, Iterations):
            return work
        work.stop_on_arrival = True
        if left:
            work.evict = [*left, *work.evict]
        if work.evict:
            # Who left for lack of memory waits now, and others may have to make way for it or for the next.
            work.at_most = 1
        if self.options.ask_every:
            self._ask(work)
        if work.at_most > 1 and self.waiting:
            # Nobody made way beside an incomplete prompt, and the next iteration may be without one; and
            # a planned peak falls as those that run come to their ends.
            # Who was let in may have taken the tokens for which nobody made way for the next yet.
            is_open = was_partial or self.plans is not None or bool(work.chunks)
            work.at_most = 1 if is_open else int(min(work.at_most, self._ranks_hold()))
        return work

    def _turn_away_or_ask(self, now: float) -> Work | None:
        """What goes before all iterations; nothing any more once somebody may have left for the next one."""
        return None if self.is_choosing else super()._turn_away_or_ask(now)

    def _make_way(self) -> list[Request]:
        """Let the last in rank leave, as far as those before them in the queue get in by it."""
        if self.starves_after:
            self._guard_the_starving()
        self._rank_running()
        first, kv = self._first_waiting(), self.kv
        if first is None or kv.partial:
            return []
        may_leave = [e for e in self.running.values() if e[0] > first[0] and self._may_leave(e[2])]
        if not may_leave:
            return []
        may_leave.sort(key=itemgetter(0, 1))
        leaving = self._who_leaves(may_leave)
        if leaving:
            kv.begin_scan()
            for entry in leaving:
                self._evict(entry, 0)
            kv.end_scan((), (), is_empty=True)
        return [request for *_, request in leaving]

    def _who_leaves(self, may_leave: list[Entry]) -> list[Entry]:
        """Of those that may leave, by rank, who does: from the last on, for each waiting request in turn that
        ranks before them, as long as it then has a place and its prompt fits.
        """
        kv, waiting = self.kv, self.waiting
        places, spare = self.max_num_seqs - len(self.running), kv.free - kv.need
        budget = self.max_num_batched_tokens - len(kv.births)
        leaving: list[Entry] = []
        tried: list[Entry] = []
        while waiting and budget > 0:
            tried.append(entry := waiting.pop_first())
            request = entry[2]
            if request.id in self.withdrawn:
                continue
            length, going = self._length(request), list[Entry]()
            spare -= blocks_for(length, kv.block_size)
            while not (fits := self._fits(request, length, places + len(going), spare)):
                if not may_leave or may_leave[-1][0] <= entry[0]:
                    break
                going.append(last := may_leave.pop())
                spare += self._gain(last[2].id)
                if self.plans is not None:
                    self.plans.leave(last[2].id)
            if not fits or (not self.options.chunked and length > budget + len(going)):
                self._stay(going, request)
                break
            leaving += going
            places += len(going) - 1
            budget += len(going) - length
            if self.plans is not None:
                break  # who enters is not planned for yet
        for entry in tried:
            waiting.push(entry)
        return leaving

    def _fits(self, request: Request, length: int, places: int, spare: int) -> bool:
        """Whether a place, memory and the plan of memory allow a request to begin."""
        if places <= 0 or spare < 0:
            return False
        if self.plans is None:
            return True
        is_refused = request.id == self.refused
        return not is_refused and self.plans.fits(request, length, self.kv.iteration, self.kv.num_blocks)

    def _stay(self, going: Sequence[Entry], request: Request) -> None:
        """These do not leave after all, for the request would not get in; it asks again when somebody has
        left.
        """
        if self.plans is not None:
            for entry in going:
                self._plan_again(entry[2])
            self.refused = request.id

    def _plan_again(self, request: Request) -> None:
        """Set memory aside for a request that decodes."""
        if self.plans is not None:
            self.plans.plan(request, self._length(request), self.kv.births[request.id])

    def _gain(self, id: int) -> int:
        """Blocks that the next iteration has more if a decoding request leaves."""
        held, size = self.kv.held(id), self.kv.block_size
        return blocks_for(held, size) + (held % size == 0)

    def _first_waiting(self) -> Entry | None:
        """The first in the queue; those that have ended meanwhile leave it."""
        waiting, withdrawn = self.waiting, self.withdrawn
        while waiting and waiting[0][2].id in withdrawn:
            withdrawn.remove(waiting.pop_first()[2].id)
        return waiting[0] if waiting else None

    def _admit(self, chunks: list[Chunk], budget: int) -> bool:
        """Admit from the queue; who gets in waits no longer."""
        num_chunks = len(chunks)
        is_settled = super()._admit(chunks, budget)
        for chunk in chunks[num_chunks:]:
            self.waits.pop(chunk.request.id, None)
        return is_settled

    # Ranks

    def _rank(self, request: Request, generated: int) -> float:
        """That of the discipline, or of the guard until it is over."""
        guard = self.guards.get(request.id)
        if guard is not None:
            if generated < guard.until:
                return guard.rank
            del self.guards[request.id]
        return self.discipline(request, generated)

    def _rank_running(self) -> None:
        """Look at the ranks of those that run."""
        running = self.running
        for id, (_, order, request) in running.items():
            running[id] = (self._rank(request, self._generated(request)), order, request)

    def _generated(self, request: Request) -> int:
        """Tokens of the answer of a running request so far."""
        if request.id in self.kv.births:
            return self.kv.held(request.id) - request.prompt_tokens + 1
        return self.generated.get(request.id, 0)

    def _may_leave(self, request: Request) -> bool:
        """Whether a running request makes way for one that ranks before it."""
        id = request.id
        if id in self.guards or id not in self.kv.births:
            return False
        if self.limit >= 1.0:
            return True
        predicted = self.first_predicted.get(id, request.predicted_tokens)
        whole = request.bound_tokens if predicted is None else predicted
        return self._generated(request) < self.limit * whole

    def _ranks_hold(self) -> float:
        """For how many iterations nobody who runs falls behind the first that waits, no guard is over, and
        nobody begins to starve.
        """
        hold, first, until_above = inf, self.waiting[0][0], self.until_above
        if until_above is not None and self.limit > 0:
            for rank, _, request in self.running.values():
                if rank <= first and self._may_leave(request):
                    hold = min(hold, until_above(request, self._generated(request), first))
        for id, guard in self.guards.items():
            if id in self.kv.births:
                hold = min(hold, guard.until - self._generated(self.running[id][2]))
        if self.queued and self.starves_after:
            hold = min(hold, self.queued[0][0] + self.starves_after - self.kv.iteration)
        return max(1, hold)

    # The guard against starvation

    def _begin_to_wait(self, id: int) -> None:
        if self.starves_after:
            self.waits[id] = self.kv.iteration
            self.queued.append((self.kv.iteration, id))

    def _guard_the_starving(self) -> None:
        """Whoever has waited for too long goes first from now on."""
        for id in self.arrived:
            self._begin_to_wait(id)
        self.arrived.clear()
        queued, latest = self.queued, self.kv.iteration - self.starves_after
        starving = set()
        while queued and (queued[0][0] <= latest or self.waits.get(queued[0][1]) != queued[0][0]):
            since, id = queued.popleft()
            if self.waits.get(id) == since and id not in self.withdrawn and id not in self.guards:
                starving.add(id)
                until = self.generated.get(id, 0) + self.options.quantum
                self.guards[id] = Guard(FIRST + since, until)
        if starving:
            self.waiting = ByRank(
                (self.guards[entry[2].id].rank, *entry[1:]) if entry[2].id in starving else entry
                for entry in self.waiting
            )
            heapify(self.waiting)

    # Preempt, ask, record

    def _continue_running(self) -> tuple[list[Chunk], list[Request], list[Request], int | None]:
        """Continue what runs; where memory is short, the last by the ranks of now leave."""
        self._rank_running()
        return super()._continue_running()

    def _evict(self, entry: Entry, num_tokens: int) -> None:
        """Take a running request out of memory; it waits again."""
        super()._evict(entry, num_tokens)
        self._begin_to_wait(entry[2].id)

    def _ask(self, work: Iterations) -> None:
        """Ask about all that decode, if it is time; else let it be time soon enough."""
        births = self.kv.births
        left = -(self.kv.iteration + 1) % self.options.ask_every
        if left:
            work.at_most = min(work.at_most, left)
        elif births:
            work.ask, work.at_most = [self.running[id][2] for id in births], 1

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """As ever; who was asked about ranks by the new answer."""
        super().record(work, outcome, now)
        if isinstance(work, Iterations) and outcome.predictions:
            self._hear(work.ask, outcome.predictions)

    def _hear(self, asked: Sequence[Request], predictions: Sequence[Prediction]) -> None:
        """Note the new answers of those that still run."""
        for request, prediction in zip(asked, predictions, strict=True):
            if request.id in self.running:
                self.first_predicted.setdefault(request.id, request.predicted_tokens or 0)
                request.predicted_tokens = prediction.tokens
                if request.id in self.kv.births:
                    self._plan_again(request)
        self.refused, self.is_stuck = None, False

    def _learn(self, work: Work, outcome: Outcome) -> None:
        """Queue the requests whose lengths are known now."""
        super()._learn(work, outcome)
        for request in getattr(work, "requests", ()):
            self._begin_to_wait(request.id)

    def _forget(self, requests: Sequence[Request]) -> None:
        """Discard what was kept of ended requests."""
        super()._forget(requests)
        for request in requests:
            for kept in (self.guards, self.first_predicted, self.waits):
                kept.pop(request.id, None)


class AheadRankedScheduler(AheadScheduler, RankedScheduler):
    """The same, with one decision in hand: answers come too late for it, and change the one after it."""

    _choose = RankedScheduler.next_work
    _queue = RankedScheduler.submit

    def next_work(self, now: float) -> Work | None:
        """The decision in hand, with questions where it is time for them."""
        work, every = super().next_work(now), self.options.ask_every
        if not every or not isinstance(work, Iterations):
            return work
        after = self.kv.iteration  # the first of these iterations is counted in already
        at_most, ask = min(work.at_most, every - after % every), list[Request]()
        if after % every == 0:
            following = self.decided.chunks if isinstance(self.decided, Iterations) else ()
            later = {chunk.request.id for chunk in following}
            at_most, ask = 1, [self.running[id][2] for id in self.kv.births if id not in later]
        return replace(work, at_most=at_most, ask=ask)

    def _ask(self, work: Iterations) -> None:
        """Questions go with what is handed out, not with what is decided."""

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """As ever; who was asked about ranks by the new answer in the decision to come."""
        super().record(work, outcome, now)
        if isinstance(work, Iterations) and work.ask:
            self._hear(work.ask, outcome.predictions)
            self.has_news = True
