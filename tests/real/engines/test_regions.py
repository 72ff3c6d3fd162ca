from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from real.engines.regions import RegionMap

CAPACITY = 60


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 25), st.booleans()), max_size=30))
def test_regions_never_overlap_and_moves_lose_nothing(steps):
    """Sequences come, grow and go at random; an arena of marks follows the moves as an engine would."""
    places, arena, lengths = RegionMap(CAPACITY), [None] * CAPACITY, {}
    for key, tokens, leaves in steps:
        if key in lengths and leaves:
            places.free(key)
            del lengths[key]
            continue
        if key not in lengths:
            places.take(key, tokens)
            lengths[key] = 0
        needs = {k: n + (1 if k == key else 0) for k, n in lengths.items()}
        if places.regions[key].size <= lengths[key]:
            before = dict(places.regions)
            moves = places.lay_out(needs)
            if moves is None:
                assert sum(needs.values()) > CAPACITY
                assert places.regions == before
                continue
            for moved, source, target in moves:
                arena[target : target + lengths[moved]] = arena[source : source + lengths[moved]]
        arena[places.regions[key].start + lengths[key]] = (key, lengths[key])
        lengths[key] += 1
        ends = 0
        for start, size, _ in sorted(places.regions.values()):
            assert start >= ends or size == 0
            ends = max(ends, start + size)
        assert ends <= CAPACITY
        for k, n in lengths.items():
            start = places.regions[k].start
            assert arena[start : start + n] == [(k, j) for j in range(n)]


def test_the_first_gap_that_is_large_enough_is_taken():
    places = RegionMap(100)
    for key, size in enumerate((20, 30, 10)):
        places.take(key, size)
    places.free(1)
    places.take(3, 25)
    assert places.regions[3] == (20, 25, 25)
    places.take(4, 90)
    assert places.regions[4] == (60, 40, 90)
    assert places.used == 95


def test_what_is_left_is_shared():
    places = RegionMap(100)
    places.take(0, 50)
    places.take(1, 500)
    assert places.lay_out({0: 10, 1: 20}) == [(1, 50, 45)]
    assert places.regions == {0: (0, 45, 50), 1: (45, 55, 500)}
