"""Datasheet numbers: GPUs, and the links that join several of them in one machine.

Knows nothing of the models that run on them.
"""

from __future__ import annotations

import math
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
    def from_json(cls, fields: Fields) -> Gpu:
        """The accelerator that `to_json` wrote; `InputError` naming place, key, value and bound otherwise."""
        name = fields.text("name")
        memory = fields.integer("memory_bytes", 1)
        bandwidth = fields.number("bandwidth_bytes_per_s")
        peak = fields.number("peak_flops")
        fields.end()
        try:
            return cls(name, memory, bandwidth, peak)
        except InputError as error:
            raise InputError(f"{fields.where}: {error}") from None


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


def gpu_key(name: str) -> str:
    """A GPU's name as the text of a profile has it: in lower case, with hyphens for blanks."""
    return name.lower().replace(" ", "-")


def known_gpu(name: str) -> Gpu:
    """The accelerator called `name`, in any case; `InputError` listing the known names otherwise."""
    for known, gpu in GPUS.items():
        if known.lower().replace(" ", "") == name.lower().replace(" ", "").replace("-4090", "4090"):
            return gpu
    raise InputError(f"gpu: {name!r} is unknown; the known ones are {', '.join(GPUS)}")


@dataclass(frozen=True)
class Link:
    """A link between GPUs: bytes per second in one direction, and seconds that any all-reduce takes at least.

    Both are finite; the bandwidth is above 0, the latency at least 0 (`InputError`).
    """

    name: str
    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_s < math.inf:
            raise InputError(f"link_bytes_per_s: {self.bytes_per_s!r} is not above 0 and finite")
        if not 0 <= self.latency_s < math.inf:
            raise InputError(f"all_reduce_us: {self.latency_s * 1e6!r} is not at least 0 and finite")

    def all_reduce_s(self, num_gpus: int, num_bytes: float) -> float:
        """A ring's time for `num_bytes` on every GPU: latency + 2 (k - 1) / k * bytes / bandwidth.

        (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009, for the bytes sent.)
        """
        return self.latency_s + 2 * (num_gpus - 1) / num_gpus * num_bytes / self.bytes_per_s


NVLINK_LATENCY_S = 8e-6
PCIE_LATENCY_S = 20e-6
"""Assumed for the few KiB that a decode iteration sends, not taken from a datasheet.

Reported of engines: about 8 us for a one-shot all-reduce over NVLink, where NCCL's ring takes 23 to 33 us
(sgl-project/sglang, pull request 32461), and about 20 us for NCCL over PCIe (haohervchb/sglang-V100, pull
request 2).
"""

LATENCY_RANGE = 3.0
"""The latency may be so many times longer, with NCCL's ring in place of a one-shot kernel."""

LINKS = {
    "A100-80GB": Link("NVLink 3", 300e9, NVLINK_LATENCY_S),
    "H100": Link("NVLink 4", 450e9, NVLINK_LATENCY_S),
    "H200": Link("NVLink 4", 450e9, NVLINK_LATENCY_S),
    "L40S": Link("PCIe 4.0 x16", 32e9, PCIE_LATENCY_S),
    "RTX 4090": Link("PCIe 4.0 x16", 32e9, PCIE_LATENCY_S),
}
"""By GPU, from the datasheets, which add up both directions: 600 and 900 GB/s of NVLink (the SXM variants)
and 64 GB/s of PCIe.
"""


def link_of(gpu: str, bytes_per_s: float | None = None, latency_s: float | None = None) -> Link:
    """The link of the GPU called `gpu`, with the numbers given in place of the table's.

    Raises `InputError` for a GPU whose link is unknown, unless both numbers are given.
    """
    known = LINKS.get(gpu)
    if known is None and (bytes_per_s is None or latency_s is None):
        raise InputError(
            f"tensor_parallel: the link between GPUs {gpu} is not known ({', '.join(LINKS)} are); "
            "link_bytes_per_s and all_reduce_us supply it"
        )
    if bytes_per_s is None and latency_s is None:
        assert known is not None
        return known
    name = known.name if known and bytes_per_s is None else "a link as given"
    return Link(
        name,
        known.bytes_per_s if known and bytes_per_s is None else float(bytes_per_s or 0),
        known.latency_s if known and latency_s is None else float(latency_s or 0),
    )
