"""What a profile would be on another GPU, on several, with other weights or memory: Profile → Profile.

Every function returns a new profile whose name and provenance say what was changed. Where times were carried
to other ceilings it is a roofline estimate with its uncertainty; where numbers were only replaced it is a
what-if. A change that changes nothing returns the profile as it is. Knows nothing of traces and schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from sim.hardware.ceilings import Ceilings, carry, spread
from sim.hardware.gpu import Gpu, known_gpu
from sim.hardware.json_fields import checked_number
from sim.hardware.kv_memory import KvMemory
from sim.hardware.links import LATENCY_RANGE, Link, link_of
from sim.hardware.model_shape import ModelShape
from sim.hardware.profile import Profile
from sim.hardware.step_cost import PiecewiseLinear, StepCost
from traces.errors import InputError

TENSOR_PARALLEL = (1, 2, 4, 8)
ALL_REDUCES_PER_LAYER = 2
"""After the attention and after the MLP (Shoeybi et al., Megatron-LM, 2019)."""

ACTIVATION_BYTES = 2
BLOCK_SIZE = 16


def on_gpu(profile: Profile, gpu: Gpu | str, change: str | None = None) -> Profile:
    """The profile on another GPU (one, or a name from the table), at the efficiency that was measured.

    Decode base by bandwidth up to the bend and by operations beyond it, context by bandwidth, attention by
    operations, host time unchanged; memory by the datasheets. `change` is what the name shows, by default
    `gpu=NAME`. Raises `InputError` where the profile does not say what it was measured on, or runs on several
    GPUs.
    """
    target = known_gpu(gpu) if isinstance(gpu, str) else gpu
    change = change or f"gpu={target.name}"
    model, source = _measured_on(profile, change)
    if target == source:
        return profile
    bandwidth, peak = target.bandwidth_bytes_per_s / 1e12, target.peak_flops / 1e12
    why = (
        f"efficiency on {source.name} carried to {target.name} ({bandwidth:g} TB/s, {peak:g} TFLOP/s by its "
        "datasheet), host time unchanged"
    )
    return _carried(profile, change, why, model, target)


def with_model(profile: Profile, model: ModelShape, change: str, why: str = "") -> Profile:
    """The profile with a model of another shape or other number formats, at the efficiency measured.

    Raises `InputError` where the profile does not say what it was measured on.
    """
    measured, gpu = _measured_on(profile, change)
    if model == measured:
        return profile
    why = why or f"efficiency with {measured.name} carried to {model.name} of other sizes"
    return _carried(profile, change, why, model, gpu)


def with_weight_bits(profile: Profile, bits: int) -> Profile:
    """Weights stored in `bits` bits each: fewer bytes in memory and to read, the same operations.

    Every weight counts, embeddings too; scales of a quantised format and the time to unpack it do not.
    """
    change = f"weight_bits={bits}"
    model, _ = _measured_on(profile, change)
    return with_model(
        profile,
        replace(model, weight_bits=None if bits == 8 * model.bytes_per_element else bits),
        change,
        f"weights of {bits} bits change the bytes held and read; operations are left as they were, and "
        "unpacking costs nothing",
    )


def with_kv_bits(profile: Profile, bits: int) -> Profile:
    """A KV cache of `bits` bits a number: fewer bytes in memory and to read per context token."""
    change = f"kv_bits={bits}"
    model, _ = _measured_on(profile, change)
    return with_model(
        profile,
        replace(model, kv_bits=None if bits == 8 * model.bytes_per_element else bits),
        change,
        f"{bits} bits a number in the KV cache change the bytes held and read; prefill attention is left as "
        "it was, and unpacking costs nothing",
    )


def tensor_parallel(profile: Profile, num_gpus: int, link: Link | None = None) -> Profile:
    """The model divided among 2, 4 or 8 GPUs: weights, KV cache and operations each in as many parts.

    Every iteration adds 2 all-reduces a layer, of tokens * hidden * 2 bytes over `link` (by default that of
    the GPU), none of it hidden behind computation. Memory is pooled, each GPU keeps a workspace, and the
    price is multiplied. Raises `InputError` for another number, a profile of several GPUs, and heads that
    cannot be divided.
    """
    change = f"tensor_parallel={num_gpus}"
    model, gpu = _measured_on(profile, change)
    if num_gpus not in TENSOR_PARALLEL:
        raise InputError(f"{change}: it is not one of {', '.join(map(str, TENSOR_PARALLEL))}")
    if num_gpus == 1:
        return profile
    if model.heads % num_gpus:
        raise InputError(f"{change}: the {model.heads} heads of {model.name} cannot be divided so")
    link = link or link_of(gpu.name)
    slow = replace(link, latency_s=LATENCY_RANGE * link.latency_s)
    why = (
        f"weights, KV cache and operations divided among {num_gpus} {gpu.name}, plus "
        f"{ALL_REDUCES_PER_LAYER * model.layers} all-reduces an iteration over {link.name} "
        f"({link.latency_s * 1e6:g} us each and {link.bytes_per_s / 1e9:g} GB/s in each direction)"
    )
    communication = partial(_all_reduces_s, model, num_gpus, link)
    longest = partial(_all_reduces_s, model, num_gpus, slow)
    made = _carried(profile, change, why, model, gpu, num_gpus, communication, longest)
    price = profile.price_per_hour
    return replace(made, price_per_hour=None if price is None else price * num_gpus)


def _all_reduces_s(model: ModelShape, num_gpus: int, link: Link, tokens: float) -> float:
    """All all-reduces of an iteration of `tokens` tokens."""
    num_bytes = tokens * model.hidden * ACTIVATION_BYTES
    return ALL_REDUCES_PER_LAYER * model.layers * link.all_reduce_s(num_gpus, num_bytes)


def with_kv_blocks(profile: Profile, kv_blocks: int) -> Profile:
    """The profile with as much memory as `kv_blocks` blocks of 16 tokens take; times are unchanged."""
    change = f"kv_blocks={kv_blocks}"
    if kv_blocks < 1:
        raise InputError(f"{change}: it is below 1")
    memory = profile.memory
    if memory is None:
        per_token = profile.model.kv_bytes_per_token if profile.model else 1
        memory = KvMemory(kv_blocks * BLOCK_SIZE * per_token, 1.0, 0, 0, per_token)
    else:
        kv_bytes = kv_blocks * BLOCK_SIZE * memory.bytes_per_token
        need = kv_bytes + memory.weight_bytes + memory.workspace_bytes
        total = int(need / memory.utilization)
        while int(total * memory.utilization) < need:
            total += 1
        memory = replace(memory, gpu_bytes=total)
    return changed(profile, change, f"room for {kv_blocks:,} KV blocks supposed", memory=memory)


def with_scale(profile: Profile, factor: float) -> Profile:
    """Every time, host time included, multiplied by `factor`, above 0."""
    cost = profile.step_cost.scaled(factor)
    return changed(profile, f"scale={factor:g}", f"every time multiplied by {factor:g}", step_cost=cost)


def with_price(profile: Profile, price_per_gpu_hour: float) -> Profile:
    """The price of one GPU for an hour, multiplied by the profile's number of GPUs.

    It is the user's assumption. Times and memory are unchanged, and so are name and kind of provenance.
    """
    price = checked_number(price_per_gpu_hour, "price_per_hour")
    return replace(profile, price_per_hour=price * profile.num_gpus)


def changed(
    profile: Profile,
    change: str,
    why: str,
    *,
    estimated: bool = False,
    uncertainty: Mapping[str, list[float]] | None = None,
    **parts: Any,
) -> Profile:
    """The profile with other `parts`, its name and provenance saying so.

    `estimated`: times were carried to other ceilings. An estimate stays one whatever is changed in it.
    """
    old = profile.provenance
    estimated = estimated or old.kind == "roofline estimate"
    return replace(
        profile,
        name=f"{profile.name} +{change}",
        provenance=replace(
            old,
            kind="roofline estimate" if estimated else "what-if",
            description=f"{change}: {why}. Before that ({old.kind}): {old.description}",
            residuals=old.residuals if old.changes else _as_before(old.residuals),
            changes=(*old.changes, change),
            uncertainty=_compounded(old.uncertainty, uncertainty or {}),
        ),
        **parts,
    )


def _as_before(residuals: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of the fit, named as those of the times before they were changed."""
    return {f"{regime}, before the changes": errors for regime, errors in residuals.items()}


