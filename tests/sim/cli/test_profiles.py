"""Profiles by command: listed, shown, estimated, fitted and changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sim.command import refused, run, summary

pytestmark = pytest.mark.usefixtures("folder")


def test_profile_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "list") == 0
    out = capsys.readouterr().out
    assert "published" in out and "composed" in out
    assert run("profile", "show", "h200-vicuna-7b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["kind"] == ("composed from measured kernels")


def test_a_profile_from_steps_needs_kv_blocks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["num_decode,decode_context_tokens,num_prefill,prefill_tokens,prefill_attention,step_ms"]
    rows += [f"{n},{n * c},0,0,0,{5 + 0.1 * n + 0.001 * n * c}" for n in (1, 2, 4, 8) for c in (16, 64, 256)]
    rows += [
        f"{n},{n * 16},1,{t},{t * t / 2},{6 + 0.1 * (n + t)}" for n in (0, 1, 2, 4) for t in (16, 64, 256)
    ]
    (folder / "steps.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert run("calibrate", "--steps", "steps.csv", "--out", "p.json", "--host-ms", "0.5") == 0
    assert (folder / "p.png").is_file()
    capsys.readouterr()
    assert "kv_blocks" in refused(capsys, "simulate", "--trace", "trace.csv", "--profile", "p.json", "--json")
    found = summary(capsys, "--profile", "p.json", "--kv-blocks", "100", "--policy", "vanilla")
    assert found["provenance"] == "measured" and found["profile"] == "p"
    assert json.loads((folder / "p.json").read_text())["async_scheduling"] is True
    assert (
        run(
            "calibrate",
            "--steps",
            "steps.csv",
            "--out",
            "q.json",
            "--host-ms",
            "0.5",
            "--no-async-scheduling",
        )
        == 0
    )
    assert "async_scheduling" not in json.loads((folder / "q.json").read_text())
    capsys.readouterr()

    def served(profile: str, policy: str) -> Any:
        return summary(capsys, "--profile", profile, "--kv-blocks", "100", "--policy", policy)

    told = {"profile": "p", "policy": "continuous"}
    assert served("p.json", "continuous") == served("q.json", "continuous:async_scheduling=on") | told
    told["profile"] = "q"
    assert served("q.json", "continuous") == served("p.json", "continuous:async_scheduling=off") | told


def test_profile_estimate_is_marked_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("profile", "estimate", "--gpu", "RTX 4090", "--model", "llama-3.1-8b", "--out", "card.json") == 0
    )
    found = summary(capsys, "--profile", "card.json")
    assert found["profile"] == "card" and found["provenance"] == "roofline estimate"
    assert "TPU" in refused(capsys, "profile", "estimate", "--gpu", "TPU", "--out", "tpu.json")
    assert "efficiency: 3" in refused(
        capsys, "profile", "estimate", "--gpu", "H100", "--efficiency", "3", "--out", "h.json"
    )


def test_set_changes_the_machine_of_any_command_and_the_result_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = "a100-80gb-vicuna-7b-transformers"
    found = summary(capsys, "--set", "gpu=H100", "--set", "weight_bits=8", "memory.utilization=0.95")
    assert found["profile"] == f"{default} +gpu=H100 +weight_bits=8 +memory.utilization=0.95"
    assert found["provenance"] == "roofline estimate"
    assert "unknown key 'colour'; the known keys are" in refused(capsys, "simulate", "--set", "colour=red")
    assert (
        run("compare", "--trace", "trace.csv", "--policies", "vanilla", "--set", "host_ms=1", "--json") == 0
    )
    assert "+step_cost.host_ms=1" in capsys.readouterr().out
    (folder / "seqsched.toml").write_text('[simulate]\nset = ["kv_bits=8", "scale=2"]\n')
    assert summary(capsys)["profile"] == f"{default} +kv_bits=8 +scale=2"
    (folder / "seqsched.toml").unlink()
    monkeypatch.setenv("SEQSCHED_SET", "weight_bits=4 kv_bits=8")
    assert summary(capsys)["profile"] == f"{default} +weight_bits=4 +kv_bits=8"


def test_a_what_if_is_shown_and_written_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ("h200-vicuna-7b", "--set", "tensor_parallel=2", "price_per_hour=3")
    assert run("profile", "show", *changed) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 × H200" in out and "6 an hour, as the user states it" in out and "uncertainty, decode" in out
    assert run("profile", "what-if", *changed, "--out", "two.json") == 0
    capsys.readouterr()
    found = summary(capsys, "--profile", "two.json")
    assert found["profile"] == "h200-vicuna-7b +tensor_parallel=2"
    assert found["provenance"] == "roofline estimate"
    assert "is of 2 GPUs together" in refused(
        capsys, "profile", "show", "two.json", "--set", "gpu=H100", "--json"
    )
