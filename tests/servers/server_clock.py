"""The time of a server's own processor: what else the machine does meanwhile does not count.

A server of one thread that has always something to do uses a second of its processor in a second, where it
has one for itself. Linux says how much a process has used.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

EVERY_S = 0.01


class ServerClock:
    """Seconds of processor time that the busiest of a server's processes had used, by the time of day."""

    def __init__(self, pid: int) -> None:
        self.pids = _family(pid)
        self.instants: list[float] = []
        self.used: list[list[float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Notes inside the block how much is used."""
        is_over = threading.Event()

        def note() -> None:
            while not is_over.wait(EVERY_S):
                self.note()

        self.note()
        thread = threading.Thread(target=note)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.note()

    def note(self) -> None:
        """How much is used now."""
        self.instants.append(time.time())
        self.used.append([_used_s(pid) for pid in self.pids])

    def at(self, instant_s: float) -> float:
        """What was used at a time of day, in seconds since the first note."""
        used = np.array(self.used)
        busiest = int((used[-1] - used[0]).argmax())
        return float(np.interp(instant_s, self.instants, used[:, busiest] - used[0, busiest]))

    def by_this(self, log: Path, out: Path) -> Path:
        """A log of the layer with its times by this clock, written to `out`."""
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        out.write_text("".join(json.dumps(self._moved(row)) + "\n" for row in rows), encoding="utf-8")
        return out

    def _moved(self, row: dict[str, Any]) -> dict[str, Any]:
        arrival_s, tokens = row["arrival_s"], row["output_tokens"]
        ttft_ms, e2el_ms = (
            1e3 * (self.at(arrival_s + row[key] / 1e3) - self.at(arrival_s)) for key in ("ttft_ms", "e2el_ms")
        )
        times = {key: self.at(row[key]) for key in ("arrival_s", "scheduled_s", "finish_s")}
        tpot_ms = (e2el_ms - ttft_ms) / (tokens - 1) if tokens > 1 else 0.0
        return {**row, **times, "ttft_ms": ttft_ms, "e2el_ms": e2el_ms, "tpot_ms": tpot_ms}


def _used_s(pid: int) -> float:
    """Processor time of a process: Linux numbers these clocks by their processes."""
    return time.clock_gettime((~pid << 3) | 2)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(each for child in children for each in _family(int(child)))]
