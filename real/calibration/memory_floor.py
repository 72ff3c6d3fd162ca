"""How near a decode iteration comes to the memory floor: the bytes it must read over the bandwidth of a copy.

Measures the peak rates of the device, and compares measured steps with them; knows nothing of engines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from sim.hardware.kv_memory import kv_bytes_per_token
from sim.hardware.model_shape import ModelShape

from .cells import FLOOR_CONTEXT, FLOOR_ROWS

ROUNDS = 11
COPY_BYTES = {"cuda": 2 << 30, "cpu": 128 << 20}
"""Size of one copy: far larger than any cache."""
PRODUCT_SIZE = {"cuda": 8192, "cpu": 768}
"""Rows and columns of the matrices in the product."""

Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class PeakRates:
    """Measured peak rates of a device: bytes of a copy, read plus written; operations of a matrix product."""

    copy_bytes_per_s: float
    product_flops_per_s: float

    def to_json(self) -> dict[str, str]:
        """For the provenance of a profile."""
        return {
            "copy_bandwidth": f"{self.copy_bytes_per_s / 1e9:.1f} GB/s",
            "matrix_product": f"{self.product_flops_per_s / 1e12:.3g} TFLOP/s",
        }


def measure_peak_rates(device: torch.device, dtype: torch.dtype, seconds_of: Timer) -> PeakRates:
    """Medians of a large copy within the device and of a large matrix product in `dtype`.

    seconds_of: times one call on the device. A product in float32 follows torch's own precision setting.
    """
    size = COPY_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    source.random_()
    copy_s = _median(lambda: target.copy_(source), seconds_of)
    n = PRODUCT_SIZE[device.type]
    left, right = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    product_s = _median(lambda: left @ right, seconds_of)
    return PeakRates(2 * size / copy_s, 2 * n**3 / product_s)


def _median(function: Callable[[], object], seconds_of: Timer) -> float:
    function()
    return median(seconds_of(function) for _ in range(ROUNDS))


@dataclass(frozen=True)
class Floor:
    """One measured kind of decode iteration, its floor, and another engine's time for it."""

    rows: int
    context: float
    """Context tokens of each row."""
    step_ms: float
    floor_ms: float
    beside_ms: float | None = None

    @property
    def ratio(self) -> float:
        """Measured time over the floor."""
        return self.step_ms / self.floor_ms

    @property
    def of_beside(self) -> float | None:
        """Measured time over the other engine's."""
        return None if self.beside_ms is None else self.step_ms / self.beside_ms

    def to_json(self) -> dict[str, Any]:
        """A flat row of plain values."""
        return {**asdict(self), "ratio": self.ratio, "of_beside": self.of_beside}


def floor_s(shape: ModelShape, context_tokens: float, copy_bytes_per_s: float) -> float:
    """Least time of a decode iteration: reading all weights once, and the KV cache of `context_tokens`."""
    weights = shape.read_parameters * shape.bytes_per_element
    return (weights + context_tokens * kv_bytes_per_token(shape)) / copy_bytes_per_s


def floors(
    steps: Iterable[Mapping[str, Any]],
    shape: ModelShape,
    copy_bytes_per_s: float,
    beside: Iterable[Mapping[str, Any]] = (),
) -> list[Floor]:
    """Every kind of decode-only iteration in the rows of a steps file, median over its visits, sorted.

    beside: rows of another steps file, of the same kinds of iteration.
    """
    others = _decode_medians(beside)
    return [
        Floor(
            rows,
            context / rows,
            step_ms,
            1e3 * floor_s(shape, context, copy_bytes_per_s),
            others.get((rows, context)),
        )
        for (rows, context), step_ms in sorted(_decode_medians(steps).items())
    ]


def at_context(
    kinds: Sequence[Floor], context: int = FLOOR_CONTEXT, max_rows: int = FLOOR_ROWS
) -> list[Floor]:
    """For every batch size up to `max_rows`, the kind measured nearest to `context` tokens per row."""
    nearest: dict[int, Floor] = {}
    for floor in kinds:
        known = nearest.get(floor.rows)
        if known is None or abs(floor.context - context) < abs(known.context - context):
            nearest[floor.rows] = floor
    return [nearest[rows] for rows in sorted(nearest) if rows <= max_rows]


def markdown(kinds: Sequence[Floor]) -> str:
    """A table for people; the last two columns only where another engine was measured."""
    heads = ["sequences", "context each", "step ms", "floor ms", "ratio"]
    heads += ["beside ms", "step / beside"] if any(f.beside_ms is not None for f in kinds) else []
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for f in kinds:
        cells = [f"{f.rows}", f"{f.context:.0f}", f"{f.step_ms:.3f}", f"{f.floor_ms:.3f}", f"{f.ratio:.2f}"]
        cells += [_cell(f.beside_ms, 3), _cell(f.of_beside, 2)][: len(heads) - 5]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _decode_medians(steps: Iterable[Mapping[str, Any]]) -> dict[tuple[int, float], float]:
    """(rows, summed context) -> median step in milliseconds, of the rows without prefill."""
    visits: dict[tuple[int, float], list[float]] = defaultdict(list)
    for row in steps:
        if not float(row["num_prefill"]):
            key = int(float(row["num_decode"])), float(row["decode_context_tokens"])
            visits[key].append(float(row["step_ms"]))
    return {key: median(values) for key, values in visits.items()}
