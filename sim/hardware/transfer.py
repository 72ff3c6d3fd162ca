"""Carries a profile to another model, GPU or number of GPUs, and sets its provenance.

Times scale by the ratio of the rooflines (`ceilings`), memory by datasheet and shape. A transferred profile
is a roofline estimate with its uncertainty; one in which numbers were only replaced is a what-if. Knows
nothing of the keys under which users ask for changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sim.hardware.ceilings import Ceilings, carry, spread
from sim.hardware.datasheets import LATENCY_RANGE, Gpu, Link, link_of
from sim.hardware.json_fields import Fields
from sim.hardware.kv_memory import KvMemory
from sim.hardware.model_shape import ModelShape
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

ALL_REDUCES_PER_LAYER = 2
"""After the attention and after the MLP (Shoeybi et al., Megatron-LM, 2019)."""

ACTIVATION_BYTES = 2


def model_and_gpu(profile: Profile, change: str) -> tuple[ModelShape, Gpu]:
    """Model and GPU of the profile's times; `InputError` naming the change where one is not stated."""
    for what, part in (("model", profile.model), ("gpu", profile.gpu)):
        if part is None:
            raise InputError(
                f"{change}: profile {profile.name} does not say on which {what} its times were measured "
                f"(seqsched calibrate --{what} states it)"
            )
    assert profile.model is not None and profile.gpu is not None
    return profile.model, profile.gpu


def transfer(
    profile: Profile,
    changes: Sequence[str],
    why: str,
    *,
    model: ModelShape | None = None,
    gpu: Gpu | None = None,
    num_gpus: int = 1,
    link: Link | None = None,
) -> Profile:
    """The profile with `model` on `num_gpus` of `gpu` (by default its own), at the efficiency measured.

    With several GPUs every iteration adds 2 all-reduces a layer, of tokens * hidden * 2 bytes each over
    `link` (by default that of the GPU), none of it hidden behind computation; memory is pooled, and the price
    is multiplied. What changes nothing returns the profile as it is. Raises `InputError` where the profile
    does not say what it was measured on or is of several GPUs already, and where the model does not fit.
    """
    label = " ".join(changes)
    old_model, old_gpu = model_and_gpu(profile, label)
    model, gpu = model or old_model, gpu or old_gpu
    if (model, gpu, num_gpus) == (old_model, old_gpu, 1):
        return profile
    if profile.num_gpus > 1:  # its times hold communication, which follows no ceiling
        raise InputError(
            f"{label}: profile {profile.name} is of {profile.num_gpus} GPUs together; change the profile of "
            "one, then divide it by tensor_parallel"
        )
    before, after = Ceilings.of(old_model, old_gpu), Ceilings.of(model, gpu, num_gpus)
    cost = carry(profile.step_cost, before, after)
    uncertainty: dict[str, list[float]] = {}
    if num_gpus > 1:
        link = link or link_of(gpu.name)
        slow_link = replace(link, latency_s=LATENCY_RANGE * link.latency_s)
        cost = _with_line(cost, partial(all_reduces_s, model, num_gpus, link))
        longest = partial(all_reduces_s, model, num_gpus, slow_link)
        uncertainty = spread(profile.step_cost, cost, before, after, longest)
    elif before != after:
        uncertainty = spread(profile.step_cost, cost, before, after)
    memory = memory_in_proportion(profile, model, gpu, num_gpus)
    price = profile.price_per_hour
    return modify(
        profile,
        changes,
        why,
        estimated=cost is not profile.step_cost,
        uncertainty=uncertainty,
        model=model,
        gpu=gpu,
        num_gpus=num_gpus,
        step_cost=cost,
        memory=None if memory is None else KvMemory.from_json(Fields(memory, label)),
        price_per_hour=None if price is None else price * num_gpus,
    )


