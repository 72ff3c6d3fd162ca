"""Runs many tasks, here or on a cluster, each once: what is known is not run again, and what dies is retried.

Knows nothing of what the tasks do and of where their results are kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from traces.errors import InputError

from .tasks import DIED, Ended, Function, Task

Backend = Literal["joblib", "dask"]


class Place(Protocol):
    """Somewhere that tasks run."""

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[Ended]:
        """Run each task by `attempt` and yield it as it ends, as `DIED` where its process died."""

    def close(self) -> None:
        """Let the processes go."""


Where: TypeAlias = Backend | Place
"""A backend by its name, or a place of one's own."""


@dataclass(frozen=True)
class Workers:
    """Where tasks run: `jobs` processes of this machine (-1: one per core; 1: this process), or with the
    backend "dask" the cluster whose scheduler is at `address` (tcp://HOST:PORT), or `backend` itself, where
    that is a `Place`.

    Raises InputError for anything else.
    """

    jobs: int = -1
    backend: Where = "joblib"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1 and self.jobs != -1:
            raise InputError(f"jobs: {self.jobs} must be at least 1, or -1 for every core")
        if isinstance(self.backend, str) and self.backend not in get_args(Backend):
            raise InputError(f"backend: {self.backend!r} is not one of {', '.join(get_args(Backend))}")
        if (self.backend == "dask") != (self.address is not None):
            raise InputError(
                f"address: {self.address} with backend {self.backend}; dask needs one, and joblib takes none"
            )

    @property
    def are_elsewhere(self) -> bool:
        """Whether tasks run in other processes than this one."""
        return self.backend == "dask" or self.jobs != 1


HERE = Workers()
"""Every core of this machine."""


class Runner:
    """Runs tasks on workers, which it holds from the first task until it is closed."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.place: Place | None = None

    def run(self, function: Function, tasks: Iterable[Task], known: Container[str] = ()) -> Iterator[Ended]:
        """Run the tasks whose keys are not known, each key once, and yield each as it ends.

        What runs beside a task that ends its process may die with it. So everything whose process died runs
        once more, alone; what dies again ends with the error `DIED`.
        """
        left = {task.key: task for task in tasks if task.key not in known}
        if not left:
            return
        if self.place is None:
            self.place = _place(self.workers)
        died = []
        for ended in self.place.run(function, list(left.values())):
            if ended.error == DIED:
                died.append(left[ended.key])
            else:
                yield ended
        for task in died:
            yield from self.place.run(function, [task])

    def close(self) -> None:
        """Let the workers go."""
        if self.place is not None:
            self.place.close()
            self.place = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _place(workers: Workers) -> Place:
    if not isinstance(workers.backend, str):
        return workers.backend
    if workers.address is not None:
        from .dask import Cluster

        return Cluster(workers.address)
    from .cores import Cores

    return Cores(workers.jobs)
