"""Where the points of a sweep run: the cores of this machine (joblib) or a cluster (Dask).

Knows nothing of grids and files. A runner takes points and yields each with what became of it, in the order
in which they end. A point whose process died is yielded with `DIED`; whoever asked may run it alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from traces.errors import InputError
from traces.loading import file_of
from traces.trace import Trace

from ..scenario.policies import DEFAULT_POLICY
from ..scenario.scenario import Scenario, scenario
from ..sweeps.grid import Point, inputs_of, known_settings
from ..version import RESULTS_VERSION, __version__

if TYPE_CHECKING:
    from distributed import Client, Future

CLUSTER_EXTRA = 'pip install "seqsched[cluster]"'
CONNECT_S = 10
MOST_ERROR_CHARACTERS = 500


class Ended(NamedTuple):
    """What became of a point: its summary, or the error that it ended with."""

    point: Point
    summary: dict[str, Any] | None
    error: str | None


DIED = "the process that ran it died (killed, or out of memory)"


class Runner(Protocol):
    """A place where points run."""

    def run(self, points: Sequence[Point], *, alone: bool = False) -> Iterator[Ended]:
        """Run every point; `alone`: so that the death of its process can be nobody else's doing."""


def run_point(point: Point, version: str = __version__, results_version: int = RESULTS_VERSION) -> Ended:
    """Simulate one point; whatever it raises becomes its error, in one line.

    A worker keeps the last traces and scenarios that it set up, so points that share them set up nothing.
    `version`, `results_version`: of the program that asks, which must be those of the one that runs here.
    """
    try:
        if version != __version__:
            raise InputError(f"seqsched {__version__} runs here, {version} asked")
        if results_version != RESULTS_VERSION:
            raise InputError(f"results version {RESULTS_VERSION} runs here, {results_version} asked")
        given = dict(point.settings)
        policy = given.pop("policy", DEFAULT_POLICY)
        shared = _scenario(_Frozen(given), _Frozen(point.inputs))
        return Ended(point, shared.run(policy).summary, None)
    except InputError as error:
        return Ended(point, None, _one_line(str(error)))
    except Exception as error:  # a policy from outside may raise anything, and stops nobody else's point
        return Ended(point, None, _one_line(f"{type(error).__name__}: {error} ({_place(error)})"))


class Cores:
    """The cores of this machine, through joblib; one job runs in this process."""

    def __init__(self, jobs: int | None = None) -> None:
        import joblib

        if jobs is not None and jobs < 1:
            raise InputError(f"jobs: {jobs} must be at least 1")
        self.jobs: int = joblib.cpu_count() if jobs is None else jobs
        self.started = False

    def run(self, points: Sequence[Point], *, alone: bool = False) -> Iterator[Ended]:
        """Run the points, the first ones first; see `Runner`.

        When a process dies, joblib stops them all: what was running is given up as `DIED`, what was waiting
        goes to new processes.
        """
        import joblib

        if self.jobs == 1 and not alone:
            yield from map(run_point, points)
            return
        self.started = True
        left = {point.key: point for point in points}
        while left:
            jobs = max(2, min(self.jobs, len(left)))  # joblib makes no process for a single one
            pool = joblib.Parallel(n_jobs=jobs, backend="loky", return_as="generator_unordered", batch_size=1)
            with TemporaryDirectory() as folder:
                tasks = [joblib.delayed(_run_marked)(point, folder, os.getpid()) for point in left.values()]
                try:
                    for ended in pool(tasks):
                        del left[ended.point.key]
                        yield ended
                except BrokenProcessPool:
                    running = [left.pop(mark.name) for mark in Path(folder).iterdir() if mark.name in left]
                    if not running:
                        raise
                    yield from (Ended(point, None, DIED) for point in running)

    def close(self) -> None:
        """End the processes: the next sweep may bring other modules, or newer ones, on another path."""
        if self.started:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


