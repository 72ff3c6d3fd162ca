"""The fit recovers a cost it is given, judges itself on what it did not see, and refuses bad files."""

from __future__ import annotations

import os
from datetime import date as Date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import Profile, describe
from sim.hardware.fitting import fit, read_steps
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import (
    MAX_KNOTS,
    Cells,
    RegimeFit,
    cell_folds,
    choose_knots,
    choose_terms,
    fit_regime,
    size_folds,
)
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

HEADER = "num_decode,decode_context_tokens,num_prefill,prefill_tokens,prefill_attention,step_ms"
GOOD = f"{HEADER}\n1,10,0,0,0,5\n2,20,0,0,0,6\n0,0,1,16,128,9\n1,10,1,16,128,9.5\n"
RTX_STEPS = "rtx4090-llama-3.1-8b-steps.csv"

TRUE = StepCost(
    decode_base=PiecewiseLinear((1, 2, 4, 8, 16, 32), (0.010, 0.010, 0.011, 0.013, 0.020, 0.030)),
    decode_per_context_s=2e-7,
    mixed_base=PiecewiseLinear((16, 64, 128, 256, 512), (0.012, 0.014, 0.020, 0.030, 0.060)),
    mixed_per_context_s=3e-7,
    mixed_per_attention_s=4e-9,
    mixed_per_decode_s=5e-5,
)


