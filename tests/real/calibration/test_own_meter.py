"""Cells of an engine that schedules by itself: what is timed is what was asked for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the real extra is not installed")

from real.calibration.cells import STEPS_PER_VISIT, Cell
from real.calibration.own_meter import OwnMeter, fits
from real.engines.scheduling import EngineSizes, SchedulerSettings
from tests.real.own_engine import STEP_S, OwnEngine


@pytest.fixture
def meter(loaded: Any) -> OwnMeter:
    sizes = EngineSizes(9, 128, 400, 4096)
    return OwnMeter(OwnEngine(loaded, sizes), loaded.ordinary_tokens, np.random.default_rng(0), sizes)


def counts(row: dict[str, float]) -> tuple[float, ...]:
    return tuple(row[name] for name in ("num_decode", "num_prefill", "prefill_tokens", "prefill_attention"))


def test_what_is_timed_is_the_cell(meter: OwnMeter) -> None:
    assert counts(meter.visit(Cell(0, 0, 3, 20))) == (0, 3, 60, 3 * 20 * 10)
    assert counts(meter.visit(Cell(4, 32, 1, 24, 48))) == (4, 1, 24, 24 * (48 + 12))
    row = meter.visit(Cell(8, 64))
    assert counts(row) == (8, 0, 0, 0)
    # Behind 64 tokens and the one of the prompt's end come those of the visit.
    assert 64 + STEPS_PER_VISIT / 2 < row["decode_context_tokens"] / 8 < 64 + 8 + STEPS_PER_VISIT
    assert row["step_ms"] >= 1e3 * STEP_S and row["wall_ms"] >= row["step_ms"] * 0.9
    assert not meter.engine.has_requests()


def test_contexts_that_differ_are_timed_as_such(meter: OwnMeter) -> None:
    row, even = meter.visit(Cell(8, 64, longest=128)), meter.visit(Cell(8, 64))
    assert counts(row) == counts(even) == (8, 0, 0, 0)
    assert row["decode_context_tokens"] == pytest.approx(even["decode_context_tokens"], rel=0.05)
    assert 128 < row["decode_context_max"] < 128 + 8 + STEPS_PER_VISIT
    assert even["decode_context_max"] == even["decode_context_tokens"] / 8


def test_a_run_in_between_leaves_the_meter_its_own_settings(meter: OwnMeter) -> None:
    meter.visit(Cell(8, 16))
    meter.engine.use(SchedulerSettings(max_num_seqs=2))
    assert counts(meter.visit(Cell(8, 16))) == (8, 0, 0, 0)


def test_a_run_goes_on_after_a_visit(meter: OwnMeter) -> None:
    setup = meter.engine.use(SchedulerSettings(max_num_seqs=2))
    for key in range(3):
        meter.engine.add(key, [5] * 9, 4)
    meter.engine.step()
    assert counts(meter.visit(Cell(4, 32, 1, 24, 48))) == (4, 1, 24, 24 * (48 + 12))
    meter.engine.resume(setup)
    gave = [meter.engine.step() for _ in range(3)]
    assert [[(p.key, p.is_finished) for p in step] for step in gave] == [
        *[[(0, False), (1, False)]] * 2,
        [(0, True), (1, True)],
    ]
    assert setup.journal.num_ended == 4 and meter.engine.has_requests()


@pytest.mark.parametrize(("cell", "handed_over"), [(Cell(0, 0, 3, 20), 3), (Cell(2, 32, 1, 24), 1)])
def test_handing_requests_over_is_timed_with_the_iteration_that_begins_with_them(
    meter: OwnMeter, monkeypatch: pytest.MonkeyPatch, cell: Cell, handed_over: int
) -> None:
    add = meter.engine.add

    def slowly(*arguments: Any, **given: Any) -> None:
        time.sleep(0.02)
        add(*arguments, **given)

    quickly = meter.visit(cell)["step_ms"]
    monkeypatch.setattr(meter.engine, "add", slowly)
    assert meter.visit(cell)["step_ms"] - quickly > 20 * handed_over - 5
    assert meter.visit(Cell(2, 32))["step_ms"] < 10
    # Its prompt was handed over an iteration before.
    assert meter.visit(Cell(2, 32, 1, 24, 16))["step_ms"] < 10


def test_cells_beyond_the_budget_do_not_fit() -> None:
    assert fits(Cell(8, 64, 1, 120), 128) and not fits(Cell(9, 64, 1, 120), 128)
    assert not fits(Cell(8, 64, 1, 8, 121), 128) and not fits(Cell(0, 0, 4, 33), 128)
