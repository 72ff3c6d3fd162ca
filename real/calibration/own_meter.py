"""Times single iterations of an engine that schedules by itself, cell by cell: whole steps, host included.

A cell is brought about by the requests that the engine is handed; what an iteration then computed is read
from its journal. Handing over those that an iteration begins with is timed with it, as a run counts it. The
counterpart of `Meter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from sim.hardware.steps_file import LONGEST
from traces.trace import IntArray

from ..engines.scheduling import EngineSizes, Load, SchedulerSettings, SchedulingEngine, Setup
from ..lengths.prompts import random_tokens
from .cells import STEPS_PER_VISIT, Cell
from .meter import StepTime

LONG_ANSWER = 4 * STEPS_PER_VISIT
"""More tokens than a visit lets any sequence have."""


def fits(cell: Cell, budget: int) -> bool:
    """Whether an iteration of so many tokens can be it, and another one before it compute its history."""
    return cell.rows + max(cell.history, cell.prefill_tokens) <= budget


class OwnMeter:
    """Times cells on an engine of these sizes. `rng` draws prompts of the `ordinary` ids; `clock` gives
    seconds.

    The prompt that sequence number k decodes behind is the same in every visit, so that all but the first
    find it in memory; prompts that are timed are always new. Its scheduler takes turns with those of runs.
    """

    def __init__(
        self,
        engine: SchedulingEngine,
        ordinary: IntArray,
        rng: np.random.Generator,
        sizes: EngineSizes,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine, self.ordinary, self.rng, self.clock = engine, ordinary, rng, clock
        self.settings = SchedulerSettings(
            max_num_seqs=sizes.max_num_seqs,
            max_num_batched_tokens=sizes.max_num_batched_tokens,
            async_scheduling=engine.async_scheduling,
        )
        self.next_key = 0
        self.texts: list[list[int]] = []
        self.setup: Setup | None = None

    def visit(self, cell: Cell) -> dict[str, float]:
        """One measurement of the cell, as a row of a steps file plus the host's clock, `wall_ms`.

        What was computed and how long it took are means over the visit's steps.
        """
        if self.setup is None:
            self.setup = self.engine.use(self.settings)
        elif self.engine.setup is not self.setup:
            self.engine.resume(self.setup)
        timed = {"decode": self._decode, "prefill": self._prefill, "mixed": self._mixed}[cell.kind](cell)
        self.engine.clear()
        loads, times = zip(*timed, strict=True)
        means = {name: fmean(getattr(load, name) for load in loads) for name in Load._fields}
        if cell.rows and not cell.longest:  # what is computed while the last prompts are makes no difference
            means[LONGEST] = means["decode_context_tokens"] / means["num_decode"]
        return {
            **means,
            "step_ms": fmean(t.device_s for t in times) * 1e3,
            "wall_ms": fmean(t.wall_s for t in times) * 1e3,
        }

    def host_s(self, max_rows: int) -> float:
        """The host's time beyond a step: none, for it is in the step."""
        return 0.0

    def _decode(self, cell: Cell) -> list[tuple[Load, StepTime]]:
        self._prime(cell.contexts)
        self.engine.step()
        return [self._timed() for _ in range(STEPS_PER_VISIT)]

    def _prefill(self, cell: Cell) -> list[tuple[Load, StepTime]]:
        return [self._timed([self._new(cell.chunk_tokens) for _ in range(cell.chunks)])]

    def _mixed(self, cell: Cell) -> list[tuple[Load, StepTime]]:
        self._prime(cell.contexts)
        prompt = self._new(cell.history + cell.chunk_tokens)
        if not cell.history:
            return [self._timed([prompt])]
        self._add(prompt)
        self.engine.limit_tokens(cell.rows + cell.history)
        self.engine.step()
        self.engine.limit_tokens(self.settings.max_num_batched_tokens)
        return [self._timed()]

    def _prime(self, contexts: Sequence[int]) -> None:
        """As many sequences decode, each behind about so many tokens."""
        while len(self.texts) < len(contexts):
            self.texts.append([])
        waiting = set()
        for context, text in zip(contexts, self.texts, strict=False):
            text.extend(self._new(max(0, context - len(text))))
            waiting.add(self._add(text[:context]))
        while waiting:
            waiting -= {progress.key for progress in self.engine.step()}

    def _new(self, num_tokens: int) -> list[int]:
        """A prompt that nothing in memory begins like."""
        return random_tokens(num_tokens, self.ordinary, self.rng)

    def _add(self, prompt: Sequence[int]) -> int:
        self.next_key += 1
        self.engine.add(self.next_key, prompt, LONG_ANSWER)
        return self.next_key

    def _timed(self, prompts: Sequence[Sequence[int]] = ()) -> tuple[Load, StepTime]:
        """One step that begins with these, and what the iteration computed that ended with it."""
        assert self.setup is not None
        begin, ticked = time.perf_counter(), self.clock()
        for prompt in prompts:
            self._add(prompt)
        self.engine.step()
        took = StepTime(self.clock() - ticked, time.perf_counter() - begin)
        journal = self.setup.journal
        return journal.loads[journal.num_ended - 1], took
