"""Profiles from measured kernels; most of it needs the extra `kernels`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from sim.cli import main
from sim.hardware import describe, kernels, load, overrides
from sim.hardware.composed import compose, composed, config_for, decides_ahead
from sim.hardware.composing import Iteration
from sim.hardware.deployment import Deployment
from sim.hardware.host import NO_HOST
from sim.hardware.hugging_face import config_of
from sim.hardware.model_shape import MODELS
from sim.hardware.profile import KINDS, Profile
from sim.hardware.shipped import DEPLOYMENTS
from traces.datasets import cache_folder
from traces.errors import InputError

from .needs import needs_kernels

TEXT = "llama-3.1-8b@h200,tp=1,dtype=fp8,engine=vllm"


@pytest.fixture(scope="module")
def profile() -> Profile:
    return compose(TEXT, date="2026-11-29")


def test_kinds_from_best_to_worst() -> None:
    assert KINDS == (
        "measured",
        "composed from measured kernels",
        "published",
        "what-if",
        "roofline estimate",
    )


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    monkeypatch.setattr(kernels, "installed", lambda: None)
    with pytest.raises(InputError, match=r"is not installed; pip install 'seqsched\[kernels\]'"):
        load(TEXT)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "profile",
                "compose",
                "--gpu",
                "h200",
                "--model",
                "llama-3.1-8b",
                "--out",
                str(tmp_path / "p.json"),
            ]
        )
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "seqsched[kernels]" in said
    assert not list(tmp_path.iterdir())


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "installed", lambda: "0.11.0")
    with pytest.raises(InputError, match=r"0\.12\.0 is needed and is of version 0\.11\.0"):
        kernels.require()


def test_a_copy_that_is_kept_needs_no_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = load("h200-vicuna-7b")
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    monkeypatch.setattr("sim.hardware.composed.compose", lambda asked: made)
    assert composed(TEXT) == made
    monkeypatch.setattr("sim.hardware.composed.compose", lambda asked: pytest.fail("composed again"))
    assert load("llama-3.1-8b@H200,engine=vllm,dtype=fp8") == made
    with pytest.raises(pytest.fail.Exception):
        load("llama-3.1-8b@h200,engine=sglang,dtype=fp8")


def test_a_configuration_that_changes_is_composed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    made = load("h200-vicuna-7b")
    asked: list[Deployment] = []

    def record(deployment: Deployment) -> Profile:
        asked.append(deployment)
        return made

    monkeypatch.setattr("sim.hardware.composed.compose", record)
    file = tmp_path / "config.json"
    for layers in (32, 32, 33):
        config = config_of(MODELS["vicuna-7b"]) | {"num_hidden_layers": layers}
        file.write_text(json.dumps(config), encoding="utf-8")
        composed(f"{file}@h100,engine=sglang")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("llama-3.1-8b@h20", "gpu: 'h20' has no tables of measured kernels"),
        ("llama-3.1-8b@h200,engine=vlm", "did you mean vllm"),
    ],
)
def test_what_the_tables_do_not_have_is_refused_without_the_extra_too(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(text)


def test_a_family_that_is_not_put_together_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["M"], "model_type": "mamba"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"family 'mamba' \(linear attention\), whose iterations"):
        config_for(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("gpt_oss", "window of the context"), ("llama4", "chunks of the context"), ("gemma2", "window of the")],
)
def test_a_family_with_other_layers_is_refused_saying_which(tmp_path: Path, kind: str, message: str) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["M"], "model_type": kind}), encoding="utf-8"
    )
    with pytest.raises(InputError, match=message) as raised:
        config_for(str(tmp_path))
    assert "\n" not in str(raised.value)


@needs_kernels
@pytest.mark.parametrize("kind", ["mistral", "phi3"])
def test_families_with_the_operations_of_llama_are_put_together_as_it(tmp_path: Path, kind: str) -> None:
    config = config_of(MODELS["llama-3.1-8b"])
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"architectures": ["Other"], "model_type": kind}), encoding="utf-8"
    )
    made = compose(f"{tmp_path}@h200,dtype=fp8")
    assert made.step_cost == compose(TEXT).step_cost


def test_half_a_copy_is_composed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = load("h200-vicuna-7b")
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    monkeypatch.setattr("sim.hardware.composed.compose", lambda asked: made)
    composed(TEXT)
    (kept,) = (tmp_path / "profiles").iterdir()
    whole = kept.read_text(encoding="utf-8")
    kept.write_text(whole[:300], encoding="utf-8")
    assert composed(TEXT) == made and kept.read_text(encoding="utf-8") == whole


def test_where_nothing_can_be_kept_it_is_composed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = load("h200-vicuna-7b")
    monkeypatch.setattr("sim.hardware.composed.compose", lambda asked: made)
    for folder in (tmp_path / "a file", Path("/proc/no/such")):
        monkeypatch.setenv("SEQSCHED_DATA", str(folder))
        if folder.parent == tmp_path:
            folder.write_text("", encoding="utf-8")
        assert composed(TEXT) == made
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    monkeypatch.setattr("traces.files.os.access", lambda *_: False)
    (tmp_path / "profiles").mkdir()
    assert composed(TEXT) == made  # written
    (kept,) = (tmp_path / "profiles").iterdir()
    kept.write_text("{", encoding="utf-8")
    assert composed(TEXT) == made and kept.read_text(encoding="utf-8") == "{"  # write-protected
    kept.unlink()
    kept.mkdir()
    assert composed(TEXT) == made

    def homeless(*_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("SEQSCHED_DATA")
    monkeypatch.setattr("platformdirs.user_cache_dir", homeless)
    assert composed(TEXT) == made
    with pytest.raises(InputError, match="cache folder: could not determine the home directory"):
        cache_folder()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_shipped_ones_say_what_they_are_and_whose(name: str) -> None:
    profile, asked = load(name), Deployment.parse(DEPLOYMENTS[name])
    assert profile.provenance.kind == "composed from measured kernels"
    assert "Apache-2.0" in profile.provenance.source and profile.num_gpus == asked.tp
    assert profile.name == name and profile.gpu is not None and profile.gpu.name.lower() == asked.gpu
    assert all(ways["unseen_sizes"]["mean"] < 0.03 for ways in profile.provenance.residuals.values())


@needs_kernels
@pytest.mark.parametrize("name", ["h200-llama-3.1-8b-fp8-vllm", "h100-llama-3.1-70b-fp8-tp4-vllm"])
def test_the_shipped_ones_are_what_the_kernels_give(name: str) -> None:
    shipped = load(name)
    assert compose(DEPLOYMENTS[name], name=name, date=shipped.provenance.date) == shipped


@needs_kernels
def test_a_composed_profile_says_what_it_is(profile: Profile) -> None:
    rows = dict(describe(profile))
    assert rows["provenance"] == "composed from measured kernels"
    assert "Nobody measured these iterations" in rows["description"]
    assert "Apache-2.0" in rows["source"] and "vllm 0.24.0" in rows["versions"]
    assert "of the time" in rows["grid"] and profile.async_scheduling
    assert profile.model is not None and profile.model.weight_bits == 8 and profile.engine == "vllm-0.24.0"
    assert profile.kv_tokens() > 800_000


@needs_kernels
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "llama-3.1-70b@h100,tp=4,dtype=fp8,kv=fp8,engine=trtllm",
        "llama-3.1-8b@h100,engine=sglang",
        "Qwen/Qwen3-30B-A3B@h200,tp=4,ep=4",
        "deepseek-ai/DeepSeek-V3@h200,tp=8,dtype=fp8-block",
        "deepseek-ai/DeepSeek-V3@h200,tp=8,ep=8,dtype=fp8-block,engine=sglang",
    ],
)
def test_unseen_sizes_are_within_three_percent_and_composed_in_seconds(text: str) -> None:
    start = time.perf_counter()
    made = compose(text)
    assert time.perf_counter() - start < 20
    for ways in made.provenance.residuals.values():
        assert ways["unseen_sizes"]["mean"] < 0.03


@needs_kernels
@pytest.mark.parametrize(
    ("text", "model", "heads"),
    [
        ("llama-3.1-8b@h200,dtype=bf16", "meta-llama/Meta-Llama-3.1-8B", (32, 8, 128)),
        ("llama-3.1-70b@h200,tp=4,dtype=fp8,engine=trtllm", "meta-llama/Meta-Llama-3.1-70B", (16, 2, 128)),
        ("deepseek-ai/DeepSeek-V3@b200,tp=8,dtype=nvfp4,engine=trtllm", "deepseek-ai/DeepSeek-V3", None),
    ],
)
def test_contexts_beyond_those_looked_at_lie_on_a_line_that_is_off_by_so_much(
    text: str, model: str, heads: tuple[int, int, int] | None
) -> None:
    """Between 32,768 and 131,072 tokens, up to which the tables go; docs/profiles.md has the bounds."""
    asked = Deployment.parse(text)
    parts = kernels.Kernels(asked, model, heads and kernels.Attention(*heads))
    made, rng, errors = compose(text), np.random.default_rng(0), []
    for _ in range(150):
        num_seqs, context = (
            round(float(np.exp(rng.uniform(*np.log(ends))))) for ends in ((1, 64), (2**15, 2**17))
        )
        if num_seqs * context <= made.kv_tokens():
            iteration = Iteration(num_seqs, context)
            errors.append(abs(iteration.predicted(made.step_cost) / iteration.seconds(parts) - 1))
    print(f"{text}: mean {np.mean(errors):.1%}, at most {max(errors):.1%}")
    assert len(errors) > 50 and np.mean(errors) < 0.1 and max(errors) < 0.3


@needs_kernels
def test_the_iterations_are_those_of_the_package(profile: Profile) -> None:
    from aiconfigurator_core.sdk import EngineHandle

    handle = EngineHandle.compile(
        "meta-llama/Meta-Llama-3.1-8B",
        "h200_sxm",
        "vllm",
        gemm_quant_mode="fp8",
        kvcache_quant_mode="bfloat16",
    )
    for num_seqs, context in ((1, 1000), (37, 1000), (200, 500)):
        theirs = handle.decode_step_latency(num_seqs, context, 2)
        assert 1e3 * profile.step_cost.decode_s(num_seqs, num_seqs * context) == pytest.approx(
            theirs, rel=0.03
        )


@needs_kernels
def test_attention_by_data_parallelism_holds_a_sequence_once_and_not_on_every_gpu() -> None:
    text = "deepseek-ai/DeepSeek-V3@h200,tp=8,ep=8,engine=sglang"
    whole, divided = compose(text), compose(f"{text},dp_attention=8")
    assert divided.num_gpus == whole.num_gpus == 8
    assert divided.kv_tokens() > 5 * whole.kv_tokens()
    for ways in divided.provenance.residuals.values():
        assert ways["unseen_sizes"]["mean"] < 0.03
    # A batch below the number of groups is one sequence a group; a large one costs less of each GPU's time.
    assert divided.step_cost.decode_s(2, 2000) == pytest.approx(divided.step_cost.decode_s(8, 8000), rel=0.02)
    large = (256, 256 * 8192)
    assert divided.step_cost.decode_s(*large) < 0.9 * whole.step_cost.decode_s(*large)
    assert "evenly over 8 groups of GPUs" in divided.provenance.description


@needs_kernels
def test_a_dense_model_has_no_such_attention() -> None:
    with pytest.raises(InputError, match=r"dp_attention=2 is for models of experts, .* \(--replicas 2\)"):
        compose("llama-3.1-8b@h200,tp=2,dp_attention=2")


@needs_kernels
def test_what_a_model_cannot_be_divided_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ep=2 is for models of experts, which llama-3\.1-8b is not"):
        compose("llama-3.1-8b@h200,tp=2,ep=2")
    with pytest.raises(InputError, match="tp: 7 neither divides the 4 KV heads nor is a multiple of them"):
        compose("qwen2.5-7b@h200,tp=7")


@needs_kernels
def test_a_checkpoint_is_composed_in_the_format_that_a_file_beside_it_says() -> None:
    """The configuration of these models says nothing of their weights' 8 bits."""
    made = compose("nvidia/Llama-3.1-70B-Instruct-FP8@h200,tp=4")
    assert "the checkpoint has scales for 8 (kv=fp8)" in made.provenance.description
    as_said = compose("nvidia/Llama-3.1-70B-Instruct-FP8@h200,tp=4,dtype=fp8,kv=fp8")
    assert "scales for 8" not in as_said.provenance.description
    other = compose("llama-3.1-70b@h200,tp=4,dtype=fp8")
    assert (made.step_cost, made.memory) == (other.step_cost, other.memory)


