"""Measures what the device memory is used for; knows nothing of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sim.hardware.kv_memory import GIB, KvMemory, kv_bytes_per_token

from ..engines.model import LoadedModel
from .cells import Cell
from .meter import Measuring, warm


@dataclass(frozen=True)
class MeasuredMemory:
    """Bytes in use on a CUDA device while every cell was visited."""

    weights: int
    kv_cache: int
    prefill_peak: int
    """Allocated by the largest prefill, including the KV cache that it appends."""
    prefill_tokens: int
    """Tokens that this prefill computed."""
    workspace: int
    """Everything but weights and KV cache: activations, graphs, libraries, the CUDA context."""

    def to_json(self) -> dict[str, str]:
        """For the provenance of a profile."""
        peak = f"{self.prefill_peak / GIB:.2f} GiB for {self.prefill_tokens:,} tokens"
        return {
            "memory": f"weights {self.weights / GIB:.2f} GiB, KV cache {self.kv_cache / GIB:.2f} GiB, "
            f"workspace {self.workspace / GIB:.2f} GiB (measured)",
            "prefill_peak": f"{peak} (measured)",
        }


NOT_MEASURED = {"memory": "prefill peak and workspace not measured: no CUDA device"}


def warm_and_measure(
    meter: Measuring, cells: Sequence[Cell], loaded: LoadedModel, visited: Callable[[], None]
) -> MeasuredMemory | None:
    """Visit every cell once, unrecorded, and measure the memory used; None without CUDA.

    `visited` is called after each.
    """
    device = loaded.device
    if device.type != "cuda":
        warm(meter, cells, visited)
        return None
    torch.cuda.reset_peak_memory_stats(device)
    warm(meter, cells, visited)
    reserved = torch.cuda.max_memory_reserved(device)
    free, total = torch.cuda.mem_get_info(device)
    outside = max(0, total - free - torch.cuda.memory_reserved(device))
    weights, kv_cache = loaded.weight_bytes, meter.engine.capacity_tokens * kv_bytes_per_token(loaded.shape)
    peak, tokens = 0, 0
    prefills = [cell for cell in cells if cell.kind == "prefill"]
    if prefills:
        largest = max(prefills, key=lambda cell: cell.prefill_tokens)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        meter.visit(largest)
        peak, tokens = torch.cuda.max_memory_allocated(device) - before, largest.prefill_tokens
    workspace = max(0, reserved - weights - kv_cache) + outside
    return MeasuredMemory(weights, kv_cache, peak, tokens, workspace)


def memory_part(
    total: int, weights: int, workspace: int | None, capacity_tokens: int, bytes_per_token: int
) -> KvMemory:
    """The memory part of a profile whose KV cache holds exactly `capacity_tokens`.

    workspace: measured bytes; the utilization is then the used share of `total`. None: the rest of `total`
    counts as workspace.
    """
    kv = capacity_tokens * bytes_per_token
    if workspace is None or weights + workspace + kv > total:
        total = max(total, weights + kv)
        return KvMemory(total, 1.0, weights, total - weights - kv, bytes_per_token)
    # Half a token more, so that rounding the share does not lose a whole one.
    share = min(1.0, (weights + workspace + kv + bytes_per_token / 2) / total)
    return KvMemory(total, share, weights, workspace, bytes_per_token)
