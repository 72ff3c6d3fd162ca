"""The command for a lent GPU, whole, on the processor: the same code on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the real extra is not installed")
pytest.importorskip("transformers", reason="the real extra is not installed")

from real.lent_gpu.parts import PARTS
from sim.hardware import catalogue

ROOT = Path(__file__).parents[2]


def call(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "real/gpu.py", "--device", "cpu", "--out", str(out), *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_every_part_is_answered_over_two_calls(tmp_path: Path) -> None:
    first = call(tmp_path, "--max-seconds", "6")
    assert first.returncode == 0, first.stderr
    left = json.loads(first.stdout.splitlines()[-1])["left"]
    assert left, "the first call must end before the work does"
    second = call(tmp_path)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout.splitlines()[-1])["left"] == []
    again = {name for name in (p.name for p in PARTS) if f"{name}: done" in second.stderr}
    assert again == set(left)
    parts = json.loads((tmp_path / "state.json").read_text())["parts"]
    assert set(parts) == {part.name for part in PARTS}
    assert parts["decode, cuda-graphs"]["result"]["most_over_floor"] > 1
    ratio = parts["the paper's ratio"]["result"]
    vanilla, sequence = (figures["request_throughput"]["measured"] for figures in ratio["policies"].values())
    assert ratio["ratio_measured"] == pytest.approx(sequence / vanilla) and ratio["ratio_predicted"] > 0
    figures = parts["all at once, cuda-graphs"]["result"]["policies"]
    assert set(figures) == {"vanilla", "sequence:vbs=table,fcr=on", "continuous"}
    for name in ("eager", "graphs"):
        profile = catalogue.load(tmp_path / f"{name}.json")
        assert profile.provenance.kind == "measured" and "random weights" in profile.provenance.source
        assert "lengths forced" in profile.provenance.source and profile.name.startswith("cpu-tiny-")
    assert "## the paper's ratio" in (tmp_path / "report.md").read_text()


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, arguments, why in (
        (tmp_path, ("--max-seconds", "0"), "max_seconds: 0 is not above 0"),
        (tmp_path / "file", (), "cannot be made"),
    ):
        done = call(out, *arguments)
        assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr
