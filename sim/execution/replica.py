"""A SimPy process: one accelerator that carries out its scheduler's work in predicted time.

A padded batch is one event, however many iterations it runs; so is a stretch of continuous batching in which
nothing can change. This module alone (with `iterations` and `padded_batch`) knows the true lengths; it knows
nothing of how a scheduler decides, nor of where requests come from.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import simpy

from ..hardware.step_cost import StepCost
from ..request import Request
from ..results.batch_record import BatchRecord
from ..results.ledger import Ledger
from ..schedulers.base import complete
from ..work import (
    Drop,
    Iterations,
    Outcome,
    PaddedBatch,
    Perceive,
    Prediction,
    Scheduler,
    SchedulingError,
    unknown_work,
)
from .arrivals import SimProcess
from .asked import AskedRequests, LaterAnswers, running_requests
from .blame import blame
from .environment import DECISION, END, OUTAGE, Environment
from .leap import Leap
from .padded_batch import FREE, PerceptionCost, batch_record, cut_off, perceive_record
from .progress import Progress

FAILURE = "failure"
"""The cause of an interrupt by which the accelerator fails; an arrival interrupts without one."""


class Source(Protocol):
    """Where a replica's requests come from; it is informed when they end."""

    due_s: float
    """When the next request comes to the replica, as far as that is known beforehand; else infinity."""
    is_bounded: bool
    """Whether clients wait for each other, so that every arrival has to be noticed."""

    def release(self, replica: Replica, now: float) -> None:
        """Submit to the replica what it may have by now; called before each decision."""

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> object:
        """These requests have finished, or were given up."""

    @property
    def is_done(self) -> bool:
        """Whether nothing will come any more to a replica that has no request."""

    def is_busy(self) -> bool:
        """Whether any of many replicas is at work."""

    def has_decided(self, replica: Replica) -> bool:
        """Whether the replica's turn to decide at this instant is over."""

    def outlook(self) -> tuple[float, object]:
        """(when the next request arrives, wherever, if that is known, else infinity; what differs whenever
        one has arrived or, at another replica, ended).
        """