class Cluster:
    """The workers of a Dask scheduler."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError(f"--backend dask: needs Dask: {CLUSTER_EXTRA}") from None
        # What goes wrong ends in one line of ours; the client's own tracebacks would stand beside it.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self.client: Client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"--address {address}: no Dask scheduler answers ({reason})") from None

    def run(self, points: Sequence[Point], *, alone: bool = False) -> Iterator[Ended]:
        """Run the points, one at a time where they are to be alone; see `Runner`."""
        for part in [[point] for point in points] if alone else [points]:
            yield from self._submit(part)

    def _submit(self, points: Iterable[Point]) -> Iterator[Ended]:
        from distributed import as_completed

        # A key of its own, or the scheduler would answer with what it kept of an earlier sweep.
        run = uuid.uuid4().hex
        waiting = {
            self.client.submit(
                run_point, point, __version__, RESULTS_VERSION, key=f"seqsched-{point.key}-{run}"
            ): point
            for point in points
        }
        try:
            completed = as_completed(list(waiting), loop=self.client.loop)
            for future in completed:
                if future.status == "lost":  # its worker died before it handed the result over; it runs again
                    completed.add(future)
                elif future.status == "cancelled":
                    raise InputError("the Dask scheduler has given the points up; is it still there?")
                else:
                    yield _answer(future, waiting.pop(future))
        finally:
            self.client.cancel(list(waiting))

    def close(self) -> None:
        """Leave the cluster; what it runs for us is cancelled."""
        self.client.close()


def _answer(future: Future, point: Point) -> Ended:
    """What a future that is done has become."""
    from distributed import KilledWorker

    try:
        ended: Ended = future.result()
    except KilledWorker:
        return Ended(point, None, DIED)
    except Exception as error:  # what stops run_point itself, such as a worker without this package
        return Ended(point, None, _one_line(f"{type(error).__name__}: {error}"))
    return ended


class _Frozen(dict[str, Any]):
    """A dict of settings that can be the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))


@lru_cache(maxsize=2)
def _scenario(given: _Frozen, inputs: _Frozen) -> Scenario:
    """All of a point but its policy, set up; InputError where a file is not the one that was asked for."""
    found = inputs_of(given, {})
    for name, digest in inputs.items():
        if not name.startswith("policy ") and found.get(name) != digest:
            raise InputError(f"{name}: its content here is not what it was when the sweep began")
    settings = {name: setting.default for name, setting in known_settings().items()} | given
    source = settings["trace"]
    # What scales lengths comes before the cap, so that the cap must wait for it.
    cap = settings["max_new_tokens"] if settings.get("output_scale", 1) == 1 else None
    digest = inputs.get(f"trace {source}", "")
    trace = _load(source, digest, settings["seed"], cap, settings["num_prompts"])
    return scenario(trace, **{name: value for name, value in given.items() if name != "trace"})


def _load(source: str, digest: str, seed: int, cap: int | None, num_prompts: int | None) -> Trace:
    """A trace, loaded once for all points that share it; its notes say whether the seed has a part in it."""
    if file_of(source) is None:
        return _load_once(source, digest, seed, cap, num_prompts)
    trace = _load_once(source, digest, 0, cap, None)
    return _load_once(source, digest, seed, cap, None) if trace.notes else trace


@lru_cache(maxsize=4)
def _load_once(source: str, digest: str, seed: int, cap: int | None, num_prompts: int | None) -> Trace:
    import traces

    return traces.load(source, seed=seed, max_new_tokens=cap, num_prompts=num_prompts)


def _run_marked(point: Point, folder: str, parent: int) -> Ended:
    """Run a point, and leave a mark in the folder for as long as it runs."""
    _end_with(parent)
    mark = Path(folder) / point.key
    mark.touch()
    ended = run_point(point)
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


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MOST_ERROR_CHARACTERS]


def _place(error: BaseException) -> str:
    """File and line in which it was raised; SimPy raises a copy, whose cause is the original."""
    while error.__cause__ is not None:
        error = error.__cause__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
