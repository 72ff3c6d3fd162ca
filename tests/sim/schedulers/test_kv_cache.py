"""The count of KV blocks equals a table of who holds how many tokens, kept iteration by iteration."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.kv_blocks import blocks_for
from sim.request import Request
from sim.schedulers.kv_cache import FAR, KvCache
from sim.schedulers.prefixes import Caching
from sim.work import Chunk


def request(id: int) -> Request:
    return Request(id, 0.0, 1, 1)


def decoding(*tokens: int, num_blocks: int = 100, block_size: int = 4) -> KvCache:
    """Sequences 0, 1, ... that have so many tokens in memory and decode."""
    kv = KvCache(num_blocks, block_size)
    for id, held in enumerate(tokens):
        assert kv.admit(id, held, True)
    kv.advance(1, [])
    return kv


def let_in(kv: KvCache, id: int, tokens: int) -> int:
    """It is let in whole; how many of its tokens were found."""
    cached = kv.cached_tokens(request(id), tokens) if kv.may_find else 0
    assert kv.admit(id, tokens, True)
    if kv.may_find:
        kv.reuse(id, tokens)
    return cached


def evict(kv: KvCache, id: int) -> None:
    """It leaves, and nobody goes on in that iteration."""
    kv.begin_scan()
    kv.evict(id, 0, 0)
    kv.end_scan([], [], is_empty=True)


def test_a_sequence_takes_a_block_when_its_last_one_is_full() -> None:
    kv = decoding(3)
    assert (kv.free, kv.need, kv.held(0)) == (99, 0, 3)
    kv.advance(1, [])
    assert (kv.free, kv.need, kv.held(0)) == (99, 1, 4)
    kv.advance(1, [])
    assert (kv.free, kv.need, kv.held(0)) == (98, 0, 5)


def test_what_does_not_fit_is_not_admitted() -> None:
    kv = decoding(4, num_blocks=3)
    assert kv.need == 1  # of two that are free
    assert not kv.can_admit(5) and not kv.admit(1, 5, True)
    assert (kv.need, kv.free, kv.births.keys()) == (1, 2, {0})
    assert kv.can_admit(4) and kv.admit(1, 4, True)
    assert kv.need == 2


def test_a_prompt_comes_in_chunks() -> None:
    kv = KvCache(3, 4)
    assert kv.admit(0, 6, False)
    kv.advance(1, [])
    assert (kv.partial, kv.free, kv.need) == ({0: 6}, 1, 0)
    assert kv.can_extend([Chunk(request(0), 6, True)]) and not kv.can_extend([Chunk(request(0), 7, True)])
    kv.extend(Chunk(request(0), 6, True))
    assert (kv.partial, kv.need) == ({}, 1)
    kv.advance(1, [])
    assert (kv.held(0), kv.free, kv.need) == (12, 0, 1)


@pytest.mark.parametrize("prefix_caching", ["on", "own", "off"])
def test_an_evicted_sequence_finds_its_full_blocks_again(prefix_caching: Caching) -> None:
    kv = KvCache(4, 4, prefix_caching=prefix_caching)
    assert let_in(kv, 0, 9) == 0
    kv.advance(1, [])
    evict(kv, 0)
    assert (kv.free, kv.need) == (4, 0)
    assert let_in(kv, 0, 9) == (0 if prefix_caching == "off" else 8)
    kv.advance(1, [])
    assert (kv.free, kv.held(0)) == (1, 9)


def test_blocks_taken_meanwhile_are_not_found_again() -> None:
    kv = decoding(8, num_blocks=3)
    evict(kv, 0)
    assert kv.admit(1, 8, True)
    assert kv.cached_tokens(request(0), 9) == 4  # the last went first, behind the one that was free


def test_clearing_keeps_the_peak() -> None:
    kv = decoding(9, 5)
    kv.clear()
    assert (kv.free, kv.need, kv.births, sum(kv.takers), kv.peak_tokens) == (100, 0, {}, 0, 20)
    kv.advance(0, [])
    assert kv.free == 100


@settings(max_examples=200)
@given(
    tokens=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    spare=st.integers(0, 60),
    block_size=st.sampled_from([1, 2, 7, 16]),
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 11), st.booleans()), max_size=8),
)
def test_closed_form_equals_the_table(
    tokens: list[int], spare: int, block_size: int, steps: list[tuple[int, int, bool]]
) -> None:
    num_blocks = sum(blocks_for(n, block_size) for n in tokens) + spare
    kv, table = decoding(*tokens, num_blocks=num_blocks, block_size=block_size), dict(enumerate(tokens))

    def used(more: int = 0) -> int:
        return sum(blocks_for(n + more, block_size) for n in table.values())

    most_used = used()
    for iterations, leaver, is_evicted in steps:
        if not table:
            break
        fits = kv.iterations_that_fit() if kv.need <= kv.free else 0
        assert used(fits) <= num_blocks
        if fits < FAR:
            assert used(fits + 1) > num_blocks
        iterations = min(iterations, fits)
        id = sorted(table)[leaver % len(table)]
        finished = [request(id)] if iterations and not is_evicted else []
        kv.advance(iterations, finished)
        table = {i: n + iterations for i, n in table.items()}
        most_used = max(most_used, used())
        if not finished:
            assert kv.held(id) == table[id]
            evict(kv, id)
        del table[id]
        assert kv.free == num_blocks - used()
        assert kv.need == kv.decode_need() == used(1) - used()
        assert kv.peak_tokens == most_used * block_size
