"""Figures by command: drawn, or refused before anything is simulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sim.command import refused, run, summary

pytestmark = pytest.mark.usefixtures("folder")


def test_plots_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--num-prompts", "60")
    assert run("plot", "sensitivity", *few, "--num-seeds", "1", "--save-table", "s.csv") == 0
    assert run("plot", "variance", *few) == 0
    assert run("plot", "perception", *few, "--predictor", "tuned") == 0
    assert {"sensitivity.png", "variance.png", "perception.png", "s.csv"} <= {
        p.name for p in folder.iterdir()
    }
    assert '"acc_50"' in capsys.readouterr().out


def test_plots_about_load_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--num-prompts", "60", "--num-seeds", "1")
    assert run("plot", "load", *few, "--rates", "1", "20", "--save-table", "l.csv") == 0
    assert "requests/s" in capsys.readouterr().out
    assert (
        run("plot", "gain", *few, "--loads", "0.5", "1.2", "--sigmas", "0", "1", "--save-table", "g.csv") == 0
    )
    assert run("plot", "starvation", *few, "--agings", "1", "--kv-blocks", "100") == 0
    assert "ageing 1 s" in capsys.readouterr().out
    names = {p.name for p in folder.iterdir()}
    assert {"starvation.png", "load.png", "l.csv", "gain.png", "gain_p99_e2el.png", "g.csv"} <= names
    assert "request-rate: 3" in refused_by_load(capsys, "load", "--request-rate", "3")
    assert "loads: -1" in refused_by_load(capsys, "gain", "--loads", "-1", "--num-prompts", "50")
    assert "'speed'" in refused_by_load(capsys, "gain", "--metrics", "speed")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    "flag",
    ["load --loads", "load --rates", "load --num-seeds", "gain --loads", "starvation --load"]
    + [f"{command} --num-seeds" for command in ("sensitivity", "gain", "starvation")],
)
def test_plots_refuse_what_is_not_above_0(
    flag: str, value: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "plot", *flag.split(), value, "--num-prompts", "20")
    name = flag.split("--")[1]
    assert (name in said or name.replace("-", "_") in said) and value in said
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *(
            (f"{command} --policies {policies}", said)
            for command in ("sensitivity", "load", "gain")
            for policies, said in (
                ("", "policies: at least one"),
                (";", "policies: at least one"),
                ("vanilla;vanilla", "policies: 'vanilla' is given twice"),
                ("nonsense", "policy 'nonsense'"),
            )
        ),
        *((f"gain --sigmas {value}", "sigma") for value in ("-1", "nan", "inf", "11", "1 1")),
        *((f"starvation --sigma {value}", "sigma") for value in ("-1", "nan", "inf")),
        *((f"starvation --agings {value}", "aging") for value in ("-1", "nan", "inf", "1 1", "1 1.00000001")),
        *((f"{command} --jobs {n}", f"jobs: {n}") for command in ("load", "gain") for n in ("0", "-2")),
        *((f"{command} --jobs 0", "jobs: 0") for command in ("sensitivity", "variance", "starvation")),
        ("starvation --trace fixed", "its shortest answer (128 tokens) is as long as its long ones"),
        ("load --loads", "loads: at least one"),
        ("load --loads 1 1", "loads: at least one is needed, and none twice"),
        ("load --rates 1 1", "rates: at least one is needed, and none twice"),
        ("gain --loads", "loads: at least one"),
        ("gain --sigmas", "sigmas: at least one"),
        ("gain --metrics", "metrics: at least one"),
        ("gain --metrics mean_e2el_ms mean_e2el_ms", "metrics: 'mean_e2el_ms' is given twice"),
        ("gain --baseline nonsense", "policy 'nonsense'"),
        ("variance --policy nonsense", "policy 'nonsense'"),
        ("perception --num-prompts 0", "num_prompts: 0"),
    ],
)
def test_plots_refuse_in_one_line_before_they_simulate(
    arguments: str,
    said: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.scenario.scenario.Scenario.run", None)
    assert said in refused(capsys, "plot", *arguments.split(" "))
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


def refused_by_load(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    return refused(capsys, "plot", *arguments)


def test_simulate_writes_a_timeline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "--policy", "continuous", "--perfetto", "t.json")
    slices = [e for e in json.loads((folder / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert sum(e["args"]["iterations"] for e in slices) == found["iterations"]
    assert summary(capsys, "--perfetto", "w.json.gz", "--perfetto-window", "0:0.1")["completed"] == 3
    few = ("simulate", "--trace", "trace.csv", "--perfetto-window")
    assert "'2:1'" in refused(capsys, *few, "2:1", "--perfetto", "x.json")
    assert "needs --perfetto" in refused(capsys, *few, "1:2")
    assert not (folder / "x.json").exists()
