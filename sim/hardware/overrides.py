"""`--set key=value`: what-ifs and profile fields by name, applied to a profile; knows nothing of commands.

A key is a what-if (`gpu`, `weight_bits`, …) or any field of the profile's JSON, dotted
(`memory.utilization`). Whatever the order given, the changes that decide the times come first: model, GPU,
bits, then division among GPUs; after them scale, the fields, and the KV cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sim.hardware import what_if
from sim.hardware.datasheets import GPUS, Gpu, known_gpu
from sim.hardware.host import TERMS
from sim.hardware.json_fields import Fields, checked_number
from sim.hardware.model_shape import ModelShape, known_model
from sim.hardware.profile import Profile
from sim.hardware.transfer import memory_in_proportion, modify
from traces.errors import InputError
from traces.spec import nearest


@dataclass(frozen=True)
class WhatIf:
    """A key of `--set`."""

    value: str
    """An example of a value, or a placeholder."""
    help: str
    """What the key does, as help and documentation show it."""


@dataclass(frozen=True)
class MachineKey(WhatIf):
    """A key that changes model or GPUs. All of these make one change, whose uncertainty counts once."""

    arguments: Callable[[str, Any], dict[str, Any]]
    """(key, value) -> keyword arguments of `what_if.elsewhere`."""


@dataclass(frozen=True)
class ProfileKey(WhatIf):
    """A key that makes a change of its own."""

    change: Callable[[Profile, str, Any], Profile]
    """(profile, key, value) -> the changed profile."""
    after_fields: bool = False
    """Applied after the fields that are set, with the memory part in place; otherwise before them."""


@dataclass(frozen=True)
class ShortKey(WhatIf):
    """A short name of a field that is often set."""

    field: str


def _number(key: str, value: Any) -> float:
    return checked_number(value, f"set {key}")


def _whole(key: str, value: Any) -> int:
    number = _number(key, value)
    if number != int(number):
        raise InputError(f"set {key}: {value!r} is not a whole number")
    return int(number)


WHAT_IFS: dict[str, WhatIf] = {
    "model": MachineKey(
        "NAME",
        "carries the measured efficiency to a model of another shape",
        lambda key, value: {"model": known_model(str(value)), "model_change": f"model={value}"},
    ),
    "gpu": MachineKey(
        "NAME",
        f"carries it to another GPU of the table ({', '.join(GPUS)})",
        lambda key, value: {"gpu": known_gpu(str(value))},
    ),
    "weight_bits": MachineKey(
        "8",
        "weights of so many bits: fewer bytes held and read",
        lambda key, value: {"weight_bits": _whole(key, value)},
    ),
    "kv_bits": MachineKey(
        "8", "the same for the KV cache", lambda key, value: {"kv_bits": _whole(key, value)}
    ),
    "tensor_parallel": MachineKey(
        "2",
        "weights, KV cache and operations divided among 2, 4 or 8 GPUs, communication added, memory pooled",
        lambda key, value: {"num_gpus": _whole(key, value)},
    ),
    "link_bytes_per_s": MachineKey(
        "450e9",
        "bandwidth in one direction of the link that `tensor_parallel` uses",
        lambda key, value: {"link_bytes_per_s": _number(key, value)},
    ),
    "all_reduce_us": MachineKey(
        "8",
        "least time of an all-reduce over that link",
        lambda key, value: {"all_reduce_s": _number(key, value) / 1e6},
    ),
    "scale": ProfileKey(
        "1.2",
        "every time multiplied",
        lambda profile, key, value: what_if.with_scale(profile, _number(key, value)),
    ),
    "host_ms": ShortKey("1.5", "host time of an iteration", "step_cost.host_ms"),
    "host": ProfileKey(
        "vllm",
        "a named set of terms of an engine's host, or `none`; `host.before_ms=20` sets one term",
        lambda profile, key, value: what_if.with_host(profile, str(value)),
    ),
    "utilization": ShortKey("0.95", "share of the GPU memory that the engine takes", "memory.utilization"),
    "kv_blocks": ProfileKey(
        "7000",
        "a KV cache of so many blocks of 16 tokens",
        lambda profile, key, value: what_if.with_kv_blocks(profile, _whole(key, value)),
        after_fields=True,
    ),
    "price_per_hour": ProfileKey(
        "4.2",
        "what one GPU costs an hour, times the number of GPUs; in your currency, from you: no price is "
        "shipped",
        lambda profile, key, value: what_if.with_price(profile, _number(key, value)),
        after_fields=True,
    ),
}
"""All keys except the fields of a profile; `--set`, its help and its errors follow this table."""

LINK = ("link_bytes_per_s", "all_reduce_us")
_FIXED = ("provenance", "num_gpus", "price_per_hour", "async_scheduling")

HELP = (
    f"What if: KEY=VALUE, such as gpu=H100. Keys: {', '.join(WHAT_IFS)}, or any field of the profile, dotted "
    "(memory.workspace_bytes); `seqsched profile what-if --help` explains them."
)
HELP_IN_FULL = "\n".join(
    [
        "What if: KEY=VALUE, where KEY is a field of the profile, dotted (memory.workspace_bytes), or one of",
        "",
        *(f"- {key}={what.value}: {what.help}" for key, what in WHAT_IFS.items()),
    ]
)

Overrides: TypeAlias = Mapping[str, Any] | Iterable[str] | str | None


def apply(profile: Profile, settings: Overrides) -> Profile:
    """The profile with `settings`, a mapping or texts `key=value`; the profile itself without any.

    Raises `InputError` for an unknown key, with the known ones, a key given twice, and a value that the
    profile could not have.
    """
    values = parse(settings)
    known = [*WHAT_IFS, *field_names(profile)]
    for key in values:
        if key not in known:
            section = key.partition(".")[0]
            if "." in key and getattr(profile, section, "") is None:
                raise InputError(f"set {key}: profile {profile.name} has no {section} part")
            all_known = f"the known keys are {', '.join(known)}{nearest(key, known)}"
            raise InputError(f"set: unknown key {key!r}; {all_known}")
    if not values:
        return profile
    # Memory comes last: a model that does not fit after one change may fit after all of them.
    result = _with_machine(replace(profile, memory=None), values)
    result = _with_changes(result, values, after_fields=False)
    fields = {k: v for k, v in values.items() if "." in k and not k.startswith(("model.", "gpu."))}
    fields |= {key: values[key] for key in ("name", "engine") if key in values}
    result = _with_fields(result, _memory(profile, result), fields)
    return _with_changes(result, values, after_fields=True)


def markdown() -> str:
    """The keys as a table for the documentation."""
    rows = [
        f"| `{key}={what.value}` | {what.help}"
        + (f" (short for `{what.field}`) |" if isinstance(what, ShortKey) else " |")
        for key, what in WHAT_IFS.items()
    ]
    return "\n".join(["| key | what it does |", "|---|---|", *rows])


def parse(settings: Overrides) -> dict[str, Any]:
    """Key → value of a mapping or of texts `key=value`, short names written out.

    A text's value is read as JSON where it is JSON, else as it stands.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(settings, Mapping):
        pairs = list(settings.items())
    else:
        for text in (settings,) if isinstance(settings, str) else settings or ():
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                raise InputError(f"set: {text!r} is not key=value, as in weight_bits=8")
            pairs.append((name.strip(), _read(value.strip())))
    values: dict[str, Any] = {}
    for key, value in pairs:
        what = WHAT_IFS.get(key)
        full = what.field if isinstance(what, ShortKey) else key
        if full in values:
            raise InputError(f"set: {full} is set twice")
        values[full] = value
    return values


