"""Of which operations, GPUs and versions there are tables; most of it needs the extra `kernels`."""

from __future__ import annotations

import pytest

from sim.hardware import kernels
from sim.hardware.composed import compose
from traces.errors import InputError

from .needs import needs_kernels


@needs_kernels
def test_attention_that_was_measured_over_a_small_cache_alone_is_refused_naming_it() -> None:
    with pytest.raises(InputError, match=r"with kv=fp8 alone\)"):
        compose("Qwen/Qwen3-32B-FP8@h200,tp=2,engine=trtllm")
    assert compose("Qwen/Qwen3-32B-FP8@h200,tp=2,engine=trtllm,kv=fp8").memory


@needs_kernels
@pytest.mark.parametrize("gpu", kernels.MEMORY_BYTES)
def test_memory_of_gpus_is_what_the_package_has(gpu: str) -> None:
    assert kernels.gpu_of(gpu).memory_bytes == kernels.MEMORY_BYTES[gpu]


@needs_kernels
@pytest.mark.parametrize(("gpu", "dtype"), [("a100-80gb", "fp8"), ("h200", "nvfp4")])
def test_a_gpu_without_such_operations_is_named(gpu: str, dtype: str) -> None:
    with pytest.raises(InputError, match=f"{gpu} has no operations in {dtype}$"):
        compose(f"llama-3.1-8b@{gpu},dtype={dtype}")


@pytest.mark.parametrize(
    ("gpu", "meant"),
    [
        ("A100", "a100-80gb"),
        ("H100-80GB", "h100"),
        ("NVIDIA H200", "h200"),
        ("l40", "l40s"),
        ("h2000", "h200"),
    ],
)
def test_a_gpu_by_another_name_is_told_which_one_is_meant(gpu: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"; did you mean {meant}\?$"):
        kernels.system_of(gpu)


@needs_kernels
def test_a_version_without_tables_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(InputError, match=r"no tables of version 0\.1\.0 of vllm on h200_sxm \(0\.24\.0, "):
        compose("llama-3.1-8b@h200,engine=vllm:0.1.0")


@needs_kernels
def test_heads_that_were_never_measured_are_refused() -> None:
    with pytest.raises(InputError, match=r"32 heads with 32 KV heads .* was not measured for vllm .*sglang"):
        compose("vicuna-7b@h200,engine=vllm")
    with pytest.raises(
        InputError, match=r", over a KV cache in fp8, was not measured .*; try kv=bf16, another"
    ):
        compose("llama-3.1-8b@a100-80gb,kv=fp8")
    with pytest.raises(InputError, match=r"128 heads with 8 KV heads .* \(up to 96 heads\)"):
        compose("meta-llama/Meta-Llama-3.1-405B@b300,dtype=nvfp4,engine=trtllm")  # no prompts of so many