def _compounded(old: Mapping[str, Any], new: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """One uncertainty on top of another: both ends multiply."""
    both = {key: value for key, value in old.items() if isinstance(value, list) and len(value) == 2}
    for key, (low, high) in new.items():
        was_low, was_high = both.get(key, (0.0, 0.0))
        both[key] = [round((1 + was_low) * (1 + low) - 1, 4), round((1 + was_high) * (1 + high) - 1, 4)]
    return both


def _measured_on(profile: Profile, change: str) -> tuple[ModelShape, Gpu]:
    for what, part in (("model", profile.model), ("gpu", profile.gpu)):
        if part is None:
            raise InputError(
                f"{change}: profile {profile.name} does not say on which {what} its times were measured "
                f"(seqsched calibrate --{what} states it)"
            )
    assert profile.model is not None and profile.gpu is not None
    return profile.model, profile.gpu


def _carried(
    profile: Profile,
    change: str,
    why: str,
    model: ModelShape,
    gpu: Gpu,
    num_gpus: int = 1,
    communication_s: Callable[[float], float] | None = None,
    longest_s: Callable[[float], float] | None = None,
) -> Profile:
    """Times at the same efficiency under the ceilings of `model` on the GPUs, memory in proportion."""
    old_model, old_gpu = _measured_on(profile, change)
    if profile.num_gpus > 1:  # its times hold communication, which follows no ceiling
        raise InputError(
            f"{change}: profile {profile.name} is of {profile.num_gpus} GPUs together; change the profile of "
            "one, then divide it by tensor_parallel"
        )
    before = Ceilings.of(old_model, old_gpu)
    after = Ceilings.of(model, gpu, num_gpus)
    measured = profile.step_cost
    cost = carry(measured, before, after)
    if communication_s is not None and longest_s is not None:
        cost = _with_line(cost, communication_s)
        uncertainty = spread(measured, cost, before, after, most_s=longest_s)
    else:
        uncertainty = {} if before == after else spread(measured, cost, before, after)
    memory = profile.memory
    if memory is not None:
        per_token = (model.kv_bytes_per_token, old_model.kv_bytes_per_token)
        # A KV head is not divided: with more GPUs than heads, several hold the same one.
        copies = max(1, num_gpus // model.kv_heads)
        try:
            memory = KvMemory(
                gpu_bytes=num_gpus * _in_ratio(memory.gpu_bytes, gpu.memory_bytes, old_gpu.memory_bytes),
                utilization=memory.utilization,
                weight_bytes=_in_ratio(memory.weight_bytes, model.weight_bytes, old_model.weight_bytes),
                workspace_bytes=num_gpus * memory.workspace_bytes,
                bytes_per_token=copies * _in_ratio(memory.bytes_per_token, *per_token),
            )
        except InputError as error:
            raise InputError(f"{change}: {error}") from None
    return changed(
        profile,
        change,
        why,
        estimated=cost is not measured,
        uncertainty=uncertainty,
        model=model,
        gpu=gpu,
        num_gpus=num_gpus,
        step_cost=cost,
        memory=memory,
    )


def _in_ratio(amount: int, new: int, old: int) -> int:
    """Rounded up: amount * new / old."""
    return -(-amount * new // old)


def _with_line(cost: StepCost, line: Callable[[float], float]) -> StepCost:
    """The cost with `line`, an affine function of the tokens of an iteration, on both bases."""

    def added(base: PiecewiseLinear) -> PiecewiseLinear:
        # One point alone has no slope for the tokens beyond it.
        sizes = base.sizes if len(base.sizes) > 1 else (base.sizes[0], 2 * max(base.sizes[0], 1.0))
        return PiecewiseLinear(sizes, tuple(base(size) + line(size) for size in sizes))

    return replace(cost, decode_base=added(cost.decode_base), mixed_base=added(cost.mixed_base))
