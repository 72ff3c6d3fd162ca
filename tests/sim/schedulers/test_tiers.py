"""Tiers in spans: what tiers block by block do, of whatever requests that begin alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.schedulers.arc_tier import ArcTier
from sim.schedulers.block_sets import block_set, ranges
from sim.schedulers.prefix_blocks import ENDLESS, Path
from sim.schedulers.radix_tree import FEW_NAMES, BlockRange, RadixTree
from sim.schedulers.spans import Order, Span, Spans
from sim.schedulers.tiers import Tier, Tiers
from sim.work import MemoryTier
from tests.sim.schedulers.naive_block_tiers import (
    KEY_BITS,
    NaiveArcTier,
    NaiveTier,
    NaiveTiers,
    block_keys,
)

ANSWER = 3


def path_along(number: int, turns: list[int], cut: int) -> Path:
    """What a request has that goes that way from the root, of a tree whose branches have one to five blocks
    each. Of its last branch it may have fewer; where that is an answer, it may have more.
    """
    keys, bounds, way, at = list[int](), list[int](), 1, 0
    for turn in turns:
        way = 4 * way + turn
        at += 1 + way * 7 % 5
        keys.append(way)
        bounds.append(at)
    if turns and turns[-1] == ANSWER:
        return Path(keys, [*bounds[:-1], ENDLESS])
    if turns and bounds[-1] - cut > (bounds[-2] if len(bounds) > 1 else 0):
        bounds[-1] -= cut
    return Path([*keys, -1 - number], [*bounds, ENDLESS])


def random_paths(rng: random.Random) -> list[Path]:
    ways = [[rng.randrange(4) for _ in range(rng.randint(0, 5))] for _ in range(rng.randint(1, 3))]
    for _ in range(3):  # others that go on from these, or leave them
        way = rng.choice(ways)
        ways.append(way[: rng.randint(0, len(way))] + [rng.randrange(4) for _ in range(rng.randint(0, 2))])
    return [path_along(number, way, rng.choice([0, 0, 1, 2, 3])) for number, way in enumerate(ways)]


class Step(NamedTuple):
    """Something that a request does with some of its blocks, so many quarters of a second later."""

    does: str
    number: int
    low: int
    blocks: int
    quarters: int


KINDS = ["store", "store", "store", "fetch", "fetch", "at once", "end", "end", "want", "forget"]


def random_step(rng: random.Random) -> Step:
    does = "fail" if rng.random() < 0.01 else rng.choice(KINDS)
    return Step(
        does,
        rng.randrange(6),
        rng.choice([0, 0, rng.randint(0, 9)]),
        rng.randint(0, 12),
        rng.choice([0, 0, 1, 5, 40]),
    )


class Both:
    """The same requests at tiers in spans, and at tiers block by block."""

    def __init__(self, paths: list[Path], tiers: list[MemoryTier], *, is_arc: bool) -> None:
        self.paths = paths
        self.ours = Tiers(tiers, 1, ArcTier if is_arc else Tier)
        self.naive = NaiveTiers(tiers, 1, NaiveArcTier if is_arc else NaiveTier)
        self.coming: list[tuple[float, list[int]]] = []
        self.wanted: dict[int, tuple[list[BlockRange], list[int]]] = {}

    def do(self, step: Step, now: float) -> None:
        ours, naive = self.ours, self.naive
        number = step.number % len(self.paths)
        path, low, high = self.paths[number], step.low, step.low + step.blocks
        where, keys = (number, path, low, high), block_keys(path, low, high)
        for there_s, arrived in self.coming:
            if there_s <= now:
                naive.fetched(arrived)
        self.coming = [each for each in self.coming if each[0] > now]
        if step.does == "store":
            assert ours.store(*where, now) == naive.store(number, keys, now)
        elif step.does == "fetch":
            found, ready_s = ours.find(*where, now)
            assert (found, ready_s) == naive.find(number, keys, now)
            if found and ready_s <= now:
                fetched = ours.fetch(number, path, low, low + found, now)
                assert fetched == naive.fetch(number, keys[:found], now)
                self.coming.append((fetched[0], keys[:found]))
        elif step.does == "at once":
            found = ours.find_at_once(*where, now)
            assert found == naive.find_at_once(keys, now)
            if found:
                fetched = ours.fetch_at_once(number, path, low, low + found, now)
                assert fetched == naive.fetch_at_once(number, keys[:found], now)
        elif step.does == "end":
            ours.touch(*where)
            naive.touch(number, keys)
        elif step.does == "forget":
            ours.forget(number)
            naive.forget(number)
        elif step.does == "want":
            self.want(number, high)
        else:
            ours.fail(now)
            naive.fail(now)
            self.coming, self.wanted = [], {}

    def want(self, number: int, high: int) -> None:
        if number in self.wanted:
            blocks, keys = self.wanted.pop(number)
            self.ours.want_no_more(blocks)
            self.naive.cpu.want_no_more(keys)
        else:
            keys = block_keys(self.paths[number], 0, high)
            self.wanted[number] = self.ours.want(self.paths[number], high), keys
            self.naive.cpu.want(keys)

    def assert_alike(self, now: float) -> None:
        for ours, naive in zip(self.ours.all, self.naive.all, strict=True):
            assert (ours.num_held, ours.num_evicted) == (len(naive.ready_s), naive.num_evicted)
            if isinstance(ours, ArcTier):
                assert isinstance(naive, NaiveArcTier) and ours.target == naive.target
                orders = [ours.order, ours.often, ours.gone_once, ours.gone_often]
                theirs = [naive.once, naive.often, naive.gone_once, naive.gone_often]
                assert [list(keys_of(order)) for order in orders] == [list(each) for each in theirs]
                assert ours.accesses.keys() == naive.accesses.keys()
                assert_sound(ours.gone, [ours.gone_once, ours.gone_often])
                assert_sound(ours.spans, [ours.order, ours.often])
            else:
                assert list(keys_of(ours.order)) == list(naive.ready_s)
                assert_sound(ours.spans, [ours.order])
            for spans in ours.spans.by_node.values():
                for span in spans:
                    for key in keys_in(span):
                        assert span.ready_s == naive.ready_s[key]
                        assert max(span.busy_s, now) == max(naive.busy_s.get(key, now), now)


def keys_in(span: Span) -> list[int]:
    """The keys of a span's blocks, those used least recently first."""
    keys = block_keys(Path(span.node.keys, span.node.bounds), span.low, span.high)
    return keys[::-1] if span.is_reversed else keys


