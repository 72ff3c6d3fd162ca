"""Pooled inter-token latency equals what expanding every gap gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.results import token_gaps
from sim.results.token_gaps import RESOLUTION, GapPool, Ramps

RAMP = st.tuples(st.floats(1e-3, 1.0), st.floats(0, 1e-3), st.integers(0, 400), st.integers(1, 20))


def ramps(rows: list[tuple[float, float, int, int]]) -> Ramps:
    first, slope, counts, weight = zip(*rows, strict=True)
    return Ramps(np.array(first), np.array(slope), np.array(counts), np.array(weight), np.zeros(len(rows)))


def expanded_ms(rows: list[tuple[float, float, int, int]]) -> np.ndarray:
    gaps = [np.repeat(first + slope * np.arange(count), weight) for first, slope, count, weight in rows]
    return np.sort(np.concatenate(gaps)) * 1e3


@settings(deadline=None, max_examples=300)
@given(st.lists(RAMP, min_size=1, max_size=8))
def test_pooled_equals_expanded(rows: list[tuple[float, float, int, int]]) -> None:
    pooled, gaps = GapPool().pooled(ramps(rows)), expanded_ms(rows)
    if not len(gaps):
        assert set(pooled.values()) == {None}
        return
    assert pooled["mean"] == pytest.approx(gaps.mean(), rel=1e-9)
    assert pooled["std"] == pytest.approx(gaps.std(), rel=1e-6, abs=1e-6 * gaps.mean())
    for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        # The gap at that rank; where q * n falls on a rank, round-off may choose its neighbour.
        rank = math.ceil(q * len(gaps) - 1e-9) - 1
        low, high = (
            gaps[rank],
            gaps[min(rank + (abs(q * len(gaps) - round(q * len(gaps))) < 1e-6), len(gaps) - 1)],
        )
        value = pooled[name]
        assert value is not None
        assert low * (1 - RESOLUTION) <= value <= high * (1 + RESOLUTION)


@settings(deadline=None, max_examples=50)
@given(st.lists(RAMP.map(lambda r: (r[0], r[1], 300 + r[2], r[3])), min_size=3, max_size=8))
def test_percentiles_agree_with_numpy_where_gaps_lie_close(rows: list[tuple[float, float, int, int]]) -> None:
    pooled, gaps = GapPool().pooled(ramps(rows)), expanded_ms(rows)
    for name, q in (("median", 50), ("p90", 90), ("p99", 99)):
        below, above = (np.percentile(gaps, q, method=m) for m in ("lower", "higher"))
        value = pooled[name]
        assert value is not None
        assert below * (1 - RESOLUTION) <= value <= above * (1 + RESOLUTION)


def test_no_gaps() -> None:
    assert GapPool().pooled(Ramps.empty()) == dict.fromkeys(("mean", "median", "std", "p90", "p99"))


def test_golden() -> None:
    # 10, 12, 14 ms, seen by two sequences each, and one gap of 100 ms.
    pooled = GapPool().pooled(ramps([(0.010, 0.002, 3, 2), (0.100, 0.0, 1, 1)]))
    assert pooled["mean"] == pytest.approx(172 / 7)
    assert pooled["median"] == pytest.approx(12)
    assert pooled["p90"] == pytest.approx(100)
    assert pooled["std"] == pytest.approx(np.std([10, 10, 12, 12, 14, 14, 100]))


def test_half_of_the_gaps_are_half_whatever_parts_a_ramp_is_cut_into() -> None:
    """Parts of 6 / 5 or 7 / 3 gaps are rounded, so that their sum may stay below half of all by one bit."""
    for count in range(1, 400):
        pooled = GapPool().pooled(ramps([(0.010, 4e-5, count, 1), (1.0, 0.0, count, 1)]))
        assert pooled["median"] == pytest.approx(10 + 0.04 * (count - 1), rel=RESOLUTION), count


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(RAMP, st.floats(0, 50)), min_size=1, max_size=8), st.floats(0, 100))
def test_gaps_since_a_time_are_those_that_end_later(
    rows: list[tuple[tuple[float, float, int, int], float]], since_s: float
) -> None:
    first, slope, counts, weight = (
        np.array(column) for column in zip(*(row for row, _ in rows), strict=True)
    )
    start = np.array([start for _, start in rows])
    left = Ramps(first, slope, counts, weight, start).since(since_s)
    for k, (row, begins) in enumerate(rows):
        gaps = row[0] + row[1] * np.arange(row[2])
        ends = begins + np.cumsum(gaps)
        # Where one ends just then, round-off may choose either.
        surely, maybe = (int((ends >= since_s + far).sum()) for far in (1e-9, -1e-9))
        assert surely <= left.counts[k] <= maybe
        if left.counts[k]:
            assert left.first_s[k] == pytest.approx(gaps[row[2] - left.counts[k]])
            assert left.start_s[k] + left.first_s[k] == pytest.approx(ends[row[2] - left.counts[k]])


def test_a_weight_is_as_good_as_repeating() -> None:
    once = GapPool().pooled(ramps([(0.01, 1e-5, 50, 3)]))
    thrice = GapPool().pooled(ramps([(0.01, 1e-5, 50, 1)] * 3))
    assert once == pytest.approx(thrice)


@given(st.lists(st.tuples(st.floats(1e-4, 10.0), st.integers(1, 50)), min_size=1, max_size=40))
def test_single_gaps_are_ramps_of_one(steps: list[tuple[float, int]]) -> None:
    pool, same = GapPool(), GapPool()
    for gap_s, weight in steps:
        pool.steps += (gap_s, weight)
        same.add(gap_s, 0.0, 1, weight, 1.0 - gap_s)
    assert pool.pooled() == same.pooled() != GapPool().pooled()
    pool.fold(), same.fold()
    assert not pool.steps
    assert pool.pooled() == same.pooled()


@settings(deadline=None, max_examples=100)
@given(st.lists(RAMP, min_size=1, max_size=40), st.integers(1, 9))
def test_folding_a_long_run_loses_next_to_nothing(
    rows: list[tuple[float, float, int, int]], fold_at: int
) -> None:
    """Mean and std are those of all gaps at once, percentiles differ by the width of a piece and of a bin."""
    pool = GapPool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_gaps, "FOLD_AT", 4 * fold_at)
        for row in rows:
            pool.add(*row, 0.0)
    assert len(pool.rows) < 4 * fold_at
    folded, whole = pool.pooled(), GapPool().pooled(ramps(rows))
    if whole["mean"] is None:
        assert folded == whole
        return
    assert folded["mean"] == pytest.approx(whole["mean"], rel=1e-9)
    assert folded["std"] == pytest.approx(whole["std"], rel=1e-6, abs=1e-6 * whole["mean"])
    gaps = expanded_ms(rows)
    for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        # Where q falls between two gaps, round-off may choose either.
        low, high = (gaps[min(max(0, math.ceil(q * len(gaps)) + k), len(gaps) - 1)] for k in (-2, 1))
        width = RESOLUTION + token_gaps.BIN_WIDTH
        assert low * (1 - width) <= folded[name] <= high * (1 + width)