class Replica:
    """One accelerator: asks its scheduler for work, lets the time pass that the work takes, reports the
    outcome.

    `output_tokens` and `predictions` (of what the model is asked, not free ones) are indexed by request id;
    `later`: what it answers when it is asked again;
    `ledger` is filled as the run goes, with `number` as the replica's.
    """

    def __init__(
        self,
        env: Environment,
        scheduler: Scheduler,
        cost: StepCost,
        source: Source,
        ledger: Ledger,
        *,
        output_tokens: Sequence[int],
        predictions: Sequence[Prediction] = (),
        perception: PerceptionCost = FREE,
        later: LaterAnswers | None = None,
        leap: bool = True,
        number: int = 0,
    ) -> None:
        self.env, self.cost, self.source, self.ledger = env, cost, source, ledger
        self.scheduler = complete(scheduler)
        self.output_tokens, self.predictions, self.perception = output_tokens, predictions, perception
        self.leap, self.number, self.use = leap, number, ledger.replicas[number]
        about, is_timed = (cost, output_tokens, ledger, self.use, number), ledger.gaps.kept is not None
        self.running = running_requests(later, *about, is_timed=is_timed)
        self.num_requests = 0  # submitted and not ended
        self.is_listening = False  # idle, or in iterations that an arrival ends early
        self.is_leaping = False  # in iterations that could be ended early
        self.is_deciding = False  # its work has ended, others of the same instant have their turn before
        self.is_late = False  # what was noticed came after its turn to decide at that instant
        self.batch: tuple[PaddedBatch | Perceive, BatchRecord] | None = None  # in progress
        self.iterations: tuple[Iterations, Leap, float] | None = None  # in progress, and since when
        self.repaired: simpy.Event | None = None  # while it is down
        self.progress = Progress(scheduler, source.is_busy)
        self.process = env.process(self.run())

    def submit(self, request: Request, now: float) -> None:
        """Hand a request that has arrived to the scheduler."""
        self.num_requests += 1
        self.scheduler.submit(request, now)

    @property
    def has_place(self) -> bool:
        """Whether one more request would start at once, memory aside: it idles, or iterates with a place left
        and nobody waiting (but to be asked how long the answer will be).
        """
        if self.iterations is not None or self.is_deciding:
            return self.scheduler.has_place
        return self.is_listening

    def wants(self, request: Request) -> bool:
        """Whether its scheduler, about to decide, would take the request from a queue that others share."""
        wanted = self.scheduler.wants(request)
        return not self.num_requests if wanted is None else wanted

    def notice(self, *, surely: bool = False) -> None:
        """Something was submitted that was not announced: decide anew as soon as that can matter. `surely`
        also where the iterations are to go on when a request arrives.
        """
        if self.is_listening or (surely and self.is_leaping):
            self.is_listening = self.is_leaping = False
            self.is_late = self.source.has_decided(self)
            self.process.interrupt()

    def run(self) -> SimProcess:
        """Work, and after a failure wait for the repair, for ever."""
        env, scheduler, source, running = self.env, self.scheduler, self.source, self.running
        ledger, use, events, has_begun = self.ledger, self.use, env.queue, False
        leaps, logs, kv_capacity_tokens, iterated = self.leap, ledger.log, use.kv_capacity_tokens, Outcome()
        with blame(lambda: [self.scheduler], is_sole_cause=True):
            while True:
                now = env.now
                try:
                    while True:
                        if events and events[0][0] <= now and has_begun:
                            self.is_deciding = True
                            yield env.at(now, DECISION + self.number)
                            self.is_deciding = False
                        has_begun = True
                        source.release(self, now)
                        work = scheduler.next_work(now)
                        if not isinstance(work, Iterations):
                            outcome = yield from self._carry_out(work)
                            now = env.now
                            if work is not None and outcome is not None:
                                scheduler.record(work, outcome, now)
                            continue
                        until_s, listens = work.until_s, work.stop_on_arrival or source.is_bounded
                        if listens and source.due_s < until_s:
                            until_s = source.due_s
                        leap = running.begin(work if leaps else replace(work, at_most=1), now, until_s)
                        iterations, start_s = leap.iterations, now
                        now = leap.end_s
                        if not env.skip_to(now):
                            self.iterations = (work, leap, start_s)
                            self.is_leaping, self.is_listening = iterations > 1, iterations > 1 and listens
                            try:
                                yield env.at(now, END)
                            except simpy.Interrupt as signal:
                                if signal.cause is not None:
                                    raise
                                iterations = leap.iterations_begun(env.now, self.is_late)
                                now = max(leap.ends_s(iterations), env.now)
                                yield env.at(now, END)
                            self.is_listening = self.is_leaping = False
                            self.iterations = None
                        finished = running.advance(leap, iterations, start_s, now)
                        if running.peak_tokens > kv_capacity_tokens:
                            self._check_memory()
                        if logs:
                            self._note(work, leap, iterations, start_s, len(finished))
                        if finished:
                            self.num_requests -= len(finished)
                            source.ended(self, finished, now)
                        elif not running.num_decoding:
                            self._prefilled(work, iterations)
                        iterated.iterations, iterated.finished = iterations, finished
                        iterated.predictions = self._later_answers(work) if work.ask else ()
                        scheduler.record(work, iterated, now)
                except simpy.Interrupt:
                    assert self.repaired is not None
                    yield self.repaired
                    self.repaired = None

    def _carry_out(
        self, work: PaddedBatch | Perceive | Drop | None
    ) -> Generator[simpy.Event, Any, Outcome | None]:
        """Whatever is not continuous batching; None where there was nothing to do."""
        match work:
            case None:
                yield from self._wait(self.scheduler.wake_at)
                return None
            case PaddedBatch():
                record = batch_record(work, self.cost, self.output_tokens, self.env.now)
                record = yield from self._run_batch(work, record)
                outcome = self.ledger.record_padded(work, record, self.output_tokens)
                self._ended(outcome.finished)
                self.progress.ran(work, outcome, self._state, self.num_requests)
                return outcome
            case Perceive():
                record = perceive_record(work, self.cost, self.perception, self.env.now)
                record = yield from self._run_batch(work, record)
                self.progress.perceived(work, self._state, self.num_requests)
                return self.ledger.record_perceive(record, [self._answer(r) for r in work.requests])
            case Drop():
                return self._drop(work)
            case _:
                unknown_work(work, self.scheduler)

    def _wait(self, wake_at: float | None) -> SimProcess:
        """Until a request comes, or until the scheduler wants to be asked again."""
        env, due_s, start_s = self.env, self.source.due_s, self.env.now
        if wake_at is not None:
            if not wake_at > start_s:
                raise SchedulingError(f"wake_at ({wake_at}) must be later than now ({start_s})")
            if not self.num_requests and self.source.is_done:
                wake_at = None
        until_s = due_s if wake_at is None or due_s < wake_at else wake_at
        self.is_listening = True
        try:
            yield env.event() if until_s == math.inf else env.timeout(until_s - start_s)
            if until_s < due_s:
                next_s, _ = self.source.outlook()
                self.progress.woke(until_s - start_s, next_s < math.inf, self._state, self.num_requests)
            else:
                self.progress.happened()
        except simpy.Interrupt as signal:
            if signal.cause is not None:
                raise
            self.progress.happened()
        self.is_listening = False

    def _state(self) -> object:
        """Differs where a request has arrived, ended or got a token."""
        return self.use.iterations - self.progress.tokenless, self.num_requests, self.source.outlook()[1]

    def _prefilled(self, work: Iterations, iterations: int) -> None:
        """Iterations were run that gave nobody a token."""
        self.progress.tokenless += iterations
        self.progress.prefilled(work.chunks, self.running.computed, self._state, self.num_requests)

    def _run_batch(
        self, work: PaddedBatch | Perceive, record: BatchRecord
    ) -> Generator[simpy.Event, Any, BatchRecord]:
        """Let a padded batch pass as one event; its record, ended now."""
        if record.kv_tokens > self.use.kv_capacity_tokens:
            raise SchedulingError(
                f"{type(self.scheduler).__name__}: a {type(work).__name__} of {len(work.requests)} requests "
                f"reserves {record.kv_tokens} KV tokens, the capacity is {self.use.kv_capacity_tokens}"
            )
        waiting = self.num_requests - len(work.requests)
        self.batch = (work, record._replace(replica=self.number, num_waiting=waiting))
        yield self.env.timeout(record.end_s - self.env.now)
        record, self.batch = self.batch[1], None
        return record._replace(end_s=self.env.now)

    def _check_memory(self) -> None:
        """SchedulingError where more is in memory than it holds, what requests share counted once."""
        if (tokens := self._kv_tokens()) > self.use.kv_capacity_tokens:
            raise SchedulingError(
                f"{type(self.scheduler).__name__}: {tokens} KV tokens in use, "
                f"the capacity is {self.use.kv_capacity_tokens}"
            )

    def _kv_tokens(self) -> int:
        """Tokens in memory at the end of the last leap, before what finished left."""
        cache = self.scheduler.prefix_cache
        return self.running.peak_tokens - (0 if cache is None else cache.shared_tokens)

    def _note(self, work: Iterations, leap: Leap, iterations: int, start_s: float, num_finished: int) -> None:
        """Write the decision down, if it falls into the time that is logged."""
        end_s = self.env.now
        self.ledger.record_iterations(
            work,
            iterations,
            start_s,
            min(leap.head_end_s, end_s),
            end_s,
            first_step_s=leap.second_s,
            step_slope_s=leap.slope_s,
            kv_tokens=self._kv_tokens(),
            replica=self.number,
            num_waiting=self.num_requests - num_finished - self.running.num_running,
        )

    def _answer(self, request: Request) -> Prediction:
        """The model's answer; a free prediction is repeated."""
        if request.predicted_tokens is not None:
            return Prediction(
                request.predicted_tokens, request.predicted_upper_tokens, request.predicted_lengths
            )
        return self.predictions[request.id]

    def _later_answers(self, work: Iterations) -> list[Prediction]:
        """What is answered of who is asked about again."""
        if not isinstance(self.running, AskedRequests):
            name = type(self.scheduler).__name__
            raise SchedulingError(f"{name}: it asks again while answers grow, which is none of its needs")
        return self.running.answers(work.ask)

    def _drop(self, work: Drop) -> Outcome:
        waiting = self.num_requests - len(work.requests)
        outcome = self.ledger.record_drop(work, self.env.now, replica=self.number, num_waiting=waiting)
        self._ended(work.requests)
        self.progress.dropped(len(work.requests), self._state, self.num_requests)
        return outcome

    def _ended(self, requests: Sequence[Request]) -> None:
        self.num_requests -= len(requests)
        self.source.ended(self, requests, self.env.now)

    def fail(self) -> list[Request]:
        """Lose the memory and the work in progress; the requests that were here, for others to serve.

        Their tokens are lost with the memory: they will be computed again from the prompt on.
        """
        now = self.env.now
        if self.iterations is not None:
            self._cut_iterations(*self.iterations, now)
        lost = self.running.abandon()
        if self.batch is not None:
            work, record = self.batch
            record, is_answering = cut_off(record, now), isinstance(work, PaddedBatch)
            self.ledger.record_cut_off(record, is_answering=is_answering)
            if is_answering:
                lost |= dict.fromkeys(record.request_ids, record.iterations)
        left = self._drained(now)
        self.ledger.record_lost(left, lost)
        self.num_requests, self.batch, self.iterations = 0, None, None
        self.progress.happened()
        self.is_listening = self.is_leaping = self.is_deciding = False
        self.use.failures += 1
        self.repaired = self.env.event()
        self.process.interrupt(FAILURE)
        return left

    def _drained(self, now: float) -> list[Request]:
        left: object = self.scheduler.drain(now)
        if not isinstance(left, Iterable):
            name = type(self.scheduler).__name__
            raise SchedulingError(f"{name}: drain returned {type(left).__name__}, not a list of requests")
        return list(left)

    def repair(self) -> None:
        """It is there again, empty."""
        assert self.repaired is not None
        self.env.trigger(self.repaired, OUTAGE)

    def _cut_iterations(self, work: Iterations, leap: Leap, start_s: float, now: float) -> None:
        """Those iterations that had ended count; the one in progress is lost."""
        # A failure at the very end of an iteration takes it with it: nothing of it has been handed back.
        iterations = leap.iterations_begun(now) - 1
        begun_s = start_s
        if iterations:
            start_s = leap.ends_s(iterations)
            self.running.advance(leap, iterations, begun_s, start_s)
            self.scheduler.record(work, Outcome(iterations), now)
        else:
            self.running.note_peak()
        if self.ledger.log:
            self._note(work, leap, iterations, begun_s, 0)
        self.use.busy_s += now - start_s
        assert self.use.unfinished is not None
        self.use.unfinished += (start_s, now)
