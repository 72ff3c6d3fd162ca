"""What docs/sweep.md shows is what its sweeps print, and the flags that it names are there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sim import sweep
from sim.cli import main
from sim.sweeps.grid import read_grid

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_prints_what_the_page_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```sh\nseqsched sweep fleet\.toml\n```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    (folder / "fleet.toml").write_text(toml, encoding="utf-8")
    main(["sweep", "fleet.toml", "--jobs", "1"])
    assert lines(capsys.readouterr().out) == lines(shown)


def test_the_script_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((code, shown),) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/sweep.md", "exec"), {})
    assert lines(capsys.readouterr().out) == lines(shown)


def test_flags_and_lists_that_the_page_names_are_there() -> None:
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", PAGE)}
    flags |= {flag.replace("-", "_") for flag in re.findall(r"seqsched sweep .*? --([a-z-]+)", PAGE)}
    assert flags >= {"out", "prune", "retry_failed", "jobs", "backend"}
    assert flags <= set(inspect.signature(sweep).parameters)


def test_the_sweep_that_speed_is_measured_with_has_200_points_of_10_000_requests() -> None:
    grid = read_grid(ROOT / "plots" / "examples" / "sweep.toml")
    assert len(grid.points()) == 200 and grid.fixed["num_prompts"] == 10_000
