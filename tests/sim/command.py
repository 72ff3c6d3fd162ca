"""The command line as a function."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sim.cli import main


def run(*arguments: object) -> int:
    """The exit status of `seqsched` with these arguments."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must refuse its input."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `simulate` finds for `trace.csv`."""
    assert run("simulate", "--trace", "trace.csv", "--json", *arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
