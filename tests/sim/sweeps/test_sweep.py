"""Sweeps: the same numbers as `simulate`, the same bytes however they came about, nothing lost and nothing
done twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import traces
from sim import simulate, sweep
from sim.cli import main
from sim.parallel.tasks import DIED
from sim.sweeps.sweep import LABELS, SweepResult
from traces.errors import InputError

MODULE = '''
"""Micro-batches that write down every run, take their time, fail or kill their process when told to."""

import os
import time

from sim.schedulers import MicrobatchScheduler


class Slow(MicrobatchScheduler):
    Options = None

    def __init__(self, limits, log, name, seconds="0", end="well"):
        super().__init__(limits)
        if end == "at once":
            raise KeyError("no key")
        self.log, self.name, self.seconds, self.end, self.begun = log, name, float(seconds), end, False

    def submit(self, request, now):
        if not self.begun:
            self.begun = True
            with open(self.log, "a") as file:
                file.write(self.name + "\\n")
            if self.end == "dead" and not os.path.exists("alive"):
                os._exit(9)
            if self.end == "badly" and not os.path.exists("alive"):
                raise ValueError("no\\ngood")
            time.sleep(self.seconds)
        super().submit(request, now)
'''
GRID = {
    "trace": "alpaca-vicuna",
    "num_prompts": 30,
    "goodput": {"ttft": 2000},
    "grid": {
        "policies": ["vanilla", "continuous"],
        "predictors": ["oracle", "tuned"],
        "request_rate": [1, float("inf")],
        "seeds": [0, 1],
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "slowly", None)
    del sys.modules["slowly"]
    (tmp_path / "slowly.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


def slow(ends: list[str], seconds: float = 0.0) -> dict[str, Any]:
    """A sweep over policies that write down every run in `log.txt`."""
    policies = [f"slowly:Slow:log=log.txt,name={i},seconds={seconds},end={end}" for i, end in enumerate(ends)]
    return {"trace": "fixed", "num_prompts": 3, "grid": {"policies": policies}}


def runs() -> Counter[str]:
    """How often each of them ran."""
    path = Path("log.txt")
    return Counter(path.read_text().split() if path.exists() else [])


def test_a_row_holds_what_simulate_says_of_its_settings(folder: Path) -> None:
    result = sweep(GRID, jobs=1)
    assert len(result.rows) == 16 and not result.failed and result.reused == 0 and result.path is None
    for row in result.rows:
        settings = {name: row[name] for name in ("policy", "predictor", "request_rate", "seed")}
        alone = simulate("alpaca-vicuna", num_prompts=30, goodput={"ttft": 2000}, **settings).summary
        assert {name: row[name] for name in alone} == alone
        assert row["goodput"] == "ttft:2000" and row["num_prompts"] == 30 and row["error"] is None


@pytest.mark.parametrize("cap", [None, 40])
def test_a_trace_that_a_worker_keeps_is_the_one_that_each_point_would_load(
    cap: int | None, folder: Path
) -> None:
    """Prompt lengths of a length file are drawn by seed, and its cap is its own."""
    samples = {f"L_t{t}": 20 + i for i, t in enumerate(("0.0", "0.3", "0.5", "0.7"))}
    (folder / "lengths.json").write_text(json.dumps([{"id": i, **samples} for i in range(9)]))
    traces.write(traces.load("lognormal", num_prompts=9), folder / "plain.csv")
    names = ["lengths.json", "plain.csv", "lognormal"]
    fixed = {"num_prompts": 7} | ({} if cap is None else {"max_new_tokens": cap})
    found = sweep({**fixed, "grid": {"traces": names, "seeds": [0, 1, 2], "kv_blocks": [5000]}}, jobs=1)
    for row in found.rows:
        alone = simulate(row["trace"], seed=row["seed"], kv_blocks=5000, **fixed).summary
        assert {k: row[k] for k in alone if k != "trace"} == {k: alone[k] for k in alone if k != "trace"}


def test_fleets_routers_outages_and_what_ifs_are_settings_like_any_other(folder: Path) -> None:
    fixed: dict[str, Any] = {"num_prompts": 40, "policy": "continuous", "mtbf_s": 60, "mttr_s": 5}
    fixed |= {"set": {"kv_bits": 8}, "max_new_tokens": 300}
    lists = {
        "replicas": [1, 3],
        "routers": ["round-robin", "least-requests"],
        "output_scale": [1, 1.5],
        "prompt_scale": [2],
        "request_rate": [5],
    }
    found = sweep({**fixed, "grid": lists}, jobs=1)
    assert len(found.rows) == 8 and not found.failed
    for row in found.rows:
        names = ("replicas", "router", "output_scale", "prompt_scale", "request_rate")
        alone = simulate("alpaca-vicuna", **fixed, **{name: row[name] for name in names}).summary
        assert row["set"] == "kv_bits=8" and row["replicas"] == alone["replicas"]
        same = alone.keys() - {"router"}  # one replica has none
        assert {name: row[name] for name in same} == {name: alone[name] for name in same}
    fleets = ["h200-vicuna-7b*2", "h200-vicuna-7b;a100-80gb-vicuna-7b-transformers"]
    found = sweep({"num_prompts": 20, "grid": {"fleets": fleets}}, jobs=1)
    assert [row["replicas"] for row in found.rows] == [2, 2]
    with pytest.raises(InputError, match="nonsense"):
        sweep({"num_prompts": 20, "grid": {"routers": ["random", "nonsense"]}}, jobs=1)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_file_has_the_same_bytes_however_it_came_about(name: str, folder: Path) -> None:
    whole = sweep(GRID, out="whole" + name, jobs=1)
    parallel = sweep(GRID, out="parallel" + name, jobs=2)

    class Stop(Exception):
        pass

    def stop(ended: int, total: int) -> None:
        counts.append((ended, total))
        if ended == 5:
            raise Stop

    for expected in (16, 11, 6):
        counts: list[tuple[int, int]] = []
        with pytest.raises(Stop):
            sweep(GRID, out=name, jobs=1, on_progress=stop)
        assert counts == [(i, expected) for i in range(1, 6)]
    resumed = sweep(GRID, out=name, jobs=1)
    assert resumed.reused == 15
    assert Path(name).read_bytes() == Path("whole" + name).read_bytes()
    assert Path(name).read_bytes() == Path("parallel" + name).read_bytes()
    assert resumed.to_json() == whole.to_json() == parallel.to_json()
    assert not list(folder.glob("*.partial*"))
    found = pd.read_csv(name) if name.endswith("csv") else pd.read_parquet(name)
    assert list(found.columns) == list(resumed.columns)
    assert found["request_throughput"].tolist() == resumed.to_frame()["request_throughput"].tolist()


def test_a_wider_grid_runs_only_what_is_new(folder: Path) -> None:
    sweep(slow(["well"] * 2), out="a.csv", jobs=1)
    wider = sweep(slow(["well"] * 4), out="a.csv", jobs=1)
    assert wider.reused == 2 and runs() == Counter("0123")
    with pytest.raises(InputError, match=r"a\.csv: holds 1 points of another sweep"):
        sweep(slow(["well"] * 3), out="a.csv", jobs=1)
    narrow = sweep(slow(["well"] * 3), out="a.csv", jobs=1, prune=True)
    assert len(narrow.rows) == 3 and runs() == Counter("0123")
    fresh = sweep(slow(["well"] * 3), out="b.csv", jobs=1)
    assert fresh.to_json() == narrow.to_json() and Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


@pytest.mark.parametrize(("name", "other"), [("__version__", "0.0.0"), ("RESULTS_VERSION", 0)])
def test_rows_of_another_version_are_never_mixed_in(
    name: str, other: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"trace": "fixed", "num_prompts": 5, "grid": {"seeds": [0, 1]}}
    sweep(settings, out="rows.csv", jobs=1)
    before = Path("rows.csv").read_bytes()
    monkeypatch.setattr(f"sim.sweeps.grid.{name}", other)
    with pytest.raises(InputError, match=r"holds 2 points of another sweep, or of .* version"):
        sweep(settings, out="rows.csv", jobs=1)
    assert Path("rows.csv").read_bytes() == before
    assert sweep(settings, out="rows.csv", jobs=1, prune=True).reused == 0


def test_a_point_that_raises_is_recorded_and_can_be_tried_again(folder: Path) -> None:
    settings = slow(["well", "badly", "well"])
    found = sweep(settings, out="a.csv", jobs=1)
    (row,) = found.failed
    assert (
        row["error"] == "policy Slow.submit raised ValueError: no good (slowly.py, line 27)"
        and row == found.rows[1]
    )
    assert sweep(settings, out="a.csv", jobs=1).to_json() == found.to_json()
    assert runs() == Counter("012")
    (folder / "alive").touch()
    healed = sweep(settings, out="a.csv", jobs=1, retry_failed=True)
    assert not healed.failed and runs() == Counter("0112")
    assert healed.to_json() == sweep(settings, out="b.csv", jobs=1).to_json()
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_a_process_that_dies_takes_no_other_point_with_it(folder: Path) -> None:
    settings = slow(["well", "well", "dead", "well", "well", "well"], seconds=0.05)
    found = sweep(settings, out="a.csv", jobs=2)
    assert [row["error"] for row in found.rows] == [DIED if i == 2 else None for i in range(6)]
    assert all(row["completed"] == 3 for i, row in enumerate(found.rows) if i != 2)
    assert runs()["2"] == 2  # once among the others, once by itself


def test_a_sweep_that_is_killed_goes_on_where_it_stopped(folder: Path) -> None:
    settings = slow(["well"] * 12, seconds=0.15)
    text = "trace = 'fixed'\nnum_prompts = 3\n[grid]\npolicies = " + json.dumps(settings["grid"]["policies"])
    (folder / "s.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", "from sim.cli import main; main()", "sweep", "s.toml", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and Path("s.csv").is_file() is False:
            time.sleep(0.02)
        while time.monotonic() < deadline and len(Path("s.csv").read_text().splitlines()) < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    with Path("s.csv").open("a") as file:
        file.write("a line half wri")
    kept = [line.split(",")[0] for line in Path("s.csv").read_text().splitlines()[1:-1]]
    assert 3 <= len(kept) < 12
    before = runs()
    resumed = sweep(folder / "s.toml", out="s.csv", jobs=1)
    assert resumed.reused == len(kept)
    names = [str(i) for i, row in enumerate(resumed.rows) if row["point"] in kept]
    assert all(before[name] == 1 == runs()[name] for name in names)
    again = sweep(settings, out="again.csv", jobs=1)
    assert Path("s.csv").read_bytes() == Path("again.csv").read_bytes() and not again.failed


def test_a_file_that_changes_meanwhile_fails_its_points(folder: Path) -> None:
    traces.write(traces.load("fixed", num_prompts=3), folder / "t.csv")

    def change(ended: int, total: int) -> None:
        traces.write(traces.load("fixed", num_prompts=4), folder / "t.csv")

    settings = {"trace": "t.csv", "grid": {"seeds": [0, 1]}}
    found = sweep(settings, jobs=1, on_progress=change)
    assert [row["error"] is None for row in found.rows] == [True, False]
    assert "not what it was when the sweep began" in found.failed[0]["error"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"jobs": 0}, "jobs: 0"),
        ({"backend": "spark"}, "'spark' is not one of joblib, dask"),
        ({"backend": "dask"}, "dask needs one"),
        ({"address": "tcp://127.0.0.1:1"}, "joblib takes none"),
        ({"out": "a.txt"}, "a.txt"),
    ],
)
def test_how_a_sweep_cannot_run(settings: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(InputError, match=said):
        sweep({"grid": {"seeds": [0]}, "trace": "fixed", "num_prompts": 1}, **settings)
    assert [path.name for path in folder.iterdir() if path.suffix != ".py"] in ([], ["__pycache__"])


def test_labels_of_a_summary_are_settings_or_known_to_the_sweep() -> None:
    labels = simulate("fixed", num_prompts=1).summary
    assert {"policy", "trace", "predictor", "profile", "seed"} <= set(labels) & set(LABELS)


def command(*arguments: str) -> int:
    try:
        main(["sweep", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command_prints_a_table_or_json_and_names_failures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = json.dumps(["vanilla", *slow(["badly"])["grid"]["policies"]])
    (folder / "s.toml").write_text(f"trace = 'fixed'\nnum_prompts = 3\n[grid]\npolicies = {policies}\n")
    assert command("s.toml", "--jobs", "1") == 1
    out, err = capsys.readouterr()
    assert "2 points, 0 of them at hand" in out and "vanilla" in out and "wrote s.csv" in err
    assert (
        "1 of 2 points failed, the first with: policy Slow.submit raised ValueError: no good" in err
        and "Traceback" not in err
    )
    assert command("s.toml", "--jobs", "1", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["points"] == 2 and found["failed"] == 1 and len(found["rows"]) == 2
    (folder / "alive").touch()
    assert command("s.toml", "--jobs", "1", "--retry-failed", "--json") == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    (folder / "s.toml").write_text("[grid]\nseeds = []\n")
    assert command("s.toml") == 2
    assert "s.toml, grid.seeds: the list is empty" in capsys.readouterr().err


def test_an_infinite_rate_is_json_too(folder: Path) -> None:
    settings = {"trace": "fixed", "num_prompts": 2, "grid": {"request_rate": [float("inf"), 1]}}
    result = sweep(settings, jobs=1)
    found = json.loads(result.to_json("r.json"))
    assert found["axes"] == {"request_rate": ["inf", 1.0]} and found["rows"][0]["request_rate"] == "inf"
    assert json.loads(Path("r.json").read_text()) == found and isinstance(result, SweepResult)


def test_runs_of_a_sweep_may_warm_up(folder: Path) -> None:
    settings: dict[str, Any] = {"trace": "alpaca-vicuna", "num_prompts": 60, "request_rate": 4.0}
    settings["policy"] = "continuous"
    grid = {**settings, "grid": {"warmup": [20, "5s", "auto"]}}
    done = sweep(grid, out="warm.csv", jobs=1)
    for row, warmup in zip(done.rows, (20, "5s", "auto"), strict=True):
        alone = simulate(**settings, warmup=warmup).summary  # type: ignore[arg-type]
        assert row["warmup"] == warmup
        for key in ("warmup_requests", "mean_ttft_ms", "request_throughput", "p99_itl_ms"):
            assert row[key] == alone[key]
    again = sweep(grid, out="warm.csv", jobs=1)
    assert again.reused == 3 and again.to_json() == done.to_json()
    with pytest.raises(InputError, match="warmup: 'soon' is not a number of requests"):
        sweep({**settings, "grid": {"warmup": ["soon"]}}, jobs=1)


def test_what_a_policy_raises_is_a_failed_point_whenever_it_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = [
        f"slowly:Slow:log=log.txt,name={i},end={end}" for i, end in enumerate(["well", "badly", "at once"])
    ]
    listed = ", ".join(f'"{policy}"' for policy in policies)
    (folder / "g.toml").write_text(f'trace = "fixed"\nnum_prompts = 3\n[grid]\npolicies = [{listed}]\n')
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "g.toml", "--jobs", "1"])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and "2 of 3 points failed" in err
    table = " ".join(out.replace("│", " ").split())
    assert "error" in table and "KeyError" in table and "no good" in table
    rows = pd.read_csv("g.csv").set_index("policy").error
    assert pd.isna(rows[policies[0]])
    assert "raised KeyError: 'no key' (slowly.py, line" in rows[policies[2]]


@pytest.mark.parametrize(
    "policy", ["slowly:Slow:log=x,name=y,color=red", "slowly:Sloww:log=x,name=y", "vanila"]
)
def test_a_spelling_error_ends_a_sweep_before_anything_runs(policy: str, folder: Path) -> None:
    grid = slow(["well"])
    grid["grid"]["policies"].append(policy)
    with pytest.raises(InputError, match=r"color|Sloww|vanila"):
        sweep(grid, jobs=1)
    assert not Path("log.txt").exists()


def test_a_table_says_whose_queue_grows_and_what_caps_tell(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'trace = "alpaca-vicuna"\nnum_prompts = 200\npolicy = "vanilla"\ncap = "own"\n'
    (folder / "g.toml").write_text(text + "[grid]\nrequest_rate = [0.01, 5.0]\n")
    main(["sweep", "g.toml", "--jobs", "1"])
    out = capsys.readouterr().out
    assert "In 1 of the runs the queue grows: latencies there grow with the length of the run." in out
    assert out.count("Every request's cap is the answer's length") == 1
