"""How running requests go on: their next chunks, and where memory is short, who gives up theirs (vLLM's scan
of what runs, one request after the other).

Knows nothing of queues, predictions or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple

from ..request import Request
from ..work import Chunk
from .kv_cache import KvCache
from .waiting import Entry


class Scan(NamedTuple):
    """`num_going_on`: how many get a token or a chunk. `chunks`: those of incomplete prompts. `evicted`: who
    gave up its memory. `paused`: who keeps it and gets no token.
    """

    num_going_on: int
    chunks: list[Chunk]
    evicted: list[Request]
    paused: list[Request]


def next_chunks(
    running: Mapping[int, Entry], kv: KvCache, budget: int, length_of: Callable[[Request], int]
) -> list[Chunk]:
    """The next chunks of incomplete prompts, as the token `budget` allows beside a token of who decodes."""
    chunks: list[Chunk] = []
    budget -= len(kv.births)
    for id, tokens in kv.partial.items():
        request = running[id][2]
        left = length_of(request) - tokens
        num_tokens = min(left, budget)
        if num_tokens <= 0:
            break
        budget -= num_tokens
        chunks.append(Chunk(request, num_tokens, num_tokens == left))
    return chunks


def scan(
    running: Iterable[Entry],
    kv: KvCache,
    budget: int,
    length_of: Callable[[Request], int],
    leave: Callable[[Entry, int], None],
) -> Scan:
    """Let the running requests go on in their order, within the token `budget`; where one finds no block,
    the lowest-ranked of all leaves, until there is one or it has left itself.

    A request that leaves itself ends the scan, and those after it are paused. A chunk keeps the size that the
    budget allowed before somebody with a token already left. `length_of`: tokens that a request computes
    before its next one. `leave(entry, num_tokens)`: the request gives up its memory, with `num_tokens` that
    it was to compute in this iteration. Who only waits for its last token takes no part, but may have to
    leave.
    """
    left, evicted = list(running), list[Request]()
    given: dict[int, int] = {}  # id -> tokens to compute
    kv.begin_scan()
    next_up, has_room = 0, True
    while has_room and next_up < len(left) and budget > 0:
        request = left[next_up][2]
        id = request.id
        if id in kv.complete:
            next_up += 1
            continue
        num_tokens = min(length_of(request) - kv.partial[id], budget) if id in kv.partial else 1
        while not kv.go_on(id, num_tokens):
            lowest = max(left, key=itemgetter(0, 1))
            position = left.index(lowest)
            del left[position]
            returned = given.pop(lowest[2].id, 0)
            budget += returned
            next_up -= position < next_up
            leave(lowest, returned)
            evicted.append(lowest[2])
            if lowest[2] is request:
                has_room = False
                break
        else:
            given[id] = num_tokens
            budget -= num_tokens
            next_up += 1
    chunks = []
    for *_, request in left[:next_up]:
        if request.id in kv.partial:
            is_last = given[request.id] == length_of(request) - kv.partial[request.id]
            chunks.append(Chunk(request, given[request.id], is_last))
    paused = [request for *_, request in left[next_up:] if request.id in kv.births]
    kv.end_scan(chunks, paused, is_empty=not given)
    return Scan(len(given), chunks, evicted, paused)
