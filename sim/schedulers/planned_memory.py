"""KV memory that running requests will need at most until all have ended, as predicted or as a quantile of
what is predicted; knows nothing of queues or budgets.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, takewhile
from math import ceil

from ..request import Request
from .binning import expected_tokens
from .continuous_options import ContinuousOptions
from .gittins import lengths_of


def planned_tokens(request: Request, margin: float) -> int:
    """Tokens that a request is predicted to have in memory in the end; `margin` as in `expected_tokens`. Its
    own cap is no prediction.
    """
    return request.prompt_tokens + min(expected_tokens(request, margin), request.bound_tokens)


def planned_memory(options: ContinuousOptions, block_size: int) -> PlannedMemory | None:
    """What keeps account of memory to come, where the option `admission` needs it."""
    if options.admission == "predicted":
        return PlannedMemory(block_size, options.margin)
    quantile = options.admission_quantile
    return None if quantile is None else QuantileMemory(block_size, quantile)


class PlannedMemory:
    """The peak of what is still to come, if everyone ends as planned and nobody else is let in.

    A sequence has birth + i tokens at iteration i, and ends at the iteration at which that is what it was
    planned to hold. When the last but k of them ends, the k + 1 that are left then hold the sum of their
    births and k + 1 times that iteration: the largest such sum is the peak. One that has outlived its plan is
    taken to go on for another block.
    """

    def __init__(self, block_size: int, margin: float = 0.0) -> None:
        self.block_size, self.margin = block_size, margin
        self.entries: list[tuple[int, int, int]] = []  # sorted: (-iteration of its end, birth, id)
        self.entry: dict[int, tuple[int, int, int]] = {}  # the same by id

    def plan(self, request: Request, length: int, birth: int) -> None:
        """Set memory aside for a request that computes `length` tokens before its next one."""
        self.put(request.id, max(planned_tokens(request, self.margin), length), birth)

    def fits(self, request: Request, length: int, iteration: int, num_blocks: int) -> bool:
        """Whether the peak takes no more than `num_blocks`, if the request begins with the next iteration."""
        planned = max(planned_tokens(request, self.margin), length)
        return self.peak_blocks(iteration, planned, length - iteration - 1) <= num_blocks

    def put(self, id: int, planned_tokens: int, birth: int) -> None:
        """Add a sequence, or replace its entry where its birth has changed."""
        PlannedMemory.leave(self, id)
        self.entry[id] = entry = (birth - planned_tokens, birth, id)
        insort(self.entries, entry)

    def leave(self, id: int) -> None:
        """Remove a sequence that has left the memory, if it is there."""
        entry = self.entry.pop(id, None)
        if entry is not None:
            del self.entries[bisect_left(self.entries, entry)]

    def peak_blocks(self, iteration: int, planned_tokens: int, birth: int) -> int:
        """Blocks at the peak from `iteration` on, with one more sequence; at most one a sequence too many."""
        size = self.block_size
        more = (birth - planned_tokens, birth, -1)
        at = bisect_left(self.entries, more)
        entries: Iterable[tuple[int, int, int]] = chain(self.entries[:at], (more,), self.entries[at:])
        births = peak = 0
        for count, (negative_end, one, _) in enumerate(entries, start=1):
            births += one
            end = -negative_end if -negative_end >= iteration else iteration + size
            tokens = births + count * (end + size - 1)
            if tokens > peak:
                peak = tokens
        return peak // size


class QuantileMemory(PlannedMemory):
    """A quantile of the peak, when lengths are known as distributions (the past-future scheduler,
    arXiv 2507.10150, which samples them).

    There are as many plans as a distribution has lengths. In each plan every request has another one of its
    lengths, in an order of its own, so that together they are samples of all that may come. An answer that
    has outlived its length in a plan gets another one there: of its lengths that it has not outlived.
    """

    def __init__(self, block_size: int, quantile: float) -> None:
        super().__init__(block_size)
        self.quantile = quantile
        self.samples: list[PlannedMemory] = []
        self.lengths: dict[int, tuple[Request, int]] = {}  # id -> who was planned for, and its birth

    def plan(self, request: Request, length: int, birth: int) -> None:
        """Set memory aside in every plan, and in one that has everybody's longest."""
        self._grow(request)
        self.lengths[request.id] = request, birth
        self.put(request.id, max(_totals(request)[-1], length), birth)
        for k, sample in enumerate(self.samples):
            sample.put(request.id, self._planned(request, k, length), birth)

    def leave(self, id: int) -> None:
        """Remove a sequence that has left the memory from every plan."""
        super().leave(id)
        if self.lengths.pop(id, None) is not None:
            for sample in self.samples:
                sample.leave(id)

    def fits(self, request: Request, length: int, iteration: int, num_blocks: int) -> bool:
        """Whether that quantile of the plans' peaks takes no more than `num_blocks`, if the request begins
        with the next iteration.
        """
        # Where memory suffices for everybody's longest, there is nothing to try.
        most = max(_totals(request)[-1], length)
        if self.peak_blocks(iteration, most, length - iteration - 1) <= num_blocks:
            return True
        return self.peak_with(request, length, iteration) <= num_blocks

    def peak_with(self, request: Request, length: int, iteration: int) -> int:
        """The quantile of the plans' peaks, if the request begins with the next iteration (blocks)."""
        self._grow(request)
        birth, peaks = length - iteration - 1, []
        for k, sample in enumerate(self.samples):
            self._outlive(sample, k, iteration)
            peaks.append(sample.peak_blocks(iteration, self._planned(request, k, length), birth))
        return sorted(peaks)[ceil(self.quantile * len(peaks)) - 1]

    def _grow(self, request: Request) -> None:
        """Have a plan for each of the request's lengths."""
        while len(self.samples) < len(lengths_of(request)):
            k, sample = len(self.samples), PlannedMemory(self.block_size)
            self.samples.append(sample)
            for other, birth in self.lengths.values():
                sample.put(other.id, self._planned(other, k, other.prompt_tokens), birth)

    def _planned(self, request: Request, k: int, held: int) -> int:
        """Tokens that a request which has `held` in memory holds in the end, in plan `k`."""
        left = [total for total in _totals(request) if total > held]
        return _sample(request, k, left) if left else held

    def _outlive(self, sample: PlannedMemory, k: int, iteration: int) -> None:
        """Give those whose end in the plan has passed another length, longer than that, if there is one.

        What comes next follows from what was outlived alone, not from when somebody looks.
        """
        late = list(takewhile(lambda entry: -entry[0] < iteration, reversed(sample.entries)))
        for negative_end, birth, id in late:
            request, end = self.lengths[id][0], birth - negative_end
            planned, held = end, birth + iteration
            while planned < held and (left := [total for total in _totals(request) if total > planned]):
                planned = _sample(request, k, left)
            if planned != end:
                sample.put(id, planned, birth)


def _totals(request: Request) -> list[int]:
    """Tokens that the request may hold in the end, by rising number."""
    return [request.prompt_tokens + min(length, request.bound_tokens) for length in lengths_of(request)]


def _sample(request: Request, k: int, left: Sequence[int]) -> int:
    """One of the numbers that are left, for plan `k`."""
    size = len(lengths_of(request))
    return left[_shuffled(request.id % ORDERS, size)[k % size] * len(left) // size]


ORDERS = 61
"""So many orders of the lengths of a distribution; requests take them in turn."""


@cache
def _shuffled(number: int, size: int) -> tuple[int, ...]:
    """The numbers below `size` in an order that looks like chance (Fisher-Yates, congruences)."""
    order, state = list(range(size)), number + 1
    for top in range(size - 1, 0, -1):
        state = (1103515245 * state + 12345) % (1 << 31)
        other = (state >> 8) % (top + 1)
        order[top], order[other] = order[other], order[top]
    return tuple(order)
