from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.hardware.hugging_face import config_of, read_config, shape_of
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
