"""`seqsched calibrate --log` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sim.command import run

HEAD = "request_id,arrival_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms,e2el_ms\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """One request at a time: 12 ms to the first token, 10 ms for each that follows."""
    rows = [f"{i},{i},{50 + i},20,12,10,{12 + 19 * 10}" for i in range(40)]
    (tmp_path / "log.csv").write_text(HEAD + "\n".join(rows) + "\n")
    return tmp_path / "log.csv"


def test_a_profile_is_written_and_its_errors_are_shown(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = log.with_name("mine.json")
    assert run("calibrate", "--log", log, "--out", out, "--engine", "vllm-0.24") == 0
    printed = capsys.readouterr()
    assert "log.csv" in printed.out and "left out" in printed.out and "in 90 of 100 such fits" in printed.out
    assert "one log" in printed.err
    profile = json.loads(out.read_text())
    assert profile["engine"] == "vllm-0.24" and profile["provenance"]["kind"] == "measured"
    assert profile["step_cost"]["decode_base"]["seconds"][0] == pytest.approx(0.010, rel=0.05)
    assert run("simulate", "--profile", out, "--kv-blocks", 1000, "--num-prompts", 5, "--json") == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--steps FILE, or --log FILE...: neither is given"),
        (("--log", "a.csv", "--steps", "b.csv"), "one of them, not both"),
        (("--log", "a.csv", "--host-ms", "2"), "--host-ms: 2.0 belongs to --steps"),
        (("--log", "a.csv", "--source", "composed"), "--source: composed belongs to --steps"),
        (("--steps", "a.csv", "--policy", "continuous"), "--policy: continuous belongs to --log"),
        (("--steps", "a.csv", "--kv-blocks", "9"), "--kv-blocks: 9 belongs to --log"),
        (("--steps", "a.csv", "--block-size", "9"), "--block-size: 9 belongs to --log"),
        (("--log", "none.csv"), "none.csv"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("calibrate", *arguments, "--out", tmp_path / "p.json") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and why in err
    assert not (tmp_path / "p.json").exists()
