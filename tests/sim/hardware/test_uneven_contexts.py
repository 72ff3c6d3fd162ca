"""Alpha is recovered where even rows stand on both sides of an uneven one, and moves nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import describe
from sim.hardware.fitting import fit, read_steps
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import Cells
from sim.hardware.step_cost import StepCost
from sim.hardware.steps_file import COUNTS, LONGEST
from sim.hardware.uneven_contexts import PER_CONTEXT, UNEVEN, fit_decode, uneven_tokens
from tests.sim.hardware.test_fitting import TRUE, measured_with

SKEW = "rtx4090-llama-3.1-8b-steps-skew.csv"
DATA = Path(os.environ.get("SEQSCHED_DATA", "/nowhere"))


def uneven_rows(cost: StepCost, longest: tuple[int, ...] = (512, 4096)) -> pd.DataFrame:
    """Batches of which one sequence has the longest context and the others an eighth of it."""
    rows = []
    for n in (2, 8, 32):
        for m in longest:
            context = m + (n - 1) * m // 8
            short = n * m - context
            rows.append((n, context, 0, 0, 0.0, cost.decode_s(n, context, short), m))
            mixed = cost.mixed_s(n, context, 1, 64, 64 * 32.0, short)
            rows.append((n, context, 1, 64, 64 * 32.0, mixed, m))
    frame = pd.DataFrame(rows, columns=[*COUNTS, "step_ms", LONGEST], dtype=float)
    frame["step_ms"] *= 1e3
    return frame


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1e-7))
def test_alpha_is_recovered(alpha: list[float], mixed: float) -> None:
    sizes = (2.0, 8.0, 32.0)
    curve = tuple(n * a * TRUE.decode_per_context_s for n, a in zip(sizes, alpha, strict=True))
    true = replace(
        TRUE,
        decode_uneven=PiecewiseLinear(sizes, curve, may_fall=True),
        mixed_per_longest_s=2e-7,
        mixed_per_uneven_s=mixed,
    )
    steps = pd.concat([measured_with(true), uneven_rows(true)], ignore_index=True)
    profile, report = fit(steps, "known", date="2026-01-01")
    assert [n for n, _ in report.alpha] == list(sizes)
    np.testing.assert_allclose([a for _, a in report.alpha], alpha, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(report.fitted_s, report.measured_s, rtol=1e-4)
    assert profile.step_cost.mixed_per_uneven_s == pytest.approx(mixed, rel=1e-2, abs=1e-10)


def test_uneven_rows_do_not_move_the_even_part() -> None:
    true = replace(TRUE, decode_uneven=PiecewiseLinear((2, 32), (1e-6, 4e-6)))
    even, _ = fit(measured_with(true, noise=0.01), "even", date="2026-01-01")
    steps = pd.concat([measured_with(true, noise=0.01), uneven_rows(true)], ignore_index=True)
    both, _ = fit(steps, "both", date="2026-01-01")
    assert both.step_cost.decode_base == even.step_cost.decode_base
    assert both.step_cost.decode_per_context_s == even.step_cost.decode_per_context_s
    assert even.step_cost.decode_uneven is None and "decode_uneven" not in even.to_json()["step_cost"]


def test_a_row_beyond_the_even_ones_of_its_batch_says_nothing() -> None:
    true = replace(TRUE, decode_uneven=PiecewiseLinear((2, 32), (1e-6, 4e-6)))
    steps = pd.concat([measured_with(true), uneven_rows(true, (8192,))], ignore_index=True)
    profile, report = fit(steps, "beyond", date="2026-01-01")
    assert profile.step_cost.decode_uneven is None and report.alpha == ()
    assert any(note.startswith("No decode-only row with uneven contexts") for note in report.notes)


def test_alpha_is_shown() -> None:
    true = replace(TRUE, decode_uneven=PiecewiseLinear((2, 8, 32), (2e-7, 1.6e-7, 6.4e-7), may_fall=True))
    steps = pd.concat([measured_with(true), uneven_rows(true)], ignore_index=True)
    profile, report = fit(steps, "shown", date="2026-01-01")
    shares = "0.500 at batch 2, 0.100 at batch 8, 0.100 at batch 32"
    assert dict(report.rows())["alpha of uneven contexts"] == shares
    rows = dict(describe(profile))
    assert rows["uneven contexts"].startswith("a token short of the longest context costs 0.10 to 0.50")
    assert "error, uneven contexts, in sample" in rows
    assert "uneven contexts" not in dict(describe(fit(measured_with(TRUE), "even", date="d")[0]))


def test_rounding_makes_no_context_uneven() -> None:
    n = np.array([3.0, 7.0, 9.0])
    context = np.array([100.0, 12345.0, 1e7])
    assert uneven_tokens(n, context, context / n).tolist() == [0, 0, 0]
    assert uneven_tokens(n, context, context / n + 1).tolist() == pytest.approx([3, 7, 9])


@pytest.mark.skipif(not (DATA / SKEW).exists(), reason=f"SEQSCHED_DATA names no folder with {SKEW}")
def test_real_uneven_rows_are_predicted() -> None:
    """On 140 decode-only batches with uneven contexts, of an RTX 4090."""
    steps = read_steps(DATA / SKEW)
    decode = steps[steps["num_prefill"] == 0]
    n, context, longest = (decode[c].to_numpy() for c in ("num_decode", "decode_context_tokens", LONGEST))
    short = uneven_tokens(n, context, longest)
    cells = Cells(n, {PER_CONTEXT: context, UNEVEN: short}, decode["step_ms"].to_numpy() / 1e3)
    fitted = fit_decode(cells)
    uneven = short > 0
    with_term = abs(fitted.predict(cells) / cells.seconds - 1)[uneven]
    without = abs(fitted.even.predict(cells) / cells.seconds - 1)[uneven]
    assert uneven.sum() == 140
    assert with_term.mean() < 0.009 < 0.013 < without.mean()
    assert all(0 < alpha < 0.15 for _, alpha in fitted.alpha)
