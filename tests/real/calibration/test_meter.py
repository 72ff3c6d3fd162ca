"""What a visit times is what its row says, on a batch that has been decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the real extra is not installed")

import torch

from real.calibration.cells import STEPS_PER_VISIT, WARM_UP_STEPS, Cell
from real.calibration.meter import Meter, StepTime
from sim.hardware.steps_file import LONGEST


class Growing:
    """An engine that only counts: the contexts before each step."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.contexts: list[int] = []
        self.steps: list[list[int]] = []

    def prime(self, contexts: list[int]) -> None:
        assert min(contexts) >= 1
        self.contexts = list(contexts)

    def decode(self) -> None:
        self.steps.append(self.contexts)
        self.contexts = [tokens + 1 for tokens in self.contexts]

    def release(self) -> None:
        pass


def meter(engine: Any) -> Meter:
    """Every step takes a second of its clock."""
    return Meter(engine, np.arange(9), np.random.default_rng(0), lambda: float(len(engine.steps)))


@pytest.mark.parametrize("cell", [Cell(3, 100), Cell(1, WARM_UP_STEPS), Cell(2, 1), Cell(8, 16, longest=32)])
def test_a_row_of_decode_says_the_contexts_that_were_timed(cell: Cell) -> None:
    engine = Growing()
    row = meter(engine).visit(cell)
    timed = np.array(engine.steps[-STEPS_PER_VISIT:])
    assert row["decode_context_tokens"] == timed.sum(axis=1).mean()
    assert row[LONGEST] == timed.max(axis=1).mean() and row["num_decode"] == cell.rows
    assert row["step_ms"] == 1000
    assert len(engine.steps) - STEPS_PER_VISIT == min(WARM_UP_STEPS, *cell.contexts)
    assert cell.rows * max(engine.contexts) <= cell.kv_tokens


def test_on_a_gpu_one_step_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, cpu = Growing("cuda"), Growing()
    monkeypatch.setattr(Meter, "_timed", lambda self, step: StepTime(1.0 + len(str(step())), 1.0))
    row = meter(engine).visit(Cell(3, 100))
    assert len(engine.steps) == 1 + STEPS_PER_VISIT
    assert row["decode_context_tokens"] == meter(cpu).visit(Cell(3, 100))["decode_context_tokens"]
