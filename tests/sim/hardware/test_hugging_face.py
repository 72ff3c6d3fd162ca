from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.hardware.hugging_face import config_of, dtype_of, not_in_it, read_config, shape_of
from sim.hardware.model_shape import MODELS, ModelShape
from traces.errors import InputError


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
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
    ],
)
def test_the_format_of_a_checkpoint(said: dict[str, Any] | None, dtype: str) -> None:
    assert dtype_of({"quantization_config": said}, "m") == dtype


@pytest.mark.parametrize("said", [{"quant_method": "awq", "bits": 4}, {"quant_method": "mxfp4"}, {"bits": 4}])
def test_a_format_without_tables_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"quantised by .* no tables; dtype=bf16, fp8"):
        dtype_of({"quantization_config": said}, "m")


def test_what_is_left_out_is_said() -> None:
    window = {"sliding_window": 4096, "max_position_embeddings": 32_768}
    assert "window of 4,096 tokens is not in it" in not_in_it(window)[0]
    assert not not_in_it(window | {"use_sliding_window": False})
    assert not not_in_it({"sliding_window": 131_072, "max_position_embeddings": 131_072})
    assert "MTP" in not_in_it({"num_nextn_predict_layers": 1})[0]
