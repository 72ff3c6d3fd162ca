"""Every command that reads a trace says on stderr what was assumed, in one line, and nothing on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sim.command import run

LINE = (
    "seqsched: t.jsonl: Mooncake; timestamp read as seconds (span 8.5 s, 0.35 requests/s); "
    "columns not used: turn\n"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = ({"timestamp": t, "input_length": 9, "output_length": 5, "turn": 1} for t in (0, 1.5, 3, 8.5))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "grid.toml").write_text('trace = "t.jsonl"\n[grid]\nseed = [0, 1]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "--trace", "t.jsonl", "--json"),
        ("compare", "--trace", "t.jsonl", "--policies", "vanilla;sequence", "--json"),
        ("trace", "inspect", "t.jsonl", "--json"),
        ("sweep", "grid.toml", "--jobs", "1", "--json"),
        ("sweep", "grid.toml", "--jobs", "2", "--json"),
        ("plot", "perception", "--trace", "t.jsonl"),
    ],
)
def test_the_line_is_on_stderr_once_and_json_is_alone_on_stdout(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command) == 0
    out, err = capsys.readouterr()
    assert err.count(LINE) == 1 and err.count("Mooncake") == 1
    assert "Mooncake" not in out
    if "--json" in command:
        json.loads(out)


def test_a_refusal_is_alone_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--trace", "t.jsonl", "--policy", "nonsense") == 2
    assert "Mooncake" not in capsys.readouterr().err


def test_the_unit_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "inspect", "t.jsonl", "--time-unit", "ms", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["span_s"] == 0.0085
    assert "timestamp read as milliseconds, as asked (span 0.0085 s" in err
    assert run("simulate", "--trace", "t.jsonl", "--time-unit", "ms", "--json") == 0
    assert json.loads(capsys.readouterr().out)["completed"] == 4
    assert run("simulate", "--trace", "t.jsonl", "--time-unit", "h") == 2
    assert "time_unit: 'h' is not one of s, ms, us, ns" in capsys.readouterr().err


def test_columns_of_other_files_that_are_not_used_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pairs.csv").write_text("predicted,actual,session\n5,6,1\n7,5,1\n", encoding="utf-8")
    (folder / "down.csv").write_text("replica,down_s,up_s,why\n0,1,2,x\n", encoding="utf-8")
    others = (
        "--predictor",
        "empirical:file=pairs.csv",
        "--failures",
        "down.csv",
        "--replicas",
        "2",
        "--json",
    )
    assert run("simulate", "--trace", "t.jsonl", *others) == 0
    err = capsys.readouterr().err
    assert "seqsched: pairs.csv: pairs of lengths; columns not used: session\n" in err
    assert "seqsched: down.csv: a schedule of outages; columns not used: why\n" in err
