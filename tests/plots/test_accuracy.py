"""Simulated against measured servers: what is drawn, and what the script prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plots import accuracy
from sim.cli import run_script
from sim.hardware.deployment import Deployment
from sim.studies.measured_servers import Prediction, Replayed, Server


def row(engine: str, ttft: float = 110.0, tpot: float = 9.0, *, is_silent: bool = False) -> Replayed:
    """100 and 10 ms were measured."""
    deployment = Deployment("llama-3.1-70b", "h200", engine, 4, dtype="fp8", kv="fp8")
    server = Server(deployment, 1024, 1024, 8, 100.0, 10.0, True)
    one, other = Prediction(150.0, 9.9), Prediction(130.0, 12.0)
    return Replayed(server, None if is_silent else Prediction(ttft, tpot), one, other)


ROWS = [row("vllm"), row("vllm", 90.0, 10.0), row("trtllm", 300.0), row("trtllm", is_silent=True)]


def test_a_point_for_each_row_in_the_colour_of_its_engine() -> None:
    figure = accuracy.report(ROWS)
    ttft, tpot, _ = figure.axes
    drawn = {line.get_label(): line for line in ttft.lines[1:]}
    assert list(drawn) == ["vLLM (2)", "TensorRT-LLM (1)"]
    assert list(drawn["vLLM (2)"].get_ydata()) == [110.0, 90.0]
    assert list(tpot.lines[1].get_xdata()) == [10.0, 10.0]
    assert len({line.get_color() for line in drawn.values()}) == 2
    low, high = ttft.get_xlim()
    assert low < 90 and high > 300 and ttft.get_ylim() == (low, high)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="points: 0 are given"):
        accuracy.report([row("vllm", is_silent=True)])


def test_the_table_sets_the_better_reading_of_the_estimator_beside() -> None:
    groups = accuracy.by_group(ROWS)
    assert [len(rows) for rows in groups.values()] == [1, 2]  # the silent one is compared with nobody
    head, _, trtllm, vllm = accuracy.table(groups).splitlines()
    assert head.count("|") == trtllm.count("|") == vllm.count("|")
    assert vllm.startswith("| llama-3.1-70b fp8, vllm, h200, InferenceMAX | 2 | 10.0 % | 5.0 % |")
    assert "| 30.0 % | 1.0 % |" in vllm  # of 50 and 30, of 1 and 20


def test_the_script_ends_with_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def servers(*, judge: bool) -> tuple[list[Server], dict[str, int]]:
        assert judge
        from collections import Counter

        return [r.server for r in ROWS], Counter({"Qwen on GB200": 4})

    monkeypatch.setattr(accuracy, "servers", servers)
    monkeypatch.setattr(accuracy, "replay_all", lambda rows, workers: ROWS)
    picture = tmp_path / "accuracy.png"
    run_script(accuracy.main, ["--judge", "--out", str(picture), "--jobs", "1"])
    text = capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert "left out, 4: Qwen on GB200" in text and "left out, 1: no profile can be composed" in text
    found = json.loads(text.splitlines()[-1])
    assert found["rows"] == 3 and found["simulated"]["ttft"] == pytest.approx(0.1)