def field_names(profile: Profile) -> list[str]:
    """Every field of the profile that can be set, dotted; provenance cannot be."""
    names: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            names.append(path)

    data = {k: v for k, v in profile.to_json().items() if k not in _FIXED and v is not None}
    walk(data, "")
    optional = ["model.weight_bits", "model.kv_bits"] if profile.model else []
    optional += [f"host.{term}" for term in TERMS]
    names = [name for name in names if name not in ("host.name", "host.fitted_on")]
    return [*names, *(name for name in optional if name not in names)]


def _with_machine(profile: Profile, values: Mapping[str, Any]) -> Profile:
    """The profile with all changes of model and GPUs at once."""
    changes: dict[str, Any] = {}
    for key, what in WHAT_IFS.items():
        if key in values and isinstance(what, MachineKey):
            changes |= what.arguments(key, values[key])
    for section, read in (("model", ModelShape.from_json), ("gpu", Gpu.from_json)):
        fields = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{section}.")}
        base = changes.get(section) or getattr(profile, section)
        if fields and base is not None:
            texts = [f"{section}={base.name}"] * (section in changes)
            texts += [f"{section}.{key}={_text(value)}" for key, value in fields.items()]
            changes[section] = read(Fields({**base.to_json(), **fields}, f"set {section}"))
            changes[f"{section}_change"] = " ".join(texts)
    if values.keys() & set(LINK) and "tensor_parallel" not in values:
        raise InputError(f"set {'/'.join(LINK)}: a link has an effect with tensor_parallel alone")
    return what_if.elsewhere(profile, **changes) if changes else profile


def _with_changes(profile: Profile, values: Mapping[str, Any], *, after_fields: bool) -> Profile:
    """The profile with the changes that come before, or after, the fields that are set."""
    for key, what in WHAT_IFS.items():
        if key in values and isinstance(what, ProfileKey) and what.after_fields == after_fields:
            profile = what.change(profile, key, values[key])
    return profile


def _memory(profile: Profile, result: Profile) -> dict[str, Any] | None:
    """JSON of the memory part of `profile`, scaled to the model and GPUs of `result`."""
    if result.model is None or result.gpu is None:
        return profile.memory.to_json() if profile.memory else None
    return memory_in_proportion(profile, result.model, result.gpu, result.num_gpus)


def _with_fields(profile: Profile, memory: dict[str, Any] | None, fields: Mapping[str, Any]) -> Profile:
    """The profile with this memory part and with fields of its JSON replaced, checked again."""
    data = {**profile.to_json(), "memory": memory}
    before = json.dumps(data)
    for path, value in fields.items():
        *sections, key = path.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    result = Profile.from_json(data, "set")
    if json.dumps(data) == before:
        return result
    changes = [f"{path}={_text(value)}" for path, value in fields.items()]
    return modify(result, changes, "set by the user")


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
