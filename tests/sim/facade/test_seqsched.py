"""`import seqsched` is `sim` by another name, typed; `python -m seqsched` is the command."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import seqsched
import sim
import traces

ROOT = Path(__file__).parents[3]


def test_every_public_name_is_the_same_object_as_in_sim_and_traces() -> None:
    assert set(seqsched.__all__) == {*sim.__all__, "load"} == set(dir(seqsched))
    for name in sim.__all__:
        assert getattr(seqsched, name) is getattr(sim, name)
    assert seqsched.load is traces.load
    with pytest.raises(AttributeError, match="'seqsched' has no attribute 'simulte'"):
        _ = seqsched.simulte


def test_it_simulates() -> None:
    assert seqsched.simulate(num_prompts=32).summary["completed"] == 32


@pytest.mark.parametrize("arguments", [["--version"], ["--install-completion", "--shell", "nosuch"]])
def test_the_module_is_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["seqsched", *arguments])
    if arguments == ["--version"]:
        runpy.run_module("seqsched", run_name="__main__")
        assert capsys.readouterr().out.strip() == sim.__version__
    else:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("seqsched", run_name="__main__")
        assert ended.value.code == 2 and "nosuch" in capsys.readouterr().err


def test_a_distribution_holds_the_facade_and_the_types_of_all_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distribution = pytest.importorskip("setuptools.dist", reason="setuptools is not installed").Distribution()
    monkeypatch.chdir(ROOT)
    distribution.parse_config_files(["pyproject.toml"])
    packages = distribution.packages
    assert {"seqsched", "sim", "sim.cli", "real", "traces", "plots"} <= set(packages)
    assert not [name for name in packages if name.startswith(("tests", "sim.facade"))]
    assert Path(distribution.package_dir["seqsched"]) == Path("sim/facade/seqsched")
    assert "py.typed" in distribution.package_data[""]
    for package in (seqsched, sim, traces):
        assert (Path(str(package.__file__)).parent / "py.typed").is_file()
