"""What was assumed of files, and what of the environment was not used, printed on stderr: the only place
where a command says it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = "traces"


class Assumptions(logging.Handler):
    """Keeps each line once, until it is printed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines[record.getMessage()] = None

    def add(self, line: str) -> None:
        """Keep a line that no reader of a file has logged."""
        self.lines[line] = None

    def print(self) -> None:
        """Print what is kept, a line each."""
        for line in self.lines:
            print(f"seqsched: {' '.join(line.split())}", file=sys.stderr)
        self.lines.clear()


@contextmanager
def assumptions() -> Iterator[Assumptions]:
    """What is assumed while the block runs.

    A command that refuses its input ends with one line on stderr, so that nothing is printed before it is
    known to run.
    """
    logger = logging.getLogger(LOGGER)
    kept, level = Assumptions(), logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    try:
        yield kept
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
