"""Accelerators by their datasheet numbers; knows nothing of what runs on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sim.hardware.json_fields import Fields
from sim.hardware.kv_memory import GIB
from traces.errors import InputError


@dataclass(frozen=True)
class Gpu:
    """One accelerator: memory in bytes, bandwidth in bytes per second, peak in operations per second.

    All three are above 0 (`InputError`).
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops: float

    def __post_init__(self) -> None:
        for key in ("memory_bytes", "bandwidth_bytes_per_s", "peak_flops"):
            if not getattr(self, key) > 0:
                raise InputError(f"gpu {self.name}, {key}: {getattr(self, key)!r} is not above 0")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, taken: Fields) -> Gpu:
        """The accelerator that `to_json` wrote; `InputError` naming place, key, value and bound otherwise."""
        name = taken.text("name")
        memory = taken.integer("memory_bytes", 1)
        bandwidth = taken.number("bandwidth_bytes_per_s")
        peak = taken.number("peak_flops")
        taken.end()
        try:
            return cls(name, memory, bandwidth, peak)
        except InputError as error:
            raise InputError(f"{taken.where}: {error}") from None


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-80GB", 80 * GIB, 2.039e12, 312e12),
        Gpu("H100", 80 * GIB, 3.35e12, 989e12),
        Gpu("H200", 141 * GIB, 4.8e12, 989e12),
        Gpu("L40S", 48 * GIB, 0.864e12, 362e12),
        Gpu("RTX 4090", 24 * GIB, 1.008e12, 165.2e12),
    )
}
"""Datasheet numbers by name: the SXM variants, and dense 16-bit operations that accumulate in 32 bits.

A datasheet's gigabyte of memory is read as 2**30 bytes, which is what the driver reports to within 1 %. The
L40S is the exception: its error correction takes 6 % more.
"""


def known_gpu(name: str) -> Gpu:
    """The accelerator called `name`, whatever its case; `InputError` listing the known names otherwise."""
    for known, gpu in GPUS.items():
        if known.lower().replace(" ", "") == name.lower().replace(" ", "").replace("-4090", "4090"):
            return gpu
    raise InputError(f"gpu: {name!r} is unknown; the known ones are {', '.join(GPUS)}")
