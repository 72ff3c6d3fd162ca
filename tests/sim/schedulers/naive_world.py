"""What naive references of schedulers share: requests, and what became of them; for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from sim.results.result import Result
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

PAGE = 16


class Event(NamedTuple):
    """An iteration that computes prompts or retracts: its number, who was retracted, chunks (id, tokens,
    whether it is the last).
    """

    iteration: int
    retracted: list[int]
    chunks: list[tuple[int, int, bool]]


@dataclass(eq=False)
class Job:
    """A request; `filled`: tokens of its prompt, and of what it generated before, that are in memory."""

    id: int
    arrival: int
    prompt: int
    output: int
    cap: int
    generated: int = 0
    filled: int = 0
    kept: int = 0
    """Generated before it was last taken out of memory."""

    @property
    def length(self) -> int:
        """Tokens to compute before its next one."""
        return self.prompt + (self.kept if self.is_filled else self.generated)

    @property
    def is_filled(self) -> bool:
        """Whether its prompt is complete, so that it decodes."""
        return self.filled > 0 and self.filled == self.prompt + self.kept

    @property
    def is_done(self) -> bool:
        """Whether it has its answer."""
        return self.generated >= self.output

    @property
    def held(self) -> int:
        """Tokens in memory."""
        return self.prompt + self.generated - 1 if self.is_filled else self.filled

    def fill(self, tokens: int) -> None:
        """Compute a chunk; the last one yields a token."""
        self.kept = self.generated
        self.filled += tokens
        if self.is_filled:
            self.generated += 1


@dataclass
class Run:
    """Events, and when requests finished (iterations since the start)."""

    events: list[Event] = field(default_factory=list)
    finished: dict[int, int] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Keep an iteration in which something was decided."""
        if event.retracted or event.chunks:
            self.events.append(event)

    def finish(self, jobs: Sequence[Job], now: int) -> None:
        """Keep when requests have finished."""
        for job in jobs:
            if job.is_done:
                self.finished.setdefault(job.id, now)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Job], int]:
    """Requests of one cap and a number of blocks that holds each, but not all."""
    cap = draw(st.sampled_from([20, 60, 150]))
    longest = draw(st.sampled_from([20, 100]))
    n = draw(st.sampled_from([1, 4, 12, 30]))
    gap = draw(st.sampled_from([0, 4, 15]))
    jobs, arrival = [], 0
    for i in range(n):
        output = draw(st.one_of(st.just(cap), st.integers(1, cap)))
        jobs.append(Job(i, arrival, draw(st.integers(1, longest)), output, cap))
        arrival += draw(st.integers(0, gap))
    least = max(-(-(job.prompt + cap) // PAGE) for job in jobs)
    return jobs, least + draw(st.integers(0, 50))


def in_pages(jobs: Sequence[Job], blocks: int, page: int) -> int:
    """About as much memory in blocks of another size, that holds each of the requests, too."""
    least = max(-(-(job.prompt + job.cap) // page) for job in jobs)
    return max(least, blocks * PAGE // page)


def simulated(jobs: Sequence[Job], blocks: int, policy: str, page: int = PAGE) -> Run:
    """The same by the simulator, an iteration taking a second."""
    trace = Trace(
        "made up",
        np.arange(len(jobs)),
        np.array([job.prompt for job in jobs]),
        np.array([job.output for job in jobs]),
        arrival_s=np.array([job.arrival for job in jobs], dtype=float),
    )
    shared = scenario(
        trace,
        profile=flat_machine(1.0),
        kv_blocks=blocks,
        block_size=page,
        max_new_tokens=jobs[0].cap,
        predictor="oracle",
    )
    result: Result = shared.run(policy, log=True)
    run, iteration = Run(), 0
    for b in result.batches:
        chunks = [(i, tokens, last) for i, (tokens, last) in zip(b.request_ids, b.chunks, strict=True)]
        run.note(Event(iteration, list(b.evicted), chunks))
        iteration += b.iterations
    run.finished = {i: int(finish_s) for i, finish_s in enumerate(result.columns["finish_s"])}
    return run
