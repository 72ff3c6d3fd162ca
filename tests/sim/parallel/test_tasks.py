"""How a task ends: with its value, or with one line that says what went wrong and where."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from sim.parallel.tasks import DIED, Ended, Shared, Versions, attempt
from sim.version import RESULTS_VERSION, __version__
from traces.errors import InputError


def fail(error: BaseException) -> None:
    raise error


def test_a_value_is_what_the_function_returns() -> None:
    ended = attempt(max, Versions(), "k", Shared(3), 2)
    assert ended == Ended("k", 3, None) and ended.value_or_raise("a task") == 3


@pytest.mark.parametrize(
    ("error", "line", "raised"),
    [
        (InputError("rate: 0 is not\nabove 0"), "rate: 0 is not above 0", "run 7: rate: 0 is not above 0"),
        (
            ValueError("no\ngood"),
            "ValueError: no good (test_tasks.py, line 16)",
            "run 7: ValueError",
        ),
        (SystemExit(3), "SystemExit: 3 (test_tasks.py, line 16)", "run 7: SystemExit: 3"),
    ],
)
def test_an_error_is_one_line(error: BaseException, line: str, raised: str) -> None:
    ended = attempt(fail, Versions(), "k", error)
    assert ended.value is None and ended.error == line
    with pytest.raises(InputError) as found:
        ended.value_or_raise("run 7")
    assert str(found.value).startswith(raised)
    assert "in fail" in "".join(traceback.format_exception(found.value)), "the way to it is a note"


def test_a_task_that_died_is_named() -> None:
    with pytest.raises(InputError, match=r"^run 7: the process that ran it died"):
        Ended("k", None, DIED).value_or_raise("run 7")


def test_an_error_is_not_longer_than_can_be_read() -> None:
    error = attempt(fail, Versions(), "k", ValueError("x" * 10_000)).error
    assert error is not None and len(error) == 500


@pytest.mark.parametrize("versions", [("0.0.0", RESULTS_VERSION), (__version__, RESULTS_VERSION + 1)])
def test_a_worker_of_another_version_runs_nothing(versions: tuple[str, int]) -> None:
    calls: list[Any] = []
    ended = attempt(calls.append, Versions(*versions), "k", 1)
    assert not calls and ended.error is not None and "runs here, not" in ended.error
