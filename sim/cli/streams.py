"""Standard output and error of a command, where they are closed, full, or their reader is gone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from traces.errors import InputError


def check() -> None:
    """Before a command: nothing is said where there is no standard error; InputError without an output.

    The numbers of closed streams would go to the next files that are opened.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (for as long as the process lives)
    if sys.stdout is None:
        raise InputError("standard output: is closed; > /dev/null throws it away")


def flush() -> None:
    """After a command: write what is still kept, so that an error is noticed; OSError where that fails."""
    sys.stdout.flush()


def abandon() -> None:
    """Throw away what is kept for standard output, lest the interpreter try to write it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def failure(error: OSError) -> InputError:
    """What cannot be read or written, in one line; without a name it is standard output."""
    what = "standard output" if error.filename is None else str(error.filename)
    return InputError(f"{what}: {error.strerror or error}")
