"""The estimate is its formula, and growing any input never makes an iteration cheaper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware.datasheets import GPUS, Gpu
from sim.hardware.model_shape import MODELS
from sim.hardware.overrides import apply
from sim.hardware.roofline import EFFICIENCY, estimate, roofline_cost
from traces.errors import InputError

VICUNA = MODELS["vicuna-7b"]
PAIRS = st.tuples(st.sampled_from(sorted(MODELS)), st.sampled_from(sorted(GPUS)))


def test_one_sequence_takes_as_long_as_reading_the_weights() -> None:
    cost = roofline_cost(VICUNA, GPUS["A100-80GB"], 1.0)
    weights = (VICUNA.num_parameters - 32000 * 4096) * 2
    assert cost.decode_s(1, 0) == pytest.approx(weights / 2.039e12)
    assert cost.decode_s(1, 1000) - cost.decode_s(1, 0) == pytest.approx(1000 * 524_288 / 2.039e12)


@given(PAIRS, st.integers(1, 8192), st.integers(0, 100_000), st.integers(0, 10**7))
def test_the_step_cost_is_the_formula(
    pair: tuple[str, str], tokens: int, context: int, attention: int
) -> None:
    model, gpu = MODELS[pair[0]], GPUS[pair[1]]
    cost = roofline_cost(model, gpu)
    bandwidth, peak = gpu.bandwidth_bytes_per_s * EFFICIENCY, gpu.peak_flops * EFFICIENCY
    kv_bytes = 2 * model.layers * model.kv_heads * model.head_dim * 2
    matrices = max(model.read_parameters * 2 / bandwidth, tokens * 2 * model.read_parameters / peak)
    decode = matrices + context * kv_bytes / bandwidth
    assert cost.decode_s(tokens, context) == pytest.approx(decode, rel=1e-9)
    scores = attention * 4 * model.layers * model.heads * model.head_dim / peak
    assert cost.mixed_s(0, context, 1, tokens, attention) == pytest.approx(decode + scores, rel=1e-9)


def test_a_slow_memory_and_a_slower_core_leave_no_bend() -> None:
    slow = Gpu("slow", 2**36, 1e12, 1e11)
    cost = roofline_cost(VICUNA, slow, 1.0)
    assert cost.decode_s(7, 0) == pytest.approx(7 * VICUNA.flops_per_token / 1e11)


def test_an_estimate_says_that_it_is_one() -> None:
    profile = estimate("vicuna-7b", "h200", date="2026-01-01")
    assert profile.provenance.kind == "roofline estimate"
    assert "0.75" in profile.provenance.description
    assert profile.name == "h200-vicuna-7b"
    assert profile.kv_tokens() > 200_000


@pytest.mark.parametrize(
    ("gpu", "options", "message"),
    [
        ("H200", {"efficiency": 0.0}, "efficiency: 0.0 is not above 0"),
        ("H200", {"efficiency": 1.1}, "efficiency: 1.1 is not above 0"),
        ("H200", {"utilization": 2.0}, "utilization: 2.0"),
        ("TPU", {}, "'TPU' is unknown; the known ones are A100-80GB, H100"),
    ],
)
def test_bad_estimates_are_refused(gpu: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate("vicuna-7b", gpu, **options)


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no room"):
        estimate("llama-3.1-70b", "L40S")


def test_the_way_that_is_named_fits() -> None:
    with pytest.raises(InputError, match=r"2 times as many GPUs .* or weights of half as many bits"):
        estimate("llama-3.1-70b", "H100")
    for way in ("tensor_parallel=2", "weight_bits=8"):
        made = apply(estimate("vicuna-7b", "H200"), ["gpu=H100", "model=llama-3.1-70b", way])
        assert made.kv_tokens() > 0
