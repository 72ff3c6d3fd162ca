"""Runs the parts of a study in parallel, each once, and keeps what they return; knows nothing of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from traces.loading import announce

from ..parallel.runner import Runner, Where, Workers
from ..parallel.state_file import StateFile
from ..parallel.tasks import Shared, Task
from ..scenario.inputs import Input, check_unchanged, digest, digest_of, plain, texts_within
from ..scenario.settings import Keywords
from ..version import RESULTS_VERSION, __version__

if TYPE_CHECKING:
    import pandas as pd


class Running(TypedDict, total=False):
    """Keyword arguments of every study that say how it runs; see `Study`."""

    jobs: int
    backend: Where
    address: str | None
    state: str | Path | None
    on_progress: Callable[[int, int], None] | None


class StudyKeywords(Keywords, Running, total=False):
    """All settings of `simulate` but the trace, and how a study runs."""


def split(given: StudyKeywords) -> tuple[Running, Keywords]:
    """How a study runs, and the settings."""
    names = Running.__annotations__
    running = {name: value for name, value in given.items() if name in names}
    settings = {name: value for name, value in given.items() if name not in names}
    return cast(Running, running), cast(Keywords, settings)


class Study:
    """`jobs` processes of this machine (-1: one per core; 1: this one) simulate, or with the backend "dask"
    the cluster whose scheduler is at `address`, or the `backend` itself, where that is a `Place`. What a part
    returns is kept in the JSON Lines file `state` as soon as the part ends, and is not simulated again.
    `on_progress(ended, parts)` counts what had to be run.

    Raises InputError for anything that cannot be used, and for a file that another process writes.
    """

    def __init__(
        self,
        jobs: int = 1,
        backend: Where = "joblib",
        address: str | None = None,
        state: str | Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.on_progress = on_progress
        self.runner = Runner(Workers(jobs, backend, address))
        self.state = StateFile(state, lambda line: line["value"], "seqsched plot")

    def run(
        self,
        function: Callable[..., Any],
        shared: Any,
        points: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
    ) -> list[Any]:
        """`function(shared, **point)` for every point, in order; it returns what JSON can hold.

        `settings`: everything but the point on which the value depends, by name. Raises InputError, naming
        the point, where the function fails.
        """
        known = self.state.known
        inputs = [(name, text, digest_of(name, text)) for name, text in texts_within(settings)]
        about = [function.__qualname__, plain(settings), inputs, __version__, RESULTS_VERSION]
        keys = [digest([about, plain(point)]) for point in points]
        parts = {key: point for key, point in zip(keys, points, strict=True) if key not in known}
        trace = settings.get("trace")
        if parts and isinstance(trace, str) and self.runner.workers.are_elsewhere:
            announce(trace, settings.get("time_unit"))
        tasks = [Task(key, (function, inputs, Shared(shared), point)) for key, point in parts.items()]
        for number, ended in enumerate(self.runner.run(run_part, tasks), 1):
            point = parts[ended.key]
            value = ended.value_or_raise(", ".join(f"{name} {setting}" for name, setting in point.items()))
            self.state.append(ended.key, value, {"point": plain(point), "value": value})
            if self.on_progress is not None:
                self.on_progress(number, len(parts))
        return [known[key] for key in keys]

    def close(self) -> None:
        """Let the workers and the file go."""
        self.runner.close()
        self.state.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_part(
    function: Callable[..., Any], inputs: Sequence[Input], shared: Any, point: Mapping[str, Any]
) -> Any:
    """One part of a study; InputError where a file is not the one that the study began with."""
    check_unchanged(inputs, "study")
    return function(shared, **point)


def frame_of(values: Iterable[list[dict[str, Any]]]) -> pd.DataFrame:
    """All rows of all parts, in order."""
    import pandas as pd

    return pd.DataFrame([row for rows in values for row in rows])
