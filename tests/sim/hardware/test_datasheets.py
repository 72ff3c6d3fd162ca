"""The numbers of the datasheets, names however written, and what is refused."""

from __future__ import annotations

import pytest

from sim.hardware.datasheets import GPUS, Gpu, known_gpu
from traces.errors import InputError


def test_datasheet_numbers() -> None:
    a100 = GPUS["A100-80GB"]
    assert (a100.memory_bytes, a100.bandwidth_bytes_per_s, a100.peak_flops) == (80 * 2**30, 2.039e12, 312e12)
    assert {name: gpu.bandwidth_bytes_per_s for name, gpu in GPUS.items()} == {
        "A100-80GB": 2.039e12,
        "H100": 3.35e12,
        "H200": 4.8e12,
        "L40S": 0.864e12,
        "RTX 4090": 1.008e12,
    }


@pytest.mark.parametrize("name", ["RTX 4090", "rtx 4090", "RTX4090", "rtx-4090"])
def test_gpu_names_are_found_however_written(name: str) -> None:
    assert known_gpu(name).name == "RTX 4090"


def test_a_gpu_without_bandwidth_is_refused() -> None:
    with pytest.raises(InputError, match="bandwidth_bytes_per_s: 0 is not above 0"):
        Gpu("none", 1, 0, 1.0)
