"""The README: short, its demo that of the Makefile, its accuracy that of the commands beside it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from sim.cli import main
from tests.docs.pages import ROOT, Page

README = Page(ROOT / "README.md")


def test_it_is_short() -> None:
    """In words that are read; what commands print does not count."""
    assert len(re.sub(r"```.*?```", "", README.text, flags=re.S).split()) <= 1250


def test_the_demo_is_that_of_the_makefile() -> None:
    command = README.outputs[0].command
    assert f"{command} --out out/demo" in README.text
    assert f"{command} --out out/demo" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with real data"
)
def test_the_comparison_with_a_real_server_is_what_the_commands_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(os.environ["SEQSCHED_DATA"]).resolve()
    commands = re.findall(
        r"^(seqsched (?:calibrate --steps rtx|validate --against rtx).*?[^\\])$", README.text, re.M | re.S
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
    (table,) = re.findall(r"\| figure \| measured \|.*?\n\n", README.text, re.S)
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
