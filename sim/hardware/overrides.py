"""`--set key=value`: what-ifs and profile fields by name, applied to a profile; knows nothing of commands.

A key is a what-if (`gpu`, `weight_bits`, …) or any field of the profile's JSON, dotted
(`memory.utilization`). What decides the times is applied first, whatever the order given: model, GPU, bits,
then division among GPUs; then scale, fields as they are set, and the KV budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sim.hardware import what_if
from sim.hardware.datasheets import Gpu, known_gpu, link_of
from sim.hardware.json_fields import Fields, checked_number
from sim.hardware.model_shape import ModelShape, known_model
from sim.hardware.profile import Profile
from sim.hardware.transfer import changed, memory_in_proportion
from traces.errors import InputError

WHAT_IFS = (
    "model",
    "gpu",
    "weight_bits",
    "kv_bits",
    "tensor_parallel",
    "link_bytes_per_s",
    "all_reduce_us",
    "scale",
    "host_ms",
    "utilization",
    "kv_blocks",
    "price_per_hour",
)
SHORT = {"host_ms": "step_cost.host_ms", "utilization": "memory.utilization"}
"""Short names of fields that are often set."""

LINK = ("link_bytes_per_s", "all_reduce_us")
_FIXED = ("provenance", "num_gpus", "price_per_hour", "async_scheduling")

Settings = Mapping[str, Any] | Iterable[str] | str | None


def apply(profile: Profile, settings: Settings) -> Profile:
    """The profile with `settings`, a mapping or texts `key=value`; without any it is the profile itself.

    Raises `InputError` for an unknown key, with the known ones, a key given twice, and a value that the
    profile could not have.
    """
    given = parse(settings)
    known = [*WHAT_IFS, *field_names(profile)]
    for key in given:
        if key not in known:
            section = key.partition(".")[0]
            if "." in key and getattr(profile, section, "") is None:
                raise InputError(f"set {key}: profile {profile.name} has no {section} part")
            raise InputError(f"set: unknown key {key!r}; the known keys are {', '.join(known)}")
    if not given:
        return profile
    # Memory comes last: what does not fit on the way may fit in the end.
    made = _with_times(replace(profile, memory=None), given)
    if "scale" in given:
        made = what_if.with_scale(made, _number(given, "scale"))
    fields = {k: v for k, v in given.items() if "." in k and not k.startswith(("model.", "gpu."))}
    fields |= {key: given[key] for key in ("name", "engine") if key in given}
    made = _with_fields(made, _memory(profile, made), fields)
    if "kv_blocks" in given:
        made = what_if.with_kv_blocks(made, _whole(given, "kv_blocks"))
    if "price_per_hour" in given:
        made = what_if.with_price(made, _number(given, "price_per_hour"))
    return made


def parse(settings: Settings) -> dict[str, Any]:
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
    given: dict[str, Any] = {}
    for key, value in pairs:
        full = SHORT.get(key, key)
        if full in given:
            raise InputError(f"set: {full} is set twice")
        given[full] = value
    return given


def field_names(profile: Profile) -> list[str]:
    """Every field of the profile that can be set, dotted; the what-ifs keep its provenance themselves."""
    names: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            names.append(path)

    data = {k: v for k, v in profile.to_json().items() if k not in _FIXED and v is not None}
    walk(data, "")
    bits = ("model.weight_bits", "model.kv_bits") if profile.model else ()
    return [*names, *(name for name in bits if name not in names)]


def _with_times(profile: Profile, given: Mapping[str, Any]) -> Profile:
    """All changes of model and GPUs at once, with the link that several GPUs need."""
    changes: dict[str, Any] = {}
    if "model" in given:
        changes |= {"model": known_model(str(given["model"])), "model_change": f"model={given['model']}"}
    if "gpu" in given:
        changes["gpu"] = known_gpu(str(given["gpu"]))
    for section, read in (("model", ModelShape.from_json), ("gpu", Gpu.from_json)):
        fields = {k.partition(".")[2]: v for k, v in given.items() if k.startswith(f"{section}.")}
        base = changes.get(section) or getattr(profile, section)
        if fields and base is not None:
            shown = [f"{section}={base.name}"] * (section in changes)
            shown += [f"{section}.{key}={_shown(value)}" for key, value in fields.items()]
            changes[section] = read(Fields({**base.to_json(), **fields}, f"set {section}"))
            changes[f"{section}_change"] = " ".join(shown)
    for key in ("weight_bits", "kv_bits"):
        if key in given:
            changes[key] = _whole(given, key)
    if given.keys() & set(LINK) and "tensor_parallel" not in given:
        raise InputError(f"set {'/'.join(LINK)}: a link has an effect with tensor_parallel alone")
    if "tensor_parallel" in given:
        changes["num_gpus"] = _whole(given, "tensor_parallel")
        gpu = changes.get("gpu", profile.gpu)
        if changes["num_gpus"] > 1 and gpu is not None:
            bandwidth = _number(given, LINK[0]) if LINK[0] in given else None
            latency = _number(given, LINK[1]) / 1e6 if LINK[1] in given else None
            changes["link"] = link_of(gpu.name, bandwidth, latency)
    return what_if.elsewhere(profile, **changes) if changes else profile


def _memory(profile: Profile, made: Profile) -> dict[str, Any] | None:
    """The JSON of the memory part that `profile` has as `made`."""
    if made.model is None or made.gpu is None:
        return profile.memory.to_json() if profile.memory else None
    return memory_in_proportion(profile, made.model, made.gpu, made.num_gpus)


def _with_fields(profile: Profile, memory: dict[str, Any] | None, fields: Mapping[str, Any]) -> Profile:
    """The profile with that memory part, fields of its JSON replaced, and all of it checked again."""
    data = {**profile.to_json(), "memory": memory}
    before = json.dumps(data)
    for path, value in fields.items():
        *sections, key = path.split(".")
        place = data
        for section in sections:
            place = place[section]
        place[key] = value
    made = Profile.from_json(data, "set")
    if json.dumps(data) == before:
        return made
    changes = [f"{path}={_shown(value)}" for path, value in fields.items()]
    return changed(made, changes, "set by the user")


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _number(given: Mapping[str, Any], key: str) -> float:
    return checked_number(given[key], f"set {key}")


def _whole(given: Mapping[str, Any], key: str) -> int:
    number = _number(given, key)
    if number != int(number):
        raise InputError(f"set {key}: {given[key]!r} is not a whole number")
    return int(number)
