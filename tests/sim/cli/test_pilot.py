"""`seqsched pilot` prints what it found, as a table and as JSON, and what is doubtful."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.sim.command import run

from ..studies.test_pilot import SHORTEST, logged, requests


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return logged(tmp_path / "log.jsonl", requests(60), "continuous", 4, np.inf)


def test_the_table_says_how_sure_it_is(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pilot", log, "--policies", f"continuous;{SHORTEST}", "--replicates", 2) == 0
    captured = capsys.readouterr()
    assert "60 requests of log.jsonl, 4 slots; ran: continuous" in captured.out
    assert "replayed against measured: mean E2EL" in captured.out and "Kendall tau" in captured.out
    assert "the server" in captured.out and "perfect" in captured.out
    assert "is off by" not in captured.err


def test_a_shorter_latency_is_a_change_below_zero(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("pilot", log, "--policies", SHORTEST, "--replicates", 2)
    assert run(*arguments, "--json") == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert run(*arguments) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "as in the log" in line)
    mean, p99 = (row[figure] for figure in ("mean_e2el_ms", "p99_e2el_ms"))
    low, high = mean["between"]
    assert mean["gain"] > 0
    cells = [cell.strip() for cell in line.split("│")]
    assert cells[6:8] == [f"{-mean['gain']:+.1%}", f"{-high:+.1%} to {-low:+.1%}"]
    assert cells[9] == f"{-p99['gain']:+.1%}"


def test_json_has_all_of_it(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pilot", log, "--policies", SHORTEST, "--slots", 4, 5, "--replicates", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["slots"] for row in told["rows"]] == [4, 4, 5, 5]
    row = told["rows"][0]["mean_e2el_ms"]
    assert row["between"][0] <= row["between"][1] and row["gain"] > 0 and told["predictions"]["error"] > 0


def test_a_wrong_policy_is_doubted(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = logged(tmp_path / "other.jsonl", requests(200), SHORTEST, 4, np.inf)
    assert run("pilot", other, "--policies", SHORTEST, "--replicates", 2) == 0
    assert "the replay of what ran is off by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "0"], "slots: 0 must be at least 1"),
        (["--policies", "nonsense"], "policy 'nonsense' is not one of"),
        (["--predictor", "learned:file=none"], "none: cannot be read"),
        (["--kv-tier", "cpu:1GiB@10GB/s"], "Unknown option: --kv-tier"),
    ],
)
def test_bad_input_is_one_line(
    log: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("pilot", log, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
