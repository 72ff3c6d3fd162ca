"""Which tasks run, how often, and what becomes of those whose process dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest

from sim.parallel.runner import Runner, Workers
from sim.parallel.tasks import DIED, Ended, Function, Task, Versions, attempt
from sim.sweeps.sweep import sweep
from traces.errors import InputError


class Fragile:
    """A place where some tasks end their process, a number of times each, and take those behind along."""

    def __init__(self, deaths: dict[str, int]) -> None:
        self.deaths, self.calls, self.closed = deaths, [], False  # type: ignore[var-annotated]

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[Ended]:
        keys = [task.key for task in tasks]
        self.calls.append(keys)
        dying = [key for key in keys if self.deaths.get(key, 0) > 0]
        for key in dying:
            self.deaths[key] -= 1
        for task in tasks:
            if dying and task.key >= dying[0]:
                yield Ended(task.key, None, DIED)
            else:
                yield Ended(task.key, function(*task.arguments), None)

    def close(self) -> None:
        self.closed = True


def run(place: Fragile, known: Sequence[str] = ()) -> dict[str, Any]:
    with Runner(Workers(backend=place)) as runner:
        ended = list(runner.run(str.upper, [Task(k, (k,)) for k in ("a", "b", "c", "b")], known))
    assert place.closed and len(ended) == len({each.key for each in ended})
    return {each.key: each.value or each.error for each in ended}


def test_every_key_runs_once_and_what_is_known_not_at_all() -> None:
    place = Fragile({})
    assert run(place, known=["a"]) == {"b": "B", "c": "C"} and place.calls == [["b", "c"]]
    assert run(place, known=["a", "b", "c"]) == {} and len(place.calls) == 1


def test_what_died_runs_once_more_alone() -> None:
    place = Fragile({"b": 1})
    assert run(place) == {"a": "A", "b": "B", "c": "C"}
    assert place.calls == [["a", "b", "c"], ["b"], ["c"]]


def test_what_dies_alone_has_died() -> None:
    place = Fragile({"b": 9})
    assert run(place) == {"a": "A", "b": DIED, "c": "C"}


def test_a_place_of_ones_own_runs_a_sweep() -> None:
    class Threads:
        def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[Ended]:
            with ThreadPoolExecutor(2) as pool:
                calls = [pool.submit(attempt, function, Versions(), t.key, *t.arguments) for t in tasks]
                for call in as_completed(calls):
                    yield call.result()

        def close(self) -> None:
            pass

    settings = {"trace": "fixed", "num_prompts": 9, "grid": {"seeds": [0, 1, 2]}}
    there = sweep(settings, backend=Threads())
    assert there.rows == sweep(settings, jobs=1).rows and len(there.rows) == 3


def test_workers_are_held_only_while_there_is_something_to_run() -> None:
    with Runner(Workers(backend="dask", address="tcp://127.0.0.1:9")) as runner:
        assert list(runner.run(str.upper, [Task("a", ("a",))], known={"a"})) == [] and runner.place is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jobs": 0}, r"jobs: 0 must be at least 1, or -1 for every core"),
        ({"jobs": -2}, r"jobs: -2 must be at least 1, or -1 for every core"),
        ({"backend": "spark"}, "'spark' is not one of joblib, dask"),
        ({"backend": "dask"}, "dask needs one"),
        ({"address": "tcp://127.0.0.1:1"}, "joblib takes none"),
    ],
)
def test_workers_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workers(**settings)
