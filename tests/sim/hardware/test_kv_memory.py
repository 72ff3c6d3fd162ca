"""Bytes per token and what fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware.kv_memory import GIB, KvMemory, kv_bytes_per_token
from sim.hardware.model_shape import MODELS, ModelShape, known_model
from traces.errors import InputError


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vicuna-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("qwen2.5-7b", 7_615_616_512),
    ],
)
def test_parameters_are_those_of_the_published_checkpoints(name: str, parameters: int) -> None:
    assert MODELS[name].num_parameters == parameters
    assert MODELS[name].weight_bytes == 2 * parameters


def test_kv_bytes_per_token() -> None:
    assert kv_bytes_per_token(MODELS["vicuna-7b"]) == 524_288
    # Eight of 32 heads keep keys and values.
    assert kv_bytes_per_token(MODELS["llama-3.1-8b"]) == 131_072


def test_tied_embeddings_are_stored_once_and_read_whole() -> None:
    shape = ModelShape("tiny", 1, 8, 16, 2, 1, 4, 100)
    tied = ModelShape("tiny", 1, 8, 16, 2, 1, 4, 100, tied_embeddings=True)
    assert shape.num_parameters - tied.num_parameters == 800
    assert shape.read_parameters == tied.read_parameters


def test_capacity_golden() -> None:
    memory = KvMemory(80 * GIB, 0.9, 14 * GIB, 2 * GIB, 524_288)
    # 72 - 14 - 2 = 56 GiB at 2048 tokens a GiB.
    assert memory.capacity_tokens == 56 * 2048
    assert memory.capacity_blocks() == 56 * 2048 // 16
    assert memory.kv_bytes == 56 * GIB


@given(
    st.integers(10, 200),
    st.floats(0.5, 1.0),
    st.integers(0, 2 * GIB),
    st.integers(0, GIB),
    st.integers(1, 10**6),
)
def test_what_fits_fits_and_one_more_does_not(
    gib: int, utilization: float, weights: int, workspace: int, per_token: int
) -> None:
    memory = KvMemory(gib * GIB, utilization, weights, workspace, per_token)
    used = memory.capacity_tokens * per_token + weights + workspace
    assert used <= gib * GIB * utilization < used + per_token + 1
    assert memory.capacity_blocks(16) * 16 <= memory.capacity_tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utilization": 0.0}, "utilization: 0.0 is not above 0 and at most 1"),
        ({"utilization": 1.5}, "utilization: 1.5 is not above 0"),
        ({"weight_bytes": 90 * GIB}, "leaves no room for KV cache beside 90.0 GiB of weights"),
        ({"workspace_bytes": -1}, "workspace_bytes: -1 is below 0"),
        ({"bytes_per_token": 0}, "bytes_per_token: 0 is below 1"),
    ],
)
def test_impossible_memory_is_refused(change: dict[str, Any], message: str) -> None:
    good = {
        "gpu_bytes": 80 * GIB,
        "utilization": 0.9,
        "weight_bytes": GIB,
        "workspace_bytes": GIB,
        "bytes_per_token": 1,
    }
    with pytest.raises(InputError, match=message):
        KvMemory(**{**good, **change})


@pytest.mark.parametrize(
    ("gib", "ways"),
    [
        (
            90,
            "2 times as many GPUs (tensor_parallel) or weights of half as many bits (weight_bits) would fit",
        ),
        (150, "; 4 times as many GPUs (tensor_parallel) would fit"),
        (5000, "of workspace"),
    ],
)
def test_what_would_fit_is_named_where_a_model_does_not(gib: int, ways: str) -> None:
    with pytest.raises(InputError) as refused:
        KvMemory(80 * GIB, 0.9, gib * GIB, GIB, 1)
    assert ways in str(refused.value) and ("would fit" in ways) == ("would fit" in str(refused.value))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="heads: 3 is not a multiple of kv_heads, 2"):
        ModelShape("odd", 1, 8, 16, 3, 2, 4, 100)
    with pytest.raises(InputError, match="layers: 0 is below 1"):
        ModelShape("none", 0, 8, 16, 2, 2, 4, 100)
    with pytest.raises(InputError, match="'gpt-9' is unknown; the known models are vicuna-7b"):
        known_model("gpt-9")
