"""Carries out a scheduler's work on a real model, in wall-clock time: the counterpart of
`sim.execution.replica`.

This module alone (with its data) knows the true lengths: a row stops at its trace's length, whatever the
model says, or, where the model may decide, at its end token. It knows nothing of how a scheduler decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import assert_never, cast

import torch

from sim.execution.blame import blame
from sim.execution.progress import Progress
from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger
from sim.schedulers.base import complete
from sim.work import (
    Drop,
    Iterations,
    Outcome,
    PaddedBatch,
    Perceive,
    Scheduler,
    SchedulingError,
    Work,
    unknown_work,
)

from ..engines.engine import Engine, OutOfDeviceMemory, Row, StepwiseEngine
from ..lengths.prompts import with_question
from .arrivals import WallArrivals
from .clocks import ramp
from .iterations import Sequences
from .job import Job


class Executor:
    """One accelerator at work: asks the scheduler, runs the model, writes the ledger, reports the outcome.

    `coming`: the job's requests as they come, by default at their arrivals. `on_batch`: is told the rows of
    each padded batch that answers, before it begins.

    After `run`, `answers` holds the tokens of every finished request, `output_tokens` their numbers, `heard`
    what the model said when it was asked for a length, and `incidents` one line for every time that memory
    ran out.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        job: Job,
        ledger: Ledger,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        coming: Iterator[Request] | None = None,
        on_batch: Callable[[Sequence[Row]], None] | None = None,
    ) -> None:
        self.engine, self.job, self.ledger, self.on_batch = engine, job, ledger, on_batch
        self.scheduler = complete(scheduler)
        self.clock, self.sleep = clock, sleep
        self.output_tokens = list(job.output_tokens)
        self.answers: dict[int, list[int]] = {}
        self.cut_off: dict[int, list[int]] = {}  # answers so far of rows that a padded batch did not finish
        self.heard: dict[int, list[int]] = {}
        self.incidents: list[str] = []
        by_arrival = iter(sorted(job.requests, key=lambda r: r.arrival_s))
        self.arrivals = WallArrivals(coming or by_arrival, ledger, job.max_concurrency, self._submit)
        self.start: float | None = None
        self.progress = Progress(scheduler)
        self.sequences = None
        if hasattr(engine, "iterate"):
            self.sequences = Sequences(
                cast(StepwiseEngine, engine), job.turns.prompts, self.output_tokens, job.eos_tokens, ledger
            )

    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock() - (self.start or 0.0)

    def run(self) -> None:
        """Work until every request has ended; SchedulingError where the scheduler leaves some behind."""
        while self.step():
            pass

    def step(self) -> bool:
        """Carry out one Work, or wait for one; False where there is nothing left to do."""
        with blame(lambda: [self.scheduler]):
            return self._step()

    def _step(self) -> bool:
        if self.start is None:
            self.start = self.clock()
        now = self.now()
        self.arrivals.release(now)
        work = self.scheduler.next_work(now)
        if work is not None:
            outcome = self._carry_out(work)
            self._watch(work, outcome)
            self.scheduler.record(work, outcome, self.now())
            return True
        if self._wait():
            return True
        lost = [r.id for r in self.job.requests if not self.ledger.ended(r.id)]
        if lost:
            raise SchedulingError(
                f"{type(self.scheduler).__name__} left {len(lost)} requests unserved, such as {lost[:5]}"
            )
        return False

    def _watch(self, work: Work, outcome: Outcome) -> None:
        """Notice a scheduler that makes no progress."""
        state, num_requests = self._state, self.arrivals.num_open
        match work:
            case PaddedBatch():
                self.progress.ran(work, outcome, state, num_requests)
            case Perceive():
                self.progress.perceived(work, state, num_requests)
            case Drop():
                self.progress.dropped(len(work.requests), state, num_requests)
            case Iterations():
                assert self.sequences is not None
                if outcome.finished or self.sequences.running:
                    self.progress.happened()
                else:
                    self.progress.prefilled(work.chunks, self.sequences.computed, state, num_requests)
            case _:
                assert_never(work)

    def _state(self) -> object:
        """Differs where a request has arrived or ended."""
        return self.arrivals.num_left, self.arrivals.num_open

    def _submit(self, request: Request) -> None:
        self.scheduler.submit(request, self.now())

    def _wait(self) -> bool:
        """Sleep until an arrival or until the scheduler wants to be asked; False where neither will come."""
        next_s, wake_at = self.arrivals.next_s, self.scheduler.wake_at
        if wake_at is None or self.arrivals.is_done:
            if next_s is None:
                return False
            wake_at = math.inf
        due_s = math.inf if next_s is None else next_s
        wait_s = max(0.0, min(due_s, wake_at) - self.now())
        if wake_at < due_s:
            self.progress.woke(wait_s, next_s is not None, self._state, self.arrivals.num_open)
        self.sleep(wait_s)
        return True

    def _carry_out(self, work: Work) -> Outcome:
        match work:
            case PaddedBatch():
                return self._padded_batch(work)
            case Perceive():
                return self._perceive(work)
            case Drop():
                return self._drop(work)
            case Iterations():
                return self._iterations(work)
            case _:
                unknown_work(work, self.scheduler)

    def _padded_batch(self, work: PaddedBatch) -> Outcome:
        """Run the batch; where the device runs out of memory, its halves, one after the other."""
        self.ledger.check_not_ended(work.requests, "run again")
        try:
            record, rows = self._run_rows(work)
        except torch.OutOfMemoryError as error:
            return self._in_halves(work, error)
        self._learn_ends(work.requests, rows)
        outcome = self.ledger.record_padded(work, record, self.output_tokens)
        for request, row in zip(work.requests, rows, strict=True):
            answer = self._begun(request) + row
            if self.output_tokens[request.id] <= request.answered_tokens + record.iterations:
                self._keep(request.id, answer[: self.output_tokens[request.id]])
                self.cut_off.pop(request.id, None)
            else:
                self.cut_off[request.id] = answer
        self.arrivals.ended(outcome.finished, record.end_s)
        return outcome

    def _begun(self, request: Request) -> list[int]:
        """The tokens of its answer that a request goes on from."""
        return self.cut_off[request.id][: request.answered_tokens] if request.answered_tokens else []

    def _run_rows(self, work: PaddedBatch) -> tuple[BatchRecord, list[list[int]]]:
        """Prefill, then decode until every row has ended or the limit is reached; the tokens by row."""
        ids = tuple([r.id for r in work.requests])
        prompts = [[*self.job.turns.prompts[r.id], *self._begun(r)] for r in work.requests]
        lengths = [self.output_tokens[r.id] - r.answered_tokens for r in work.requests]
        longest = max(map(len, prompts))
        if self.on_batch is not None:
            self.on_batch([Row(r.id, r.answered_tokens) for r in work.requests])
        start_s = self.now()
        steps = [self.engine.prefill(prompts, work.token_limit)]
        times = [self.now()]
        most, eos, ended = max(lengths), self.job.eos_tokens, set[int]()
        while len(steps) < min(most, work.token_limit):
            if eos:
                ended |= {row for row, token in enumerate(steps[-1]) if token in eos}
                if all(r in ended or length <= len(steps) for r, length in enumerate(lengths)):
                    break
            steps.append(self.engine.decode())
            times.append(self.now())
        self.engine.release()
        first_step_s, slope_s = ramp([b - a for a, b in pairwise(times)])
        record = BatchRecord(
            PaddedBatch.kind,
            ids,
            work.token_limit,
            len(steps),
            start_s,
            times[0],
            times[-1],
            longest,
            first_step_s,
            slope_s,
            len(ids) * (longest + work.token_limit),
            answered=work.answered,
        )
        return record, [list(row) for row in zip(*steps, strict=True)]

    def _learn_ends(self, requests: Sequence[Request], rows: Sequence[Sequence[int]]) -> None:
        """Where the model decides, its end token sets the length of the answer."""
        eos = self.job.eos_tokens
        for request, row in zip(requests, rows, strict=True):
            end = next((k for k, token in enumerate(row, start=1) if token in eos), None)
            if end is not None:
                end += request.answered_tokens
                self.output_tokens[request.id] = min(self.output_tokens[request.id], end)

    def _in_halves(self, work: PaddedBatch, error: torch.OutOfMemoryError) -> Outcome:
        self._recover(f"a padded batch of {len(work.requests)} rows, limit {work.token_limit}", error)
        if len(work.requests) == 1:
            return self._give_up(work.requests[0])
        middle = len(work.requests) // 2
        parts = [
            self._padded_batch(PaddedBatch(rows, work.token_limit))
            for rows in (work.requests[:middle], work.requests[middle:])
        ]
        # Who has not finished has the tokens of its own half only, which then went to the limit.
        return Outcome(
            max(part.iterations for part in parts),
            [r for part in parts for r in part.finished],
            [r for part in parts for r in part.unfinished],
        )

    def _give_up(self, request: Request) -> Outcome:
        """Not even alone does it fit: it ends here, and to the scheduler it is finished."""
        self._drop(Drop((request,), "rejected: the device ran out of memory running it alone"))
        return Outcome(0, [request])

    def _recover(self, what: str, error: torch.OutOfMemoryError) -> None:
        """Note that memory ran out, and hand what the attempt took back to the device."""
        self.incidents.append(
            f"out of memory in {what}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
        )
        self.engine.release()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()

    def _perceive(self, work: Perceive) -> Outcome:
        """Prefill the prompts with the question, then decode the answer.

        The predictions come from the job, which holds one answer of the model for all runs; `heard` keeps
        this one.
        """
        answer = self.job.perception.answer_tokens
        ids = tuple([r.id for r in work.requests])
        predictions = [self.job.predictions[i] for i in ids]
        start_s = self.now()
        if not answer and not self.job.perception.question_tokens:
            record = BatchRecord(Perceive.kind, ids, 0, 0, start_s, start_s, start_s)
            return self.ledger.record_perceive(record, predictions)
        question, turn = self.job.question, self.job.turn_tokens
        prompts = [with_question(self.job.turns.prompts[i], question, turn) for i in ids]
        longest = max(map(len, prompts))
        try:
            with self.job.asking(self.engine):
                steps = [self.engine.prefill(prompts, answer)]
                prefill_end_s = self.now()
                steps += [self.engine.decode() for _ in range(answer)]
        except torch.OutOfMemoryError as error:
            return self._perceive_halves(work, error)
        end_s = self.now()
        self.engine.release()
        self.heard.update(zip(ids, ([*row] for row in zip(*steps[:answer], strict=True)), strict=False))
        record = BatchRecord(
            Perceive.kind,
            ids,
            answer,
            answer + 1,
            start_s,
            prefill_end_s,
            end_s,
            longest,
            kv_tokens=len(ids) * (longest + answer),
        )
        return self.ledger.record_perceive(record, predictions)

    def _perceive_halves(self, work: Perceive, error: torch.OutOfMemoryError) -> Outcome:
        rows, middle = work.requests, len(work.requests) // 2
        self._recover(f"a Perceive of {len(rows)} rows", error)
        if len(rows) == 1:
            raise OutOfDeviceMemory(
                f"asking for the length of request {rows[0].id} alone: the device ran out of memory"
            ) from error
        parts = [self._perceive(Perceive(half)) for half in (rows[:middle], rows[middle:])]
        return Outcome(
            sum(part.iterations for part in parts),
            predictions=[p for part in parts for p in part.predictions],
        )

    def _keep(self, id: int, answer: list[int]) -> None:
        """An answer is complete: later prompts that hold it have its tokens."""
        self.answers[id] = answer
        self.job.turns.answered(id, answer)

    def _drop(self, work: Drop) -> Outcome:
        now = self.now()
        outcome = self.ledger.record_drop(work, now)
        self.arrivals.ended(work.requests, now)
        return outcome

    def _iterations(self, work: Iterations) -> Outcome:
        """Continuous batching, on an engine that can mix prefill and decode."""
        if self.sequences is None:
            raise SchedulingError(
                f"engine {self.engine.name} runs padded batches only; continuous batching needs cuda-graphs"
            )
        outcome = self.sequences.carry_out(work, self.now, self.arrivals.is_due)
        for request in outcome.finished:
            self._keep(request.id, self.sequences.generated[request.id])
        self.arrivals.ended(outcome.finished, self.now())
        return outcome
