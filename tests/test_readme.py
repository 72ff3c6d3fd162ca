"""What the README shows is what its commands print."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from sim.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"<!-- output: (.+?) -->\n+(.*?)\n\n", README, re.DOTALL))


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip("` \n")]


def test_every_shown_output_is_checked() -> None:
    assert [command.split()[0] for command in SHOWN] == ["seqsched", "python"]


def test_the_demo_prints_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    command = next(c for c in SHOWN if c.startswith("seqsched"))
    assert f"{command} --out out/demo" in README
    assert f"{command} --out out/demo" in (ROOT / "Makefile").read_text(encoding="utf-8")
    main(shlex.split(command)[1:])
    assert lines(capsys.readouterr().out) == lines(SHOWN[command])


@pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with real data"
)
def test_the_reproduction_table_is_the_scripts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = next(c for c in SHOWN if c.startswith("python"))
    script = command.split()[1]
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    assert lines(capsys.readouterr().out)[:-1] == lines(SHOWN[command])


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    first, ratios = capsys.readouterr().out.splitlines()
    assert first.endswith(" 1024") and ratios.startswith("{'vanilla': 1.0, 'sequence': ")


def test_every_picture_and_file_that_is_named_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target


@pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with real data"
)
def test_the_comparison_with_a_real_server_is_what_the_commands_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(os.environ["SEQSCHED_DATA"]).resolve()
    commands = re.findall(
        r"^(seqsched (?:calibrate --steps rtx|validate --against rtx).*?[^\\])$", README, re.M | re.S
    )
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    for name in ("rtx4090-llama-3.1-8b-steps.csv", "rtx4090-llama-3.1-8b-vllm.csv"):
        (tmp_path / name).symlink_to(data / name)
    for command in commands:
        main(shlex.split(command.replace("\\\n", " "))[1:])
    printed = {}
    for line in capsys.readouterr().out.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if len(cells) == 4:
            printed[cells[0]] = cells[3]
    (table,) = re.findall(r"\| figure \| measured \|.*?\n\n", README, re.S)
    keys = {
        "output tokens/s": "output_throughput",
        "mean TPOT, ms": "mean_tpot_ms",
        "p99 TPOT, ms": "p99_tpot_ms",
    }
    keys |= {f"{s} {m.upper()}, s": f"{s}_{m}_ms" for s in ("mean", "p99") for m in ("ttft", "e2el")}
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.strip().splitlines()[2:]]
    assert len(rows) == len(keys)
    for figure, *_, error in rows:
        assert printed[keys[figure]].replace("%", " %").replace("-", "−") == error
