"""SimPy's environment for one run, which leaves nothing behind; knows nothing of what runs in it.

What falls on one instant happens in the order of its rank, whenever it was planned: replicas fail and come
back, work ends, requests arrive, and then replicas decide, by number. So an arrival finds the places of all
that ends with it free, and a decision knows of all that its instant brings.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from heapq import heappush
from types import TracebackType
from typing import Any

import simpy

OUTAGE, END, ARRIVAL, DECISION = range(4)
"""Ranks of what happens at one instant: SimPy's interrupts have the first, its timeouts the second."""


class Environment(simpy.Environment):
    """An environment and a context, at whose end the processes end too.

    A process that waits for ever refers to all that it works with, and that to the process: garbage that only
    a search for cycles finds, too late where runs are large. Meanwhile that search is off: it would take a
    third of the time of thousands of replicas.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue = self._queue
        self._generators: list[Generator[simpy.Event, Any, Any]] = []

    def process(self, generator: Generator[simpy.Event, Any, Any]) -> simpy.Process:
        """Start a process."""
        self._generators.append(generator)
        return simpy.Process(self, generator)

    def at(self, time_s: float, rank: int) -> simpy.Event:
        """An event at exactly this time, which is not past."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, rank, next(self._eid), event))  # type: ignore[misc]
        return event

    def trigger(self, event: simpy.Event, rank: int) -> None:
        """Let the event happen now, in the turn of its rank."""
        event._ok, event._value = True, None
        self.schedule(event, rank)  # type: ignore[arg-type]

    def skip_to(self, time_s: float) -> bool:
        """Let time pass at once, without an event, where nothing else would happen meanwhile."""
        if self._queue and self._queue[0][0] <= time_s:
            return False
        self._now = time_s
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
