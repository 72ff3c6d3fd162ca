"""The command line as a function."""

from __future__ import annotations

from sim.cli import main


def run(*arguments: object) -> int:
    """The exit status of `seqsched` with these arguments."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0
