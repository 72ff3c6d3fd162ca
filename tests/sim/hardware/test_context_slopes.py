"""What a context token costs follows the batch where it does, and nowhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.hardware import Profile, describe
from sim.hardware.context_slopes import PER_CONTEXT, EvenFit, choose_num_slopes, fit_even
from sim.hardware.fitting import fit, read_steps
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.regime_fit import Cells
from sim.hardware.step_cost import StepCost
from tests.sim.hardware.test_fitting import RTX_STEPS, TRUE, measured_with
from tests.sim.hardware.test_uneven_contexts import uneven_rows

RISING = replace(TRUE, decode_context=PiecewiseLinear((1, 32, 64), (0.0, 3e-7, 3e-7)))
FALLING = replace(TRUE, decode_context=PiecewiseLinear((1, 4, 32, 64), (3e-7, 1e-7, 0, 0), may_fall=True))


def decode_cells(cost: StepCost, noise: float, seed: int = 0) -> Cells:
    steps = measured_with(cost, noise, seed)
    decode = steps[steps["num_prefill"] == 0]
    n, context = (decode[name].to_numpy() for name in ("num_decode", "decode_context_tokens"))
    return Cells(n, {PER_CONTEXT: context}, decode["step_ms"].to_numpy() / 1e3)


@pytest.mark.parametrize("true", [RISING, FALLING])
def test_a_cost_that_depends_on_the_batch_is_recovered(true: StepCost) -> None:
    steps = measured_with(true, noise=0.005)
    profile, report = fit(steps, "known", date="2026-01-01")
    cost = profile.step_cost
    assert len(report.slopes) > 1
    assert report.tried_slopes[len(report.slopes)] < 0.5 * report.tried_slopes[1]
    for n in (1, 3, 8, 16, 24, 32):
        assert cost.decode_s(n, n * 4096) == pytest.approx(true.decode_s(n, n * 4096), rel=0.03)
        assert cost.decode_context_s(n) >= 0
    # Beyond the largest measured batch a token costs what it costs there.
    assert cost.decode_context_s(500) == cost.decode_context_s(32) == pytest.approx(report.slopes[-1][1])
    assert cost.decode_run_s(24, 1000, 50) == pytest.approx(
        sum(cost.decode_s(24, 1000 + 24 * k) for k in range(50)), rel=1e-12
    )
    assert Profile.from_json(profile.to_json()) == profile


BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192)
COSTS_US = (0.15, 0.15, 0.15, 0.16, 0.19, 0.24, 0.28, 0.32, 0.32, 0.315, 0.31)
BASES_MS = (0.77, 0.8, 0.84, 0.88, 0.95, 1.09, 1.15, 1.2, 1.5, 1.75, 2.15)
"""About what the tiny model takes on a processor, whose caches hold the KV cache of 16 sequences."""


@pytest.mark.parametrize("seed", range(5))
def test_on_a_processor_small_batches_are_not_predicted_by_what_large_ones_take(seed: int) -> None:
    grid = [(k, each) for k in range(len(BATCHES)) for each in (22, 38, 134, 214)]
    n = np.array([float(BATCHES[k]) for k, _ in grid])
    context = np.array([float(BATCHES[k] * each) for k, each in grid])
    true_ms = np.array([BASES_MS[k] + COSTS_US[k] * BATCHES[k] * each / 1e3 for k, each in grid])
    noise = np.random.default_rng(seed).normal(1.0, 0.015, len(grid))
    cells = Cells(n, {PER_CONTEXT: context}, true_ms * noise / 1e3)
    number, _ = choose_num_slopes(cells)
    assert number > 1
    middle = Cells(np.array([16.0]), {PER_CONTEXT: np.array([16 * 150.0])}, np.array([1.0]))
    one, several = (1e3 * fit_even(cells, k).predict(middle)[0] for k in (1, number))
    truth = BASES_MS[4] + COSTS_US[4] * 2.4
    assert several == pytest.approx(truth, rel=0.025)
    assert abs(several - truth) < 0.6 * abs(one - truth)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_cost_that_does_not_is_one_number(noise: float, seed: int) -> None:
    chosen, tried = choose_num_slopes(decode_cells(TRUE, noise, seed))
    assert chosen == 1 and len(tried) > 3


def test_a_few_cells_have_one_slope() -> None:
    cells = Cells(np.array([1.0, 2.0]), {PER_CONTEXT: np.array([10.0, 20.0])}, np.array([1.0, 1.1]))
    assert choose_num_slopes(cells) == (1, {})


def test_one_slope_is_level_and_several_are_linear_in_between() -> None:
    base = PiecewiseLinear((1.0,), (1.0,))
    assert EvenFit(base, ((1.0, 2e-7),)).beyond is None
    several = EvenFit(base, ((1.0, 3e-7), (4.0, 2e-7), (8.0, 2.5e-7)))
    assert several.least_s == 2e-7
    over = several.beyond
    assert over is not None and over.may_fall
    for n, seconds in ((1, 3e-7), (2.5, 2.5e-7), (6, 2.25e-7), (8, 2.5e-7), (11, 2.5e-7), (900, 2.5e-7)):
        assert several.least_s + over(n) == pytest.approx(seconds)
        assert several.per_context_s(np.array([n]))[0] == pytest.approx(seconds)


def test_the_fit_of_any_number_of_slopes_is_exact_where_the_cost_is_one_of_them() -> None:
    cells = decode_cells(RISING, 0.0)
    for number in (2, 3, 5):
        assert fit_even(cells, number).predict(cells) == pytest.approx(cells.seconds, rel=1e-6)
    assert np.abs(fit_even(cells, 1).predict(cells) / cells.seconds - 1).max() > 0.05


def test_beside_a_prefill_that_was_not_measured_a_token_costs_what_it_costs_alone() -> None:
    rows = measured_with(RISING, noise=0.005)
    apart = rows[(rows["num_decode"] == 0) | (rows["num_prefill"] == 0)]
    cost = fit(apart, "apart", date="2026-01-01")[0].step_cost
    for n in (2, 16, 40):
        more = [cost.mixed_s(n, n * each, 1, 64, 2048.0) for each in (100, 1100)]
        assert (more[1] - more[0]) / (1000 * n) == pytest.approx(cost.decode_context_s(n))
    assert cost.decode_context_s(40) > 1.5 * cost.decode_context_s(1)
    assert fit(rows, "known", date="d")[0].step_cost.mixed_decode is None


def test_uneven_contexts_cost_their_share_of_what_a_token_costs_in_their_batch() -> None:
    sizes, alpha = (2.0, 8.0, 32.0), 0.1
    curve = tuple(n * alpha * RISING.decode_context_s(int(n)) for n in sizes)
    true = replace(RISING, decode_uneven=PiecewiseLinear(sizes, curve))
    steps = pd.concat([measured_with(true), uneven_rows(true)], ignore_index=True)
    profile, report = fit(steps, "both", date="2026-01-01")
    assert len(report.slopes) > 1
    assert [a for _, a in report.alpha] == pytest.approx([alpha] * 3, rel=1e-3)
    for n in (2, 8, 32):
        assert profile.step_cost.decode_uneven_s(n) == pytest.approx(true.decode_uneven_s(n), rel=1e-2)


def test_the_slopes_are_shown() -> None:
    profile, report = fit(measured_with(RISING), "shown", date="2026-01-01")
    said = dict(report.rows())["a context token, decode only"]
    assert said.startswith("0.2 µs at batch 1, ") and said.endswith("0.5 µs at batch 32")
    assert dict(describe(profile))["context"].startswith("a token costs a decode iteration 0.2 to 0.5 µs")
    assert "depends on the batch" in profile.provenance.description
    flat, report = fit(measured_with(TRUE), "flat", date="2026-01-01")
    assert "a context token, decode only" not in dict(report.rows())
    assert "context" not in dict(describe(flat)) and flat.step_cost.decode_context is None


@pytest.mark.skipif(
    not (Path(os.environ.get("SEQSCHED_DATA", "/nowhere")) / RTX_STEPS).exists(),
    reason=f"SEQSCHED_DATA names no folder with {RTX_STEPS}",
)
def test_on_a_real_gpu_a_token_costs_the_same_in_every_batch() -> None:
    _, report = fit(read_steps(Path(os.environ["SEQSCHED_DATA"]) / RTX_STEPS), "rtx", date="2026-01-01")
    assert len(report.slopes) == 1
