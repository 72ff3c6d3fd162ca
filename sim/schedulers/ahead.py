"""Continuous batching with asynchronous scheduling, as vLLM's servers do it: an iteration is decided while
the one before it runs, so that the accelerator never waits for a decision.

Every decision knows an iteration less: an arrival is seen one iteration later, and a place or a block that
falls free is given away one iteration later. Knows nothing of clocks, costs or how long an answer will be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf

from ..request import Request
from ..work import Drop, Iterations, Outcome, Work
from .continuous import ContinuousScheduler

MORE = Iterations((), (), 1, False)
"""One more iteration of those that run: what is decided while nothing changes."""

OVER = (1, False, inf)
"""The outlook of a decision that holds no longer."""


class AheadScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` with one decision in hand.

    While an iteration runs, the next is decided as if nobody finished with it; `kv` and `running` are then as
    they will be after it. So a request that does finish keeps its place and its memory for one more
    iteration. Its row runs once more, too (`Iterations.overrun`), unless its token limit told beforehand that
    it would finish (vLLM does not schedule it again).
    """

    NUM_IN_FLIGHT = 1
    # Calls on `self` take half the time of calls on `super()`.
    _choose = ContinuousScheduler.next_work
    """What to run next, as if nothing were in flight."""
    _queue = ContinuousScheduler.submit
    """Queue a request, or turn it away."""
    __slots__ = (
        "at_limit",
        "before",
        "decided",
        "evictions",
        "first_limit",
        "has_news",
        "noted",
        "outlook",
        "overrun",
        "pending_drops",
    )

    def _clear(self) -> None:
        super()._clear()
        self.decided: Work | None = None
        self.before: tuple[int, ...] = ()  # sums over those let in before it was decided
        # What was decided last: for how many iterations it holds, whether an arrival ends it, until when.
        self.outlook = OVER
        self.has_news = True  # anything has come or ended since
        self.overrun: Sequence[Request] = ()  # rows that the iteration in hand has too many
        self.evictions: list[Request] = []  # that the executor does not know of yet
        self.pending_drops: deque[Drop] = deque()  # likewise
        # Token limits of what decodes, as (iteration that reaches it, id, birth); an entry holds while the
        # sequence has that birth. Most end long before: only what still decodes when the first of the limits
        # that were `noted` comes is sorted into the heap `at_limit`.
        self.noted: list[tuple[int, int, int]] = []
        self.at_limit: list[tuple[int, int, int]] = []
        self.first_limit: float = inf  # the least iteration in either

    def submit(self, request: Request, now: float) -> None:
        """Queue the request, or turn it away where it could never run."""
        self.has_news = True
        self._queue(request, now)

    def next_work(self, now: float) -> Work | None:
        """The decision taken an iteration ago, or a new one where there is none; decides the one after it.

        Where that one is to go on alike, what is handed out goes on, too: for as many iterations as nothing
        can change in, but for the last, which is in hand when these are over.
        """
        if self.drops or self.pending_drops:
            return (self.drops or self.pending_drops).popleft()  # on arrival first, whatever runs
        work, self.decided = self.decided, None
        self.before = ()
        if work is None:
            work = self._choose(now)
            if isinstance(work, Iterations):
                self._note_limits(work)
                self.outlook = work.at_most, work.stop_on_arrival, work.until_s
                self._count_in(work, 1, ())
        if not isinstance(work, Iterations):
            return work
        evict: Sequence[Request] = work.evict
        if self.evictions:
            evict, self.evictions = [*self.evictions, *evict], []
        overrun, self.overrun = self.overrun, ()
        pause = work.pause
        if pause:
            pause = [request for request in pause if request.id in self.running]
        at_most, stop, until_s = self.outlook
        if self.has_news or at_most == 1 or until_s <= now:
            following = self.decided = self._decide(now)
            if following is not MORE or self.pending_drops:
                if work is MORE and not (evict or overrun):
                    return MORE
                at_most, stop, until_s = OVER
            else:
                at_most, stop, until_s = self.outlook
        else:
            self.decided = MORE
            at_most -= 1
        self.outlook = OVER
        if pause:
            at_most = 1
        if work is MORE:
            return Iterations((), evict, at_most, stop, until_s, overrun)
        work.evict, work.overrun, work.pause = evict, overrun, pause
        work.at_most, work.stop_on_arrival, work.until_s = at_most, stop, until_s
        return work

    def _decide(self, now: float) -> Work | None:
        """What comes after the iteration that now begins."""
        self.has_news = False
        kv = self.kv
        if not (self.waiting or kv.partial or self.deadlines or self.unperceived) and kv.need <= kv.free:
            # Nobody waits, and memory suffices.
            self.is_stuck = False
            if not kv.births:
                return None
            stop = len(self.running) < self.max_num_seqs or self.PREEMPTS
            self.outlook = kv.iterations_that_fit(), stop, inf
            return MORE
        self.is_ahead = True
        self.before = kv.prefixes.sums()
        work = self._choose(now)
        while isinstance(work, Drop):
            self.pending_drops.append(work)
            work = self._choose(now)
        self.is_ahead = False
        if not isinstance(work, Iterations):
            return work
        births = kv.births
        if work.chunks or (work.evict and len(work.pause) < len(births)):
            self.outlook = OVER if work.pause else (work.at_most, work.stop_on_arrival, work.until_s)
            self._note_limits(work)
            return work
        if births and not work.pause:
            self.outlook = work.at_most, work.stop_on_arrival, work.until_s
            return MORE
        self.evictions += work.evict  # and nobody could go on
        return None

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Note who has finished, and count the iteration in hand as done."""
        if not isinstance(work, Iterations):
            super().record(work, outcome, now)
            self.has_news = True
            return
        kv, iterations, ended = self.kv, outcome.iterations, outcome.finished
        self.before = ()
        last = kv.iteration + iterations
        if self.first_limit < last and iterations > 1 and self._next_limit() < last:
            kv.advance(iterations - 1, ())
            self._stop_at_limits()
            iterations = 1
        following, births = self.decided, kv.births
        if ended:
            self.has_news = True
            if self.generated:
                ended = self._withdraw_evicted(ended)
        if isinstance(following, Iterations) and (births or following.chunks):
            self.overrun = ended
            if ended and (kv.complete or following.pause):
                self.overrun = [r for r in ended if r.id in births and r not in following.pause]
            self._count_in(following, iterations or 1, ended)
            return
        # Nothing is in hand that would keep them: what comes next is decided anew, and knows of all.
        if following is MORE:
            self.decided = None
        self.outlook = OVER
        super().record(work, Outcome(max(iterations - 1, 0), ended), now)

    def drain(self, now: float) -> list[Request]:
        """Everything submitted that has not ended; what is in hand never begins."""
        if self.before:
            self.kv.prefixes.take_back(self.before)
        dropped = [request for drop in self.pending_drops for request in drop.requests]
        return [*super().drain(now), *dropped]

    def _count_in(self, work: Iterations, iterations: int, ended: Sequence[Request]) -> None:
        """Count the last of so many iterations as done, and those before it that are not counted yet; those
        who ended with the one before it are gone.
        """
        kv = self.kv
        kv.advance(iterations, ended)
        if ended:
            self._leave(ended)
        if work.pause:  # later than was noted before
            for request in work.pause:
                if request.id in kv.births:
                    self._note_limit(request)
        if self.first_limit <= kv.iteration:
            self._stop_at_limits()

    def _note_limits(self, work: Iterations) -> None:
        """Note the token limits of those whose prompts are complete with the work."""
        for chunk in work.chunks:
            if chunk.last:
                self._note_limit(chunk.request)

    def _note_limit(self, request: Request) -> None:
        """Note when a sequence that decodes reaches its token limit, if nothing holds it up."""
        id = request.id
        birth = self.kv.births[id]
        limit = request.prompt_tokens + request.max_new_tokens - 1 - birth
        self.noted.append((limit, id, birth))
        if limit < self.first_limit:
            self.first_limit = limit

    def _next_limit(self) -> float:
        """The iteration with which the next sequence reaches its token limit; infinity where none decodes."""
        at_limit, births = self.at_limit, self.kv.births
        for entry in self.noted:
            if births.get(entry[1]) == entry[2]:
                heappush(at_limit, entry)
        self.noted.clear()
        while at_limit and births.get(at_limit[0][1]) != at_limit[0][2]:
            heappop(at_limit)
        self.first_limit = at_limit[0][0] if at_limit else inf
        return self.first_limit

    def _stop_at_limits(self) -> None:
        """Those that reach their token limits with the iteration in flight take part in no other."""
        while self._next_limit() <= self.kv.iteration:
            self.kv.stop(self.at_limit[0][1])

    def _withdraw_evicted(self, ended: Sequence[Request]) -> list[Request]:
        """Those that the decision in hand has not evicted. The others it has put back into the queue: there
        they count as gone.
        """
        kept = [request for request in ended if request.id in self.running]
        evicted = [request for request in ended if request.id not in self.running]
        self._forget(evicted)
        for request in evicted:
            self.withdrawn.add(request.id)
            self.kv.forget(request.id)
        return kept
