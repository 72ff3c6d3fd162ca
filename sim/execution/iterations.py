"""Continuous batching as an executor sees it: who runs, how long, and what a run of many iterations takes.

Knows the true lengths and the step cost; knows nothing of SimPy, queues or memory. An iteration is a tick of
one global counter; running requests are kept by the tick at which they finish, the next of these ticks in a
heap, so that a leap costs O(log n).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from operator import attrgetter

from ..hardware.step_cost import StepCost
from ..request import Request
from ..results.ledger import Ledger, ReplicaUse
from ..results.token_gaps import FOLD_AT
from ..work import Iterations, SchedulingError
from .leap import Leap
from .longest_context import Longest, note_context

BY_ID = attrgetter("id")


class RunningRequests:
    """The requests in memory and their progress; `output_tokens` is indexed by request id.

    One that decodes has its prompt and all its tokens but the newest in memory, so that its context follows
    from the tick at which it ends. One whose prompt is being completed counts as if it decoded already: with
    a token less than its prompt.
    """

    def __init__(
        self,
        cost: StepCost,
        output_tokens: Sequence[int],
        ledger: Ledger,
        use: ReplicaUse | None = None,
        replica: int = 0,
    ) -> None:
        self.cost, self.output_tokens, self.ledger, self.replica = cost, output_tokens, ledger, replica
        self.use = use or ledger.replicas[replica]
        self._clear()

    def _clear(self) -> None:
        """Nothing is in memory."""
        # The first iteration in progress gives a token to so many that had one in the iteration before, and
        # to those that had their last one earlier: before an eviction or a pause (ids).
        self.num_head = 0
        self.back: list[int] = []
        # Who gets no token in the iteration in progress, and how many are left to it: (left, id, request).
        self.paused: list[tuple[int, int, Request]] = []
        self.behind: set[int] = set()  # ids of who got none in the one before
        self.leap = Leap(1, 0.0)  # in progress, or the last one: the same object again and again
        self.done = 0  # iterations of a stretch that may go on, counted since nobody has come or gone
        # What decodes, by the tick with which it has its last token and then by id; a heap of these ticks.
        # Comparing numbers takes a fraction of comparing entries, and requests that end together need one.
        self.ending: dict[int, list[Request]] = {}
        self.ticks: list[int] = []
        self.num_decoding = 0  # how many get a token in every iteration
        self.computed: dict[int, int] = {}  # id -> prompt tokens computed, while its prompt is incomplete
        self.generated: dict[int, int] = {}  # id -> tokens kept over evictions
        # id of what was evicted or paused -> when its last token came
        self.last_token_s: dict[int, float] = {}
        self.context_tokens = 0  # summed over what decodes, before the next iteration
        self.prompt_tokens = 0  # summed over incomplete prompts
        self.peak_tokens = 0  # in memory at the end of the last leap, before what finished left
        self.iterated_s = math.nan  # end of the last iteration
        self.is_overrun_alone = False  # rows that run for nobody had an iteration of their own
        # Whose context is the longest, where that counts; the first may have ended.
        self.longest: Longest | None = [] if self.cost.counts_uneven else None

    @property
    def num_running(self) -> int:
        """Requests in memory."""
        return self.num_decoding + len(self.computed)

    def begin(self, work: Iterations, now: float, until_s: float = math.inf) -> Leap:
        """Carry out evictions, take the chunks in, and say how long it takes up to the first finish, at most
        up to the iteration in progress at `until_s`. The leap is good until the next one begins.
        """
        if work.evict or work.pause or self.behind:
            self._make_way(work)
        elif self.done and now == self.iterated_s and not (work.chunks or work.overrun):
            return self._go_on(work.at_most, until_s)
        tick, ticks, longest = self.use.iterations, self.ticks, self.longest
        tokens, num_rows = self.context_tokens, self.num_decoding
        self.num_head = num_rows - len(self.back) if self.back else num_rows
        uneven = 0
        if longest:
            while longest and longest[0][1] <= tick:
                del longest[0]
            if longest:
                uneven = num_rows * (tick - longest[0][0]) - tokens
        if work.overrun:
            num_rows, tokens, uneven = self._rows(work.overrun, num_rows, tokens)
        if work.chunks:
            head_s = self._prefill(work, now, num_rows, tokens, uneven)
        elif num_rows:
            head_s = self.cost.decode_s(num_rows, tokens, uneven)
        else:
            raise SchedulingError("Iterations with nothing to run")
        iterations = ticks[0] - tick if ticks else 1
        if iterations > work.at_most:
            iterations = work.at_most
        leap = self.leap
        leap.head_s, leap.start_s, leap.done = head_s, now, 0
        leap.head_end_s = leap.end_s = end_s = now + head_s
        if iterations > 1 and end_s < until_s:
            n, tokens = self.num_decoding, self.context_tokens
            uneven = n * (tick - longest[0][0]) - tokens if longest else 0
            leap.iterations = iterations
            leap.first_s, leap.slope_s = self.cost.decode_run(n, tokens + n, uneven)
            if until_s < math.inf:
                leap.iterations = iterations = leap.iterations_begun(until_s)
            leap.end_s = leap.ends_s(iterations)
            return leap
        if iterations < 1:
            raise SchedulingError("Iterations of which none is to run")
        leap.iterations = 1
        leap.first_s = leap.slope_s = 0.0
        return leap

    def _go_on(self, at_most: int, until_s: float) -> Leap:
        """The same where nobody has come or gone since the last leap: the stretch goes on."""
        leap, tick, n, done = self.leap, self.use.iterations, self.num_decoding, self.done
        iterations = min(self.ticks[0] - tick, at_most)
        if iterations < 1:
            raise SchedulingError("Iterations of which none is to run")
        if done == 1:
            uneven = n * (tick - self.longest[0][0]) - self.context_tokens if self.longest else 0
            leap.first_s, leap.slope_s = self.cost.decode_run(n, self.context_tokens, uneven)
        self.num_head = n
        leap.done, leap.iterations = done, iterations
        if iterations > 1 and until_s < math.inf:
            leap.iterations = leap.iterations_begun(until_s)
        leap.head_end_s, leap.end_s = leap.ends_s(1), leap.ends_s(leap.iterations)
        return leap

    def _prefill(self, work: Iterations, now: float, num_rows: int, row_tokens: int, uneven: int) -> float:
        """Take chunks in, beside rows that decode; how long their iteration takes, with what it waits for.
        What has its whole prompt then has its first token, and decodes from then on.
        """
        # Four names on a line would be packed into a tuple and out of it.
        ledger, output_tokens, kept = self.ledger, self.output_tokens, self.generated
        ending, longest, tick = self.ending, self.longest, self.use.iterations
        # These columns, and those in `advance`, as `Ledger.record_scheduled` and its siblings do.
        scheduled_s, first_token_s, dropped = ledger.scheduled_s, ledger.first_token_s, ledger.reason
        num_decoding, context = self.num_decoding, self.context_tokens
        num_tokens = attention = 0
        starting: list[int] = []
        for chunk in work.chunks:
            request, new, history = chunk.request, chunk.num_tokens, chunk.cached
            i = request.id
            if (since_s := scheduled_s[i]) == since_s or (dropped and i in dropped):
                history += self._resumed(i)
            else:
                scheduled_s[i] = now
            length = history + new
            num_tokens += new
            attention += new * (history + length)
            if not chunk.last:
                self.computed[i] = length
                self.prompt_tokens += length
                continue
            context += length - 1
            end = tick + output_tokens[i]
            if kept and i in kept:
                end -= kept.pop(i)
                self.back.append(i)
            else:
                starting.append(i)
            if end in ending:
                self._end_alike(end, request)
            else:
                ending[end] = [request]
                heappush(self.ticks, end)
            num_decoding += 1
            if longest is not None:
                note_context(longest, tick - length + 1, end)
        self.num_decoding, self.context_tokens = num_decoding, context
        head_s = self.cost.mixed_s(num_rows, row_tokens, len(work.chunks), num_tokens, attention / 2, uneven)
        head_s += work.stall_s
        first_s = now + head_s
        for i in starting:
            first_token_s[i] = first_s
        return head_s

    def advance(self, leap: Leap, iterations: int, start_s: float, end_s: float) -> Sequence[Request]:
        """Move on by so many of the leap's iterations; the requests that finish with the last of them."""
        ledger, use, ticks = self.ledger, self.use, self.ticks
        gaps, num_decoding = ledger.gaps, self.num_decoding
        head_end_s, steps = leap.head_end_s, gaps.steps
        if num_head := self.num_head:
            # A tuple to extend by would be made and thrown away.
            steps.append(head_end_s - self.iterated_s)
            steps.append(num_head)
        if self.back:
            for i in self.back:
                steps += (head_end_s - self.last_token_s.pop(i), 1)
            self.back.clear()
        if iterations > 1:
            gaps.rows += (leap.first_s + leap.done * leap.slope_s, leap.slope_s, iterations - 1, num_decoding)
            if len(gaps.rows) >= FOLD_AT:
                gaps.fold()
        if len(steps) >= FOLD_AT:
            gaps.fold()
        use.iterations = tick = use.iterations + iterations
        context = self.context_tokens + num_decoding * iterations
        self.iterated_s = end_s
        self.peak_tokens = context + self.prompt_tokens
        use.busy_s += end_s - start_s
        finished: Sequence[Request] = ()
        if ticks and ticks[0] <= tick:  # with one of them a leap is over
            finished = self.ending.pop(heappop(ticks))
            self.num_decoding = num_decoding - len(finished)
            self.done = 0
            output_tokens, finish_s = self.output_tokens, ledger.finish_s
            for request in finished:
                i = request.id
                context -= request.prompt_tokens + output_tokens[i] - 1
                finish_s[i] = end_s
            if self.replica:
                for request in finished:
                    ledger.replica[request.id] = self.replica
        else:
            self.done = leap.done + iterations if num_decoding else 0
        self.context_tokens = context
        if self.paused:
            self._end_pause()
        if (unfinished := use.unfinished) is not None:
            if not finished:
                unfinished += (start_s, end_s)
                if len(unfinished) >= FOLD_AT:
                    use.join_unfinished()
            elif self.is_overrun_alone:
                use.unfinished, self.is_overrun_alone = None, False
            else:
                unfinished.clear()
        return finished

    def note_peak(self) -> None:
        """An iteration has begun and does not end: in memory is what it found there, and its chunks."""
        self.peak_tokens = self.context_tokens + self.prompt_tokens

    def _decode(self, end: int, request: Request) -> None:
        """A request decodes up to the tick `end`."""
        self.num_decoding += 1
        if end in self.ending:
            self._end_alike(end, request)
        else:
            self.ending[end] = [request]
            heappush(self.ticks, end)
        if self.longest is not None:
            note_context(self.longest, self._birth(end, request), end)

    def _end_alike(self, end: int, request: Request) -> None:
        """A request decodes up to a tick with which others end, too."""
        alike = self.ending[end]
        if alike[-1].id < request.id:
            alike.append(request)
        else:
            insort(alike, request, key=BY_ID)

    def _renew_longest(self) -> None:
        """One that stood in it is gone, and others that never had the longest context may have it now."""
        self.longest = []
        for end, request in self._decoding():
            note_context(self.longest, self._birth(end, request), end)

    def _birth(self, end: int, request: Request) -> int:
        """The tick less the context of a request that decodes until `end`; it stays the same."""
        return end + 1 - request.prompt_tokens - self.output_tokens[request.id]

    def _decoding(self) -> Iterator[tuple[int, Request]]:
        """What decodes, each with the tick of its last token."""
        return ((end, request) for end, alike in self.ending.items() for request in alike)

    def _rows(self, ended: Sequence[Request], num_rows: int, tokens: int) -> tuple[int, int, int]:
        """Rows that decode, their tokens in memory, and how many tokens in all they fall short of the longest
        where that counts; with those of requests that have just ended.
        """
        longest, output_tokens, is_alone = self.longest, self.output_tokens, not num_rows
        most = self.use.iterations - longest[0][0] if longest else 0
        for request in ended:
            context = request.prompt_tokens + output_tokens[request.id] - 1
            tokens += context
            num_rows += 1
            if context > most:
                most = context
        if is_alone and self.use.unfinished is None:
            self.use.unfinished, self.is_overrun_alone = [], True  # perhaps nobody finishes after them
        return num_rows, tokens, 0 if longest is None else num_rows * most - tokens

    def _resumed(self, id: int) -> int:
        """Tokens that a request which has run before has in memory, no longer counted as an incomplete
        prompt.
        """
        if self.ledger.ended(id):
            raise SchedulingError(f"request {id} was run again after it had ended")
        computed = self.computed.pop(id, 0)
        self.prompt_tokens -= computed
        return computed

    def abandon(self) -> dict[int, int]:
        """The accelerator has failed and its memory is lost: id -> tokens that were lost with it."""
        lost = dict(self.generated) | dict.fromkeys(self.computed, 0)
        lost |= {r.id: self.output_tokens[r.id] - (end - self.use.iterations) for end, r in self._decoding()}
        lost |= {i: self.output_tokens[i] - left for left, i, _ in self.paused}
        self._clear()
        return lost

    def _evict(self, request: Request) -> None:
        i = request.id
        self.use.preemptions += 1
        if i in self.computed:
            self.prompt_tokens -= self.computed.pop(i)
        elif not self.ledger.ended(i):
            self.generated[i] = self.output_tokens[i] - self._take_out(request)

    def _take_out(self, request: Request) -> int:
        """Take a request out of those that decode; how many tokens it still has to get."""
        i = request.id
        end = next((end for end, other in self._decoding() if other.id == i), None)
        if end is None:
            raise SchedulingError(f"request {i} was evicted or paused though it does not decode")
        self.num_decoding -= 1
        self.ending[end] = [other for other in self.ending[end] if other.id != i]
        if not self.ending[end]:
            del self.ending[end]
            self.ticks.remove(end)
            heapify(self.ticks)
        if self.longest is not None and (self._birth(end, request), end) in self.longest:
            self._renew_longest()
        left = end - self.use.iterations
        self.context_tokens -= request.prompt_tokens + self.output_tokens[i] - left - 1
        if i in self.behind:
            self.behind.remove(i)
        else:
            self.last_token_s[i] = self.iterated_s
        return left

    def _make_way(self, work: Iterations) -> None:
        """Carry out evictions and pauses; who got no token in the iteration before, and is not paused again,
        gets one in that which begins.

        In memory who is paused counts as an incomplete prompt does.
        """
        for request in work.evict:
            self._evict(request)
        if len(work.pause) == self.num_decoding:
            decoding = {request.id for _, request in self._decoding()}
            if decoding == {request.id for request in work.pause}:
                self._pause_all()
        for request in work.pause if not self.paused else ():
            left = self._take_out(request)
            self.paused.append((left, request.id, request))
            self.prompt_tokens += request.prompt_tokens + self.output_tokens[request.id] - left - 1
        self.back += sorted(self.behind)
        self.behind.clear()

    def _pause_all(self) -> None:
        """Pause whoever decodes."""
        tick, behind = self.use.iterations, self.behind
        self.paused = [(end - tick, request.id, request) for end, request in self._decoding()]
        self.last_token_s |= {i: self.iterated_s for _, i, _ in self.paused if i not in behind}
        self.prompt_tokens, self.context_tokens = self.prompt_tokens + self.context_tokens, 0
        self.ending.clear()
        self.ticks.clear()
        self.num_decoding = 0
        if self.longest is not None:
            self.longest.clear()
        behind.clear()

    def _end_pause(self) -> None:
        """Who was paused decodes again with the iteration that begins next."""
        for left, i, request in self.paused:
            context = request.prompt_tokens + self.output_tokens[i] - left - 1
            self.prompt_tokens -= context
            self.context_tokens += context
            end = self.use.iterations + left
            self._decode(end, request)
            self.behind.add(i)
        self.paused.clear()
        self.done = 0


class TimedRequests(RunningRequests):
    """The same, where the gaps between tokens are to be told apart by when they were."""

    def advance(self, leap: Leap, iterations: int, start_s: float, end_s: float) -> Sequence[Request]:
        """Say when the gaps are that this adds, and move on."""
        self.ledger.gaps.mark(leap.head_end_s)
        return super().advance(leap, iterations, start_s, end_s)
