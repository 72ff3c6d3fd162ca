"""Runs tasks on the cores of this machine, through joblib and its loky processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from .tasks import DIED, Ended, Function, Task, Versions, attempt


class Cores:
    """`jobs` processes, -1 for one per core; a single job runs in this process."""

    def __init__(self, jobs: int) -> None:
        import joblib

        self.jobs: int = joblib.cpu_count() if jobs == -1 else jobs
        self.num_processes = 0

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[Ended]:
        """Run the tasks, the first ones first, and yield each as it ends.

        When a process dies, joblib stops them all: what was running ends as `DIED`, what was waiting goes to
        new processes.
        """
        if self.jobs == 1:
            for task in tasks:
                yield attempt(function, Versions(), task.key, *task.arguments)
            return
        import joblib

        left = {task.key: task for task in tasks}
        while left:
            # joblib starts no process for a single job, and ends processes where the next call wants fewer.
            self.num_processes = max(2, self.num_processes, min(self.jobs, len(left)))
            pool = joblib.Parallel(
                n_jobs=self.num_processes, backend="loky", return_as="generator_unordered", batch_size=1
            )
            with TemporaryDirectory() as folder:
                calls = [
                    joblib.delayed(_attempt_marked)(folder, str(number), os.getpid(), function, task)
                    for number, task in enumerate(left.values())
                ]
                keys = list(left)
                try:
                    for ended in pool(calls):
                        del left[ended.key]
                        yield ended
                except BrokenProcessPool:
                    running = [keys[int(mark.name)] for mark in Path(folder).iterdir()]
                    running = [key for key in running if key in left]
                    if not running:
                        raise
                    for key in running:
                        del left[key]
                        yield Ended(key, None, DIED)

    def close(self) -> None:
        """End the processes: the next tasks may bring other modules, or newer ones, on another path."""
        if self.num_processes:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
            self.num_processes = 0


def _attempt_marked(folder: str, name: str, parent: int, function: Function, task: Task) -> Ended:
    """Run a task, and leave a mark in the folder for as long as it runs."""
    _end_with(parent)
    mark = Path(folder) / name
    mark.touch()
    ended = attempt(function, Versions(), task.key, *task.arguments)
    mark.unlink(missing_ok=True)
    return ended


@cache
def _end_with(parent: int) -> None:
    """Let this process end when the one that started it is killed, instead of running what was queued."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
