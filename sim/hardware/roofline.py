"""Estimates an unmeasured machine from datasheet numbers; knows nothing of engines or kernels.

An iteration reads the weights once and multiplies them with every token, and takes the longer of the two. On
top of that, attention reads the KV cache (decode) or computes scores (prefill).
"""

from __future__ import annotations

from datetime import date as Date

from sim.hardware.datasheets import GPUS, Gpu, known_gpu
from sim.hardware.kv_memory import GIB, KvMemory, kv_bytes_per_token
from sim.hardware.model_shape import ModelShape, known_model
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

__all__ = ["EFFICIENCY", "GPUS", "WORKSPACE_BYTES", "Gpu", "estimate", "roofline_cost"]

EFFICIENCY = 0.75
"""The share of both ceilings, bandwidth and peak operations, that an estimate assumes.

It is an assumption and not a measurement: copies and large matrix products reach 0.7 to 0.9 of a datasheet's
numbers on these machines, a whole decode iteration of a tuned engine somewhat less. One number for both keeps
the estimate honest about how little it knows; a measured profile replaces it.
"""

WORKSPACE_BYTES = 2 * GIB
"""Memory that an estimate reserves for activations, library workspaces and the CUDA context."""


def roofline_cost(model: ModelShape, gpu: Gpu, efficiency: float = EFFICIENCY) -> StepCost:
    """The step cost of `model` on `gpu` at `efficiency` of both ceilings.

    base(T) = max(weight bytes / bandwidth, T * operations per token / peak) in both regimes, c_d = c_m = KV
    bytes per token / bandwidth, q = attention operations per query and key / peak (Williams et al., 2009, for
    the roofline). Raises `InputError` for an efficiency outside (0, 1].
    """
    if not 0 < efficiency <= 1:
        raise InputError(f"efficiency: {efficiency!r} is not above 0 and at most 1")
    bandwidth, peak = gpu.bandwidth_bytes_per_s * efficiency, gpu.peak_flops * efficiency
    read_s = model.read_bytes / bandwidth
    token_s = model.flops_per_token / peak
    bend = read_s / token_s
    # Beyond the last size a base follows the chord over its last octave: from the bend to twice the bend,
    # exactly.
    sizes = (1.0, bend, 2 * bend) if bend > 1 else (1.0, 2.0)
    base = PiecewiseLinear(sizes, tuple(max(read_s, size * token_s) for size in sizes))
    context_s = kv_bytes_per_token(model) / bandwidth
    return StepCost(
        decode_base=base,
        decode_per_context_s=context_s,
        mixed_base=base,
        mixed_per_context_s=context_s,
        mixed_per_attention_s=model.flops_per_attended_key / peak,
    )


def estimate(
    model: ModelShape | str,
    gpu: Gpu | str,
    *,
    efficiency: float = EFFICIENCY,
    utilization: float = 0.9,
    workspace_bytes: int = WORKSPACE_BYTES,
    engine: str = "roofline",
    name: str | None = None,
    date: str | None = None,
) -> Profile:
    """A profile of `model` on `gpu` (shapes, or names from the tables) from datasheet numbers alone.

    utilization: the share of the memory that the engine takes. date: ISO, by default today. Raises
    `InputError` for an unknown name, an efficiency or utilization outside (0, 1] and a model that does not
    fit.
    """
    shape = known_model(model) if isinstance(model, str) else model
    device = known_gpu(gpu) if isinstance(gpu, str) else gpu
    description = (
        f"Nobody measured this. Computed from the datasheet of {device.name} and the shape of {shape.name}: "
        "an iteration takes the longer of reading the weights once and computing its tokens, plus reading "
        f"the KV cache and the prefill attention, at {efficiency:g} of the datasheet's bandwidth and peak "
        "operations. No host time."
    )
    return Profile(
        name=name or f"{device.name.lower().replace(' ', '-')}-{shape.name}",
        model=shape,
        gpu=device,
        engine=engine,
        step_cost=roofline_cost(shape, device, efficiency),
        memory=KvMemory(
            gpu_bytes=device.memory_bytes,
            utilization=utilization,
            weight_bytes=shape.weight_bytes,
            workspace_bytes=workspace_bytes,
            bytes_per_token=kv_bytes_per_token(shape),
        ),
        provenance=Provenance(
            kind="roofline estimate",
            date=date or Date.today().isoformat(),
            description=description,
            source="datasheets of the makers",
            grid={"efficiency": efficiency},
        ),
    )
