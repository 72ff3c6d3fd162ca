"""Tasks in real processes of this machine, some of which die."""

from __future__ import annotations

import os
from pathlib import Path

from sim.parallel.cores import Cores
from sim.parallel.runner import Runner, Workers
from sim.parallel.tasks import DIED, Task


def pid(folder: str, name: str, deaths: int) -> int:
    """The process that ran it, unless it has died fewer than `deaths` times before."""
    log = Path(folder) / name
    with log.open("a") as file:
        file.write("begun\n")
    if len(log.read_text().splitlines()) <= deaths:
        os._exit(9)
    return os.getpid()


def tasks(folder: Path, deaths: list[int]) -> list[Task]:
    return [Task(f"k/{i}", (str(folder), f"t{i}", n)) for i, n in enumerate(deaths)]


def test_one_job_runs_here(tmp_path: Path) -> None:
    (ended,) = Cores(1).run(pid, tasks(tmp_path, [0]))
    assert ended.value == os.getpid()


def test_a_task_that_ends_its_process_takes_no_other_with_it(tmp_path: Path) -> None:
    with Runner(Workers(2)) as runner:
        ended = {each.key: each for each in runner.run(pid, tasks(tmp_path, [0, 1, 0, 99, 0]))}
        assert [ended[f"k/{i}"].error for i in range(5)] == [None, None, None, DIED, None]
        assert os.getpid() not in {each.value for each in ended.values()}
        assert (tmp_path / "t3").read_text() == "begun\n" * 2, "once beside others, once alone"
        (single,) = runner.run(pid, [Task("one more", (str(tmp_path), "t5", 0))])
        assert single.value != os.getpid(), "a single task too runs in a process that may die"
