"""A changed profile obeys physics, says what was changed, and is what it was where nothing changed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sim import simulate
from sim.hardware import describe, load
from sim.hardware.ceilings import Ceilings, carry
from sim.hardware.datasheets import GPUS, LINKS, Gpu, known_gpu
from sim.hardware.model_shape import MODELS
from sim.hardware.overrides import WHAT_IFS, ProfileKey, apply, field_names, markdown
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.roofline import estimate
from sim.hardware.step_cost import StepCost
from sim.hardware.transfer import all_reduces_s
from sim.hardware.what_if import elsewhere, with_price, with_scale
from traces.errors import InputError

BATCHES = (1, 2, 7, 64, 150, 256, 700)
INTERPOLATED = 1 + 5e-4
"""The carried base is a hyperbola between the bends, drawn in straight pieces."""

names = st.sampled_from(sorted(GPUS))


@pytest.fixture(scope="module")
def measured() -> Profile:
    """Measured, as far as a profile can say so: Llama-3.1-8B on an RTX 4090, less efficient when small."""
    made = estimate("llama-3.1-8b", "RTX 4090", date="2026-01-01")
    cost = StepCost(
        decode_base=PiecewiseLinear((1, 16, 64, 256), (0.0170, 0.0175, 0.0200, 0.0280)),
        decode_per_context_s=1.5e-7,
        mixed_base=PiecewiseLinear((16, 128, 512, 2048), (0.0175, 0.0208, 0.0473, 0.1867)),
        mixed_per_context_s=2.4e-7,
        mixed_per_attention_s=3e-9,
        mixed_per_decode_s=4e-5,
        host_ms=0.5,
    )
    provenance = replace(
        made.provenance, kind="measured", residuals={"mixed": {"unseen_cells": {"mean": 0.01}}}
    )
    return replace(made, name="card", step_cost=cost, provenance=provenance)


def times(profile: Profile, context: int = 512) -> list[float]:
    """Decode and prefill iterations over many sizes, in seconds."""
    cost = profile.step_cost
    decode = [cost.decode_s(n, n * context) for n in BATCHES]
    return decode + [cost.mixed_s(4, 4 * context, 1, n, n * n / 2) for n in BATCHES]


@pytest.mark.parametrize("name", sorted(GPUS))
def test_a_profile_on_its_own_gpu_is_that_profile(name: str) -> None:
    made = estimate("vicuna-7b", name)
    assert elsewhere(made, gpu=known_gpu(name)) is made
    assert elsewhere(made, num_gpus=1) is made
    assert elsewhere(made, weight_bits=16) is made and elsewhere(made, kv_bits=16) is made
    assert apply(made, [f"gpu={name}", "scale=1", "utilization=0.9", "weight_bits=16"]) == made
    assert apply(made, None) is made and apply(made, ()) is made


def test_equal_ceilings_give_the_same_times_to_the_last_bit(measured: Profile) -> None:
    card = GPUS["RTX 4090"]
    renamed = elsewhere(measured, gpu=replace(card, name="another card"))
    assert renamed.step_cost == measured.step_cost and renamed.memory == measured.memory
    assert renamed.provenance.kind == "what-if" and renamed.provenance.uncertainty == {}


@given(names, names, st.sampled_from(sorted(MODELS)))
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_roofline_carried_over_is_the_roofline_there(one: str, other: str, model: str) -> None:
    before, after = (Ceilings.of(MODELS[model], GPUS[name]) for name in (one, other))
    carried = carry(estimate(MODELS[model], replace(GPUS[one], memory_bytes=2**40)).step_cost, before, after)
    direct = estimate(MODELS[model], replace(GPUS[other], memory_bytes=2**40)).step_cost
    for n in (*BATCHES, 5000):
        assert carried.decode_s(n, 100 * n) == pytest.approx(direct.decode_s(n, 100 * n), rel=5e-4)
        assert carried.mixed_s(0, 0, 1, n, n * n / 2) == pytest.approx(
            direct.mixed_s(0, 0, 1, n, n * n / 2), rel=5e-4
        )


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(1, 4), st.floats(1, 4))
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_bandwidth_or_more_operations_are_never_slower(
    bandwidth: float, peak: float, more_bandwidth: float, more_peak: float
) -> None:
    card = known_gpu("RTX 4090")

    def there(bandwidth: float, peak: float) -> list[float]:
        gpu = Gpu("x", card.memory_bytes, card.bandwidth_bytes_per_s * bandwidth, card.peak_flops * peak)
        return times(elsewhere(load_measured(), gpu=gpu))

    slow, fast = there(bandwidth, peak), there(bandwidth * more_bandwidth, peak * more_peak)
    assert all(b <= a * INTERPOLATED for a, b in zip(slow, fast, strict=True))


def load_measured() -> Profile:
    """A profile for Hypothesis, whose examples share no fixtures of a function."""
    made = estimate("llama-3.1-8b", "RTX 4090")
    base = PiecewiseLinear((1, 16, 64, 256), (0.0170, 0.0175, 0.0200, 0.0280))
    return replace(made, step_cost=replace(made.step_cost, decode_base=base))


def test_up_to_the_bend_bandwidth_decides_and_beyond_it_operations(measured: Profile) -> None:
    card, h100 = GPUS["RTX 4090"], GPUS["H100"]
    made = apply(measured, {"gpu": "H100"}).step_cost
    by_bandwidth = card.bandwidth_bytes_per_s / h100.bandwidth_bytes_per_s
    by_peak = card.peak_flops / h100.peak_flops
    old = measured.step_cost
    for n in (1, 16, 64, 100):  # both bends are beyond
        assert made.decode_base(n) == pytest.approx(by_bandwidth * old.decode_base(n))
    for n in (512, 1000, 2048):
        assert made.mixed_base(n) == pytest.approx(by_peak * old.mixed_base(n))
    assert made.decode_per_context_s == pytest.approx(by_bandwidth * old.decode_per_context_s)
    assert made.mixed_per_attention_s == pytest.approx(by_peak * old.mixed_per_attention_s)
    assert made.host_ms == old.host_ms


def test_weights_of_8_bits_take_half_the_bytes_and_never_longer(measured: Profile) -> None:
    made = elsewhere(measured, weight_bits=8)
    assert measured.memory is not None and made.memory is not None
    assert made.memory.weight_bytes * 2 == measured.memory.weight_bytes
    assert made.memory.capacity_tokens > measured.memory.capacity_tokens
    assert made.memory.bytes_per_token == measured.memory.bytes_per_token
    assert made.step_cost.decode_base(1) == pytest.approx(measured.step_cost.decode_base(1) / 2)
    assert all(b <= a * INTERPOLATED for a, b in zip(times(measured), times(made), strict=True))
    # Far beyond the bend operations decide, and those are as many as before.
    assert made.step_cost.mixed_base(2048) == pytest.approx(measured.step_cost.mixed_base(2048))


def test_a_kv_cache_of_8_bits_holds_twice_the_tokens_and_leaves_the_base(measured: Profile) -> None:
    made = elsewhere(measured, kv_bits=8)
    assert measured.memory is not None and made.memory is not None
    assert made.memory.bytes_per_token * 2 == measured.memory.bytes_per_token
    assert made.memory.capacity_tokens == pytest.approx(2 * measured.memory.capacity_tokens, abs=1)
    for n in (1, 16, 100, 256):
        assert made.step_cost.decode_base(n) == pytest.approx(measured.step_cost.decode_base(n))
    assert made.step_cost.decode_per_context_s == measured.step_cost.decode_per_context_s / 2
    assert made.step_cost.mixed_per_attention_s == measured.step_cost.mixed_per_attention_s


@pytest.mark.parametrize("num_gpus", [2, 4, 8])
def test_tensor_parallel_pools_memory_and_never_divides_time_by_more(
    measured: Profile, num_gpus: int
) -> None:
    made = elsewhere(with_price(measured, 3.0), num_gpus=num_gpus)
    assert measured.memory is not None and made.memory is not None
    assert made.memory.gpu_bytes == num_gpus * measured.memory.gpu_bytes
    assert made.memory.weight_bytes == measured.memory.weight_bytes
    assert made.memory.capacity_tokens > num_gpus * measured.memory.capacity_tokens
    assert made.price_per_hour == 3.0 * num_gpus and made.num_gpus == num_gpus
    assert all(b > a / num_gpus for a, b in zip(times(measured), times(made), strict=True))
    assert made.step_cost.host_ms == measured.step_cost.host_ms
    link = LINKS["RTX 4090"]
    communication = all_reduces_s(MODELS["llama-3.1-8b"], num_gpus, link, 64)
    assert communication == pytest.approx(
        2 * 32 * (link.latency_s + 2 * (num_gpus - 1) / num_gpus * 64 * 4096 * 2 / link.bytes_per_s)
    )
    divided = measured.step_cost.decode_base(64) / num_gpus
    assert made.step_cost.decode_base(64) == pytest.approx(divided + communication)
    assert Profile.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert "GPU" in dict(describe(made)) and f"{num_gpus} × " in dict(describe(made))["GPU"]


def test_more_gpus_than_kv_heads_hold_the_same_heads_again() -> None:
    qwen = estimate("qwen2.5-7b", "H200")  # 28 heads, 4 KV heads
    four = elsewhere(qwen, num_gpus=4)
    assert qwen.memory is not None and four.memory is not None
    assert four.memory.bytes_per_token == qwen.memory.bytes_per_token
    with pytest.raises(InputError, match=r"tensor_parallel=8: the 28 heads of .* cannot be divided"):
        elsewhere(qwen, num_gpus=8)
    small = estimate(replace(MODELS["llama-3.1-8b"], kv_heads=4), "H200")
    eight = elsewhere(small, num_gpus=8)
    assert small.memory is not None and eight.memory is not None
    assert eight.memory.bytes_per_token == 2 * small.memory.bytes_per_token
    assert eight.step_cost.decode_per_context_s == pytest.approx(small.step_cost.decode_per_context_s / 4)


def test_a_faster_link_is_never_slower(measured: Profile) -> None:
    slow = apply(measured, {"tensor_parallel": 2, "link_bytes_per_s": 1e9, "all_reduce_us": 50})
    fast = apply(measured, {"tensor_parallel": 2, "link_bytes_per_s": 1e12, "all_reduce_us": 1})
    assert all(b < a for a, b in zip(times(slow), times(fast), strict=True))


CHANGES = [
    ("gpu=H100", "roofline estimate"),
    ("weight_bits=4", "roofline estimate"),
    ("kv_bits=8", "roofline estimate"),
    ("tensor_parallel=2", "roofline estimate"),
    ("model=qwen2.5-7b", "roofline estimate"),
    ("gpu.bandwidth_bytes_per_s=2e12", "roofline estimate"),
    ("gpu.memory_bytes=30000000000", "what-if"),
    ("scale=1.2", "what-if"),
    ("host_ms=1.5", "what-if"),
    ("memory.utilization=0.95", "what-if"),
    ("kv_blocks=1000", "what-if"),
    ("step_cost.decode_per_context_s=0", "what-if"),
    ("name=other", "what-if"),
]


@pytest.mark.parametrize(("change", "kind"), CHANGES)
def test_provenance_never_stays_measured(measured: Profile, change: str, kind: str) -> None:
    made = apply(measured, change)
    assert made.provenance.kind == kind
    assert made.name.endswith(f"+{made.provenance.changes[-1]}")
    assert made.provenance.description.endswith(measured.provenance.description)
    assert "(measured)" in made.provenance.description
    assert list(made.provenance.residuals) == ["mixed, before the changes"]
    assert bool(made.provenance.uncertainty) == (kind == "roofline estimate")
    for low, high in made.provenance.uncertainty.values():
        assert -1 < low <= 0 <= high
    again = apply(made, "scale=1.1")
    assert again.provenance.kind == kind  # an estimate stays one
    assert Profile.from_json(json.loads(json.dumps(made.to_json()))) == made
    labels = dict(describe(made))
    assert labels["provenance"] == kind
    assert any(key.startswith("uncertainty") for key in labels) == (kind == "roofline estimate")


def test_no_time_of_the_uncertainty_is_below_the_roofline(measured: Profile) -> None:
    made = apply(measured, {"gpu": "H100"})
    ceilings = Ceilings.of(MODELS["llama-3.1-8b"], GPUS["H100"])
    for n in (1, 16, 64, 256):
        low, _ = made.provenance.uncertainty[f"decode, batch {n}"]
        seconds = made.step_cost.decode_s(n, 512 * n)
        assert (1 + low) * seconds >= ceilings.iteration_s(n, 512 * n, 0) * (1 - 1e-3)


def test_a_price_is_the_users_and_changes_nothing_else(measured: Profile) -> None:
    assert measured.price_per_hour is None and all(
        load(n).price_per_hour is None for n in ("h200-vicuna-7b",)
    )
    made = apply(measured, "price_per_hour=4.2")
    assert made.price_per_hour == 4.2 and made.provenance == measured.provenance
    assert made.name == measured.name and made.step_cost == measured.step_cost
    assert apply(measured, ["price_per_hour=4", "tensor_parallel=2"]).price_per_hour == 8


def test_the_kv_budget_is_as_many_blocks_as_said(measured: Profile) -> None:
    for blocks in (1, 999, 100_000_000):
        assert apply(measured, {"kv_blocks": blocks}).kv_tokens() // 16 == blocks
    bare = replace(measured, memory=None)
    assert apply(bare, {"kv_blocks": 77}).kv_tokens() == 77 * 16
    more = apply(measured, "utilization=0.95")
    assert more.kv_tokens() > measured.kv_tokens() and more.step_cost == measured.step_cost


def test_what_fits_in_the_end_need_not_fit_on_the_way() -> None:
    large = estimate("llama-3.1-70b", "H200", utilization=0.98, workspace_bytes=2**30)
    with pytest.raises(InputError, match="no room"):
        apply(large, "gpu=H100")
    made = apply(large, ["gpu=H100", "tensor_parallel=2", "kv_bits=8"])
    assert made.name == "h200-llama-3.1-70b +gpu=H100 +kv_bits=8 +tensor_parallel=2"
    assert made == apply(large, ["kv_bits=8", "tensor_parallel=2", "gpu=h100"])
    with pytest.raises(InputError, match="is of 2 GPUs together"):
        apply(made, "gpu=H200")


def test_every_field_can_be_set_to_what_it_is(measured: Profile) -> None:
    data = measured.to_json()
    for path in field_names(measured):
        value = data
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else value
        if value is not None:
            assert apply(measured, {path: value}) == measured, path
            assert apply(measured, [f"{path}={json.dumps(value)}"]) == measured, path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("colour=red", "set: unknown key 'colour'; the known keys are model, gpu, weight_bits, .*host_ms"),
        ("memory.colour=1", "unknown key 'memory.colour'"),
        ("provenance.kind=measured", "unknown key 'provenance.kind'"),
        ("num_gpus=2", "unknown key 'num_gpus'"),
        ("weight_bits", "'weight_bits' is not key=value"),
        (["kv_bits=8", "kv_bits=4"], "kv_bits is set twice"),
        (["host_ms=1", "step_cost.host_ms=2"], "step_cost.host_ms is set twice"),
        ("memory.utilization=3", "utilization: 3.0 is not above 0 and at most 1"),
        ("step_cost.host_ms=abc", "step_cost, host_ms: 'abc' is not a number"),
        ("host_ms=-1", "host_ms: -1 is below 0"),
        ("host_ms=NaN", "host_ms: nan is not finite"),
        ("gpu=TPU", "gpu: 'TPU' is unknown; the known ones are"),
        ("gpu.peak_flops=0", "peak_flops: 0.0 is not above 0"),
        ("model=gpt", "model: 'gpt' is unknown"),
        ("weight_bits=0", "weight_bits: 0 is not between 1 and 64"),
        ("kv_bits=2.5", "set kv_bits: 2.5 is not a whole number"),
        ("tensor_parallel=3", "tensor_parallel=3: it is not one of 1, 2, 4, 8"),
        ("all_reduce_us=3", "has an effect with tensor_parallel alone"),
        (["tensor_parallel=2", "link_bytes_per_s=0"], "link_bytes_per_s: 0.0 is not above 0"),
        ("scale=0", "scale: 0.0 is not a finite number above 0"),
        ("kv_blocks=0", "kv_blocks=0: it is not between 1 and"),
        ("price_per_hour=-1", "price_per_hour: -1 is below 0"),
        ("step_cost.decode_base.sizes=[1,1]", "seconds: 4 values for 2 sizes"),
        ("engine=3", "engine: 3 is not a string"),
    ],
)
def test_bad_settings_are_refused_in_one_line(measured: Profile, given: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        apply(measured, given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_times_without_a_gpu_cannot_be_carried(profile: Profile) -> None:
    with pytest.raises(InputError, match=r"does not say on which model .*seqsched calibrate --model"):
        apply(profile, "gpu=H100")
    with pytest.raises(InputError, match=r"set gpu\.peak_flops: profile tiny has no gpu part"):
        apply(profile, "gpu.peak_flops=1e15")
    assert apply(profile, "scale=2").step_cost.decode_s(1, 0) == 2 * profile.step_cost.decode_s(1, 0)


def test_a_link_that_nobody_knows_must_be_given(measured: Profile) -> None:
    other = replace(measured, gpu=replace(GPUS["RTX 4090"], name="MI300X"))
    with pytest.raises(InputError, match="the link between GPUs MI300X is not known"):
        elsewhere(other, num_gpus=2)
    made = apply(other, {"tensor_parallel": 2, "link_bytes_per_s": 64e9, "all_reduce_us": 10})
    assert "a link as given (10 us each and 64 GB/s" in made.provenance.description


def test_a_simulation_says_what_was_changed_and_by_what_right() -> None:
    run = {"trace": "fixed:prompt_tokens=32,output_tokens=32", "num_prompts": 50, "profile": "h200-vicuna-7b"}
    plain = simulate(**run, policy="continuous").summary
    quantised = simulate(**run, policy="continuous", set={"weight_bits": 8}).summary
    assert quantised["profile"] == "h200-vicuna-7b +weight_bits=8"
    assert quantised["provenance"] == "roofline estimate"
    assert plain["duration"] / 2 <= quantised["duration"] < plain["duration"]
    published = simulate(**{**run, "profile": "a100-80gb-vicuna-7b-transformers"}, set=("scale=2",)).summary
    assert published["provenance"] == "what-if"


@pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with real data"
)
def test_measured_times_of_a_card_are_its_own_and_elsewhere_an_estimate() -> None:
    from sim.hardware.fitting import fit, read_steps

    steps = read_steps(Path(os.environ["SEQSCHED_DATA"]) / "rtx4090-llama-3.1-8b-steps.csv")
    few = steps[(steps["num_prefill"] == 0) | (steps.index % 40 == 0)]  # a fit in a second
    made, _ = fit(few, "card", model=MODELS["llama-3.1-8b"], gpu=GPUS["RTX 4090"])
    assert made.provenance.kind == "measured"
    assert apply(made, "gpu=RTX 4090") == made
    there = apply(made, "gpu=H100")
    assert there.provenance.kind == "roofline estimate"
    ratio = there.step_cost.decode_s(1, 512) / made.step_cost.decode_s(1, 512)
    assert ratio == pytest.approx(1.008 / 3.35, rel=1e-3)
    assert there.memory is None  # nothing is known of it, so nothing is made up


def test_a_key_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ProfileKey("2", "every time divided", lambda profile, key, value: with_scale(profile, 1 / value))
    monkeypatch.setitem(WHAT_IFS, "speedup", key)
    profile = load("h200-vicuna-7b")
    assert apply(profile, "speedup=2").step_cost == with_scale(profile, 0.5).step_cost
    assert "| `speedup=2` | every time divided |" in markdown()
