"""Continuous batching in which who waits is ranked by what memory holds of its prompt.

The longest beginning in memory goes first, or the prompt of which least is to be computed (SGLang's `lpm` and
`shortest-prefill-first`, `python/sglang/srt/managers/schedule_policy.py`, commit 00550cd). What memory holds
changes with every block, so the queue is put in order when somebody is to be let in, and keeps that order for
this iteration. Once its first does not get in, it keeps it until somebody comes, leaves or is evicted: SGLang
tries nobody before that, either, and so a decision holds for as long as under first come, first served. A
queue longer than `FAR_BACK` is not looked up at all; its order then knows nothing of memory.

SGLang also holds back prompts that begin like another one that waits, as it finds them only when that one is
computed; by vLLM's rules they are found in the same iteration already.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify

from ..request import Request
from ..work import Chunk
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .waiting import ByRank, Entry

FAR_BACK = 128
"""Most waiting requests that are looked up (SGLang's bound for `lpm`)."""


class Sorted(ByRank):
    """Entries that are ranked anew as a whole; `is_in_order`: none has come since. `is_by_memory`: the ranks
    of some are places in an order by memory.
    """

    __slots__ = ("is_by_memory", "is_in_order")

    def __init__(self) -> None:
        super().__init__()
        self.is_in_order = self.is_by_memory = False

    def push(self, entry: Entry) -> None:
        """Queue the entry, in no particular place."""
        super().push(entry)
        self.is_in_order = False

    def rank_anew(self, entries: Sequence[Entry], *, is_by_memory: bool) -> None:
        """These are the entries now."""
        self[:] = entries
        heapify(self)
        self.is_by_memory = is_by_memory


class ByMemoryScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` whose queue is in the order of what memory holds when somebody is let in."""

    __slots__ = ()
    waiting: Sorted

    def _clear(self) -> None:
        super()._clear()
        self.waiting = Sorted()

    def _admit(self, chunks: list[Chunk], budget: int) -> bool:
        """Admit from the queue, put in order before; those that run have the rank that knows no memory."""
        num_chunks, running = len(chunks), self.running
        if not self.waiting.is_in_order:
            self._put_in_order()
        is_settled = super()._admit(chunks, budget)
        for chunk in chunks[num_chunks:]:
            _, order, request = running[chunk.request.id]
            running[request.id] = (self.rank(request, 0), order, request)
        self.waiting.is_in_order = is_settled
        return is_settled

    def _put_in_order(self) -> None:
        """Rank those that wait by memory, or without it where they are too many."""
        waiting = self.waiting
        if len(waiting) - len(self.withdrawn) > FAR_BACK:
            if waiting.is_by_memory:
                plain = [(self.rank(request, 0), order, request) for _, order, request in waiting]
                waiting.rank_anew(plain, is_by_memory=False)
        elif len(waiting) > 1:
            by_memory = sorted((self._key(request), order, request) for _, order, request in waiting)
            places = [(float(place), *entry[1:]) for place, entry in enumerate(by_memory)]
            waiting.rank_anew(places, is_by_memory=True)

    def _key(self, request: Request) -> tuple[int, float]:
        """What orders two requests, the lower first: by memory, then without."""
        length = self._length(request)
        found = self.kv.cached_tokens(request, length)
        is_longest = self.options.order == "longest-prefix-match"
        return -found if is_longest else length - found, self.rank(request, 0)

    def _leave(self, finished: Sequence[Request]) -> None:
        """Those that have finished run no longer; memory may hold more now that is found."""
        super()._leave(finished)
        self.waiting.is_in_order = False


class AheadByMemoryScheduler(AheadScheduler, ByMemoryScheduler):
    """The same, with one decision in hand."""
