"""SimPy processes: requests that arrive, and one accelerator that carries out its scheduler's work in
predicted time.

A padded batch is one leap: one event, however many iterations it runs. This module alone (with its data)
knows the true lengths; it knows nothing of how a scheduler decides.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from .arrivals import Arrivals, SimProcess
from .hardware.step_cost import StepCost
from .kv_blocks import padded_tokens
from .metrics import BatchRecord, Ledger
from .request import Request
from .running import Leap, RunningRequests
from .work import Drop, Iterations, Outcome, PaddedBatch, Perceive, Prediction, Scheduler, Work


class SchedulingError(RuntimeError):
    """A scheduler broke the protocol: it lost requests, overcommitted memory or asked for what cannot be
    done.
    """


@dataclass(frozen=True, slots=True)
class PerceptionCost:
    """What asking for a length costs: `question_tokens` more prompt, and `answer_tokens` decode steps; 0, 0:
    free.
    """

    question_tokens: int = 0
    answer_tokens: int = 0


class Replica:
    """One accelerator: asks its scheduler for work, lets the time pass that the work takes, reports the
    outcome.

    `output_tokens` and `predictions` (of what is asked, not known for nothing) are indexed by request id;
    `ledger` is filled as the run goes.
    """

    def __init__(
        self,
        env: simpy.Environment,
        scheduler: Scheduler,
        cost: StepCost,
        arrivals: Arrivals,
        ledger: Ledger,
        *,
        kv_capacity_tokens: int,
        output_tokens: Sequence[int],
        predictions: Sequence[Prediction],
        perception: PerceptionCost,
        leap: bool = True,
    ) -> None:
        self.env, self.scheduler, self.cost, self.arrivals, self.ledger = (
            env,
            scheduler,
            cost,
            arrivals,
            ledger,
        )
        self.kv_capacity_tokens, self.output_tokens = kv_capacity_tokens, output_tokens
        self.predictions, self.perception, self.leap = predictions, perception, leap
        self.running = RunningRequests(cost, output_tokens, ledger)
        self.idle: simpy.Event | None = None
        self.interruptible = self.stop_on_arrival = False
        arrivals.receiver = self
        self.process = env.process(self.run())

    def submit(self, request: Request) -> None:
        """Hand a request that has arrived to the scheduler, and wake the accelerator where it idles."""
        self.scheduler.submit(request, self.env.now)
        if self.idle is not None and not self.idle.triggered:
            self.idle.succeed()
        elif self.interruptible and (self.stop_on_arrival or getattr(self.scheduler, "drops", None)):
            # What is turned away leaves at the end of the iteration too: its place may be waited for.
            self.interruptible = False
            self.process.interrupt()

    def run(self) -> SimProcess:
        """Work until there is nothing left to wait for."""
        env, scheduler = self.env, self.scheduler
        while True:
            self.arrivals.release(env.now)
            work = scheduler.next_work(env.now)
            if work is None:
                yield from self._wait(scheduler.wake_at)
                continue
            if isinstance(work, PaddedBatch):
                record = self._batch_record(work)
                yield env.timeout(record.end_s - env.now)
                outcome = self._finish_batch(work, record._replace(end_s=env.now))
            elif isinstance(work, Iterations):
                outcome = yield from self._iterate(work)
            elif isinstance(work, Perceive):
                record = self._perceive_record(work)
                yield env.timeout(record.end_s - env.now)
                self.ledger.batches.append(record._replace(end_s=env.now))
                outcome = Outcome(record.iterations, predictions=[self._answer(r) for r in work.requests])
            elif isinstance(work, Drop):
                outcome = self._drop(work)
            else:
                raise SchedulingError(
                    f"{type(scheduler).__name__}: {type(work).__name__} is no work of this executor"
                )
            scheduler.record(work, outcome, env.now)

    def _wait(self, wake_at: float | None) -> SimProcess:
        """Until a request is submitted, or until the scheduler wants to be asked again."""
        self.idle = self.env.event()
        if wake_at is None:
            yield self.idle
        elif wake_at <= self.env.now:
            raise SchedulingError(f"wake_at ({wake_at}) must be later than now ({self.env.now})")
        else:
            yield self.idle | self.env.timeout(wake_at - self.env.now)
        self.idle = None

    def _batch_record(self, work: PaddedBatch) -> BatchRecord:
        """The leap of a padded batch: prefill, then decode until the longest row is done or the limit is
        reached.
        """
        requests, output_tokens = work.requests, self.output_tokens
        if work.token_limit < 1 or not requests or len({r.id for r in requests}) < len(requests):
            raise SchedulingError(
                f"a batch needs a token_limit of at least 1 ({work.token_limit}) and different requests "
                f"({[r.id for r in requests]})"
            )
        prompts = [r.prompt_tokens for r in requests]
        rows, context = len(prompts), self.cost.batch_context_tokens(prompts)
        kv_tokens = padded_tokens(requests, work.token_limit)
        self._check_memory(work, kv_tokens)
        iterations = min(work.token_limit, max(output_tokens[r.id] for r in requests))
        first_step_s, slope_s = self.cost.decode_run(rows, context)
        start_s = self.env.now
        prefill_end_s = start_s + self.cost.batch_prefill_s(prompts)
        return BatchRecord(
            "PaddedBatch",
            tuple([r.id for r in requests]),
            work.token_limit,
            iterations,
            start_s,
            prefill_end_s,
            prefill_end_s + self.cost.decode_run_s(rows, context, iterations - 1),
            max(prompts),
            first_step_s,
            slope_s,
            kv_tokens,
        )

    def _perceive_record(self, work: Perceive) -> BatchRecord:
        """Prefill of prompts with the question, then one decode step per token of the answer; or no time at
        all.
        """
        question, answer = self.perception.question_tokens, self.perception.answer_tokens
        rows, start_s, ids = len(work.requests), self.env.now, tuple([r.id for r in work.requests])
        if not question and not answer:
            return BatchRecord("Perceive", ids, 0, 0, start_s, start_s, start_s)
        if not rows:
            raise SchedulingError("a Perceive of 0 requests asks nothing")
        prompts = [r.prompt_tokens + question for r in work.requests]
        kv_tokens = padded_tokens(work.requests, question + answer)
        self._check_memory(work, kv_tokens)
        prefill_end_s = start_s + self.cost.batch_prefill_s(prompts)
        end_s = prefill_end_s + self.cost.decode_run_s(rows, self.cost.batch_context_tokens(prompts), answer)
        prompt, times = max(prompts), (start_s, prefill_end_s, end_s)
        return BatchRecord("Perceive", ids, answer, answer + 1, *times, prompt, kv_tokens=kv_tokens)

    def _iterate(self, work: Iterations) -> Generator[simpy.Event, Any, Outcome]:
        """Many iterations as one event; an arrival, where it matters, ends them with the iteration in
        progress.
        """
        env, ledger, running = self.env, self.ledger, self.running
        for chunk in work.chunks:
            if ledger.ended(chunk.request.id):
                raise SchedulingError(f"request {chunk.request.id} was run again after it had ended")
        leap, start_s = running.plan(work if self.leap else work._replace(at_most=1)), env.now
        iterations = leap.iterations
        if iterations < 1 or not (work.chunks or running.num_decoding):
            raise SchedulingError(f"{type(self.scheduler).__name__}: Iterations with nothing to run")
        seconds = leap.seconds(iterations)
        if iterations > 1:
            self.interruptible, self.stop_on_arrival = True, work.stop_on_arrival
            try:
                yield env.timeout(seconds)
                self.interruptible = False
            except simpy.Interrupt:
                iterations = leap.iterations_begun(env.now - start_s)
                seconds = leap.seconds(iterations)
                yield env.timeout(max(0.0, start_s + seconds - env.now))
        else:
            yield env.timeout(seconds)
        finished = running.advance(work, leap, iterations, start_s, env.now)
        self._note(work, leap, iterations, start_s)
        self.arrivals.ended(len(finished), env.now)
        return Outcome(iterations, finished)

    def _note(self, work: Iterations, leap: Leap, iterations: int, start_s: float) -> None:
        """Sums, and the decision where a log is kept."""
        ledger, end_s = self.ledger, self.env.now
        ledger.iterations += iterations
        ledger.busy_s += end_s - start_s
        kv_tokens = self.running.peak_tokens
        if kv_tokens > self.kv_capacity_tokens:
            raise SchedulingError(
                f"{type(self.scheduler).__name__}: {kv_tokens} KV tokens in use, "
                f"the capacity is {self.kv_capacity_tokens}"
            )
        if not ledger.log:
            return
        ids = tuple([chunk.request.id for chunk in work.chunks])
        chunks = tuple([(chunk.num_tokens, chunk.last) for chunk in work.chunks])
        evicted = tuple([request.id for request in work.evict])
        head_end_s = start_s + leap.head_s
        ledger.batches.append(
            BatchRecord(
                "Iterations",
                ids,
                work.at_most,
                iterations,
                start_s,
                head_end_s,
                end_s,
                0,
                leap.first_s,
                leap.slope_s,
                kv_tokens,
                chunks,
                evicted,
            )
        )

    def _answer(self, request: Request) -> Prediction:
        """What the model says; what was known for nothing is said again."""
        if request.predicted_tokens is not None:
            return Prediction(request.predicted_tokens, request.predicted_upper_tokens)
        return self.predictions[request.id]

    def _check_memory(self, work: Work, kv_tokens: int) -> None:
        if kv_tokens > self.kv_capacity_tokens:
            raise SchedulingError(
                f"{type(self.scheduler).__name__}: a {type(work).__name__} of {len(work.requests)} requests "
                f"reserves {kv_tokens} KV tokens, the capacity is {self.kv_capacity_tokens}"
            )

    def _finish_batch(self, work: PaddedBatch, record: BatchRecord) -> Outcome:
        """Which rows are done, and what that means for each."""
        ledger, output_tokens, iterations = self.ledger, self.output_tokens, record.iterations
        now, batch = record.end_s, len(ledger.batches)
        ledger.batches.append(record)
        finished, unfinished = [], []
        for request in work.requests:
            i = request.id
            if ledger.ended(i):
                raise SchedulingError(f"request {i} was run again after it had ended")
            if not ledger.attempts[i]:
                ledger.scheduled_s[i] = record.start_s
            ledger.attempts[i] += 1
            if output_tokens[i] <= iterations:
                finished.append(request)
                ledger.first_token_s[i], ledger.finish_s[i] = record.prefill_end_s, now
                ledger.row_length[i], ledger.final_batch[i] = iterations, batch
                ledger.predicted[i] = request.predicted_tokens
            else:
                unfinished.append(request)
                ledger.failed_tokens[i] += iterations
        self.arrivals.ended(len(finished), now)
        return Outcome(iterations, finished, unfinished)

    def _drop(self, work: Drop) -> Outcome:
        if not work.reason.startswith(("rejected", "expired")):
            raise SchedulingError(f"reason: {work.reason!r} must begin with rejected or expired")
        for request in work.requests:
            i = request.id
            if self.ledger.ended(i):
                raise SchedulingError(f"request {i} was dropped after it had ended")
            self.ledger.reason[i], self.ledger.predicted[i] = work.reason, request.predicted_tokens
        self.ledger.batches.append(
            BatchRecord(
                "Drop", tuple([r.id for r in work.requests]), 0, 0, self.env.now, self.env.now, self.env.now
            )
        )
        self.arrivals.ended(len(work.requests), self.env.now)
        return Outcome()
