"""Measured servers: which rows are read, how they are replayed, and what an error is."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.hardware import kernels
from sim.hardware.deployment import Deployment
from sim.parallel.runner import Workers
from sim.studies import measured_servers as study
from sim.studies.measured_servers import Prediction, Replayed, Server, errors, figures, servers
from traces.errors import InputError

needs_kernels = pytest.mark.skipif(
    kernels.installed() != kernels.VERSION, reason=f"{kernels.PACKAGE} {kernels.VERSION} is not installed"
)
SEVENTY = Server(
    Deployment("llama-3.1-70b", "h200", "trtllm", 4, dtype="fp8", kv="fp8"), 1024, 1024, 8, 250.0, 8.0, True
)
ROW = {
    "silicon_data_source": "source_file=2026-01-01.csv",
    "backend": "vllm",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm",
    "precision": "fp8",
    "mode": "agg",
    "isl": "1024",
    "osl": "512",
    "gemm_quant_mode": "",
    "batch_size": "16",
    "tp_size": "2",
    "pp_size": "1",
    "attention_dp_size": "",
    "moe_ep_size": "",
    "silicon_ttft_ms": "120.5",
    "silicon_tpot_ms": "9.5",
}

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Changes to a row, for each row → the file."""

    def write(*changes: dict[str, str]) -> Path:
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            rows = csv.DictWriter(file, ROW)
            rows.writeheader()
            rows.writerows({**ROW, **change} for change in changes)
        return path

    return write


def test_rows_that_nothing_was_fitted_on_are_read_only_to_judge(written: Written) -> None:
    eight = {"model_path": "meta-llama/Llama-3.1-8B-Instruct"}
    fitted = [
        {},
        {**eight, "backend": "sglang"},
        {**eight, "system": "h100_sxm", "tp_size": "2", "backend": "trtllm"},
    ]
    others = [
        {"system": "h100_sxm"},
        {"system": "b200_sxm"},
        {**eight},
        {**eight, "system": "h100_sxm", "tp_size": "4"},
        {"model_path": "Qwen/Qwen3-32B"},
    ]
    path = written(*fitted, *others)
    assert len(servers(path=path)[0]) == 3
    judged, left_out = servers(path=path, judge=True)
    assert len(judged) == 5 and not left_out
    assert {row.deployment.gpu for row in judged} == {"h100", "h200", "b200"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"system": "h200_sxm", "model_path": "x/Llama-3.1-8B-Instruct-FP8"}, "impossible as labelled"),
        ({"system": "gb200", "model_path": "Qwen/Qwen3-32B"}, "Qwen on GB200"),
        ({"system": "h100_sxm", "mode": "disagg"}, "servers of their own"),
        ({"system": "h100_sxm", "pp_size": "2"}, "pipeline parallel"),
        ({"system": "h100_sxm", "attention_dp_size": "4"}, "data-parallel attention"),
        ({"system": "abacus"}, "no tables of abacus"),
        ({"system": "h100_sxm", "precision": "int3"}, "number format int3"),
        ({"system": "h100_sxm", "silicon_ttft_ms": ""}, "no measured TTFT"),
    ],
)
def test_what_is_left_out_is_counted(change: dict[str, str], why: str, written: Written) -> None:
    rows, left_out = servers(path=written(change), judge=True)
    assert not rows and [why in reason for reason in left_out] == [True]


def test_a_row_is_the_deployment_that_it_names(written: Written) -> None:
    (row,), _ = servers(path=written({}))
    assert row.deployment == Deployment("llama-3.1-70b", "h200", "vllm", 2, dtype="fp8", kv="fp8")
    assert (row.prompt_tokens, row.output_tokens, row.concurrency) == (1024, 512, 16)
    assert (row.ttft_ms, row.tpot_ms, row.is_inference_max) == (120.5, 9.5, True)
    assert row.group == "llama-3.1-70b fp8, vllm, h200, InferenceMAX"
    (unknown,), _ = servers(path=written({"silicon_data_source": "source_file=/Users/x/a.csv"}))
    assert not unknown.is_inference_max and unknown.deployment.kv == "bf16"


def test_the_recipe_decides_lengths_and_engine() -> None:
    trace = SEVENTY.trace()
    assert len(trace) == 80 and trace.max_tokens is not None
    assert (trace.max_tokens == trace.output_tokens).all()
    assert trace.prompt_tokens.min() >= 819 and trace.prompt_tokens.max() <= 1024
    assert (trace.output_tokens == SEVENTY.trace().output_tokens).all()
    assert "rules=trtllm" in SEVENTY.policy and "batch_wait_timeout_iters=20" in SEVENTY.policy
    assert "max_num_batched_tokens=16384" in SEVENTY.policy
    for changed in (
        replace(SEVENTY, deployment=replace(SEVENTY.deployment, tp=8)),
        replace(SEVENTY, output_tokens=8192),
        replace(SEVENTY, is_inference_max=False),
    ):
        assert "batch_wait" not in changed.policy
    vllm = replace(SEVENTY, deployment=replace(SEVENTY.deployment, engine="vllm"))
    assert "max_num_seqs=8," in vllm.policy and "max_num_batched_tokens=8192" in vllm.policy
    assert "max_num_seqs=512" in replace(vllm, deployment=replace(vllm.deployment, gpu="b200")).policy


def test_figures_follow_from_ttft_and_tpot() -> None:
    found = figures(SEVENTY, 100.0, 10.0)
    assert found["ttft"] == 100 and found["tpot"] == 10
    assert found["rate"] == pytest.approx(8 / (0.1 + 0.01 * (0.9 * 1024 - 1)))


def test_errors_are_medians_over_the_rows_that_have_the_prediction() -> None:
    rows = [
        Replayed(SEVENTY, Prediction(250 * factor, 8.0), None, Prediction(250.0, 4.0))
        for factor in (0.9, 1.0, 1.4)
    ]
    assert errors(rows, "simulated")["ttft"] == pytest.approx(0.1)
    assert errors(rows, "simulated")["tpot"] == 0
    assert errors(rows, "estimated") == {}
    assert errors(rows, "estimated_full")["tpot"] == pytest.approx(0.5)


@needs_kernels
def test_the_fitted_rows_of_the_package() -> None:
    rows, left_out = servers()
    assert len(rows) == 265 and not left_out
    assert {row.deployment.gpu for row in rows} == {"h100", "h200"}


@needs_kernels
@pytest.mark.parametrize("engine", ["trtllm", "vllm", "sglang"])
def test_a_fitted_row_is_replayed(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    row = min(
        (row for row in servers()[0] if row.deployment.engine == engine and row.output_tokens <= 1024),
        key=lambda row: (row.concurrency, row.output_tokens, -row.deployment.tp),
    )
    (found,) = study.replay_all([row], Workers(jobs=1))
    assert found.simulated is not None and found.estimated is not None and found.estimated_full is not None
    assert found.simulated.tpot_ms == pytest.approx(row.tpot_ms, rel=0.25)
    assert np.isfinite([*found.estimated, *found.estimated_full]).all()


@needs_kernels
def test_a_model_that_cannot_be_composed_is_none() -> None:
    unknown = replace(SEVENTY, deployment=replace(SEVENTY.deployment, model="nobody/knows"))
    assert study.simulate(unknown) is None and study.estimate(unknown) is None


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "installed", lambda: None)
    with pytest.raises(InputError, match="pip install"):
        servers()
