"""The sum that is kept up to date is the sum over everyone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.kv_blocks import blocks_for
from sim.schedulers.planned_memory import PlannedMemory

BLOCK = 4


class Naive:
    """Everyone counted anew every time."""

    def __init__(self) -> None:
        self.planned: dict[int, int] = {}
        self.births: dict[int, int] = {}

    def total(self, iteration: int) -> int:
        held = {i: birth + iteration for i, birth in self.births.items()}
        return sum(blocks_for(max(tokens, held.get(i, 0)), BLOCK) for i, tokens in self.planned.items())


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 30), st.integers(0, 12), st.integers(1, 9)), max_size=60
    )
)
def test_the_total_is_the_sum(steps: list[tuple[int, int, int, int]]) -> None:
    """Requests come, decode, and leave, some of them several times, while iterations pass."""
    kept, naive, iteration = PlannedMemory(BLOCK), Naive(), 0
    for i, tokens, passing, length in steps:
        if i not in naive.planned:
            kept.admit(i, tokens)
            naive.planned[i] = tokens
        elif i not in naive.births:
            naive.births[i] = length - iteration
            kept.decode(i, naive.births[i])
        else:
            kept.leave(i)
            del naive.planned[i], naive.births[i]
        iteration += passing
        assert kept.total(iteration) == naive.total(iteration)
    for i in list(naive.planned):
        kept.leave(i)
    assert (kept.total(iteration), kept.blocks, kept.outlived) == (0, 0, {})