@needs_kernels
def test_a_checkpoint_without_tables_is_composed_as_what_dtype_says(tmp_path: Path) -> None:
    config = config_of(MODELS["llama-3.1-8b"]) | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert compose(f"{tmp_path}@h200,dtype=fp8").step_cost == compose(TEXT).step_cost
    with pytest.raises(InputError, match="quantised by awq, of which there are no tables; dtype=bf16"):
        compose(f"{tmp_path}@h200")


def test_whether_an_engine_decides_ahead_is_a_matter_of_its_version() -> None:
    assert decides_ahead("vllm", "0.24.0") and not decides_ahead("vllm", "0.13.2")
    assert decides_ahead("trtllm", "1.3.0rc20") and decides_ahead("sglang", "0.5.14")


@needs_kernels
def test_a_model_that_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(InputError) as raised:
        compose("llama-3.1-70b@l40s")
    assert "\n" not in str(raised.value) and "memory" in str(raised.value)


@needs_kernels
def test_a_change_makes_it_a_what_if_or_an_estimate(profile: Profile) -> None:
    assert overrides.apply(profile, "scale=1.1").provenance.kind == "what-if"
    assert overrides.apply(profile, "gpu=H100").provenance.kind == "roofline estimate"


@needs_kernels
def test_the_command_writes_what_the_text_means(tmp_path: Path, profile: Profile) -> None:
    out = tmp_path / "p.json"
    flags = "--gpu h200 --model llama-3.1-8b --engine vllm --dtype fp8 --out"
    main(["profile", "compose", *flags.split(), str(out)])
    assert load(out).step_cost == profile.step_cost


@needs_kernels
def test_the_host_of_an_engine_is_in_it_unless_it_is_to_have_none(profile: Profile) -> None:
    bare = compose(f"{TEXT},host=none", date="2026-11-29")
    assert profile.host.name == "vllm" and bare.host == NO_HOST
    assert profile.step_cost == bare.step_cost and profile.iteration_cost != bare.iteration_cost
    assert "the terms of vllm" in profile.provenance.description
    assert "No time on the host" in bare.provenance.description
