"""Continuous batching as an executor sees it: who runs, how long, and what a run of many iterations takes.

Knows the true lengths and the step cost; knows nothing of SimPy, queues or memory. An iteration is a tick of
one global counter; running requests sit in a heap by the tick at which they finish, so that a leap costs
O(log n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from .hardware.step_cost import StepCost
from .ledger import Ledger, ReplicaUse
from .request import Request
from .work import Chunk, Iterations, SchedulingError


class Leap(NamedTuple):
    """`iterations` iterations: one that takes `head_s`, then decode-only ones of `first_s + j * slope_s`.

    `starting` are the requests whose prompt the first of them completes, each with the tokens it has left to
    generate from there on; `context_tokens` is what they have in memory then.
    """

    iterations: int
    head_s: float
    first_s: float
    slope_s: float
    starting: Sequence[tuple[int, Request]] = ()
    context_tokens: int = 0

    def seconds(self, iterations: int) -> float:
        """How long the first `iterations` of it take (at least 1)."""
        k = iterations - 1
        return self.head_s + k * self.first_s + self.slope_s * (k * (k - 1) / 2)

    def iterations_begun(self, seconds: float) -> int:
        """How many iterations have ended or are in progress so many seconds after its start, at least 1."""
        rest, last = seconds - self.head_s, self.iterations - 1
        if rest <= 0 or not last:
            return 1
        first, slope = self.first_s, self.slope_s
        if last * first + slope * (last * (last - 1) / 2) < rest:
            return self.iterations
        half = first - slope / 2
        k = int(2 * rest / (half + math.sqrt(half * half + 2 * slope * rest)))
        while k > 0 and self.seconds(1 + k) >= seconds:
            k -= 1
        while self.seconds(1 + k) < seconds:
            k += 1
        return min(1 + k, self.iterations)

    def iterations_ended(self, seconds: float) -> int:
        """How many iterations are over so many seconds after its start, from none to all."""
        begun = self.iterations_begun(seconds)
        return begun if self.seconds(begun) <= seconds else begun - 1


class RunningRequests:
    """The requests in memory and their progress; `output_tokens` is indexed by request id.

    One that decodes has its prompt and all its tokens but the newest in memory, so that its context follows
    from the tick at which it ends.
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
        self.tick = 0
        # What decodes, by the tick at which it has its last token: (tick, id, request).
        self.heap: list[tuple[int, int, Request]] = []
        self.computed: dict[int, int] = {}  # id -> prompt tokens computed, while its prompt is incomplete
        self.generated: dict[int, int] = {}  # id -> tokens kept over evictions
        self.last_token_s: dict[int, float] = {}  # id of what was evicted -> when its last token came
        self.context_tokens = 0  # summed over what decodes, before the next iteration
        self.prompt_tokens = 0  # summed over incomplete prompts
        self.peak_tokens = 0  # in memory at the end of the last leap, before what finished left
        self.iterated_s = math.nan  # end of the last iteration

    @property
    def num_decoding(self) -> int:
        """Requests that get a token in every iteration."""
        return len(self.heap)

    @property
    def num_running(self) -> int:
        """Requests in memory."""
        return len(self.heap) + len(self.computed)

    def plan(self, work: Iterations, seconds: float = math.inf) -> Leap:
        """Carry out evictions, and say how long the iterations take if nothing interrupts them.

        After the iteration in progress at `seconds` from now nobody needs to know.
        """
        chunks, iterations = work.chunks, work.at_most
        for request in work.evict:
            self._evict(request)
        cost, heap = self.cost, self.heap
        num_decode, context = len(heap), self.context_tokens
        if heap and heap[0][0] - self.tick < iterations:
            iterations = heap[0][0] - self.tick
        if not chunks:
            first_s, slope_s = cost.decode_run(num_decode, context)
            return Leap(iterations, first_s, first_s + slope_s, slope_s)
        prefill_tokens, attention, new_context = 0, 0.0, 0
        computed, generated, output_tokens = self.computed, self.generated, self.output_tokens
        starting = []
        for request, num_tokens, last, cached in chunks:
            i = request.id
            history = cached + computed[i] if i in computed else cached
            prefill_tokens += num_tokens
            attention += num_tokens * (history + num_tokens / 2)
            if last:
                new_context += history + num_tokens
                left = output_tokens[i] - generated[i] if i in generated else output_tokens[i]
                starting.append((left, request))
                if left < iterations:
                    iterations = left
        head_s = cost.mixed_s(num_decode, context, len(chunks), prefill_tokens, attention)
        if iterations == 1 or seconds <= head_s:
            return Leap(1, head_s, 0.0, 0.0, starting, new_context)
        first_s, slope_s = cost.decode_run(num_decode + len(starting), context + num_decode + new_context)
        return Leap(iterations, head_s, first_s, slope_s, starting, new_context)

    def advance(
        self, work: Iterations, leap: Leap, iterations: int, start_s: float, end_s: float
    ) -> list[Request]:
        """Move on by so many of the leap's iterations; the requests that finish with the last of them."""
        ledger, tick, heap = self.ledger, self.tick, self.heap
        num_decode, head_end_s = len(heap), start_s + leap.head_s
        context = self.context_tokens + num_decode + leap.context_tokens
        finish_s = ledger.finish_s
        gap_s, num_gaps = head_end_s - self.iterated_s if num_decode else 0.0, num_decode
        if work.chunks:
            self._count(work.chunks, start_s)
            for left, request in leap.starting:
                i = request.id
                heappush(heap, (tick + left, i, request))
                if i in self.last_token_s:
                    ledger.gaps.add(head_end_s - self.last_token_s.pop(i), 0.0, 1, 1)
                    del self.generated[i]
                else:
                    ledger.first_token_s[i] = head_end_s
        if iterations == 1:
            if num_gaps:
                ledger.gaps.add(gap_s, 0.0, 1, num_gaps)
        else:
            num_decode = len(heap)
            ledger.gaps.add_leap(gap_s, num_gaps, leap.first_s, leap.slope_s, iterations - 1, num_decode)
            context += num_decode * (iterations - 1)
        self.tick = tick = tick + iterations
        self.iterated_s = end_s
        self.peak_tokens = context + self.prompt_tokens
        self.use.iterations += iterations
        self.use.busy_s += end_s - start_s
        finished: list[Request] = []
        while heap and heap[0][0] <= tick:
            _, i, request = heappop(heap)
            context -= request.prompt_tokens + self.output_tokens[i] - 1
            finish_s[i], ledger.replica[i] = end_s, self.replica
            finished.append(request)
        self.context_tokens = context
        return finished

    def _count(self, chunks: Sequence[Chunk], start_s: float) -> None:
        """What of its prompt each request has in memory now, and when it first ran."""
        ledger, computed = self.ledger, self.computed
        scheduled_s = ledger.scheduled_s
        if ledger.reason and any(chunk.request.id in ledger.reason for chunk in chunks):
            raise SchedulingError(
                f"a request was run after it had been dropped: {[c.request.id for c in chunks]}"
            )
        for request, num_tokens, last, cached in chunks:
            i = request.id
            if i in computed:
                before = computed.pop(i)
                self.prompt_tokens -= before
                cached += before
            elif scheduled_s[i] != scheduled_s[i]:
                scheduled_s[i] = start_s
                if request.predicted_tokens is not None:
                    ledger.predicted[i] = request.predicted_tokens
            elif ledger.ended(i):
                raise SchedulingError(f"request {i} was run again after it had ended")
            if not last:
                computed[i] = cached + num_tokens
                self.prompt_tokens += cached + num_tokens

    def abandon(self) -> dict[int, int]:
        """The accelerator has failed and its memory is lost: id -> tokens that were lost with it."""
        lost = dict(self.generated) | dict.fromkeys(self.computed, 0)
        lost |= {i: self.output_tokens[i] - (end - self.tick) for end, i, _ in self.heap}
        self.__init__(self.cost, self.output_tokens, self.ledger, self.use, self.replica)  # type: ignore[misc]
        return lost

    def _evict(self, request: Request) -> None:
        i = request.id
        self.use.preemptions += 1
        entry = next((entry for entry in self.heap if entry[1] == i), None)
        if entry is not None:
            self.heap.remove(entry)
            heapify(self.heap)
            generated = self.output_tokens[i] - (entry[0] - self.tick)
            self.context_tokens -= request.prompt_tokens + generated - 1
            self.generated[i] = generated
            self.last_token_s[i] = self.iterated_s
        else:
            self.prompt_tokens -= self.computed.pop(i)
