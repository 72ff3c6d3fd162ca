"""Profiles survive a file, and a bad file says what is wrong with it in one line."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim import simulate
from sim.hardware import Profile, describe, load, names
from sim.hardware.fitting import read_steps
from sim.hardware.overrides import apply
from sim.hardware.profile import Provenance
from sim.hardware.roofline import estimate
from sim.scenario.policies import limits_of
from sim.sweeps.grid import read_grid
from traces.errors import InputError


@pytest.fixture
def profile() -> Profile:
    return estimate("llama-3.1-8b", "RTX 4090", date="2026-01-01")


def without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


def changed(data: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def test_save_and_load(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "p.json")
    assert load(tmp_path / "p.json") == profile
    assert load(str(tmp_path / "p.json")) == profile
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.parametrize("name", names())
def test_shipped_profiles_load_and_say_what_they_are(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile.kv_tokens() > 100_000
    label, kind = describe(profile)[0]
    assert label == "provenance"
    assert kind in ("measured", "composed from measured kernels", "published", "roofline estimate")


def test_the_shipped_kinds() -> None:
    assert load("h200-vicuna-7b").provenance.kind == "composed from measured kernels"
    published = load("a100-80gb-vicuna-7b-transformers")
    assert published.provenance.kind == "published"
    assert published.engine == "transformers-eager"
    assert "vanilla" in published.provenance.description


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(
        InputError, match=r"'nothing' is neither a file nor a shipped profile .*h200-vicuna-7b"
    ):
        load("nothing")
    with pytest.raises(InputError, match="neither a file"):
        load("x" * 5000)


def test_kv_tokens(profile: Profile) -> None:
    assert profile.memory is not None
    assert profile.kv_tokens() == profile.memory.capacity_tokens
    assert profile.kv_tokens(2588) == 2588 * 16
    with pytest.raises(InputError, match="kv_blocks: 0 is below 1"):
        profile.kv_tokens(0)


def test_asynchronous_scheduling_is_read_back_shown_and_kept_by_a_what_if(profile: Profile) -> None:
    ahead = replace(profile, async_scheduling=True)
    assert Profile.from_json(ahead.to_json()) == ahead != profile
    assert "scheduling" in dict(describe(ahead)) and "scheduling" not in dict(describe(profile))
    assert apply(ahead, ("gpu=H100", "weight_bits=8")).async_scheduling
    assert limits_of(ahead, None).async_scheduling and not limits_of(profile, None).async_scheduling
    with pytest.raises(InputError, match="async_scheduling: 1 is not true or false"):
        Profile.from_json({**profile.to_json(), "async_scheduling": 1})


def test_without_memory_the_user_is_told_what_supplies_it(profile: Profile) -> None:
    bare = Profile.from_json(changed(profile.to_json(), None, "memory"))
    assert bare.memory is None
    assert bare.kv_tokens(100) == 1600
    with pytest.raises(InputError, match=r"no memory part .*kv_blocks"):
        bare.kv_tokens()
    assert ("KV cache", "unknown; --kv-blocks N supplies it") in describe(bare)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("provenance", "kind"),
            "guessed",
            "provenance, kind: 'guessed' is not one of measured, composed from measured kernels, published",
        ),
        (("provenance", "date"), 2026, "provenance, date: 2026 is not a string"),
        (("memory", "gpu_bytes"), -1, "memory, gpu_bytes: -1 is below 1"),
        (("memory", "gpu_bytes"), 1.5, "memory, gpu_bytes: 1.5 is not a whole number"),
        (("memory", "utilization"), 3, "memory, utilization: 3.0 is not above 0 and at most 1"),
        (("memory", "kv_bytes_per_token"), True, "kv_bytes_per_token: True is not a number"),
        (("model", "layers"), "many", "model, layers: 'many' is not a number"),
        (("model", "kv_heads"), 3, "heads: 32 is not a multiple of kv_heads, 3"),
        (("gpu", "peak_flops"), 0, "peak_flops: 0.0 is not above 0"),
        (("gpu", "peak_flops"), 10**400, "peak_flops: .* is not finite"),
        (("step_cost",), [], r"step_cost: \[\] is not a JSON object"),
        (("step_cost", "mixed_per_attention_s"), -1, "step_cost, mixed_per_attention_s: -1 is below 0"),
        (("name",), None, "name: None is not a string"),
        (("colour",), "red", "unknown key 'colour'; the known keys are engine, gpu"),
    ],
)
def test_bad_values_name_file_key_value_and_bound(
    profile: Profile, tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(changed(profile.to_json(), value, *path)))
    with pytest.raises(InputError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        ("name",),
        ("engine",),
        ("step_cost",),
        ("provenance",),
        ("provenance", "kind"),
        ("memory", "utilization"),
    ],
)
def test_missing_keys_are_named(profile: Profile, path: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"the key '{path[-1]}' is missing"):
        Profile.from_json(without(profile.to_json(), *path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: not JSON"),
        (b'{"name": ', "line 1: not JSON"),
        (b"[1, 2]", r"\[1, 2\] is not a JSON object"),
        (b'{"name": NaN}', "NaN is not a finite number"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
    ],
)
def test_files_that_are_no_profile(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(str(file))


def test_a_directory_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("read", [load, read_steps, read_grid])
def test_a_device_is_not_read_for_it_may_have_no_end(read: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=f"^{os.devnull}: is a device, a file is needed$"):
        read(os.devnull)


def test_describe_shows_errors_of_the_fit_as_percent(profile: Profile) -> None:
    residuals = {"mixed": {"unseen_cells": {"mean": 0.0124, "max": 0.2}}, "remark": "none"}
    provenance = Provenance("measured", "2026-01-01", "test", residuals=residuals)
    data = {**profile.to_json(), "provenance": provenance.to_json()}
    rows = dict(describe(Profile.from_json(data)))
    assert rows["error, mixed, unseen cells"] == "mean 1.24 %, max 20.00 %"
    assert rows["residuals, remark"] == "none"
    assert rows["provenance"] == "measured"


def test_with_scale_and_host(profile: Profile) -> None:
    assert profile.with_scale(2).step_cost.decode_s(1, 0) == 2 * profile.step_cost.decode_s(1, 0)
    assert profile.with_host(1.5).step_cost.host_ms == 1.5
    with pytest.raises(InputError, match="scale: 0 is not a finite number above 0"):
        profile.with_scale(0)


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, sim.hardware; "
        "print([m for m in ('pandas', 'scipy', 'torch', 'simpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


NUMBERS = [
    ("step_cost", "decode_per_context_s"),
    ("step_cost", "mixed_per_attention_s"),
    ("step_cost", "host_ms"),
    ("step_cost", "decode_base", "seconds"),
    ("step_cost", "mixed_base", "sizes"),
    ("memory", "gpu_bytes"),
    ("memory", "kv_bytes_per_token"),
    ("memory", "weight_bytes"),
]


@pytest.mark.parametrize("where", NUMBERS, ids=".".join)
@pytest.mark.parametrize("value", [1e308, 1e150, 1e40, 1e20, 1e9, 1e-300])
def test_absurd_numbers_are_refused_or_simulated_at_once(where: tuple[str, ...], value: float) -> None:
    """Finite, and so far off that sums of them are not, or that time stands still beside them."""
    data = load("h200-vicuna-7b").to_json()
    place = data
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = [*place[where[-1]][:-1], value] if isinstance(place[where[-1]], list) else value
    try:
        machine = Profile.from_json(data)
        result = simulate("lognormal", num_prompts=8, profile=machine, policy="continuous", request_rate=1.0)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        json.loads(result.to_json())


def test_every_shipped_profile_names_its_model() -> None:
    named = {name: load(name).model_name for name in names()}
    assert named["h200-qwen3-30b-a3b-vllm"] == "qwen3-30b-a3b" and all(named.values())
    experts = load("h200-qwen3-30b-a3b-vllm")
    assert dict(describe(experts))["model"].startswith("qwen3-30b-a3b, without a shape")
    assert "model" not in dict(describe(replace(experts, provenance=replace(experts.provenance, grid={}))))
