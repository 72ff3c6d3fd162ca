"""The exceptions that bad input raises; knows nothing of who reads the input."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class InputError(ValueError):
    """Input that cannot be used.

    The message is a single line that names the thing, its value and the bound, for example
    `trace.csv, row 3, prompt_tokens: -5 is below 1`. The command line prints it and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OutsideError(InputError):
    """Code from outside raised an error: its text can be right, and what it names fails as it runs."""


def raised_outside(what: str, error: BaseException) -> OutsideError:
    """The one line for an error that code from outside raised: `what` was called, the error, file and line.

    To be raised `from error`, so that a traceback is there for whoever wants to see it.
    """
    text = str(error)
    described = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = "" if isinstance(error, SyntaxError) else _place(error.__traceback__)
    return OutsideError(f"{what} raised {described}{place}")


def _place(traceback: TracebackType | None) -> str:
    """` (FILE, line N)`: the innermost line of somebody's own code, neither ours nor a library's."""
    place = ""
    while traceback is not None:
        path = traceback.tb_frame.f_code.co_filename
        if not path.startswith(("<", *_not_outside())):
            place = f" ({Path(path).name}, line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return place


def _not_outside() -> list[str]:
    """Beginnings of the paths of our own code and of libraries."""
    import sysconfig

    house = Path(__file__).parents[1]
    folders = [str(house / room) for room in ("traces", "sim", "real", "plots")]
    folders += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [folder + os.sep for folder in folders]
