"""KV memory that running requests will need in the end, as predicted; knows nothing of queues or budgets."""

from __future__ import annotations

from heapq import heappop, heappush

from ..kv_blocks import blocks_for


class PlannedMemory:
    """Blocks set aside for everyone in memory: what each is planned to hold, or what it holds, if that is
    more.

    A sequence that decodes has birth + i tokens at iteration i, so that the iteration from which on it has
    outlived its plan is known beforehand: the sum is kept up to date in O(log n), those that have outlived
    theirs are counted one by one.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.blocks = 0  # of those within their plan
        self.planned: dict[int, int] = {}  # id -> tokens
        self.births: dict[int, int] = {}  # id of what decodes -> birth
        self.outlived: dict[int, int] = {}  # the same, of those that hold more than planned
        self.due: list[tuple[int, int]] = []  # heap of (last iteration within the plan, id)

    def admit(self, id: int, tokens: int) -> None:
        """A request that is planned to hold so many tokens in the end comes into memory."""
        self.planned[id] = tokens
        self.blocks += blocks_for(tokens, self.block_size)

    def decode(self, id: int, birth: int) -> None:
        """It decodes from now on."""
        self.births[id] = birth
        heappush(self.due, (self.planned[id] - birth, id))

    def leave(self, id: int) -> None:
        """It leaves the memory."""
        tokens = self.planned.pop(id)
        self.births.pop(id, None)
        if self.outlived.pop(id, None) is None:
            self.blocks -= blocks_for(tokens, self.block_size)

    def total(self, iteration: int) -> int:
        """Blocks set aside, before that iteration."""
        while self.due and self.due[0][0] < iteration:
            last, id = heappop(self.due)
            birth = self.births.get(id)
            # An entry of a stay in memory that is over says nothing of the next one.
            if birth is not None and self.planned[id] - birth == last and id not in self.outlived:
                self.blocks -= blocks_for(self.planned[id], self.block_size)
                self.outlived[id] = birth
        return self.blocks + sum(
            blocks_for(birth + iteration, self.block_size) for birth in self.outlived.values()
        )
