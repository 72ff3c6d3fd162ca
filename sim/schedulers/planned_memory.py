"""KV memory that running requests will need at most until all have ended, as predicted; knows nothing of
queues or budgets.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import chain

from ..request import Request
from .binning import expected_tokens


def planned_tokens(request: Request, margin: float) -> int:
    """Tokens that a request is predicted to have in memory in the end; `margin` as in `expected_tokens`. Its
    own cap is no prediction.
    """
    return request.prompt_tokens + min(expected_tokens(request, margin), request.bound_tokens)


class PlannedMemory:
    """The peak of what is still to come, if everyone ends as planned and nobody else is let in.

    A sequence has birth + i tokens at iteration i, and ends at the iteration at which that is what it was
    planned to hold. When the last but k of them ends, the k + 1 that are left then hold the sum of their
    births and k + 1 times that iteration: the largest such sum is the peak. One that has outlived its plan is
    taken to go on for another block.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.entries: list[tuple[int, int, int]] = []  # sorted: (-iteration of its end, birth, id)
        self.entry: dict[int, tuple[int, int, int]] = {}  # the same by id

    def put(self, id: int, planned_tokens: int, birth: int) -> None:
        """Add a sequence, or replace its entry where its birth has changed."""
        self.leave(id)
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
