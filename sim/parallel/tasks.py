"""Tasks that run in parallel, and how one ends: with a value, or with an error in one line.

Knows nothing of where tasks run and of what they do.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from traces.errors import InputError

from ..version import RESULTS_VERSION, __version__
from ..work import SchedulingError

MOST_ERROR_CHARACTERS = 500

DIED = "the process that ran it died (killed, or out of memory)"
"""The error of a task whose process ended with it."""

Function = Callable[..., Any]
"""Called with a task's arguments, in any process: it and they can be pickled."""


class Shared(NamedTuple):
    """An argument that many tasks hold; a cluster gets it once, the function its value."""

    value: Any


class Task(NamedTuple):
    """The arguments of one call, and the key by which its result is found again."""

    key: str
    arguments: tuple[Any, ...]


class Ended(NamedTuple):
    """How a task ended: its value, or its error in one line and the traceback to where it was raised."""

    key: str
    value: Any
    error: str | None
    traceback: str = ""

    def value_or_raise(self, name: str) -> Any:
        """The value; InputError, which starts with `name`, where the task failed."""
        if self.error is None:
            return self.value
        failure = InputError(f"{name}: {self.error}")
        if self.traceback:
            failure.add_note(self.traceback)
        raise failure


class Versions(NamedTuple):
    """Of the program that wants a task to be run; the one that runs it must have the same."""

    package: str = __version__
    results: int = RESULTS_VERSION


def attempt(function: Function, versions: Versions, key: str, *arguments: Any) -> Ended:
    """Call the function; whatever it raises becomes the task's error."""
    try:
        if versions.package != __version__:
            raise InputError(f"seqsched {__version__} runs here, not {versions.package}")
        if versions.results != RESULTS_VERSION:
            raise InputError(f"results version {RESULTS_VERSION} runs here, not {versions.results}")
        values = [each.value if isinstance(each, Shared) else each for each in arguments]
        return Ended(key, function(*values), None)
    except (InputError, SchedulingError) as error:
        return Ended(key, None, one_line(str(error)), traceback.format_exc())
    except (Exception, SystemExit) as error:  # a policy from outside may raise anything
        line = f"{type(error).__name__}: {error} ({_place(error)})"
        return Ended(key, None, one_line(line), traceback.format_exc())


def one_line(text: str) -> str:
    """The text without line breaks, cut where it is too long to be read."""
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
