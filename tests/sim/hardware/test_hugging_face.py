from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.hardware.hugging_face import (
    check_sizes,
    config_of,
    dtype_of,
    has_scales_of_kv,
    not_in_it,
    read_config,
    shape_of,
    without_unknown_formats,
)
from sim.hardware.model_shape import MODELS, ModelShape
from traces.errors import InputError

FLOAT8, FLOAT4 = ({"num_bits": bits, "type": "float"} for bits in (8, 4))


@pytest.mark.parametrize("shape", MODELS.values(), ids=list(MODELS))
def test_a_shape_survives_its_configuration(shape: ModelShape) -> None:
    assert shape_of(json.loads(json.dumps(config_of(shape))), shape.name) == shape


def test_experts_and_latent_attention_have_no_such_shape() -> None:
    assert shape_of({"model_type": "deepseek_v3"}, "m") is None


def test_a_folder_or_its_file(tmp_path: Path) -> None:
    config = config_of(MODELS["vicuna-7b"])
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "no config.json"), ("{}", "architectures")]
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_config(tmp_path)


def test_a_size_that_is_missing_is_named() -> None:
    config = config_of(MODELS["vicuna-7b"]) | {"hidden_size": None}
    with pytest.raises(InputError, match="hidden_size is None"):
        shape_of(config, "m")


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        (None, "bf16"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": FLOAT8, "input_activations": FLOAT8}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": FLOAT8 | {"strategy": "block"}, "input_activations": FLOAT8}
                },
            },
            "fp8-block",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": FLOAT4, "input_activations": FLOAT4}},
            },
            "nvfp4",
        ),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, "fp8"),
    ],
)
def test_the_format_of_a_checkpoint(said: dict[str, Any] | None, dtype: str) -> None:
    assert dtype_of({"quantization_config": said}, "m") == dtype


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "mxfp4"},
        {"bits": 4},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": FLOAT8}}},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": FLOAT4, "input_activations": FLOAT8}},
        },
        {"quant_method": "compressed-tensors", "config_groups": [1]},
    ],
)
def test_a_format_without_tables_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"quantised by .* no tables; dtype=bf16, fp8"):
        dtype_of({"quantization_config": said}, "m")


@pytest.mark.parametrize("said", ["fp8", [1], 3])
def test_what_is_no_table_is_refused(said: Any) -> None:
    with pytest.raises(InputError, match=r"quantization_config is .* not a table"):
        dtype_of({"quantization_config": said}, "m")


def test_a_format_that_stands_in_a_file_beside_it_is_found(tmp_path: Path) -> None:
    """As ModelOpt writes it: `config.json` itself does not say that weights are quantised."""
    config = config_of(MODELS["llama-3.1-8b"])
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    beside = tmp_path / "hf_quant_config.json"
    quantised = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    beside.write_text(json.dumps({"quantization": quantised}), encoding="utf-8")
    found = read_config(tmp_path)
    assert dtype_of(found, "m") == "nvfp4" and has_scales_of_kv(found)
    assert without_unknown_formats(found) == config
    beside.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"hf_quant_config.json: it does not say"):
        read_config(tmp_path)


def test_what_the_kernels_package_would_refuse_is_not_handed_to_it() -> None:
    for said, is_kept in (({"quant_method": "fp8"}, True), ({"quant_method": "awq"}, False), ("x", False)):
        config = {"quantization_config": said, "vocab_size": 3}
        assert ("quantization_config" in without_unknown_formats(config)) == is_kept


@pytest.mark.parametrize(
    "kind", ["llama", "mistral", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3", "kimi_k2"]
)
@pytest.mark.parametrize("value", [None, 0, -1, "32", 32.5, True, [32]])
def test_sizes_that_are_none_are_refused_in_every_family(kind: str, value: Any) -> None:
    experts = (
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_intermediate_size",
        "kv_lora_rank",
    )
    whole = config_of(MODELS["llama-3.1-8b"]) | dict.fromkeys((*experts, "num_experts_per_tok"), 8)
    whole |= {"model_type": kind}
    check_sizes(whole, "m")
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        with pytest.raises(InputError, match=f"model m: {key} is .* in its config.json"):
            check_sizes(whole | {key: value}, "m")
    for key in ("num_key_value_heads", "head_dim"):
        if value is not None:
            with pytest.raises(InputError, match=f"model m: {key} is"):
                check_sizes(whole | {key: value}, "m")


def test_what_is_left_out_is_said() -> None:
    window = {"sliding_window": 4096, "max_position_embeddings": 32_768}
    assert "window of 4,096 tokens is not in it" in not_in_it(window)[0]
    assert not not_in_it(window | {"use_sliding_window": False})
    assert not not_in_it({"sliding_window": 131_072, "max_position_embeddings": 131_072})
    assert not not_in_it(window | {"sliding_window": "4096"})
    assert "MTP" in not_in_it({"num_nextn_predict_layers": 1})[0]
