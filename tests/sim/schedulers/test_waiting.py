"""Queues by rank: what is pushed comes out by rank, however it was pushed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers.waiting import ByRank, Entry, InOrder

RANKS = st.floats(allow_nan=False)


def entry(rank: float, order: int) -> Entry:
    return rank, order, Request(order, 0.0, 1, 1)


@pytest.mark.parametrize("kind", [InOrder, ByRank])
@given(moves=st.lists(st.one_of(RANKS, st.none()), max_size=60))
def test_the_lowest_comes_first_ties_by_submission(
    kind: type[InOrder] | type[ByRank], moves: list[float | None]
) -> None:
    queue, expected = kind(), list[Entry]()
    for order, rank in enumerate(moves):
        if rank is not None:
            queue.push(entry(rank, order))
            expected = sorted([*expected, entry(rank, order)], key=lambda e: e[:2])
        elif expected:
            assert queue[0][:2] == expected[0][:2]
            assert queue.pop_first()[:2] == expected.pop(0)[:2]
        assert len(queue) == len(expected)
    assert [e[:2] for e in sorted(queue)] == [e[:2] for e in expected]


def test_one_that_was_in_the_queue_before_goes_back_to_its_place() -> None:
    queue = InOrder([entry(rank, rank) for rank in range(10)])
    taken = [queue.pop_first() for _ in range(4)]
    queue.push(taken[1])
    queue.push(taken[3])
    assert [order for _, order, _ in queue] == [1, 3, 4, 5, 6, 7, 8, 9]
