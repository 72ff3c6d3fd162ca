"""The scan of what runs: who goes on, who leaves and who sits the iteration out."""

from __future__ import annotations

from sim.request import Request
from sim.schedulers.kv_cache import KvCache
from sim.schedulers.preemption import Scan, next_chunks, scan
from sim.schedulers.waiting import Entry


def running(*ranks: int, prompt: int = 4) -> list[Entry]:
    """Requests 0, 1, ... of these ranks, in the order in which they were let in."""
    return [(rank, id, Request(id, 0.0, prompt, 20)) for id, rank in enumerate(ranks)]


def decoding(entries: list[Entry], num_blocks: int) -> KvCache:
    """Their prompts fill a block of 4 each, so that every one needs another block now."""
    kv = KvCache(num_blocks, 4)
    for *_, request in entries:
        assert kv.admit(request.id, request.prompt_tokens, True)
    kv.advance(1, [])
    return kv


def scanned(entries: list[Entry], kv: KvCache, budget: int = 100) -> Scan:
    return scan(
        entries,
        kv,
        budget,
        lambda request: request.prompt_tokens,
        lambda entry, num_tokens: kv.evict(entry[2].id, entry[2].prompt_tokens, num_tokens),
    )


def ids(requests: list[Request]) -> list[int]:
    return [request.id for request in requests]


def test_the_lowest_ranked_leaves_until_there_is_room() -> None:
    entries = running(0, 0, 0)
    kv = decoding(entries, 4)
    found = scanned(entries, kv)
    assert (found.num_going_on, ids(found.evicted), found.paused) == (2, [2], [])
    assert (kv.need, kv.free) == (2, 2)


def test_who_leaves_itself_ends_the_scan() -> None:
    entries = running(0, 1, 0)
    kv = decoding(entries, 4)
    found = scanned(entries, kv)
    assert (found.num_going_on, ids(found.evicted), ids(found.paused)) == (1, [1], [2])
    assert (kv.need, kv.free, kv.held(2)) == (1, 2, 4)
    kv.advance(1, [])
    assert (kv.held(0), kv.held(2)) == (5, 4)
    assert (kv.need, kv.free) == (1, 1)  # it takes its block an iteration later


def test_one_in_which_nobody_goes_on_is_none() -> None:
    entries = running(1, 0)
    kv = decoding(entries, 2)
    found = scanned(entries, kv)
    assert (found.num_going_on, ids(found.evicted)) == (0, [0])
    assert (kv.need, kv.free, kv.paused) == (1, 1, [])
    assert scanned(entries[1:], kv).num_going_on == 1


def test_a_chunk_keeps_its_size_when_a_token_is_returned() -> None:
    entries = running(9, 0, 0)
    kv = KvCache(5, 4)
    assert kv.admit(0, 3, True) and kv.admit(1, 3, True) and kv.admit(2, 3, False)
    kv.advance(1, [])
    entries[2] = (0, 2, Request(2, 0.0, 20, 20))
    running_by_id = {entry[2].id: entry for entry in entries}
    assert next_chunks(running_by_id, kv, 12, lambda r: r.prompt_tokens)[0].num_tokens == 10
    found = scanned(entries, kv, budget=12)
    assert ids(found.evicted) == [0]
    assert [(c.request.id, c.num_tokens, c.last) for c in found.chunks] == [
        (2, 10, False)
    ]  # 11 would fit now
    assert kv.partial == {2: 13}
