"""Continuous batching in which who waits is ranked by what memory holds of its prompt.

The longest beginning in memory goes first, or the prompt of which least is to be computed (SGLang's `lpm` and
`shortest-prefill-first`, `python/sglang/srt/managers/schedule_policy.py`, commit 00550cd). What memory holds
changes with every block, so the queue is put in order when somebody is to be let in, and keeps that order for
this iteration. Once its first does not get in, it keeps it until somebody comes, leaves or is evicted: SGLang
tries nobody before that, either, and so a decision holds for as long as under first come, first served. A
queue longer than `FAR_BACK` is not looked up at all; its order then knows nothing of memory.

SGLang also holds back prompts that begin like another one that waits, as it finds them only when that one is
computed; by vLLM's rules they are found in the same iteration already.

With `starve_after`, who has waited for that many iterations goes before all others when the queue is put in
order, those that wait longest first. A wait begins when the queue is first put in order with the request in
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify
from math import inf

from ..request import Request
from ..work import Chunk
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .waiting import ByRank, Entry

FAR_BACK = 128
"""Most waiting requests that are looked up (SGLang's bound for `lpm`)."""


class Sorted(ByRank):
    """Entries that are ranked anew as a whole; `is_in_order`: none has come since. `is_by_memory`: the ranks
    of some are places in another order than that of the discipline. `since`: id -> the iteration from which
    on it waits, where somebody may starve.
    """

    __slots__ = ("is_by_memory", "is_in_order", "since")

    def __init__(self) -> None:
        super().__init__()
        self.since: dict[int, int] = {}
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
            self.waiting.since.pop(request.id, None)
        self.waiting.is_in_order = is_settled
        return is_settled

    def _put_in_order(self) -> None:
        """Rank those that wait by memory, or without it where they are too many; who starves goes first."""
        waiting = self.waiting
        starving = self._starving() if self.options.starves_after else {}
        is_long = len(waiting) - len(self.withdrawn) > FAR_BACK
        if is_long and not starving:
            if waiting.is_by_memory:
                plain = [(self.rank(request, 0), order, request) for _, order, request in waiting]
                waiting.rank_anew(plain, is_by_memory=False)
        elif len(waiting) > 1:
            key = self._plain_key if is_long else self._key
            ordered = sorted(
                ((starving.get(request.id, inf), key(request)), order, request)
                for _, order, request in waiting
            )
            places = [(float(place), *entry[1:]) for place, entry in enumerate(ordered)]
            waiting.rank_anew(places, is_by_memory=True)

    def _starving(self) -> dict[int, int]:
        """Who has waited for too long, and since which iteration."""
        waiting, now = self.waiting, self.kv.iteration
        waiting.since = {entry[2].id: waiting.since.get(entry[2].id, now) for entry in waiting}
        latest = now - self.options.starves_after
        return {id: since for id, since in waiting.since.items() if since <= latest}

    def _plain_key(self, request: Request) -> tuple[int, float]:
        """What orders two requests where memory is not looked at."""
        return 0, self.rank(request, 0)

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
