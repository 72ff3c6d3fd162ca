"""A radix tree that names blocks: those of sequences that begin alike are the same blocks of the same nodes.

A node is never split: a sequence that leaves another in the midst of its node has the first blocks of that
node, and goes on in one of its own. Knows nothing of what is in memory, of requests or of clocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .prefix_blocks import Path

FEW_NAMES = 1000
"""A tree with fewer is not worth sweeping."""


class Node:
    """Consecutive blocks of the sequence that came this way first: those up to `bounds[k]` that are behind
    those before by `keys[k]`, as in a `Path`. Others have as many of them as agree.

    `parent`: the node of the block before its first one, None at the beginning. `wanted`: up to which block
    turns to come want it, one entry a turn.
    """

    __slots__ = ("bounds", "keys", "parent", "wanted")

    def __init__(self, keys: Sequence[int], bounds: Sequence[int], parent: Node | None) -> None:
        self.keys, self.bounds, self.parent = keys, bounds, parent
        self.wanted: list[int] = []


class BlockRange(NamedTuple):
    """Blocks `low` up to `high` of a node, by their numbers in their sequence."""

    node: Node
    low: int
    high: int


class RadixTree:
    """Nodes by name: each of their keys, and the block that it begins with.

    Grows by what it is asked about, and forgets when it is swept.
    """

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], Node] = {}
        self.num_swept = 0  # names left when it was swept last

    def insert(self, path: Path) -> list[BlockRange]:
        """All blocks of a sequence, in order; the tree grows by those that it did not have."""
        found: list[BlockRange] = []
        number, low = 0, 0
        parent: Node | None = None
        while number < len(path.keys):
            node = self.nodes.get((path.keys[number], low))
            if node is None:
                node = self._grow(path, number, low, parent)
            number, high = _follow(node, path, number, low)
            found.append(BlockRange(node, low, high))
            low, parent = high, node
        return found

    def _grow(self, path: Path, number: int, low: int, parent: Node | None) -> Node:
        """A node for the keys of the path from that number on, at block `low`, up to one that is known."""
        keys, bounds, nodes = path.keys, path.bounds, self.nodes
        until = number + 1
        while until < len(keys) and (keys[until], bounds[until - 1]) not in nodes:
            until += 1
        node = Node(keys[number:until], bounds[number:until], parent)
        nodes[keys[number], low] = node
        for k in range(number + 1, until):
            nodes[keys[k], bounds[k - 1]] = node
        return node

    @property
    def is_large(self) -> bool:
        """Whether it has grown much since it was swept."""
        return len(self.nodes) > FEW_NAMES + 2 * self.num_swept

    def sweep(self, used: Iterable[Node]) -> None:
        """Forget all nodes but those used or wanted, and their ancestors."""
        kept = set[Node]()
        for node in (*used, *(node for node in self.nodes.values() if node.wanted)):
            each: Node | None = node
            while each is not None and each not in kept:
                kept.add(each)
                each = each.parent
        self.nodes = {name: node for name, node in self.nodes.items() if node in kept}
        self.num_swept = len(self.nodes)

    def want_nothing(self) -> None:
        """No turn to come wants any block."""
        for node in self.nodes.values():
            node.wanted.clear()


def _follow(node: Node, path: Path, number: int, low: int) -> tuple[int, int]:
    """How far a path goes along a node, which it enters with its key of that number at block `low`: the
    number of its first key that is not all behind it, and the block.
    """
    keys, bounds = path
    at = bisect_right(node.bounds, low)
    while True:
        here, there = bounds[number], node.bounds[at]
        if here > there:
            return number, there
        number, at = number + 1, at + 1
        if here < there or number == len(keys) or at == len(node.keys) or keys[number] != node.keys[at]:
            return number, here


def between(blocks: Sequence[BlockRange], low: int, high: int) -> list[BlockRange]:
    """Those of a sequence's blocks that are from `low` up to `high`."""
    found: list[BlockRange] = []
    if low < high:
        for node, first, until in blocks:
            if first >= high:
                break
            if until > low:
                found.append(BlockRange(node, max(first, low), min(until, high)))
    return found
