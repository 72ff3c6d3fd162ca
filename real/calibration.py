"""A calibration under way: visits cells, keeps every row in a file as it comes, fits a profile to them.

Can be stopped and taken up again: rows that the file holds count as measured.
"""

from __future__ import annotations

import csv
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sim.hardware.calibrate import FitReport, fit
from sim.hardware.gpu import GPUS, Gpu
from sim.hardware.kv_memory import GIB, KvMemory, kv_bytes_per_token
from sim.hardware.profile import Profile
from sim.hardware.steps_file import COLUMNS, COUNTS
from traces.errors import InputError

from .engine import Engine
from .grid import Cell
from .measure import Meter, order, warm
from .model import LoadedModel

HEADER = (*COLUMNS, "wall_ms", *Cell._fields, "engine", "measured_on")

CUDA_SHARE = 0.8
"""Of the memory that is free beside the weights, the share that becomes KV cache."""


class Calibration:
    """Measures `cells` on an engine; `rows` are what was measured so far, in order.

    path: where rows are appended as they come, and taken up from; InputError where it holds rows of another
    engine or machine.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: LoadedModel,
        cells: Sequence[Cell],
        path: Path | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine, self.loaded, self.cells, self.path = engine, loaded, list(cells), path
        self.meter = Meter(engine, loaded.shape.vocab, np.random.default_rng(seed), clock)
        self.order = order(self.cells, seed)
        self.rows: list[dict[str, Any]] = []
        self.host_s = 0.0
        if path is not None:
            self._take_up(path)
        self.done = Counter(_cell_of(row) for row in self.rows)
        self.is_warm = False
        self.memory: dict[str, str] = {}

    @property
    def passes(self) -> int:
        """How often every cell has been visited."""
        return min((self.done[cell] for cell in self.cells), default=0)

    def measure(self, num_visits: int) -> None:
        """The next visits, always to cells that were visited least."""
        if not self.is_warm:
            self._warm()
        for _ in range(num_visits):
            passes = self.passes
            cell = next(cell for cell in self.order if self.done[cell] == passes)
            row = {
                **self.meter.visit(cell),
                **cell._asdict(),
                "engine": self.engine.name,
                "measured_on": self.loaded.label,
            }
            self.rows.append(row)
            self.done[cell] += 1
            if self.path is not None:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, HEADER, lineterminator="\n").writerow(row)

    def fit(self, name: str) -> tuple[Profile, FitReport]:
        """The profile of all rows so far, saying when, on what and with which versions they were measured."""
        import pandas as pd

        steps = pd.DataFrame([{key: float(row[key]) for key in COLUMNS} for row in self.rows])
        if self.loaded.device.type != "cuda":
            # A processor is slow in bursts, and a run takes their sum: the mean predicts it, not the median.
            steps = steps.groupby(list(COUNTS), as_index=False).mean()
        profile, report = fit(
            steps,
            name,
            model=self.loaded.shape,
            gpu=_gpu(self.loaded.device),
            engine=self.engine.name,
            memory=memory_of(self.loaded, self.engine.capacity_tokens),
            host_s=self.host_s,
            ragged=self.engine.is_ragged,
            source=f"measured with real.calibrate on {self.loaded.label}",
            versions=versions(),
        )
        grid = {**profile.provenance.grid, **self.memory}
        return replace(profile, provenance=replace(profile.provenance, grid=grid)), report

    def _warm(self) -> None:
        """Every graph captured, every buffer allocated; then what is measured once: host time and memory."""
        device = self.loaded.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        warm(self.meter, self.cells)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) - before
            self.memory = {
                "weights_gib": f"{self.loaded.weight_bytes / GIB:.2f}",
                "allocated_before_gib": f"{before / GIB:.2f}",
                "peak_beyond_that_gib": f"{peak / GIB:.2f}",
                "reserved_gib": f"{torch.cuda.memory_reserved(device) / GIB:.2f}",
            }
        self.host_s = self.meter.host_s(max(cell.rows for cell in self.cells))
        self.is_warm = True

    def _take_up(self, path: Path) -> None:
        """Read the rows of a file that is there, a half-written last one cut off; else begin one."""
        header = ",".join(HEADER) + "\n"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if whole and not whole.startswith(header):
                raise InputError(f"{path}: its first line is not that of a calibration; give another file")
            for number, row in enumerate(csv.DictReader(whole.splitlines()), start=1):
                for key, mine in (("engine", self.engine.name), ("measured_on", self.loaded.label)):
                    if row[key] != mine:
                        raise InputError(f"{path}, row {number}, {key}: {row[key]!r} is not {mine!r}")
                self.rows.append(row)
            if not whole or whole != text:
                path.write_text(whole or header, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from None


def memory_of(loaded: LoadedModel, capacity_tokens: int) -> KvMemory:
    """The memory part of a profile with `capacity_tokens` of KV cache; on the CPU these and the weights."""
    per_token, weights = kv_bytes_per_token(loaded.shape), loaded.weight_bytes
    given = weights + capacity_tokens * per_token
    total = given
    if loaded.device.type == "cuda":
        total = max(given, torch.cuda.get_device_properties(loaded.device).total_memory)
    return KvMemory(total, 1.0, weights, total - given, per_token)


def default_capacity(loaded: LoadedModel) -> int:
    """KV tokens that fit a share of what is free beside the weights; on the CPU a small fixed number."""
    if loaded.device.type != "cuda":
        return 16_384
    free, _ = torch.cuda.mem_get_info(loaded.device)
    return int(free * CUDA_SHARE) // kv_bytes_per_token(loaded.shape)


def versions() -> dict[str, str]:
    """What a measurement depends on, for its provenance."""
    found = {
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
    return found


def _gpu(device: torch.device) -> Gpu | None:
    """The datasheet of the GPU, with the memory that the driver reports; None on the CPU or where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for gpu in GPUS.values():
        if set(gpu.name.lower().replace("-", " ").split()) <= set(name.lower().replace("-", " ").split()):
            return gpu
    return None


def _cell_of(row: dict[str, Any]) -> Cell:
    return Cell(*(int(row[field]) for field in Cell._fields))
