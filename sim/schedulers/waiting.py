"""The queue of a scheduler: entries by rank, the lowest first; knows nothing of how ranks come about."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from ..request import Request

Entry: TypeAlias = tuple[float, int, Request]
"""A request with its rank and the order of its submission: its place in the queue, also when evicted."""


class InOrder(deque[Entry]):
    """For entries that nearly always come by rising rank, as under first come, first served.

    Pushing and popping take the same time however long the queue is. An entry that belongs further to the
    front is sorted in, which takes as long as the distance to the nearer end.
    """

    __slots__ = ()
    pop_first = deque.popleft
    """Takes the first out."""

    def push(self, entry: Entry) -> None:
        """Queue the entry."""
        if not self or self[-1] < entry:
            self.append(entry)
        else:
            insort(self, entry)

    def take_out(self, entry: Entry) -> None:
        """Take this one out, wherever it stands."""
        self.remove(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Queue again what was taken out from the first on, in that order."""
        self.extendleft(reversed(entries))


class ByRank(list[Entry]):
    """For entries that come in any order: a heap, whose first is the lowest."""

    __slots__ = ()

    def push(self, entry: Entry) -> None:
        """Queue the entry."""
        heappush(self, entry)

    def pop_first(self) -> Entry:
        """Take the first out."""
        return heappop(self)

    def take_out(self, entry: Entry) -> None:
        """Take this one out, wherever it stands."""
        self.remove(entry)
        heapify(self)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Queue these again."""
        for entry in entries:
            heappush(self, entry)
