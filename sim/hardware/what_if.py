"""Changes a profile: another GPU, several of them, other weights or memory (Profile → Profile).

Every function returns a new profile whose name and provenance state the change; a change without effect
returns the profile itself. `elsewhere` makes several changes of model and GPUs as one, so that their
uncertainty counts once. Knows nothing of traces and schedulers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from sim.hardware import host as hosts
from sim.hardware.datasheets import Gpu, Link, link_of
from sim.hardware.json_fields import checked_number
from sim.hardware.kv_memory import KvMemory
from sim.hardware.model_shape import ModelShape
from sim.hardware.profile import Profile
from sim.hardware.transfer import ALL_REDUCES_PER_LAYER, model_and_gpu, modify, transfer
from traces.errors import InputError

TENSOR_PARALLEL = (1, 2, 4, 8)
BLOCK_SIZE = 16
MAX_BLOCK_SIZE = 2**16
MAX_KV_BLOCKS = 100_000_000
_HELD = {"weight_bits": "weights", "kv_bits": "the KV cache"}
_BITS = (
    "{} at {} bits a number change in the bytes held and read; operations are left as they were, and "
    "unpacking costs nothing"
)


class _Change(NamedTuple):
    """The name of a change, as in `gpu=H100`, and the assumptions behind it."""

    name: str
    why: str


def elsewhere(
    profile: Profile,
    *,
    model: ModelShape | None = None,
    gpu: Gpu | None = None,
    weight_bits: int | None = None,
    kv_bits: int | None = None,
    num_gpus: int = 1,
    link_bytes_per_s: float | None = None,
    all_reduce_s: float | None = None,
    model_change: str | None = None,
    gpu_change: str | None = None,
) -> Profile:
    """The profile with these changes of model and GPUs as one; None leaves a part as it is.

    On another GPU the decode base goes by bandwidth up to the bend and by operations beyond it, context by
    bandwidth, attention by operations; host time stays. Fewer bits are fewer bytes in memory and to read, at
    the same operations: every weight counts, embeddings too; scales of a format and unpacking do not.
    Several GPUs are joined by the link of the datasheets, with the bandwidth and the all-reduce latency given
    here in place of its own. `model_change` and `gpu_change` are what the name shows of them, by default
    `model=NAME` and `gpu=NAME`. Raises `InputError` as `transferred` does, and for a number of GPUs other
    than 1, 2, 4, 8 or one that does not divide the heads.
    """
    bits = {"weight_bits": weight_bits, "kv_bits": kv_bits}
    texts = [f"{key}={value}" for key, value in bits.items() if value is not None]
    texts += [f"tensor_parallel={num_gpus}"] * (num_gpus != 1)
    first = model_change or gpu_change or (f"gpu={gpu.name}" if gpu else None) or " ".join(texts) or "what-if"
    old_model, old_gpu = model_and_gpu(profile, first)
    shape, device, link = model or old_model, gpu or old_gpu, None
    changes: list[_Change] = []
    if shape != old_model:
        why = f"efficiency with {old_model.name} carried to {shape.name} of other sizes"
        changes.append(_Change(model_change or f"model={shape.name}", why))
    if device != old_gpu:
        bandwidth, peak = device.bandwidth_bytes_per_s / 1e12, device.peak_flops / 1e12
        why = (
            f"efficiency on {old_gpu.name} carried to {device.name} ({bandwidth:g} TB/s, {peak:g} TFLOP/s), "
            "host time unchanged"
        )
        changes.append(_Change(gpu_change or f"gpu={device.name}", why))
    element = 8 * shape.bytes_per_element
    for key, num_bits in bits.items():
        if num_bits is not None and num_bits != (getattr(shape, key) or element):
            stated: dict[str, Any] = {key: None if num_bits == element else num_bits}
            shape = replace(shape, **stated)
            changes.append(_Change(f"{key}={num_bits}", _BITS.format(_HELD[key], num_bits)))
    if num_gpus not in TENSOR_PARALLEL:
        raise InputError(
            f"tensor_parallel={num_gpus}: it is not one of {', '.join(map(str, TENSOR_PARALLEL))}"
        )
    if num_gpus > 1:
        link = link_of(device.name, link_bytes_per_s, all_reduce_s)
        changes.append(_division(shape, device, num_gpus, link))
    names, whys = [change.name for change in changes], "; ".join(change.why for change in changes)
    return transfer(profile, names, whys, model=shape, gpu=device, num_gpus=num_gpus, link=link)


def _division(shape: ModelShape, gpu: Gpu, num_gpus: int, link: Link) -> _Change:
    """One model divided among several GPUs; `InputError` where its heads cannot be divided."""
    name = f"tensor_parallel={num_gpus}"
    if shape.heads % num_gpus:
        raise InputError(f"{name}: the {shape.heads} heads of {shape.name} cannot be divided so")
    return _Change(
        name,
        f"weights, KV cache and operations divided among {num_gpus} {gpu.name}, plus "
        f"{ALL_REDUCES_PER_LAYER * shape.layers} all-reduces an iteration over {link.name} "
        f"({link.latency_s * 1e6:g} us each and {link.bytes_per_s / 1e9:g} GB/s in each direction)",
    )


def with_kv_blocks(profile: Profile, kv_blocks: int) -> Profile:
    """The profile with memory for `kv_blocks` blocks of 16 tokens; times are unchanged."""
    change = f"kv_blocks={kv_blocks}"
    if not 1 <= kv_blocks <= MAX_KV_BLOCKS:
        raise InputError(f"{change}: it is not between 1 and {MAX_KV_BLOCKS:,}")
    memory = profile.memory
    if memory is None:
        per_token = profile.model.kv_bytes_per_token if profile.model else 1
        memory = KvMemory(kv_blocks * BLOCK_SIZE * per_token, 1.0, 0, 0, per_token)
    else:
        need = kv_blocks * BLOCK_SIZE * memory.bytes_per_token + memory.weight_bytes + memory.workspace_bytes
        total = int(need / memory.utilization)
        while int(total * memory.utilization) < need:  # what the division rounded off
            total += 1
        memory = replace(memory, gpu_bytes=total)
    return modify(profile, [change], f"room for {kv_blocks:,} KV blocks supposed", memory=memory)


def with_scale(profile: Profile, factor: float) -> Profile:
    """Every time, host time included, multiplied by `factor`, above 0."""
    if factor == 1:
        return profile
    cost, host = profile.step_cost.scaled(factor), profile.host.scaled(factor)
    why = f"every time multiplied by {factor:g}"
    return modify(profile, [f"scale={factor:g}"], why, step_cost=cost, host=host)


def with_host(profile: Profile, name: str) -> Profile:
    """The terms of a named set in place of those that the profile has; `none`: no terms.

    Raises `InputError` for an unknown name.
    """
    model = profile.model
    bits = 16 if model is None else model.weight_bits or 8 * model.bytes_per_element
    host = hosts.named(name, model.layers if model else None, bits)
    if host == profile.host:
        return profile
    why = f"time on the host of {name}, {host.fitted_on}" if host.fitted_on else "no terms of a host"
    return modify(profile, [f"host={name}"], why, host=host)


def with_price(profile: Profile, price_per_gpu_hour: float) -> Profile:
    """The price of one GPU for an hour, multiplied by the profile's number of GPUs.

    The price is the user's assumption. Times, memory, name and kind of provenance are unchanged.
    """
    price = checked_number(price_per_gpu_hour, "set price_per_hour")
    return replace(profile, price_per_hour=price * profile.num_gpus)
