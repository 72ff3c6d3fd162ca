"""The short list of who has the longest context knows at every tick what a look at everybody would tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.execution.longest_context import Longest, note_context


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(1, 12)), max_size=30))
def test_it_is_that_of_a_look_at_everybody(coming: list[tuple[int, int, int]]) -> None:
    longest: Longest = []
    everybody: list[tuple[int, int]] = []
    tick = 0
    for passed, context, left in coming:
        tick += passed
        note_context(longest, tick - context, tick + left)
        everybody.append((tick - context, tick + left))
        while longest[0][1] <= tick:
            del longest[0]
        assert longest[0][0] == min(birth for birth, end in everybody if end > tick)
        assert longest == sorted(longest)
        ends = [end for _, end in longest]
        assert ends == sorted(set(ends))