def all_reduces_s(model: ModelShape, num_gpus: int, link: Link, tokens: float) -> float:
    """All all-reduces of an iteration of `tokens` tokens."""
    num_bytes = tokens * model.hidden * ACTIVATION_BYTES
    return ALL_REDUCES_PER_LAYER * model.layers * link.all_reduce_s(num_gpus, num_bytes)


def memory_in_proportion(
    profile: Profile, model: ModelShape, gpu: Gpu, num_gpus: int
) -> dict[str, Any] | None:
    """JSON of the profile's memory part for `model` on `num_gpus` of `gpu`; may not fit.

    Every amount follows the datasheet or the shape it comes from; each GPU has a workspace of its own. None
    where the profile has no memory part.
    """
    memory, old_model, old_gpu = profile.memory, profile.model, profile.gpu
    if memory is None:
        return None
    if old_model is None or old_gpu is None:
        return memory.to_json()
    more, old_num = num_gpus // profile.num_gpus, profile.num_gpus
    per_token = (model.kv_bytes_per_token, old_model.kv_bytes_per_token)
    # A KV head is not divided: with more GPUs than heads, several hold the same one.
    copies = max(1, num_gpus // model.kv_heads) // max(1, old_num // old_model.kv_heads)
    return {
        **memory.to_json(),
        "gpu_bytes": more * _in_ratio(memory.gpu_bytes, gpu.memory_bytes, old_gpu.memory_bytes),
        "weight_bytes": _in_ratio(memory.weight_bytes, model.weight_bytes, old_model.weight_bytes),
        "workspace_bytes": more * memory.workspace_bytes,
        "kv_bytes_per_token": copies * _in_ratio(memory.bytes_per_token, *per_token),
    }


def modify(
    profile: Profile,
    changes: Sequence[str],
    why: str,
    *,
    estimated: bool = False,
    uncertainty: Mapping[str, list[float]] | None = None,
    **parts: Any,
) -> Profile:
    """The profile with other `parts`, and with the changes in its name and provenance.

    `estimated`: times were carried to other ceilings. An estimate stays one whatever is changed in it.
    """
    old = profile.provenance
    estimated = estimated or old.kind == "roofline estimate"
    return replace(
        profile,
        name=profile.name + "".join(f" +{change}" for change in changes),
        provenance=replace(
            old,
            kind="roofline estimate" if estimated else "what-if",
            description=f"{' '.join(changes)}: {why}. Before that ({old.kind}): {old.description}",
            residuals=old.residuals if old.changes else _as_before(old.residuals),
            changes=(*old.changes, *changes),
            uncertainty=_compound(old.uncertainty, uncertainty or {}),
        ),
        **parts,
    )


def _as_before(residuals: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of the fit, labelled as errors before the changes."""
    return {f"{regime}, before the changes": errors for regime, errors in residuals.items()}


def _compound(old: Mapping[str, Any], new: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """One uncertainty on top of another: both ends multiply."""
    both = {key: value for key, value in old.items() if isinstance(value, list) and len(value) == 2}
    for key, (low, high) in new.items():
        was_low, was_high = both.get(key, (0.0, 0.0))
        both[key] = [round((1 + was_low) * (1 + low) - 1, 4), round((1 + was_high) * (1 + high) - 1, 4)]
    return both


def _in_ratio(amount: int, new: int, old: int) -> int:
    """Rounded up: amount * new / old."""
    return -(-amount * new // old)


def _with_line(cost: StepCost, line: Callable[[float], float]) -> StepCost:
    """The cost with `line`, an affine function of the tokens of an iteration, on both bases."""

    def plus_line(base: PiecewiseLinear) -> PiecewiseLinear:
        # One point alone has no slope for the tokens beyond it.
        sizes = base.sizes if len(base.sizes) > 1 else (base.sizes[0], 2 * max(base.sizes[0], 1.0))
        return PiecewiseLinear(sizes, tuple(base(size) + line(size) for size in sizes), base.may_fall)

    return replace(cost, decode_base=plus_line(cost.decode_base), mixed_base=plus_line(cost.mixed_base))
