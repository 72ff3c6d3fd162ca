"""A calibration: visits cells, appends every row to a file as it is measured, fits a profile to the rows.

It can be stopped and resumed: rows already in the file count as measured.
"""

from __future__ import annotations

import csv
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers

from sim.hardware.datasheets import GPUS, Gpu
from sim.hardware.fitting import FitReport, fit
from sim.hardware.kv_memory import KvMemory, kv_bytes_per_token
from sim.hardware.profile import Profile
from sim.hardware.steps_file import COLUMNS, LONGEST
from traces.errors import InputError

from ..engines.engine import Engine, Machine
from ..engines.model import LoadedModel
from ..lengths.progress import Progress, silent
from .cells import Cell
from .memory import NOT_MEASURED, MeasuredMemory, memory_part, warm_and_measure
from .memory_floor import Floor, PeakRates, at_context, floors, measure_peak_rates
from .meter import Measuring, Meter, order, timed

HEADER = (*COLUMNS, LONGEST, "wall_ms", *Cell._fields, "engine", "measured_on")

CUDA_SHARE = 0.8
"""The share of the memory that the weights leave free that becomes KV cache."""


class Calibration:
    """Measures `cells` on an engine; `rows` holds the measurements so far, in order.

    path: the file that rows are read from at the start and appended to. Raises InputError where it holds rows
    of another engine, machine or clock. `say` is told now and then how far it is. `meter`: what times the
    engine, by default one that tells it what to run.
    """

    def __init__(
        self,
        engine: Machine,
        loaded: LoadedModel,
        cells: Sequence[Cell],
        path: Path | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        say: Callable[[str], None] = silent,
        meter: Measuring | None = None,
    ) -> None:
        self.engine, self.loaded, self.cells, self.path = engine, loaded, list(cells), path
        self.say = say
        rng = np.random.default_rng(seed)
        self.meter = meter or Meter(cast(Engine, engine), loaded.ordinary_tokens, rng, clock)
        # Times of two clocks are not to be mixed.
        self.measured_on = loaded.label + ("" if clock is time.perf_counter else ", at an even pace")
        self.order = order(self.cells, seed)
        self.rows: list[dict[str, Any]] = []
        self.host_s = 0.0
        if path is not None:
            self._resume(path)
        self.done = Counter(_cell_of(row) for row in self.rows)
        self.is_warm = False
        self.memory: MeasuredMemory | None = None
        self.peak_rates: PeakRates | None = None

    @property
    def passes(self) -> int:
        """How often every cell has been visited."""
        return min((self.done[cell] for cell in self.cells), default=0)

    def measure(self, num_visits: int) -> None:
        """Make the next `num_visits` visits, always to one of the cells visited least."""
        self.warm()
        for _ in range(num_visits):
            passes = self.passes
            cell = next(cell for cell in self.order if self.done[cell] == passes)
            row = {
                **self.meter.visit(cell),
                **cell._asdict(),
                "engine": self.engine.name,
                "measured_on": self.measured_on,
            }
            self.rows.append(row)
            self.done[cell] += 1
            if self.path is not None:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, HEADER, lineterminator="\n").writerow(row)

    def complete(self, passes: int, is_late: Callable[[], bool] = lambda: False) -> None:
        """Visit every cell until each has been visited `passes` times, those of rows that were read included.

        Ends sooner where it is late, but not before every cell has been visited once.
        """
        self.warm()
        due = sum(max(0, passes - self.done[cell]) for cell in self.cells)
        progress = Progress(self.say, "calibration, visits", due)
        while self.passes < passes and not (self.passes and is_late()):
            self.measure(1)
            progress.advance()

    def fit(self, name: str, since: int = 0) -> tuple[Profile, FitReport]:
        """The profile fitted to all rows so far, its provenance with date, machine and versions; a report.

        Where the rows from number `since` on cover every cell, to these alone.
        """
        import pandas as pd

        rows = self.rows[since:]
        if not {_cell_of(row) for row in rows}.issuperset(self.cells):
            rows = self.rows
        steps = pd.DataFrame([{key: float(row[key]) for key in (*COLUMNS, LONGEST)} for row in rows])
        profile, report = fit(
            steps,
            name,
            model=self.loaded.shape,
            gpu=_gpu(self.loaded.device),
            engine=self.engine.name,
            memory=memory_of(
                self.loaded,
                self.engine.capacity_tokens,
                self.memory.workspace if self.memory else None,
            ),
            host_s=self.host_s,
            ragged_prefill=self.engine.ragged_prefill,
            ragged_decode=self.engine.ragged_decode,
            source=f"measured with real.calibrate on {self.loaded.label}",
            versions=versions() | getattr(self.engine, "versions", {}),
            async_scheduling=getattr(self.engine, "async_scheduling", False),
        )
        grid = {**profile.provenance.grid, **self._facts()}
        return replace(profile, provenance=replace(profile.provenance, grid=grid)), report

    def warm(self) -> None:
        """Warm up and measure memory, host time and peak rates, the first time it is called."""
        if self.is_warm:
            return
        device = self.loaded.device
        progress = Progress(self.say, "warm-up, kinds of iteration", len(self.cells))
        self.memory = warm_and_measure(self.meter, self.cells, self.loaded, progress.advance)
        self.host_s = self.meter.host_s(max(cell.rows for cell in self.cells))
        self.peak_rates = measure_peak_rates(
            device, self.loaded.dtype, lambda function: timed(device, function).device_s
        )
        self.is_warm = True

    def floors(self, beside: Sequence[Mapping[str, Any]] = ()) -> list[Floor]:
        """Every measured kind of decode iteration, with its memory floor (and another engine's time)."""
        self.warm()
        assert self.peak_rates is not None
        return floors(self.rows, self.loaded.shape, self.peak_rates.copy_bytes_per_s, beside)

    def _facts(self) -> dict[str, str]:
        """The measurements that are made once, for the provenance."""
        facts = self.memory.to_json() if self.memory else dict(NOT_MEASURED)
        if self.peak_rates is None:
            return facts
        facts |= self.peak_rates.to_json()
        near = at_context(self.floors())
        if near:
            low, high = (pick(near, key=lambda f: f.ratio).ratio for pick in (min, max))
            facts["decode_over_floor"] = (
                f"{low:.2f} to {high:.2f} times the memory floor for {near[0].rows} to {near[-1].rows} "
                f"sequences at about {near[-1].context:.0f} tokens of context"
            )
        return facts

    def _resume(self, path: Path) -> None:
        """Read the rows of an existing file, dropping a half-written last one; else start the file."""
        header = ",".join(HEADER) + "\n"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if whole and not whole.startswith(header):
                raise InputError(f"{path}: its first line is not the header of a calibration")
            for number, row in enumerate(csv.DictReader(whole.splitlines()), start=1):
                for key, mine in (("engine", self.engine.name), ("measured_on", self.measured_on)):
                    if row[key] != mine:
                        raise InputError(f"{path}, row {number}, {key}: {row[key]!r} is not {mine!r}")
                self.rows.append(row)
            if not whole or whole != text:
                path.write_text(whole or header, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from None


def memory_of(loaded: LoadedModel, capacity_tokens: int, workspace: int | None = None) -> KvMemory:
    """The memory part of a profile with `capacity_tokens` of KV cache; on the CPU these and the weights.

    workspace: bytes measured beside weights and KV cache; None: everything that is left.
    """
    total = 0
    if loaded.device.type == "cuda":
        total = torch.cuda.get_device_properties(loaded.device).total_memory
    per_token = kv_bytes_per_token(loaded.shape)
    return memory_part(total, loaded.weight_bytes, workspace, capacity_tokens, per_token)


def default_capacity(loaded: LoadedModel) -> int:
    """KV tokens that fit into CUDA_SHARE of the free memory; on the CPU a small fixed number."""
    if loaded.device.type != "cuda":
        return 16_384
    free, _ = torch.cuda.mem_get_info(loaded.device)
    return int(free * CUDA_SHARE) // kv_bytes_per_token(loaded.shape)


def versions() -> dict[str, str]:
    """Versions of the software that a measurement depends on, for its provenance."""
    result = {
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        result["cuda"] = str(torch.version.cuda)
    return result


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