def keys_of(order: Order) -> Iterator[int]:
    for span in order:
        yield from keys_in(span)


def assert_sound(spans: Spans, orders: list[Order]) -> None:
    """Spans of a node do not overlap, and stand in one order each, whose blocks are counted."""
    for of_node in spans.by_node.values():
        assert of_node and all(span.low < span.high for span in of_node)
        assert all(one.high <= other.low for one, other in pairwise(of_node))
    listed = [span for order in orders for span in order]
    assert sorted(map(id, listed)) == sorted(id(span) for each in spans.by_node.values() for span in each)
    for order in orders:
        assert order.num_blocks == sum(span.high - span.low for span in order)
        assert all(span.order is order for span in order)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_spans_of_blocks_fare_as_their_blocks_one_by_one(seed: int) -> None:
    """Whatever is asked; the tree of names forgets all that it may, each time."""
    rng = random.Random(seed)
    tiers = [MemoryTier("cpu", rng.choice([0, 1, 2, 3, 8, 20, 60]), 0.25)]
    if rng.random() < 0.5:
        tiers.append(MemoryTier("disk", rng.choice([0, 2, 5, 30, 100]), 0.5))
    both, now = Both(random_paths(rng), tiers, is_arc=rng.random() < 0.4), 0.0
    with mock.patch.object(RadixTree, "is_large", True):
        for _ in range(80):
            step = random_step(rng)
            now += step.quarters / 4
            both.do(step, now)
            both.assert_alike(now)


@given(st.sets(st.integers(0, 70)))
def test_a_set_of_blocks_is_its_ranges(blocks: set[int]) -> None:
    found = list(ranges(sum(block_set(k, k + 1) for k in blocks)))
    assert [k for low, high in reversed(found) for k in range(low, high)] == sorted(blocks)
    assert all(high < low for (_, high), (low, _) in zip(found[1:], found, strict=False))
    assert KEY_BITS > 30


@pytest.mark.parametrize("cpu", [Tier, ArcTier])
def test_names_do_not_pile_up_with_requests_that_have_ended(cpu: type[Tier]) -> None:
    """Of many that begin alike, what no tier knows any more is forgotten; the beginning is found by all."""
    tiers = Tiers((MemoryTier("cpu", 50, 0.0), MemoryTier("disk", 90, 0.0)), 1, cpu)
    most_names = 0
    for id in range(3 * FEW_NAMES):
        path, now = Path([1, 2, -1 - id], [5, 10, ENDLESS]), float(id)
        assert tiers.find(id, path, 0, 20, now) == (10 if id else 0, now)
        tiers.store(id, path, 0, 20, now)
        tiers.touch(id, path, 0, 20)
        most_names = max(most_names, len(tiers.tree.nodes))
    known = {node for tier in tiers.all for node in tier.nodes}
    assert not tiers.named and known <= set(tiers.tree.nodes.values())
    assert len(known) < 30 and FEW_NAMES < most_names < 1.1 * FEW_NAMES


