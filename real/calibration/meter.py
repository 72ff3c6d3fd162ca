"""Times single iterations of an engine, cell by cell, through the calls that the executor makes.

Device events on CUDA, the host's clock elsewhere. Knows nothing of files or fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from sim.hardware.steps_file import LONGEST
from traces.trace import IntArray

from ..engines.engine import Engine, Machine, Part
from ..lengths.prompts import random_tokens
from .cells import HEADROOM_TOKENS, STEPS_PER_VISIT, WARM_UP_STEPS, Cell

HOST_ROWS = (1, 16, 64)
HOST_CONTEXT = 64
HOST_STEPS = 24


class StepTime(NamedTuple):
    """Seconds on the device, and on the host's clock."""

    device_s: float
    wall_s: float


def timed(
    device: torch.device, function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> StepTime:
    """Time of a call by device events or, without CUDA, by `clock`; the device is idle before and after."""
    if device.type != "cuda":
        begin, ticked = time.perf_counter(), clock()
        function()
        return StepTime(clock() - ticked, time.perf_counter() - begin)
    cuda: Any = torch.cuda  # its events have no types
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize(device)
    return StepTime(start.elapsed_time(end) / 1e3, time.perf_counter() - begin)


class Measuring(Protocol):
    """Times iterations of one engine."""

    @property
    def engine(self) -> Machine:
        """The engine."""

    def visit(self, cell: Cell) -> dict[str, float]:
        """One measurement of the cell, as a row of a steps file plus the host's clock, `wall_ms`."""

    def host_s(self, max_rows: int) -> float:
        """What the host adds to the time of a step."""


class Meter:
    """Times cells on one engine. `rng` draws prompts of the `ordinary` ids; `clock` is used on the CPU."""

    def __init__(
        self,
        engine: Engine,
        ordinary: IntArray,
        rng: np.random.Generator,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine, self.ordinary, self.rng, self.clock = engine, ordinary, rng, clock

    def visit(self, cell: Cell) -> dict[str, float]:
        """One measurement of the cell, as a row of a steps file plus the host's clock, `wall_ms`.

        The times are means over the visit's steps, and the fit takes the mean over visits, since a run takes
        the sum of its steps.
        """
        times = {"decode": self._decode, "prefill": self._prefill, "mixed": self._mixed}[cell.kind](cell)
        self.engine.release()
        # The first step that is timed on a decode visit is the one after the cell's context.
        grown = 1 + STEPS_PER_VISIT // 2 if cell.kind == "decode" else 0
        contexts = [tokens + grown for tokens in cell.contexts]
        return {
            "num_decode": cell.rows,
            "decode_context_tokens": sum(contexts),
            "num_prefill": cell.chunks,
            "prefill_tokens": cell.prefill_tokens,
            "prefill_attention": cell.prefill_attention,
            LONGEST: max(contexts, default=0),
            "step_ms": fmean(t.device_s for t in times) * 1e3,
            "wall_ms": fmean(t.wall_s for t in times) * 1e3,
        }

    def host_s(self, max_rows: int) -> float:
        """Time of a decode step in the executor's loop beyond its time on the device, on average."""
        gaps = []
        room = self.engine.capacity_tokens // (HOST_CONTEXT + HOST_STEPS + HEADROOM_TOKENS)
        for rows in [r for r in HOST_ROWS if r <= min(max_rows, room)] * 3:
            step = self.loop_step(rows)
            gaps.append(step.wall_s - step.device_s)
        # On the CPU both are the same clock, and their difference is noise around zero.
        return max(0.0, fmean(gaps)) if gaps and self.engine.device.type == "cuda" else 0.0

    def loop_step(self, rows: int) -> StepTime:
        """A decode step of a short context, the mean of several: alone on the device, and one after another
        as the executor's loop runs it, on the host's clock.
        """
        self._prime([HOST_CONTEXT] * rows)
        begin = time.perf_counter()
        for _ in range(HOST_STEPS):
            self.engine.decode()
        each_s = (time.perf_counter() - begin) / HOST_STEPS
        self._prime([HOST_CONTEXT] * rows)
        device_s = fmean(self._timed(self.engine.decode).device_s for _ in range(HOST_STEPS))
        self.engine.release()
        return StepTime(device_s, each_s)

    def _timed(self, function: Callable[[], object]) -> StepTime:
        return timed(self.engine.device, function, self.clock)

    def _prime(self, contexts: Sequence[int], warm_ups: int = 1) -> None:
        """A batch that has decoded `warm_ups` steps, the last of them at these contexts."""
        self.engine.prime([tokens - (warm_ups - 1) for tokens in contexts])
        for _ in range(warm_ups):
            self.engine.decode()

    def _decode(self, cell: Cell) -> list[StepTime]:
        warm_ups = 1 if self.engine.device.type == "cuda" else WARM_UP_STEPS
        self._prime(cell.contexts, min(warm_ups, *cell.contexts))
        return [self._timed(self.engine.decode) for _ in range(STEPS_PER_VISIT)]

    def _prefill(self, cell: Cell) -> list[StepTime]:
        prompts = self._prompts(cell)
        return [self._timed(lambda: self.engine.prefill(prompts, 2))]

    def _prompts(self, cell: Cell) -> Sequence[Sequence[int]]:
        """Prompts of one length where padding is skipped; else, as in real batches, some are shorter."""
        lengths = [
            cell.chunk_tokens - (0 if self.engine.ragged_prefill else k % max(1, cell.chunk_tokens // 2))
            for k in range(cell.chunks)
        ]
        return [self._ids(n) for n in lengths]

    def _ids(self, count: int) -> list[int]:
        return random_tokens(count, self.ordinary, self.rng)

    def _mixed(self, cell: Cell) -> list[StepTime]:
        engine: Any = self.engine
        keys, chunk_key = engine.prime_mixed(cell.rows, cell.context, cell.history, cell.chunk_tokens)
        parts = [Part(key, self._ids(1), True) for key in keys]
        parts.append(Part(chunk_key, self._ids(cell.chunk_tokens), True))
        step = self._timed(lambda: engine.iterate(parts))
        engine.evict(chunk_key)
        return [step]


def warm(meter: Measuring, cells: Sequence[Cell], visited: Callable[[], None]) -> None:
    """Visit each cell once, unrecorded, so that no measurement contains compilation, capture, allocation."""
    for cell in sorted(cells, reverse=True):  # largest first: smaller graphs then fit the pool it made
        meter.visit(cell)
        visited()


def order(cells: Sequence[Cell], seed: int) -> Iterator[Cell]:
    """All cells, repeatedly, each time in a new random order.

    That way a drift of the machine is not mistaken for an effect of a size.
    """
    rng = np.random.default_rng(seed)
    while True:
        yield from (cells[k] for k in rng.permutation(len(cells)))
