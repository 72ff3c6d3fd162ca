from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from traces.errors import InputError

torch = pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines import model  # noqa: E402
from sim.hardware.model_shape import known_model  # noqa: E402


def test_the_tiny_model_says_what_it_is(loaded):
    assert loaded.shape.layers == len(loaded.model.model.layers) == 4
    assert loaded.label == "tiny (random weights), float32, cpu"
    assert loaded.shape.weight_bytes == loaded.weight_bytes
    assert loaded.tokenizer is None


def test_forced_lengths_know_no_end_token(loaded):
    assert loaded.model.generation_config.eos_token_id is None
    assert loaded.eos_tokens == {2}


def test_the_same_seed_makes_the_same_weights():
    first, again, other = (model.load("tiny", seed=s).model.lm_head.weight for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_vicunas_configuration_has_exactly_its_shape():
    shape = known_model("vicuna-7b")
    config = model._config(shape)
    with torch.device("meta"):
        made = model.LlamaForCausalLM(config)
    assert sum(p.numel() for p in made.parameters()) == shape.num_parameters == 6_738_415_616
    assert config.intermediate_size == 11008


def test_a_shape_keeps_the_size_of_its_elements():
    assert model.load("tiny", dtype="bfloat16").shape.bytes_per_element == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "tiny", "weights": "pretrained"}, "random weights only"),
        ({"name": "tiny", "dtype": "int3"}, "'int3' is not one of float32"),
        ({"name": "tiny", "device": "tpu"}, "'tpu' is not cpu, cuda"),
        ({"name": "qwen2.5-7b", "weights": "random"}, "biases"),
        ({"name": "./no/such/folder"}, "cannot be loaded"),
        ({"name": "./no/such/folder", "weights": "random"}, "nor readable"),
    ],
)
def test_what_cannot_be_had_is_one_line(arguments, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=says) as caught:
        model.load(**arguments)
    assert "\n" not in str(caught.value)


def test_scripts_and_reports_load_no_torch_before_they_need_it():
    modules = "real.validate, real.calibrate, real.validation.report, real.calibration.cells"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)