def measured_with(cost: StepCost, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """A grid of iterations as `cost` has them, with relative noise."""
    rows = [
        (n, n * each, 0, 0, 0.0, cost.decode_s(n, n * each))
        for n in (1, 2, 4, 8, 16, 32)
        for each in (16, 128, 1024, 4096)
    ]
    for tokens in (16, 64, 128, 256, 512):
        for history in (0, 256, 2048):
            attention = tokens * (history + tokens / 2)
            for n, each in ((0, 0), (1, 64), (1, 4096), (8, 64), (8, 2048), (32, 1024)):
                chunk = max(1, tokens - n)
                seconds = cost.mixed_s(n, n * each, 1, chunk, attention)
                rows.append((n, n * each, 1, chunk, attention, seconds))
    frame = pd.DataFrame(rows, columns=HEADER.split(","), dtype=float)
    spread = np.random.default_rng(seed).normal(1.0, noise, len(frame))
    frame["step_ms"] *= 1e3 * spread
    return frame


def test_the_fit_recovers_the_cost_that_made_the_data() -> None:
    profile, report = fit(measured_with(TRUE), "known", date="2026-01-01")
    cost = profile.step_cost
    np.testing.assert_allclose(report.fitted_s, report.measured_s, rtol=1e-6)
    assert cost.decode_per_context_s == pytest.approx(2e-7, rel=1e-4)
    assert cost.mixed_per_context_s == pytest.approx(3e-7, rel=1e-3)
    assert cost.mixed_per_attention_s == pytest.approx(4e-9, rel=1e-3)
    assert cost.mixed_per_decode_s == pytest.approx(5e-5, rel=1e-3)
    assert "mixed_per_decode_s" in report.terms
    assert report.errors["mixed"]["unseen_cells"]["max"] < 1e-4


@settings(max_examples=8, deadline=None)
@given(
    c_d=st.floats(0, 1e-6),
    c_m=st.floats(0, 1e-6),
    q=st.floats(0, 1e-8),
    longest=st.floats(0, 1e-6),
    seed=st.integers(0, 99),
)
def test_the_fit_is_as_good_as_the_noise_allows(
    c_d: float, c_m: float, q: float, longest: float, seed: int
) -> None:
    true = StepCost(TRUE.decode_base, c_d, TRUE.mixed_base, c_m, q, mixed_per_longest_s=longest)
    steps = measured_with(true, noise=0.01, seed=seed)
    profile, report = fit(steps, "noisy", date="2026-01-01")
    assert report.errors["decode_only"]["in_sample"]["mean"] < 0.015
    assert report.errors["mixed"]["unseen_cells"]["mean"] < 0.03
    # What it predicts lies near the truth without the noise, and is never below zero.
    for n, each in ((3, 500), (24, 200), (32, 3000)):
        assert profile.step_cost.decode_s(n, n * each) == pytest.approx(true.decode_s(n, n * each), rel=0.06)
    values = [profile.step_cost.mixed_s(0, 0, 1, t, t * t / 2) for t in (1, 10, 100, 1000, 8000)]
    assert all(0 < a <= b * (1 + 1e-9) for a, b in pairwise(values))


def test_without_decoding_beside_a_prefill_context_costs_what_it_costs_without() -> None:
    rows = measured_with(TRUE)
    apart = rows[(rows["num_decode"] == 0) | (rows["num_prefill"] == 0)]
    profile, report = fit(apart, "apart")
    cost = profile.step_cost
    assert cost.mixed_per_context_s == cost.decode_per_context_s == pytest.approx(2e-7, rel=1e-4)
    assert any(note.startswith("No row decodes beside a prefill") for note in report.notes)
    assert not any(note.startswith("No row") for note in fit(rows, "known")[1].notes)


def test_the_report_predicts_what_the_profile_predicts() -> None:
    steps = measured_with(TRUE, noise=0.02)
    profile, report = fit(steps, "same", date="2026-01-01")
    cells = steps.sort_values(HEADER.split(",")[:5]).drop_duplicates(HEADER.split(",")[:5])
    direct = [
        profile.step_cost.mixed_s(int(row.num_decode), row.decode_context_tokens, int(row.num_prefill),
                                  int(row.prefill_tokens), row.prefill_attention)
        for row in cells.itertuples()
    ]  # fmt: skip
    assert len(direct) == len(report.fitted_s)
    np.testing.assert_allclose(report.fitted_s, direct, rtol=1e-9)
    assert report.is_mixed.sum() == (cells["num_prefill"] > 0).sum()


def test_a_fit_is_a_measured_profile_without_memory() -> None:
    profile, report = fit(measured_with(TRUE), "known", engine="toy", host_s=0.0007, date="2026-01-01")
    assert profile.provenance.kind == "measured"
    assert profile.engine == "toy"
    assert profile.step_cost.host_ms == 0.7
    assert profile.memory is None
    assert Profile.from_json(profile.to_json()) == profile
    assert "num_prefill 1" in report.notes[0]
    assert any(label == "error, mixed, unseen cells" for label, _ in describe(profile))
    assert dict(report.rows())["mixed terms"].startswith("mixed_per_context_s")


def test_repeated_cells_count_by_their_mean_and_the_report_says_so() -> None:
    steps = measured_with(TRUE)
    slow = steps.assign(step_ms=4 * steps["step_ms"])
    profile, report = fit(pd.concat([steps, steps, slow], ignore_index=True), "a", date="d")
    twice, once = fit(steps.assign(step_ms=2 * steps["step_ms"]), "a", date="d")
    np.testing.assert_allclose(report.fitted_s, once.fitted_s, rtol=1e-6)
    assert once.repeats is None and "repeated rows" not in dict(once.rows())
    assert "Repeated rows" in profile.provenance.description
    assert "Repeated rows" not in twice.provenance.description
    assert report.repeats is not None
    assert (report.repeats.num_cells, report.repeats.num_rows) == (len(steps), 3 * len(steps))
    assert report.repeats.of_means == pytest.approx(0.0, abs=1e-6)
    assert report.repeats.of_medians == pytest.approx(1.0, abs=1e-6)
    assert dict(report.rows())["repeated rows"].endswith("from their means, +100.00 % from their medians")


@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_rows_that_are_slow_in_bursts_are_fitted_at_their_mean(sigma: float) -> None:
    """As in a log of an engine, where no two iterations have the same context."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 33, 6000)
    context = n * rng.integers(16, 2000, len(n))
    true = np.array([TRUE.decode_s(int(k), int(c)) for k, c in zip(n, context, strict=True)])
    skewed = true * rng.lognormal(-(sigma**2) / 2, sigma, len(n))  # of mean 1
    cells = Cells(n.astype(float), {"decode_per_context_s": context.astype(float)}, skewed)
    fitted = fit_regime(cells, ["decode_per_context_s"]).predict(cells)
    assert fitted.sum() == pytest.approx(true.sum(), rel=0.02)
    assert fitted == pytest.approx(true, rel=0.1)


def test_two_rows_of_each_regime_are_enough(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(GOOD)
    profile, report = fit(read_steps(tmp_path / "s.csv"), "small", date="2026-01-01")
    assert list(report.errors["mixed"]) == ["in_sample"]
    assert profile.step_cost.decode_s(2, 20) == pytest.approx(0.006, rel=1e-6)
    assert any("one context" in note for note in report.notes)


def test_a_profile_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(GOOD + "2,30,2,32,256,12\n1,10,0,0,0,7\n")
    stated: dict[str, Any] = {"source": "s.csv", "versions": {"engine": "1.2"}, "date": "2026-01-01"}
    profile, report = fit(read_steps(tmp_path / "s.csv"), "small", **stated)
    of = profile.provenance
    assert (of.source, of.versions, of.date) == tuple(stated.values())
    assert of.grid == {
        "decode_only": "2 cells, batch 1 to 2, 10 to 20 context tokens",
        "mixed": "3 cells, 16 to 32 prefill tokens in chunks 1 to 2, batch 0 to 2, 0 to 30 context tokens",
    }
    assert not profile.async_scheduling
    # Of its cells one has two rows; rows with one prefill and with two are there; all contexts are even.
    assert report.repeats is not None and (report.repeats.num_cells, report.repeats.num_rows) == (1, 2)
    assert not any("num_prefill" in note for note in report.notes)
    assert "alpha of uneven contexts" not in dict(report.rows())


def test_a_profile_is_of_today_unless_said_otherwise(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(GOOD)
    before = Date.today().isoformat()
    of = fit(read_steps(tmp_path / "s.csv"), "small")[0].provenance
    assert before <= of.date <= Date.today().isoformat() and of.versions == {} and of.source == ""


def test_a_term_is_chosen_only_where_it_helps() -> None:
    """Seconds are 1 + x, to a hundredth; the other column is dice."""
    rng = np.random.default_rng(0)
    x, dice = rng.uniform(0, 5, 60), rng.uniform(0, 5, 60)
    seconds = (1 + x) * rng.normal(1, 0.01, 60)
    cells, folds = Cells(np.ones(60), {"x": x, "dice": dice}, seconds), cell_folds(60)
    assert folds is not None
    terms, tried = choose_terms(cells, [], ["dice", "x"], folds)
    assert terms == ["x"] and set(tried) == {"", "dice", "x", "x + dice"}
    assert tried["x"] < 0.02 < 0.2 < tried[""]
    assert choose_terms(cells, ["x"], ["dice"], folds)[0] == ["x"]


def test_folds_leave_out_a_tenth_or_one_of_few() -> None:
    assert cell_folds(2) is None
    for cells, in_each in ((3, [1] * 3), (9, [1] * 9), (25, [3] * 5 + [2] * 5)):
        folds = cell_folds(cells)
        assert folds is not None and np.bincount(folds).tolist() == in_each


def test_a_curve_of_many_sizes_keeps_few_knots() -> None:
    knots = choose_knots(np.arange(1.0, 5001.0))
    assert len(knots) <= MAX_KNOTS + 2
    assert (knots[0], knots[-1]) == (1.0, 5000.0)
    assert (np.diff(knots) > 0).all()


def test_folds_of_sizes_keep_a_size_together() -> None:
    sizes = np.repeat([1.0, 2.0, 4.0, 8.0], 5)
    folds = size_folds(sizes)
    assert folds is not None
    assert all(len(set(folds[sizes == size])) == 1 for size in set(sizes))
    assert size_folds(np.array([1.0, 2.0])) is None


def test_beyond_the_last_size_the_fit_and_the_curve_agree() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 16.0, 20.0])
    cells = Cells(sizes, {}, np.array([1.0, 1.1, 1.3, 2.0, 2.5, 2.6, 4.0]))
    fitted = fit_regime(cells, [])
    assert isinstance(fitted, RegimeFit)
    assert fitted.base(40) == pytest.approx(4.0 + 20 * (4.0 - 2.5) / 11, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (HEADER.encode(), "has 0 rows"),
        (b"a,b\n1,2\n", "the column num_decode is missing"),
        (f"{HEADER},step_ms\n".encode() + b"1,1,0,0,0,5,5\n", "the column step_ms appears 2 times"),
        (GOOD.encode() + b"1,10,0,0,0\n", "row 5: 5 values for 6 columns"),
        (GOOD.encode() + b"-1,10,0,0,0,5\n", "row 5, num_decode: -1 is below 0"),
        (GOOD.encode() + b"1,ten,0,0,0,5\n", "row 5, decode_context_tokens: 'ten' is not a number"),
        (GOOD.encode() + b"1,10,0,0,0,nan\n", "row 5, step_ms: nan is not finite"),
        (GOOD.encode() + b"1,10,0,0,0,\n", "row 5, step_ms: empty"),
        (GOOD.encode() + b"1,10,0,0,0,0\n", "row 5, step_ms: 0 is not above 0"),
        (GOOD.encode() + b"1.5,10,0,0,0,5\n", "row 5, num_decode: 1.5 is not a whole number"),
        (GOOD.encode() + b"0,0,0,0,0,5\n", "row 5, num_decode: 0 is below 1 in a row without prefill"),
        (GOOD.encode() + b"0,9,1,16,128,5\n", "row 5, decode_context_tokens: 9 is above 0"),
        (GOOD.encode() + b"1,9,0,16,0,5\n", "row 5, prefill_tokens: 16 is above 0 in a row without prefill"),
        (GOOD.encode() + b"1,9,2,1,1,5\n", "row 5, prefill_tokens: 1 is below num_prefill"),
        (f"{HEADER}\n0,0,1,16,128,9\n".encode(), "no decode-only rows"),
        (f"{HEADER}\n1,10,0,0,0,9\n".encode(), "no rows with prefill"),
        (b"\xff\xfe\x00", "byte 0 is not UTF-8"),
        (GOOD.encode() + b'1,"10,0,0,0,5\n', "not CSV"),
    ],
)
def test_bad_steps_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "steps.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_steps(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_steps(tmp_path / "none.csv")
    with pytest.raises(InputError, match="it is a directory"):
        read_steps(tmp_path)


def test_a_missing_regime_is_named_by_the_fit_too() -> None:
    steps = measured_with(TRUE)
    with pytest.raises(InputError, match="mine: no rows with prefill"):
        fit(steps[steps["num_prefill"] == 0], "mine")


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "b.csv").write_text(
        "step_ms,note,num_prefill,prefill_tokens,prefill_attention,num_decode,decode_context_tokens\n"
        "5,x,0,0,0,1,10\n6,x,0,0,0,2,20\n9,x,1,16,128,0,0\n9.5,x,1,16,128,1,10\n"
    )
    pd.testing.assert_frame_equal(read_steps(tmp_path / "a.csv"), read_steps(tmp_path / "b.csv"))


@pytest.mark.skipif(
    not (Path(os.environ.get("SEQSCHED_DATA", "/nowhere")) / RTX_STEPS).exists(),
    reason=f"SEQSCHED_DATA names no folder with {RTX_STEPS}",
)
def test_real_steps_are_predicted_where_the_fit_did_not_see_them() -> None:
    profile, report = fit(read_steps(Path(os.environ["SEQSCHED_DATA"]) / RTX_STEPS), "rtx", date="2026-01-01")
    decode, mixed = report.errors["decode_only"], report.errors["mixed"]
    assert decode["unseen_cells"]["mean"] < 0.01
    assert decode["unseen_sizes"]["mean"] < 0.02
    assert mixed["unseen_cells"]["mean"] < 0.015
    assert mixed["unseen_sizes"]["mean"] < 0.02
    assert mixed["unseen_cells"]["p95"] < 0.05
    # Beyond the grid (twice the batch, four times the tokens, several chunks) time grows, and a decode
    # iteration no faster than in proportion.
    cost = profile.step_cost
    assert 1 < cost.decode_s(512, 0) / cost.decode_s(256, 0) <= 2
    ratio = cost.mixed_s(0, 0, 1, 8192, 8192**2 / 2) / cost.mixed_s(0, 0, 1, 2048, 2048**2 / 2)
    assert 3.8 < ratio < 5
    assert cost.mixed_s(0, 0, 8, 2048, 8 * 256**2 / 2) < cost.mixed_s(0, 0, 1, 2048, 2048**2 / 2)
