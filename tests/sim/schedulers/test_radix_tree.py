"""Names of blocks: the same for those that begin alike, and different for all others."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.schedulers.prefix_blocks import ENDLESS, Path
from sim.schedulers.radix_tree import BlockRange, Node, RadixTree, between
from tests.sim.schedulers.naive_block_tiers import block_keys
from tests.sim.schedulers.test_tiers import random_paths

MOST = 40
"""Blocks of a path that are looked at: answers have no end."""


def names(blocks: list[BlockRange]) -> list[tuple[Node, int]]:
    return [(node, k) for node, low, high in between(blocks, 0, MOST) for k in range(low, high)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_blocks_have_the_same_name_where_they_have_the_same_key(seed: int) -> None:
    """Whichever came first, and whatever was forgotten meanwhile of what nobody uses."""
    rng = random.Random(seed)
    paths, tree = random_paths(rng), RadixTree()
    used: dict[int, list[BlockRange]] = {}
    for _ in range(30):
        number = rng.randrange(len(paths))
        if number in used:
            del used[number]
            tree.sweep([node for blocks in used.values() for node, _, _ in blocks])
            continue
        used[number] = tree.insert(paths[number])
        assert [k for _, k in names(used[number])] == list(range(MOST))
        keys = [key for each in used for key in block_keys(paths[each], 0, MOST)]
        named = [name for blocks in used.values() for name in names(blocks)]
        assert len(set(zip(keys, named, strict=True))) == len(set(keys)) == len(set(named))
    tree.sweep([])
    assert not tree.nodes


def colliding_path(rng: random.Random) -> Path:
    """Few keys, each behind any others and from any block on, which no hash of a prompt's beginning does."""
    bounds = sorted(rng.sample(range(1, 12), rng.randint(0, 4)))
    return Path([rng.randrange(3) for _ in range(len(bounds) + 1)], [*bounds, rng.choice([12, ENDLESS])])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_keys_that_collide_make_no_two_blocks_one(seed: int) -> None:
    """A name stands for blocks of one key, and a sequence keeps its names while it uses them."""
    rng = random.Random(seed)
    paths, tree = [colliding_path(rng) for _ in range(5)], RadixTree()
    used: dict[int, list[BlockRange]] = {}
    for _ in range(30):
        number = rng.randrange(len(paths))
        if number in used:
            assert tree.insert(paths[number]) == used.pop(number)
            tree.sweep([node for blocks in used.values() for node, _, _ in blocks])
            continue
        used[number] = tree.insert(paths[number])
        assert [k for _, k in names(used[number])] == list(range(min(MOST, paths[number].bounds[-1])))
        keys = [key for each in used for key in block_keys(paths[each], 0, len(names(used[each])))]
        named = [name for blocks in used.values() for name in names(blocks)]
        assert len(set(zip(keys, named, strict=True))) == len(set(named))


def test_a_tree_that_is_swept_keeps_what_is_used_and_what_is_before_it() -> None:
    tree = RadixTree()
    first = tree.insert(Path([1, 2, -1], [4, 8, ENDLESS]))
    second = tree.insert(Path([1, 3, -2], [4, 6, ENDLESS]))
    assert first[0].node is second[0].node and len(tree.nodes) == 5
    tree.sweep([second[1].node])
    assert len(tree.nodes) == 5 and tree.insert(Path([1, 3, -2], [4, 6, ENDLESS])) == second
    tree.sweep([first[0].node])
    assert len(tree.nodes) == 3 and tree.insert(Path([1, 2, -1], [4, 8, ENDLESS])) == first
    first[0].node.wanted.append(3)
    tree.sweep([])
    assert len(tree.nodes) == 3
    tree.want_nothing()
    tree.sweep([])
    assert not tree.nodes
