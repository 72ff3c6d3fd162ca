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
from .metrics import Ledger
from .request import Request
from .work import Iterations


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
    """The requests in memory and their progress; `output_tokens` is indexed by request id."""

    def __init__(self, cost: StepCost, output_tokens: Sequence[int], ledger: Ledger) -> None:
        self.cost, self.output_tokens, self.ledger = cost, output_tokens, ledger
        self.tick = 0
        self.ends: dict[int, int] = {}  # id -> tick at which it has its last token
        self.births: dict[int, int] = {}  # id -> context minus tick, constant while it decodes
        self.heap: list[tuple[int, int]] = []
        self.requests: dict[int, Request] = {}
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

    def plan(self, work: Iterations) -> Leap:
        """Carry out evictions, and say how long the iterations take if nothing interrupts them."""
        for request in work.evict:
            self._evict(request)
        num_decode, cost = len(self.ends), self.cost
        heap, ends = self.heap, self.ends
        while heap and ends.get(heap[0][1]) != heap[0][0]:
            heappop(heap)  # what was evicted
        left = heap[0][0] - self.tick if heap else work.at_most
        if not work.chunks:
            first_s, slope_s = cost.decode_run(num_decode, self.context_tokens)
            return Leap(min(left, work.at_most), first_s, first_s + slope_s, slope_s)
        prefill_tokens, attention, num_new, new_context = 0, 0.0, 0, 0
        for request, num_tokens, last, cached in work.chunks:
            history = self.computed.get(request.id, 0) + cached
            prefill_tokens += num_tokens
            attention += num_tokens * (history + num_tokens / 2)
            if last:
                num_new += 1
                new_context += history + num_tokens
                left = min(left, self.output_tokens[request.id] - self.generated.get(request.id, 0))
        head_s = cost.mixed_s(num_decode, self.context_tokens, len(work.chunks), prefill_tokens, attention)
        iterations = min(left, work.at_most)
        if iterations == 1:
            return Leap(1, head_s, 0.0, 0.0)
        context = self.context_tokens + num_decode + new_context
        return Leap(iterations, head_s, *cost.decode_run(num_decode + num_new, context))

    def advance(
        self, work: Iterations, leap: Leap, iterations: int, start_s: float, end_s: float
    ) -> list[Request]:
        """Move on by so many of the leap's iterations; the requests that finish with the last of them."""
        ledger, head_end_s = self.ledger, start_s + leap.head_s
        num_decode = len(self.ends)
        if num_decode:
            since = self.iterated_s
            ledger.gaps.add(head_end_s - since, 0.0, 1, num_decode)
        self.context_tokens += num_decode
        first_tick = self.tick + 1
        for request, num_tokens, last, cached in work.chunks:
            i = request.id
            computed = self.computed.pop(i, 0)
            self.prompt_tokens -= computed
            computed += cached + num_tokens
            if computed == num_tokens and math.isnan(ledger.scheduled_s[i]):
                ledger.scheduled_s[i] = start_s
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
            self.requests[i] = request
            self.births[i] = computed - first_tick
            self.context_tokens += computed
            end = self.tick + self.output_tokens[i] - generated
            self.ends[i] = end
            heappush(self.heap, (end, i))
        if iterations > 1:
            num_decode = len(self.ends)
            ledger.gaps.add(leap.first_s, leap.slope_s, iterations - 1, num_decode)
            self.context_tokens += num_decode * (iterations - 1)
        self.tick += iterations
        self.iterated_s = end_s
        self.peak_tokens = self.context_tokens + self.prompt_tokens
        return self._finished(end_s)

    def _finished(self, end_s: float) -> list[Request]:
        finished = []
        heap, ends, tick, ledger = self.heap, self.ends, self.tick, self.ledger
        while heap and heap[0][0] <= tick:
            end, i = heappop(heap)
            if ends.get(i) != end:
                continue
            del ends[i]
            self.context_tokens -= self.births.pop(i) + tick
            ledger.finish_s[i] = end_s
            ledger.row_length[i], ledger.attempts[i] = self.output_tokens[i], 1
            finished.append(self.requests.pop(i))
        return finished

    def _evict(self, request: Request) -> None:
        i = request.id
        self.ledger.preemptions += 1
        if i in self.ends:
            left = self.ends.pop(i) - self.tick
            self.context_tokens -= self.births.pop(i) + self.tick
            self.generated[i] = self.output_tokens[i] - left
            self.last_token_s[i] = self.iterated_s
            del self.requests[i]
        else:
            self.prompt_tokens -= self.computed.pop(i)
