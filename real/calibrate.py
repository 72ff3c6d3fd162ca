"""How long does an iteration take on this machine, and how many tokens does its memory hold?

    python real/calibrate.py --out my-gpu.json            (under 6 minutes on an H200)
    python real/calibrate.py --quick --out here.json      (the tiny model on this machine's processor)

Measures decode iterations (batch x context), padded prefill and, on the engine cuda-graphs, both mixed. It
warms up first, visits the cells repeatedly in random order, and appends every row to a steps file as it is
measured; after an interruption the same command continues where it stopped. Writes the profile with its
residuals, a figure of measured against fitted times, and a table of decode iterations beside the memory floor
(bytes of weights and KV cache read, over the bandwidth of a copy; --beside FILE.steps.csv adds another
engine's times). The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any

from real.options import EngineFlags
from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from real.calibration.calibration import Calibration

MAX_SECONDS = 300.0

SIZES = {"max_rows": 256, "max_context": 1024, "max_prompt": 512, "repeats": 7}
QUICK_SIZES = {"max_rows": 64, "max_context": 128, "max_prompt": 64, "repeats": 3}
"""Defaults by flag."""


def calibrate(
    machine: EngineFlags = EngineFlags(),  # noqa: B008  (a frozen dataclass of defaults)
    *,
    out: Path,
    steps: Path | None = None,
    figure: Path | None = None,
    name: str | None = None,
    max_rows: int | None = None,
    max_context: int | None = None,
    max_prompt: int | None = None,
    repeats: int | None = None,
    max_seconds: float = MAX_SECONDS,
    beside: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure this machine's iterations and write a profile.

    Parameters
    ----------
    out
        The profile to write (JSON).
    steps
        The CSV file that rows are appended to; default: beside --out. Rows already in it count as measured.
    figure
        File for the figure of measured against fitted; default: beside --out, as PNG.
    name
        Name of the profile; default: the file name of --out.
    max_rows
        Largest batch; default 256.
    max_context
        Longest context of a decoding row; default 1024.
    max_prompt
        Longest prompt; default 512.
    repeats
        Visits to every cell; default 7.
    max_seconds
        Stop after this time, but not before every cell has been visited once.
    beside
        A steps file of another engine (such as transformers-eager) on the same grid: its decode times beside
        these, and the ratio.
    quick
        Small bounds and few repeats, for a first look or for the processor.
    """
    from real.calibration.calibration import Calibration
    from real.calibration.cells import CellBounds

    if machine.threads is not None:
        machine.use_threads()
    rows, context, prompt, visits = _sizes(
        quick, max_rows=max_rows, max_context=max_context, max_prompt=max_prompt, repeats=repeats
    )
    _check_not_negative(seed=machine.seed, max_seconds=max_seconds)
    machine.check()
    others = _rows_of(beside) if beside is not None else []
    steps = steps or out.with_suffix(".steps.csv")
    if machine.schedules_by_itself:
        calibration = _of_its_own_scheduler(machine, rows, context, prompt, steps)
    else:
        loaded = machine.load()
        engine = machine.start(loaded)
        mixed = hasattr(engine, "iterate")
        bounds = CellBounds(rows, context, prompt, mixed=mixed, uneven=engine.ragged_decode)
        cells = bounds.cells(engine.capacity_tokens)
        calibration = Calibration(engine, loaded, cells, steps, machine.seed, say=_say)
    seconds = measure(calibration, visits, max_seconds)
    write(calibration, name or out.stem, out, figure or out.with_suffix(".png"), seconds, others)


def _of_its_own_scheduler(
    machine: EngineFlags, rows: int, context: int, prompt: int, steps: Path
) -> Calibration:
    """The calibration of an engine that schedules by itself, brought to each cell by what it is handed."""
    import numpy as np

    from real.calibration.calibration import Calibration
    from real.calibration.cells import CellBounds
    from real.calibration.own_meter import LONG_ANSWER, OwnMeter, fits
    from real.engines.scheduling import EngineSizes, SchedulerSettings

    budget = max(SchedulerSettings.max_num_batched_tokens, rows + prompt)
    longest = max(context, 2 * prompt) + LONG_ANSWER
    loaded = machine.load(outline=True)
    sizes = EngineSizes(rows + 1, budget, longest, machine.kv_tokens)
    engine = machine.start_own(loaded, sizes)
    bounds = CellBounds(rows, context, prompt, max_prefill_tokens=budget, mixed=True, uneven=True)
    cells = [cell for cell in bounds.cells(engine.capacity_tokens) if fits(cell, budget)]
    rng = np.random.default_rng(machine.seed)
    meter = OwnMeter(engine, loaded.ordinary_tokens, rng, sizes)
    return Calibration(engine, loaded, cells, steps, machine.seed, say=_say, meter=meter)


def _sizes(quick: bool, **given: int | None) -> list[int]:
    """The sizes that the flags state, else their defaults; InputError for one below 1."""
    sizes = []
    for flag, size in given.items():
        value = (QUICK_SIZES if quick else SIZES)[flag] if size is None else size
        if value < 1:
            raise InputError(f"{flag}: {value} must be at least 1")
        sizes.append(value)
    return sizes


def _check_not_negative(**values: float) -> None:
    for flag, value in values.items():
        if not value >= 0:
            raise InputError(f"{flag}: {value:g} must be at least 0")


def measure(calibration: Calibration, repeats: int, max_seconds: float) -> float:
    """Visit every cell `repeats` times, or at least once until the time is up; returns the seconds taken."""
    begin = time.perf_counter()
    calibration.complete(repeats, lambda: time.perf_counter() - begin > max_seconds)
    return time.perf_counter() - begin


def write(
    calibration: Calibration,
    name: str,
    out: Path,
    figure: Path,
    took_s: float,
    beside: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the profile, its figure and the memory floor; print a summary whose last line is JSON."""
    from plots.calibration import report as draw
    from plots.style import save
    from real.calibration.memory_floor import at_context, markdown

    profile, report = calibration.fit(name)
    profile.save(out)
    title = f"{name}: {len(report.measured_s)} distinct steps on {calibration.loaded.label}"
    save(draw(report.measured_s * 1e3, report.fitted_s * 1e3, ~report.is_mixed, title), figure)
    floors = calibration.floors(beside)
    near = at_context(floors)
    _write_rows([floor.to_json() for floor in floors], out.with_suffix(".floor.csv"))
    print(markdown(near))
    for label, value in report.rows():
        print(f"{label}: {value}")
    summary = {
        "profile": str(out),
        "engine": profile.engine,
        "measured_on": calibration.loaded.label,
        "rows": len(calibration.rows),
        "visits_per_cell": calibration.passes,
        "seconds": round(took_s, 1),
        "host_ms": profile.step_cost.host_ms,
        "kv_tokens": profile.kv_tokens(),
        **(calibration.peak_rates.to_json() if calibration.peak_rates else {}),
        "floor_ratio": {floor.rows: round(floor.ratio, 3) for floor in near},
        "step_over_beside": {f.rows: round(f.of_beside, 3) for f in near if f.of_beside is not None},
        "mean_error": {regime: ways["in_sample"]["mean"] for regime, ways in report.errors.items()},
    }
    print(json.dumps(summary, allow_nan=False))


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a steps file; InputError for any other file."""
    from sim.hardware.steps_file import read_steps

    return [{str(key): value for key, value in row.items()} for row in read_steps(path).to_dict("records")]


def _write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pandas as pd

    from traces.files import atomic_write

    with atomic_write(path) as file:
        file.write(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def _say(line: str) -> None:
    print(f"calibrate: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(calibrate)
