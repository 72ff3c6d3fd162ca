"""`--set key=value`: what-ifs and profile fields by name, applied to a profile; knows nothing of commands.

A key is a what-if (`gpu`, `weight_bits`, …) or any field of the profile's JSON, dotted
(`memory.utilization`). What decides the times is applied first, whatever the order given: model, GPU, bits,
then division among GPUs; then scale, fields as they are set, and the KV budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sim.hardware import what_if
from sim.hardware.gpu import Gpu
from sim.hardware.json_fields import Fields, checked_number
from sim.hardware.links import link_of
from sim.hardware.model_shape import ModelShape, known_model
from sim.hardware.profile import Profile
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
_FIXED = ("provenance", "num_gpus", "price_per_hour")

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
    made = _with_times(profile, given)
    if "scale" in given:
        made = what_if.with_scale(made, _number(given, "scale"))
    fields = {k: v for k, v in given.items() if "." in k and not k.startswith(("model.", "gpu."))}
    fields |= {key: given[key] for key in ("name", "engine") if key in given}
    made = _with_fields(made, fields)
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
    """The changes that carry times to other ceilings, and the link that division needs."""
    made = profile
    if "model" in given:
        made = what_if.with_model(made, known_model(str(given["model"])), f"model={given['model']}")
    edited = _edited(made, given, "model")
    if edited is not None:
        shape = ModelShape.from_json(Fields(edited[0], "set"))
        made = what_if.with_model(made, shape, edited[1])
    if "gpu" in given:
        made = what_if.on_gpu(made, str(given["gpu"]))
    edited = _edited(made, given, "gpu")
    if edited is not None:
        made = what_if.on_gpu(made, Gpu.from_json(Fields(edited[0], "set")), edited[1])
    if "weight_bits" in given:
        made = what_if.with_weight_bits(made, _whole(given, "weight_bits"))
    if "kv_bits" in given:
        made = what_if.with_kv_bits(made, _whole(given, "kv_bits"))
    if "tensor_parallel" in given:
        num_gpus = _whole(given, "tensor_parallel")
        bandwidth = _number(given, LINK[0]) if LINK[0] in given else None
        latency = _number(given, LINK[1]) / 1e6 if LINK[1] in given else None
        link = link_of(made.gpu.name, bandwidth, latency) if made.gpu and num_gpus > 1 else None
        return what_if.tensor_parallel(made, num_gpus, link)
    for key in LINK:
        if key in given:
            raise InputError(f"set {key}: it has an effect with tensor_parallel alone")
    return made


def _edited(profile: Profile, given: Mapping[str, Any], section: str) -> tuple[dict[str, Any], str] | None:
    """The JSON of `section` with the fields set in it, and what its name shows; None where none is set."""
    chosen = {k.partition(".")[2]: v for k, v in given.items() if k.startswith(f"{section}.")}
    if not chosen:
        return None
    data = {**profile.to_json()[section], **chosen}
    return data, " ".join(f"{section}.{key}={_shown(value)}" for key, value in chosen.items())


def _with_fields(profile: Profile, fields: Mapping[str, Any]) -> Profile:
    """The profile with fields of its JSON replaced and all of it checked again."""
    if not fields:
        return profile
    data = profile.to_json()
    for path, value in fields.items():
        *sections, key = path.split(".")
        place = data
        for section in sections:
            place = place[section]
        place[key] = value
    made = Profile.from_json(data, "set")
    if made == profile:
        return profile
    change = " ".join(f"{path}={_shown(value)}" for path, value in fields.items())
    return what_if.changed(made, change, "set by the user")


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
