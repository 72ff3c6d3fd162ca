"""The two scripts on an engine that schedules by itself, without vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from traces.errors import InputError

pytest.importorskip("torch", reason="the real extra is not installed")

from real import calibrate as calibrate_script
from real import validate as validate_script
from real.engines import vllm
from real.options import EngineFlags
from real.validation import own_experiment, validation
from sim.cli import run_script
from sim.hardware import catalogue as profiles
from sim.hardware.fitting import read_steps
from tests.real.own_engine import OwnEngine

TRACE = "lognormal:prompt_median=6,max_prompt_tokens=12,output_median=8,output_sigma=0.6,max_output_tokens=20"
SMALL = ["--engine", "vllm", "--trace", TRACE, "--num-prompts", "12", "--threads", "1"]
POLICY = "continuous:max_num_seqs=4,max_num_batched_tokens=64"


def run(capsys: Any, script: Any, *arguments: Any) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)"""
    status = 0
    try:
        run_script(script, [*map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 0
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def engines(monkeypatch: Any) -> list[OwnEngine]:
    """Stand-ins for vLLM, in the order in which they are started; calibrated with few visits."""
    started: list[OwnEngine] = []

    def start(flags: EngineFlags, loaded: Any, sizes: Any) -> OwnEngine:
        assert loaded.model.device.type == "meta" and loaded.device.type == "cpu"
        started.append(OwnEngine(loaded, sizes))
        return started[-1]

    monkeypatch.setattr(EngineFlags, "start_own", start)
    monkeypatch.setattr(vllm, "require", lambda: None)
    monkeypatch.setattr(own_experiment, "PASSES", 1)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)
    return started


def test_policies_run_are_simulated_and_compared_decision_by_decision(
    capsys: Any, tmp_path: Any, engines: list[OwnEngine], monkeypatch: Any
) -> None:
    monkeypatch.setattr(own_experiment, "TURN_ITERATIONS", 3)
    policies = f"{POLICY};{POLICY},order=shortest-predicted"
    arguments = [*SMALL, "--policies", policies, "--repeat", 2, "--request-rate", 900]
    status, out, err = run(capsys, validate_script.validate, *arguments, "--save-result", tmp_path / "v.json")
    assert status == 0 and "NO GPU HERE" in err
    saved = json.loads((tmp_path / "v.json").read_text())
    assert saved["ran"] == "vllm on tiny (random weights), float32, cpu"
    assert saved["clock"].startswith("processor time at an even pace") and saved["arrivals"] == "over time"
    assert saved["versions"]["vllm"] == "made up" and saved["kv_tokens"] == 4096
    assert saved["equal_decisions"] and "2 of 2 equal" in out
    assert [(c["policy"], c["predictor"]) for c in saved["cases"]] == [
        (policy, "oracle") for policy in policies.split(";")
    ]
    for case in saved["cases"]:
        assert case["completed"] == [12, 12]
        runs = case["decisions"]
        assert len(runs) == 2 and all(r["iterations"] > 8 and not r["first_difference"] for r in runs)
        assert set(case["metrics"]["mean_ttft_ms"]) == {
            "predicted", "measured", "error_fraction", "noise_fraction"
        }  # fmt: skip
    # The calibration's scheduler, and those of three rounds of two runs, which take turns.
    (engine,) = engines
    assert [settings.priority for settings in engine.used].count(True) == 3 and len(engine.used) == 7
    assert engine.num_resumed > 20


def test_answers_end_where_the_model_ends_them(capsys: Any, tmp_path: Any, engines: list[OwnEngine]) -> None:
    policies = f"{POLICY};{POLICY},order=shortest-predicted"
    arguments = [*SMALL, "--policies", policies, "--repeat", 2, "--lengths", "model", "--max-new-tokens", 20]
    saved = tmp_path / "v.json"
    status, _, err = run(capsys, validate_script.validate, *arguments, "--save-result", saved)
    assert status == 0 and "finds the model's own lengths" in err
    result = json.loads(saved.read_text())
    assert result["lengths"] == "model" and result["equal_decisions"]
    # Those of a first run, a round that is not counted, and two of two policies; no run is broken off.
    (engine,) = engines
    assert engine.num_ended_by_tokens == 12 * (1 + 3 * 2)
    assert engine.num_resumed <= 2 * 2


def test_an_engine_that_decides_otherwise_is_told_apart(
    capsys: Any, engines: list[OwnEngine], monkeypatch: Any
) -> None:
    def start(flags: EngineFlags, loaded: Any, sizes: Any) -> OwnEngine:
        return OwnEngine(loaded, sizes, lambda number, tokens: {**tokens, next(iter(tokens)): 9})

    monkeypatch.setattr(EngineFlags, "start_own", start)
    arguments = [*SMALL, "--policies", POLICY, "--repeat", 1]
    _, out, _ = run(capsys, validate_script.validate, *arguments)
    assert json.loads(out.splitlines()[-1])["equal_decisions"] is False
    assert f"{POLICY} (oracle): run 1 decides otherwise from decision 0" in out


def test_its_steps_are_timed_and_a_profile_is_fitted(
    capsys: Any, tmp_path: Any, engines: list[OwnEngine]
) -> None:
    out = tmp_path / "here.json"
    sizes = ["--max-rows", 4, "--max-context", 24, "--max-prompt", 12, "--repeats", 2, "--threads", 1]
    status, said, _ = run(capsys, calibrate_script.calibrate, "--out", out, "--engine", "vllm", *sizes)
    assert status == 0 and json.loads(said.splitlines()[-1])["engine"] == "vllm"
    made = profiles.load(str(out))
    assert made.engine == "vllm" and made.kv_tokens() == 4096 and not made.async_scheduling
    assert made.provenance.versions["vllm"] == "made up"
    steps = read_steps(tmp_path / "here.steps.csv")
    assert {*steps["num_decode"]} == {0, 1, 2, 4} and (steps["prefill_tokens"] <= 48).all()
    assert ((steps["num_decode"] > 0) & (steps["num_prefill"] > 0)).any()
    # With that profile nothing is calibrated.
    arguments = [*SMALL, "--policies", POLICY, "--repeat", 1, "--profile", out]
    status, said, _ = run(capsys, validate_script.validate, *arguments)
    assert status == 0 and json.loads(said.splitlines()[-1])["clock"] == "wall"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--policies", "vanilla"], "policy vanilla: engine vllm schedules by itself"),
        (["--predictors", "model"], "predictor model: engine vllm is not asked"),
        (["--compile-layers"], "compile_layers: engine vllm"),
        (["--quality"], "quality: engine vllm"),
        (
            ["--policies", "continuous:chunked=off,max_num_seqs=4,max_num_batched_tokens=14"],
            "max_num_batched_tokens: 14 must be at least",
        ),
        (["--adapter", "somewhere"], "adapter somewhere: engine vllm"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    capsys: Any, engines: list[OwnEngine], arguments: list[str], named: str
) -> None:
    status, out, err = run(capsys, validate_script.validate, *SMALL, *arguments)
    assert status == 2 and not out and named in err.splitlines()[-1] and not engines


def test_prompts_that_begin_alike_need_a_policy_that_says_whether_they_are_found(
    capsys: Any, engines: list[OwnEngine], tmp_path: Any
) -> None:
    path = tmp_path / "alike.csv"
    path.write_text("prompt_tokens,output_tokens,prefix_id,prefix_tokens\n" + "40,3,0,32\n" * 4)
    arguments = ["--engine", "vllm", "--trace", path, "--threads", 1, "--repeat", 1, "--policies"]
    status, _, err = run(capsys, validate_script.validate, *arguments, POLICY)
    assert status == 2 and "prefix_caching=own, but prompts of" in err.splitlines()[-1] and not engines
    off = f"{POLICY},prefix_caching=off"
    assert run(capsys, validate_script.validate, *arguments, off)[0] == 0


@pytest.mark.parametrize(
    "command",
    [(validate_script.validate, *SMALL), (calibrate_script.calibrate, "--engine", "vllm", "--out", "x.json")],
)
def test_where_there_is_no_vllm_that_is_one_line(capsys: Any, monkeypatch: Any, command: Any) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    status, out, err = run(capsys, *command)
    assert status == 2 and not out
    assert "engine vllm: vLLM is not installed here; `make vllm`" in err.splitlines()[-1]


def test_only_two_scripts_have_it(loaded: Any) -> None:
    with pytest.raises(InputError, match="'vllm' is not one of transformers-eager, cuda-graphs"):
        EngineFlags(engine="vllm").start(loaded)
