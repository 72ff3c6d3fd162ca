"""Continuous batching as an executor sees it: who runs, how long, and what a run of many iterations takes.

Knows the true lengths and the step cost; knows nothing of SimPy, queues or memory. An iteration is a tick of
one global counter; running requests sit in a heap by the tick at which they finish, so that a leap costs
O(log n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from .hardware.step_cost import StepCost
from .ledger import Ledger, ReplicaUse
from .request import Request
from .work import Iterations, SchedulingError


class Leap(NamedTuple):
    """`iterations` iterations: one that takes `head_s`, then decode-only ones of `first_s + j * slope_s`."""

    iterations: int
    head_s: float
    first_s: float
    slope_s: float

    def seconds(self, iterations: int) -> float:
        """How long the first `iterations` of it take (at least 1)."""
        k = iterations - 1
        return self.head_s + k * self.first_s + self.slope_s * (k * (k - 1) / 2)

    def iterations_begun(self, seconds: float) -> int:
        """How many iterations have ended or are in progress so many seconds after its start, at least 1."""
        rest = seconds - self.head_s
        if rest <= 0 or self.iterations == 1:
            return 1
        half = self.first_s - self.slope_s / 2
        k = int(2 * rest / (half + math.sqrt(half * half + 2 * self.slope_s * rest)))
        while k > 0 and self.seconds(1 + k) >= seconds:
            k -= 1
        while self.seconds(1 + k) < seconds:
            k += 1
        return min(1 + k, self.iterations)


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
        self.ends: dict[int, int] = {}  # id of what decodes -> tick at which it has its last token
        self.heap: list[tuple[int, int, Request]] = []  # by that tick, evicted ones too
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
        return len(self.ends)

    @property
    def num_running(self) -> int:
        """Requests in memory."""
        return len(self.ends) + len(self.computed)

    def plan(self, work: Iterations) -> Leap:
        """Carry out evictions, and say how long the iterations take if nothing interrupts them."""
        chunks, at_most = work.chunks, work.at_most
        for request in work.evict:
            self._evict(request)
        cost, heap, ends = self.cost, self.heap, self.ends
        num_decode = len(ends)
        while heap and ends.get(heap[0][1]) != heap[0][0]:
            heappop(heap)  # what was evicted
        iterations = min(at_most, heap[0][0] - self.tick) if heap else at_most
        if not chunks:
            first_s, slope_s = cost.decode_run(num_decode, self.context_tokens)
            return Leap(iterations, first_s, first_s + slope_s, slope_s)
        prefill_tokens, attention, num_new, new_context = 0, 0.0, 0, 0
        for request, num_tokens, last, cached in chunks:
            i = request.id
            history = cached + self.computed[i] if i in self.computed else cached
            prefill_tokens += num_tokens
            attention += num_tokens * (history + num_tokens / 2)
            if last:
                num_new += 1
                new_context += history + num_tokens
                left = self.output_tokens[i] - self.generated.get(i, 0)
                if left < iterations:
                    iterations = left
        head_s = cost.mixed_s(num_decode, self.context_tokens, len(chunks), prefill_tokens, attention)
        if iterations == 1:
            return Leap(1, head_s, 0.0, 0.0)
        context = self.context_tokens + num_decode + new_context
        return Leap(iterations, head_s, *cost.decode_run(num_decode + num_new, context))

    def advance(
        self, work: Iterations, leap: Leap, iterations: int, start_s: float, end_s: float
    ) -> list[Request]:
        """Move on by so many of the leap's iterations; the requests that finish with the last of them."""
        ledger, ends, head_end_s = self.ledger, self.ends, start_s + leap.head_s
        num_decode = len(ends)
        if num_decode:
            ledger.gaps.add(head_end_s - self.iterated_s, 0.0, 1, num_decode)
        context = self.context_tokens + num_decode
        for request, num_tokens, last, cached in work.chunks:
            i = request.id
            if ledger.ended(i):
                raise SchedulingError(f"request {i} was run again after it had ended")
            computed = cached + num_tokens
            if i in self.computed:
                before = self.computed.pop(i)
                self.prompt_tokens -= before
                computed += before
            elif ledger.scheduled_s[i] != ledger.scheduled_s[i]:
                ledger.scheduled_s[i] = start_s
                if request.predicted_tokens is not None:
                    ledger.predicted[i] = request.predicted_tokens
            if not last:
                self.computed[i] = computed
                self.prompt_tokens += computed
                continue
            generated = self.generated.pop(i, 0)
            if generated:
                ledger.gaps.add(head_end_s - self.last_token_s.pop(i), 0.0, 1, 1)
            else:
                ledger.first_token_s[i] = head_end_s
            context += computed
            ends[i] = end = self.tick + self.output_tokens[i] - generated
            heappush(self.heap, (end, i, request))
        if iterations > 1:
            num_decode = len(ends)
            ledger.gaps.add(leap.first_s, leap.slope_s, iterations - 1, num_decode)
            context += num_decode * (iterations - 1)
        self.context_tokens = context
        self.tick += iterations
        self.iterated_s = end_s
        self.peak_tokens = context + self.prompt_tokens
        self.use.iterations += iterations
        self.use.busy_s += end_s - start_s
        return self._finished(end_s)

    def abandon(self) -> dict[int, int]:
        """The accelerator has failed and its memory is lost: id -> tokens that were lost with it."""
        lost = dict(self.generated) | dict.fromkeys(self.computed, 0)
        lost |= {i: self.output_tokens[i] - (end - self.tick) for i, end in self.ends.items()}
        self.__init__(self.cost, self.output_tokens, self.ledger, self.use, self.replica)  # type: ignore[misc]
        return lost

    def _finished(self, end_s: float) -> list[Request]:
        finished = []
        heap, ends, tick, ledger = self.heap, self.ends, self.tick, self.ledger
        while heap and heap[0][0] <= tick:
            end, i, request = heappop(heap)
            if ends.get(i) != end:
                continue
            del ends[i]
            self.context_tokens -= request.prompt_tokens + self.output_tokens[i] - 1
            ledger.finish_s[i] = end_s
            ledger.replica[i] = self.replica
            finished.append(request)
        return finished

    def _evict(self, request: Request) -> None:
        i = request.id
        self.use.preemptions += 1
        if i in self.ends:
            generated = self.output_tokens[i] - (self.ends.pop(i) - self.tick)
            self.context_tokens -= request.prompt_tokens + generated - 1
            self.generated[i] = generated
            self.last_token_s[i] = self.iterated_s
        else:
            self.prompt_tokens -= self.computed.pop(i)
