"""Times the iterations of an engine, cell by cell, and fits its profile once decode and prefill are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from ..calibration.calibration import Calibration
from ..calibration.cells import Cell, uneven_cells
from ..calibration.memory_floor import at_context, floor_s, measure_peak_rates
from ..calibration.meter import Meter, timed
from .bench import FILES, GRAPHS, Bench, Sizes


def peak_rates(bench: Bench) -> dict[str, Any]:
    """Bandwidth of a copy, rate of a product, and the least time of decode iterations that follows."""
    loaded = bench.loaded
    bench.release()
    rates = measure_peak_rates(loaded.device, loaded.dtype, lambda f: timed(loaded.device, f).device_s)
    floors = {
        f"{rows} x {context}": 1e3 * floor_s(loaded.shape, rows * context, rates.copy_bytes_per_s)
        for rows in bench.sizes.rows
        for context in bench.sizes.contexts[GRAPHS]
    }
    return {
        "copy_gb_per_s": rates.copy_bytes_per_s / 1e9,
        "product_tflop_per_s": rates.product_flops_per_s / 1e12,
        "weights_gb": loaded.weight_bytes / 1e9,
        "decode_floor_ms": floors,
    }


def decode_cells(sizes: Sizes, engine: str) -> Iterator[Cell]:
    """Decoding batches, each at every context."""
    for rows in sizes.rows if engine == GRAPHS else sizes.eager_rows:
        for context in sizes.contexts[engine]:
            yield Cell(rows, context)


def prefill_cells(sizes: Sizes, engine: str) -> Iterator[Cell]:
    """Padded batches of prompts; on `cuda-graphs` also chunks beside decoding sequences."""
    for chunks in sizes.rows if engine == GRAPHS else sizes.eager_rows:
        for tokens in sizes.prompts:
            if chunks * tokens <= sizes.max_prefill_tokens:
                yield Cell(0, 0, chunks, tokens)
    if engine == GRAPHS:
        for rows in sizes.rows[:: max(1, len(sizes.rows) // 3)]:
            for tokens in sizes.prompts[::2]:
                for history in (0, sizes.prompts[-1]):
                    yield Cell(rows, sizes.contexts[engine][-2], 1, tokens, history)


def time_grid(bench: Bench, engine: str, kind: str, seconds: float) -> dict[str, Any]:
    """Visit every cell of decode or prefill until each has its visits, or the time is up.

    Rows stand in the file as they are measured, and count in the next call.
    """
    begin = time.monotonic()
    machine = bench.engine(engine)
    wanted = list((decode_cells if kind == "decode" else prefill_cells)(bench.sizes, engine))
    if kind == "decode" and engine == GRAPHS:
        longest = max(bench.sizes.contexts[engine])
        wanted += uneven_cells(max(bench.sizes.rows), longest, machine.capacity_tokens)
    cells = [cell for cell in wanted if cell.kv_tokens <= machine.capacity_tokens]
    calibration = Calibration(machine, bench.loaded, cells, bench.steps(engine), bench.seed)
    visits = bench.sizes.visits * len(cells)
    left = sum(max(0, bench.sizes.visits - calibration.done[cell]) for cell in cells)
    if left:
        calibration.warm()
    while left and time.monotonic() - begin < seconds:
        calibration.measure(1)
        left -= 1
    rows = [row for row in calibration.rows if (int(row["num_prefill"]) == 0) == (kind == "decode")]
    gap_ms = median(float(row["wall_ms"]) - float(row["step_ms"]) for row in rows) if rows else None
    result: dict[str, Any] = {
        "cells": len(cells),
        "visits": visits - left,
        "of": visits,
        "wall_beyond_device_ms": gap_ms,
    }
    if kind == "decode":
        result["over_floor"] = {
            f"{floor.rows} x {floor.context:.0f}": floor.ratio for floor in at_context(calibration.floors())
        }
        result["most_over_floor"] = max(result["over_floor"].values(), default=None)
    elif rows:
        result |= _fit(bench, engine, calibration)
    return {**result, "complete": not left}


def _fit(bench: Bench, engine: str, calibration: Calibration) -> dict[str, Any]:
    """Write the profile fitted to all rows of the engine so far."""
    calibration.warm()
    loaded = bench.loaded
    profile, report = calibration.fit(FILES[engine])
    place = profile.gpu.name if profile.gpu is not None else loaded.device.type
    what = (
        "random weights of the model's exact shape" if loaded.weights == "random" else "the model's weights"
    )
    source = f"{profile.provenance.source}; {what}, lengths forced"
    named = replace(
        profile,
        name=f"{place}-{loaded.shape.name}-{engine}".lower().replace(" ", "-"),
        provenance=replace(profile.provenance, source=source),
    )
    named.save(bench.out / f"{FILES[engine]}.json")
    return {
        "profile": f"{FILES[engine]}.json",
        "host_ms": profile.step_cost.host_ms,
        "mean_error_of_fit": {regime: ways["in_sample"]["mean"] for regime, ways in report.errors.items()},
    }


def host_gaps(bench: Bench, engine: str, seconds: float) -> dict[str, Any]:
    """By batch size, how long a decode step takes on the device, and in the executor's loop, in ms."""
    begin = time.monotonic()
    machine = bench.engine(engine)
    meter = Meter(machine, bench.loaded.ordinary_tokens, np.random.default_rng(bench.seed))
    steps: dict[str, dict[str, float]] = {}
    for rows in bench.sizes.rows:
        if time.monotonic() - begin > seconds:
            return {"steps": steps, "complete": False}
        step = meter.loop_step(rows)
        steps[str(rows)] = {"device_ms": 1e3 * step.device_s, "loop_ms": 1e3 * step.wall_s}
    return {"steps": steps, "complete": True}
