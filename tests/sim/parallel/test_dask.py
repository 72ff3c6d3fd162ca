"""Sweeps, plans and studies on a real Dask scheduler with two workers, all of them processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import sim
from sim import Plan, plan, sweep
from sim.parallel.runner import Runner, Workers
from sim.parallel.tasks import DIED, Shared, Task
from sim.studies.load_curves import load_curves
from traces.errors import InputError

pytest.importorskip("distributed", reason="Dask is not installed (the extra cluster)")

MODULE = """
import os

from sim.schedulers import MicrobatchScheduler


class Deadly(MicrobatchScheduler):
    Options = None

    def __init__(self, limits, end="well"):
        super().__init__(limits)
        self.end = end

    def submit(self, request, now):
        if self.end == "dead":
            os._exit(9)
        if self.end == "badly":
            raise ValueError("no good")
        with open(os.environ["RAN_BY"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        super().submit(request, now)


class Counted:
    def __init__(self, folder):
        self.folder = folder

    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(os.path.join(self.folder, "arrived.txt"), "a") as file:
            file.write(f"{os.getpid()}\\n")


def returned(counted, number):
    return number
"""


def start(stack: ExitStack, folder: Path, program: str, *arguments: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(sim.__file__).parents[1]), str(folder)]),
        # A second death is as good as a fourth, and sooner.
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "RAN_BY": str(folder / "ran_by.txt"),
    }
    command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *arguments]
    with (folder / f"{program}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a scheduler with two workers, and the folder in which they work."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "deadly.py").write_text(MODULE, encoding="utf-8")
    found = folder / "scheduler.json"
    with ExitStack() as stack:
        start(
            stack,
            folder,
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--scheduler-file",
            str(found),
        )
        for _ in range(2):
            here = ("--host", "127.0.0.1", "--local-directory", str(folder))
            start(stack, folder, "dask_worker", "--scheduler-file", str(found), "--nthreads", "1", *here)
        deadline = time.monotonic() + 120
        while not found.exists():
            assert time.monotonic() < deadline, (folder / "dask_scheduler.log").read_text()
            time.sleep(0.05)
        time.sleep(0.1)  # it is being written
        address = json.loads(found.read_text())["address"]
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield address, folder


@pytest.fixture
def here(cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the workers is known in this process too."""
    monkeypatch.syspath_prepend(cluster[1])
    monkeypatch.setenv("RAN_BY", str(cluster[1] / "ran_here.txt"))


@pytest.fixture
def settings(here: None) -> dict[str, Any]:
    """A grid of good points, one that raises and one that kills its process."""
    policies = [f"deadly:Deadly:end={end}" for end in ("well", "badly", "dead")]
    return {
        "trace": "alpaca-vicuna",
        "num_prompts": 40,
        "grid": {"policies": ["vanilla", "continuous", *policies], "seeds": [0, 1], "predictors": ["tuned"]},
    }


def test_a_cluster_gives_what_this_machine_gives_and_survives_deaths(
    cluster: tuple[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    address, folder = cluster
    there = sweep(settings, out=tmp_path / "there.csv", backend="dask", address=address)
    errors = [row["error"] for row in there.rows]
    assert (
        errors
        == [None] * 6
        + ["policy Deadly.submit raised ValueError: no good (deadly.py, line 18)"] * 2
        + [DIED] * 2
    )
    local = sweep(settings, out=tmp_path / "local.csv", jobs=2)
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    assert there.to_json() == local.to_json()
    assert str(os.getpid()) not in (folder / "ran_by.txt").read_text().split()
    again = sweep(settings, out=tmp_path / "there.csv", backend="dask", address=address)
    assert again.reused == 10 and again.to_json() == there.to_json()


def test_what_a_cluster_was_not_asked_for_it_does_not_run(
    cluster: tuple[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    """An interrupted sweep leaves nothing queued, and goes on where it stopped, here or there."""
    well = {**settings, "grid": {"policies": ["vanilla"], "seeds": list(range(12))}}

    class Stop(Exception):
        pass

    def stop(ended: int, total: int) -> None:
        if ended == 4:
            raise Stop

    out = tmp_path / "a.csv"
    with pytest.raises(Stop):
        sweep(well, out=out, backend="dask", address=cluster[0], on_progress=stop)
    assert len(out.read_text().splitlines()) == 1 + 4
    half = sweep({**well, "grid": {**well["grid"], "seeds": list(range(8))}}, out=tmp_path / "b.csv", jobs=1)
    assert half.reused == 0
    found = sweep(well, out=out, backend="dask", address=cluster[0])
    assert found.reused == 4 and [row["seed"] for row in found.rows] == list(range(12))
    assert found.rows[:8] == half.rows


def plan_of(end: str, **running: Any) -> Plan:
    return plan(
        "lognormal:output_median=40",
        slo="ttft_p90:800",
        request_rate=30,
        policies=f"deadly:Deadly:end={end}",
        profiles="h200-vicuna-7b",
        num_requests=100,
        max_requests=200,
        max_seeds=3,
        **running,
    )


@pytest.mark.usefixtures("here")
def test_a_plan_on_a_cluster_is_the_same_and_names_a_run_that_kills_its_worker(
    cluster: tuple[str, Path], tmp_path: Path
) -> None:
    there = {"backend": "dask", "address": cluster[0]}
    answer = plan_of("well", **there, state=tmp_path / "there.jsonl")
    assert answer.to_json() == plan_of("well", jobs=1, state=tmp_path / "here.jsonl").to_json()
    lines = [sorted((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("there", "here")]
    assert lines[0] == lines[1]
    with pytest.raises(InputError, match=r"deadly:Deadly:end=dead on 1 × h200-vicuna-7b at 30 .*died"):
        plan_of("dead", **there)


@pytest.mark.usefixtures("here")
def test_a_study_on_a_cluster_has_the_same_rows(cluster: tuple[str, Path]) -> None:
    settings: dict[str, Any] = {"rates": (1.0, 20.0), "policies": "vanilla;deadly:Deadly", "num_seeds": 1}
    settings |= {"num_prompts": 40, "predictor": "tuned"}
    there = load_curves("alpaca-vicuna", **settings, backend="dask", address=cluster[0])
    assert there.equals(load_curves("alpaca-vicuna", **settings))


@pytest.mark.usefixtures("here")
def test_what_many_tasks_share_is_sent_once(cluster: tuple[str, Path]) -> None:
    import deadly  # type: ignore[import-not-found]

    shared = Shared(deadly.Counted(str(cluster[1])))
    with Runner(Workers(backend="dask", address=cluster[0])) as runner:
        for batch in range(2):
            tasks = [Task(f"{batch} {k}", (shared, k)) for k in range(6)]
            ended = list(runner.run(deadly.returned, tasks))
            assert sorted(each.value for each in ended) == list(range(6))
    arrived = (cluster[1] / "arrived.txt").read_text().split()
    assert len(arrived) <= 2 * len(set(arrived)) < 12


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.parallel.dask.CONNECT_S", 1)
    with pytest.raises(InputError, match=r"address tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        sweep({"trace": "fixed", "grid": {"seeds": [0]}}, backend="dask", address="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="address nonsense://x"):
        sweep({"trace": "fixed", "grid": {"seeds": [0]}}, backend="dask", address="nonsense://x")
