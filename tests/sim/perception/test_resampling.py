"""Resampled pairs err as the pairs do, whatever their shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.perception.accuracy import error_report, rank_report
from sim.perception.registry import make_predictor
from sim.perception.resampling import resampled
from traces.trace import IntArray, Trace

N = 20_000
RNG = np.random.default_rng(0)
LOGNORMAL = np.exp(5 + 1.2 * RNG.normal(size=N)).astype(np.int64) + 1
PARETO = (50 * (1 + RNG.pareto(1.3, N))).astype(np.int64)
HUMPS = np.where(RNG.random(N) < 0.4, LOGNORMAL // 12 + 1, LOGNORMAL + 400)
FEW = RNG.choice([10, 20, 500], N, p=[0.5, 0.3, 0.2])


def off(actual: IntArray, sigma: float) -> IntArray:
    return np.maximum(1, np.rint(actual * np.exp(sigma * RNG.normal(size=N)))).astype(np.int64)


SHAPES: dict[str, tuple[IntArray, IntArray]] = {
    "lognormal": (off(LOGNORMAL, 0.5), LOGNORMAL),
    "heavy tail": ((5 * PARETO**0.6 + RNG.integers(0, 100, N)).astype(np.int64), PARETO),
    "stopped at a cap": (np.minimum(512, off(np.minimum(LOGNORMAL, 512), 0.6)), np.minimum(LOGNORMAL, 512)),
    "predicted in fifties": ((off(LOGNORMAL, 0.6) // 50 + 1) * 50, LOGNORMAL),
    "few lengths": (np.maximum(0, FEW + RNG.normal(0, 100, N)).astype(np.int64), FEW),
    "few of both": (RNG.permutation(np.where(RNG.random(N) < 0.5, FEW, 10)), FEW),
    "constant": (np.full(N, 200), LOGNORMAL),
    "weak": (off(np.rint(LOGNORMAL**0.3 * 30).astype(np.int64), 0.7), LOGNORMAL),
    "upside down": (LOGNORMAL.max() - LOGNORMAL, LOGNORMAL),
    "much too short": (off(LOGNORMAL, 0.3) // 3, LOGNORMAL),
    "300 too long": (LOGNORMAL + 300 + RNG.integers(-20, 20, N), LOGNORMAL),
    "two humps": (off(HUMPS, 0.6), HUMPS),
    "two humps, mixed up": (np.where(RNG.random(N) < 0.8, off(HUMPS, 0.1), 15), HUMPS),
    "often nothing": (np.where(RNG.random(N) < 0.3, 0, off(LOGNORMAL, 0.4)), LOGNORMAL),
    "classes": (np.digitize(off(LOGNORMAL, 0.4), [50, 100, 200, 400, 800]) * 100 + 50, LOGNORMAL),
}


@pytest.mark.parametrize("name", SHAPES)
def test_errors_and_order_are_those_of_the_pairs(name: str) -> None:
    predicted, actual = SHAPES[name]
    requests = np.random.default_rng(1).permutation(actual)
    drawn = predicted[resampled(predicted, actual, requests, 20, np.random.default_rng(2))]
    assert_alike(drawn, requests, predicted, actual)


def assert_alike(drawn: IntArray, requests: IntArray, predicted: IntArray, actual: IntArray) -> None:
    """The four figures of predictions for these requests are those of the pairs, to 3 %."""
    then, now = error_report(predicted, actual), error_report(drawn, requests)
    for figure in ("error", "acc_50", "acc_100"):
        assert getattr(now, figure) == pytest.approx(getattr(then, figure), rel=0.03, abs=1e-3)
    taus = [rank_report(p, a).kendall_tau for p, a in ((predicted, actual), (drawn, requests))]
    assert taus[0] == taus[1] if None in taus else taus[0] == pytest.approx(taus[1], rel=0.03, abs=3e-3)


@pytest.mark.parametrize("predictor", ["empirical", "noisy", "progressive"])
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "constant"])  # errs by no factor
def test_predictors_read_a_file_of_pairs_and_err_alike(name: str, predictor: str, tmp_path: Path) -> None:
    predicted, actual = SHAPES[name]
    file = tmp_path / "pairs.csv"
    pairs = np.column_stack((predicted, actual))
    np.savetxt(file, pairs, "%d", ",", header="predicted,actual", comments="")
    trace = Trace("pairs", np.arange(N), np.full(N, 10), np.random.default_rng(1).permutation(actual))
    made = make_predictor(f"{predictor}:file={file}")
    assert_alike(made.predict(trace, np.random.default_rng(2)), trace.output_tokens, predicted, actual)


def test_relative_errors_go_on_beyond_the_lengths_observed(tmp_path: Path) -> None:
    """What is twice as long as any pair is predicted twice as long; `empirical` knows no such length."""
    file = tmp_path / "pairs.csv"
    file.write_text("predicted,actual\n" + "150,100\n50,100\n" * 20, encoding="utf-8")
    trace = Trace("long", np.arange(400), np.full(400, 10), np.full(400, 1000))
    noisy, empirical = (
        make_predictor(f"{name}:file={file}").predict(trace, np.random.default_rng(0))
        for name in ("noisy", "empirical")
    )
    assert set(noisy.tolist()) == {500, 1500} and set(empirical.tolist()) == {50, 150}
    assert (noisy == 500).mean() == pytest.approx(0.5, abs=0.05)
    rounded = make_predictor(f"noisy:file={file},round_to=400").predict(trace, np.random.default_rng(0))
    assert set(rounded.tolist()) == {800, 1600}


@pytest.mark.parametrize("name", ["lognormal", "heavy tail", "few lengths"])
def test_fewer_requests_of_the_same_traffic_err_alike(name: str) -> None:
    predicted, actual = SHAPES[name]
    rows = np.random.default_rng(3).permutation(N)[:4000]
    drawn = predicted[resampled(predicted, actual, actual[rows], 20, np.random.default_rng(4))]
    own = error_report(predicted[rows], actual[rows])
    now = error_report(drawn, actual[rows])
    assert now.acc_100 == pytest.approx(own.acc_100, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=80),
    st.lists(st.integers(1, 80), min_size=1, max_size=80),
    st.integers(1, 25),
    st.integers(0, 99),
)
def test_any_pairs_and_requests(
    pairs: list[tuple[int, int]], wanted: list[int], window: int, seed: int
) -> None:
    predicted, actual = (np.array(column) for column in zip(*pairs, strict=True))
    rows = resampled(predicted, actual, np.array(wanted), window, np.random.default_rng(seed))
    assert rows.shape == (len(wanted),) and rows.min() >= 0 and rows.max() < len(actual)
    for length, row in zip(wanted, rows.tolist(), strict=True):
        nearer = int((np.abs(actual - length) < abs(actual[row] - length)).sum())
        assert nearer < window, "a pair further than the nearest"
        if (actual == length).sum() >= window:
            assert actual[row] == length


@given(st.sets(st.integers(1, 10_000), min_size=1, max_size=100), st.integers(1, 25))
def test_the_same_lengths_use_each_pair_about_once(actual: set[int], window: int) -> None:
    lengths = np.array(sorted(actual))
    rows = resampled(np.arange(len(lengths)), lengths, lengths, window, np.random.default_rng(0))
    assert np.bincount(rows, minlength=len(lengths)).max() <= 3


def test_pairs_of_one_length_are_used_once_each() -> None:
    actual = np.repeat([5, 9], 50)
    rows = resampled(np.arange(100), actual, actual, 20, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(100))
