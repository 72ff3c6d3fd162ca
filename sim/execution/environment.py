"""SimPy's environment for one run, which leaves nothing behind; knows nothing of what runs in it."""

from __future__ import annotations

import gc
from collections.abc import Generator
from types import TracebackType
from typing import Any

import simpy


class Environment(simpy.Environment):
    """An environment and a context, at whose end the processes end too.

    A process that waits for ever refers to all that it works with, and that to the process: garbage that only
    a search for cycles finds, too late where runs are large. Meanwhile that search is off: it would take a
    third of the time of thousands of replicas.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generators: list[Generator[simpy.Event, Any, Any]] = []

    def process(self, generator: Generator[simpy.Event, Any, Any]) -> simpy.Process:
        """Start a process."""
        self._generators.append(generator)
        return simpy.Process(self, generator)

    def skip(self, seconds: float) -> bool:
        """Let time pass at once, without an event, where nothing else would happen meanwhile."""
        then = self._now + seconds
        if self._queue and self._queue[0][0] <= then:
            return False
        self._now = then
        return True

    def __enter__(self) -> Environment:
        self._was_on = gc.isenabled()
        gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for generator in self._generators:
            generator.close()
        if self._was_on:
            gc.enable()
