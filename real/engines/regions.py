"""Places sequences in a flat KV arena: contiguous regions, rearranged when one has to grow.

Pure bookkeeping: counts tokens, copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Region(NamedTuple):
    """`size` arena rows from `start` on; the sequence in it never needs more than `most`."""

    start: int
    size: int
    most: int


class Move(NamedTuple):
    """A copy of the sequence `key` from one arena row to another; source and target may overlap."""

    key: int
    source: int
    target: int


class RegionMap:
    """Regions of an arena of `capacity` tokens, by key of the sequence."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.regions: dict[int, Region] = {}

    @property
    def used(self) -> int:
        """Tokens in regions."""
        return sum(region.size for region in self.regions.values())

    def take(self, key: int, most: int) -> None:
        """Give the sequence the first gap that holds `most` tokens, else the largest, even an empty one."""
        best, end = (0, 0), 0
        for region in [*sorted(self.regions.values()), Region(self.capacity, 0, 0)]:
            gap = region.start - end
            if gap > best[1]:
                best = (end, min(gap, most))
            if gap >= most:
                break
            end = region.start + region.size
        self.regions[key] = Region(*best, most)

    def free(self, key: int) -> None:
        """Turn the region into a gap."""
        del self.regions[key]

    def lay_out(self, needs: Mapping[int, int]) -> list[Move] | None:
        """Give every sequence at least what it needs and an equal share of the rest, in the old order.

        Returns the copies to make, ordered so that none overwrites what a later one reads. Returns None and
        changes nothing where the needs exceed the capacity.
        """
        spare = self.capacity - sum(needs.values())
        if spare < 0:
            return None
        share = spare // max(1, len(needs))
        moves, end = [], 0
        for key, region in sorted(self.regions.items(), key=lambda item: item[1].start):
            size = needs[key] + max(0, min(share, region.most - needs[key]))
            if region.start != end:
                moves.append(Move(key, region.start, end))
            self.regions[key] = Region(end, size, region.most)
            end += size
        # The order is kept, so what moves left never meets what moves right: left first come first.
        left = [m for m in moves if m.target < m.source]
        right = [m for m in moves if m.target > m.source]
        return left + right[::-1]