def blocks(*keys: int) -> Path:
    """One block for each key."""
    return Path(keys, range(1, len(keys) + 1))


def held(order: Order) -> list[int]:
    """The keys of the blocks in it, the least recently used first."""
    return [key >> KEY_BITS for key in keys_of(order)]


def test_a_failure_takes_the_memory_but_not_what_was_written_to_the_disk() -> None:
    tiers = Tiers((MemoryTier("cpu", 64, 0.25), MemoryTier("disk", 64, 0.5)), 1)
    assert tiers.store(0, blocks(1, 2, 3), 0, 3, 0.0)
    assert [(span.high, span.ready_s) for span in tiers.cpu.order] == [(3, 0.75)]
    assert tiers.store(1, blocks(1, 2, 4), 0, 3, 2.0)
    tiers.fail(2.5)
    assert not tiers.cpu.num_held and tiers.disk is not None
    assert held(tiers.disk.order) == [1, 2, 3]
    assert tiers.find(7, blocks(1, 2, 4), 0, 3, 3.0) == (2, 4.0)
    assert tiers.fetch(7, blocks(1, 2, 4), 0, 2, 4.0) == (4.5, 2)


def test_nothing_that_is_on_its_way_is_given_up() -> None:
    """Vain is what finds no room, and what is asked again later finds it."""
    tiers, path = Tiers((MemoryTier("cpu", 3, 1.0),), 1), blocks(1, 2, 3, 4)
    assert tiers.store(5, path, 0, 2, 0.0) and tiers.store(5, path, 2, 3, 0.0)
    assert not tiers.store(5, path, 3, 4, 1.0)
    assert tiers.fetch(0, path, 0, 1, 3.0) == (4.0, 0)
    assert tiers.store(5, path, 3, 4, 3.5) and held(tiers.cpu.order) == [1, 3, 4]
    tiers.touch(5, path, 2, 4)
    assert held(tiers.cpu.order) == [1, 4, 3]


def test_who_comes_while_blocks_are_on_their_way_to_another_waits_for_them() -> None:
    tiers, path = Tiers((MemoryTier("cpu", 9, 1.0),), 1), blocks(1, 2, 3)
    assert tiers.store(0, path, 0, 3, 0.0)
    assert tiers.fetch(1, path, 0, 2, 5.0) == (7.0, 0)
    assert tiers.find(2, path, 0, 3, 6.0) == (3, 7.0)
    assert tiers.find(2, path, 2, 3, 6.0) == (1, 6.0)


def arc(num_blocks: int) -> tuple[Tiers, ArcTier]:
    tiers = Tiers((MemoryTier("cpu", num_blocks, 0.25),), 1, ArcTier)
    assert isinstance(tiers.cpu, ArcTier)
    return tiers, tiers.cpu


def ends(tiers: Tiers, id: int, path: Path, now: float, first: int = 0) -> None:
    """A request computes and stores the blocks from the first on, and has ended."""
    tiers.store(id, path, first, len(path.keys), now)
    tiers.touch(id, path, first, len(path.keys))


def test_a_flood_does_not_push_out_what_several_requests_used() -> None:
    """As it does where the least recently used goes."""
    tiers, cpu = arc(6)
    lru = Tiers((MemoryTier("cpu", 6, 0.25),), 1)
    for each in (tiers, lru):
        ends(each, 0, blocks(1, 2), 0.0)
        ends(each, 1, blocks(1, 2, 3), 10.0)
        for number in range(5):
            ends(each, 2 + number, blocks(10 + 2 * number, 11 + 2 * number), 20.0 + 10 * number)
    assert held(cpu.often) == [2, 1]
    assert not {1, 2} & set(held(lru.cpu.order))
    assert cpu.num_evicted == lru.cpu.num_evicted == 7 and cpu.num_held == 6


def test_what_is_wanted_again_soon_after_it_went_makes_room_for_its_kind() -> None:
    tiers, cpu = arc(4)
    for number, path in enumerate([blocks(1, 2), blocks(1, 2), blocks(3, 4), blocks(5, 6)]):
        ends(tiers, number, path, 10.0 * number)
    assert (cpu.target, held(cpu.gone_once), held(cpu.often)) == (0.0, [4, 3], [2, 1])
    ends(tiers, 4, blocks(3), 40.0)
    assert cpu.target == 1.0 and 3 in held(cpu.order) and held(cpu.gone_once) == [4, 6]
    ends(tiers, 5, blocks(3, 4), 50.0, first=1)
    ends(tiers, 6, blocks(5, 6), 60.0, first=1)
    assert cpu.target == 3.0 and held(cpu.gone_often) == [2] and held(cpu.often) == [1]
    tiers.fail(70.0)
    assert not (cpu.num_held or cpu.gone_once.num_blocks or cpu.accesses or cpu.target)
