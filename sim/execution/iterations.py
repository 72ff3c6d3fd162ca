"""Continuous batching as an executor sees it: who runs, how long, and what a run of many iterations takes.

Knows the true lengths and the step cost; knows nothing of SimPy, queues or memory. An iteration is a tick of
one global counter; running requests sit in a heap by the tick at which they finish, so that a leap costs
O(log n). Where uneven contexts cost something, another heap holds the longest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from ..hardware.step_cost import StepCost
from ..request import Request
from ..results.ledger import Ledger, ReplicaUse
from ..results.token_gaps import FOLD_AT
from ..work import Iterations, SchedulingError


@dataclass(slots=True)
class Leap:
    """`iterations` iterations: one that takes `head_s`, then decode-only ones of `first_s + j * slope_s`."""

    iterations: int
    head_s: float
    first_s: float = 0.0
    slope_s: float = 0.0

    def seconds(self, iterations: int) -> float:
        """How long the first `iterations` of it take (at least 1)."""
        k = iterations - 1
        return self.head_s + k * self.first_s + self.slope_s * (k * (k - 1) / 2)

    def iterations_begun(self, seconds: float, after: bool = False) -> int:
        """How many iterations have ended or are in progress so many seconds after its start, at least 1.

        Where one ends at that very instant, the next has begun only `after` it.
        """
        if after:
            seconds = math.nextafter(seconds, math.inf)
        head, first, slope, last = self.head_s, self.first_s, self.slope_s, self.iterations - 1
        rest = seconds - head
        if rest <= 0 or not last:
            return 1
        if last * first + slope * (last * (last - 1) / 2) < rest:
            return self.iterations
        half = first - slope / 2
        k = int(2 * rest / (half + math.sqrt(half * half + 2 * slope * rest)))
        # Round-off may have taken one too many or too few. The sums are those of `seconds`, without a call.
        while k > 0 and head + k * first + slope * (k * (k - 1) / 2) >= seconds:
            k -= 1
        while head + k * first + slope * (k * (k - 1) / 2) < seconds:
            k += 1
        return min(1 + k, self.iterations)

    def iterations_ended(self, seconds: float) -> int:
        """How many iterations are over so many seconds after its start, from none to all."""
        begun = self.iterations_begun(seconds)
        return begun if self.seconds(begun) <= seconds else begun - 1


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
        # What decodes, by the tick at which it has its last token: (tick, id, request).
        self.heap: list[tuple[int, int, Request]] = []
        self.computed: dict[int, int] = {}  # id -> prompt tokens computed, while its prompt is incomplete
        self.generated: dict[int, int] = {}  # id -> tokens kept over evictions
        self.last_token_s: dict[
            int, float
        ] = {}  # id of what was evicted or paused -> when its last token came
        self.context_tokens = 0  # summed over what decodes, before the next iteration
        self.prompt_tokens = 0  # summed over incomplete prompts
        self.peak_tokens = 0  # in memory at the end of the last leap, before what finished left
        self.iterated_s = math.nan  # end of the last iteration
        self.is_overrun_alone = False  # rows that run for nobody had an iteration of their own
        # What decodes, the longest context first, as (tick - context, tick of its last token); what has ended
        # stays in it until it comes first.
        self.longest: list[tuple[int, int]] | None = [] if self.cost.counts_uneven else None

    @property
    def num_decoding(self) -> int:
        """Requests that get a token in every iteration."""
        return len(self.heap)

    @property
    def num_running(self) -> int:
        """Requests in memory."""
        return len(self.heap) + len(self.computed)

    def begin(self, work: Iterations, now: float, until_s: float = math.inf) -> Leap:
        """Carry out evictions, take the chunks in, and say how long it takes up to the first finish, at most
        up to the iteration in progress at `until_s`. The leap is good until the next one begins.
        """
        if work.evict or work.pause or self.behind:
            self._make_way(work)
        cost, heap = self.cost, self.heap
        tick, context, longest = self.use.iterations, self.context_tokens, self.longest
        num_rows, row_tokens, uneven = len(heap), context, 0
        self.num_head = num_rows - len(self.back)
        if work.overrun or longest:
            num_rows, row_tokens, uneven = self._rows(work.overrun)
        if chunks := work.chunks:
            back, ledger, output_tokens, kept = self.back, self.ledger, self.output_tokens, self.generated
            # These columns, and those in `advance`, as `Ledger.record_scheduled` and its siblings do.
            scheduled_s, first_token_s, dropped = ledger.scheduled_s, ledger.first_token_s, ledger.reason
            prefill_tokens = attention = 0
            starting: list[int] = []
            for chunk in chunks:
                request, num_tokens, history = chunk.request, chunk.num_tokens, chunk.cached
                i = request.id
                if (since_s := scheduled_s[i]) == since_s or (dropped and i in dropped):
                    history += self._resumed(i)
                else:
                    scheduled_s[i] = now
                length = history + num_tokens
                prefill_tokens += num_tokens
                attention += num_tokens * (history + length)
                if not chunk.last:
                    self.computed[i] = length
                    self.prompt_tokens += length
                    continue
                context += length - 1
                left = output_tokens[i]
                if kept and i in kept:
                    left -= kept.pop(i)
                    back.append(i)
                else:
                    starting.append(i)
                heappush(heap, (tick + left, i, request))
                if longest is not None:
                    heappush(longest, (tick - length + 1, tick + left))
            head_s = cost.mixed_s(num_rows, row_tokens, len(chunks), prefill_tokens, attention / 2, uneven)
            for i in starting:
                first_token_s[i] = now + head_s
            self.context_tokens = context
        elif num_rows:
            head_s = cost.decode_s(num_rows, row_tokens, uneven)
        else:
            raise SchedulingError("Iterations with nothing to run")
        leap, iterations = self.leap, heap[0][0] - tick if heap else 1
        if iterations > work.at_most:
            iterations = work.at_most
        leap.iterations, leap.head_s = iterations, head_s
        if iterations > 1 and now + head_s < until_s:
            n, uneven = len(heap), len(heap) * (tick - longest[0][0]) - context if longest else 0
            leap.first_s, leap.slope_s = cost.decode_run(n, context + n, uneven)
            if until_s < math.inf:
                leap.iterations = leap.iterations_begun(until_s - now)
            return leap
        if iterations < 1:
            raise SchedulingError("Iterations of which none is to run")
        leap.iterations, leap.first_s, leap.slope_s = 1, 0.0, 0.0
        return leap

    def advance(self, leap: Leap, iterations: int, start_s: float, end_s: float) -> list[Request]:
        """Move on by so many of the leap's iterations; the requests that finish with the last of them."""
        ledger, heap, use = self.ledger, self.heap, self.use
        num_decode, head_end_s, gaps = len(heap), start_s + leap.head_s, ledger.gaps
        steps = gaps.steps
        if self.num_head:
            steps += (head_end_s - self.iterated_s, self.num_head)
        if self.back:
            for i in self.back:
                steps += (head_end_s - self.last_token_s.pop(i), 1)
            self.back.clear()
        if iterations > 1:
            gaps.rows += (leap.first_s, leap.slope_s, iterations - 1, num_decode)
            if len(gaps.rows) >= FOLD_AT:
                gaps.fold()
        if len(steps) >= FOLD_AT:
            gaps.fold()
        use.iterations = tick = use.iterations + iterations
        context = self.context_tokens + num_decode * iterations
        self.iterated_s = end_s
        self.peak_tokens = context + self.prompt_tokens
        use.busy_s += end_s - start_s
        finished: list[Request] = []
        while heap and heap[0][0] <= tick:
            _, i, request = heappop(heap)
            context -= request.prompt_tokens + self.output_tokens[i] - 1
            ledger.finish_s[i] = end_s
            if self.replica:
                ledger.replica[i] = self.replica
            finished.append(request)
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

    def _rows(self, ended: Sequence[Request]) -> tuple[int, int, int]:
        """Rows that decode, their tokens in memory, and how many tokens in all they fall short of the longest
        where that counts; with those of requests that have ended.
        """
        heap, longest, most = self.heap, self.longest, 0
        num_rows, tokens = len(heap) + len(ended), self.context_tokens
        if longest:
            tick = self.use.iterations
            while longest and longest[0][1] <= tick:
                heappop(longest)
            if longest:
                most = tick - longest[0][0]
        for request in ended:
            context = request.prompt_tokens + self.output_tokens[request.id] - 1
            tokens += context
            if context > most:
                most = context
        if ended and not heap and self.use.unfinished is None:
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
        lost |= {i: self.output_tokens[i] - (end - self.use.iterations) for end, i, _ in self.heap}
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
        entry = next((entry for entry in self.heap if entry[1] == i), None)
        if entry is None:
            raise SchedulingError(f"request {i} was evicted or paused though it does not decode")
        self.heap.remove(entry)
        heapify(self.heap)
        if self.longest is not None:
            self.longest.remove((entry[0] + 1 - request.prompt_tokens - self.output_tokens[i], entry[0]))
            heapify(self.longest)
        left = entry[0] - self.use.iterations
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
        if len(work.pause) == len(self.heap) and {r.id for r in work.pause} == {i for _, i, _ in self.heap}:
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
        self.paused = [(end - tick, i, request) for end, i, request in self.heap]
        self.last_token_s |= {i: self.iterated_s for _, i, _ in self.heap if i not in behind}
        self.prompt_tokens, self.context_tokens = self.prompt_tokens + self.context_tokens, 0
        self.heap.clear()
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
            heappush(self.heap, (end, i, request))
            if self.longest is not None:
                heappush(self.longest, (end + 1 - request.prompt_tokens - self.output_tokens[i], end))
            self.behind.add(i)
        self.paused.clear()


class TimedRequests(RunningRequests):
    """The same, where the gaps between tokens are to be told apart by when they were."""

    def advance(self, leap: Leap, iterations: int, start_s: float, end_s: float) -> list[Request]:
        """Say when the gaps are that this adds, and move on."""
        self.ledger.gaps.mark(start_s + leap.head_s)
        return super().advance(leap, iterations, start_s, end_s)
