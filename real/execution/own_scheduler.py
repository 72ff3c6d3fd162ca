"""One run of one policy on an engine that schedules by itself: the counterpart of `run` for such engines.

The engine's scheduler is set up as the policy says; then requests are handed to it at their times, and what
it decides and what becomes of each request is written down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from sim.request import Request
from sim.results.ledger import Ledger, ReplicaUse, column
from sim.results.result import make_result
from sim.scenario.policies import kv_capacity, make_scheduler
from sim.scenario.scenario import Scenario
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.order import Order
from sim.work import Chunk, Iterations, Limits
from traces.errors import InputError

from ..engines.decision import Decision
from ..engines.model import LoadedModel
from ..engines.scheduling import Journal, Progress, SchedulerSettings, SchedulingEngine, Setup
from ..lengths.prompts import Prompts
from .arrivals import WallArrivals
from .clocks import Clock, Stopwatch
from .run import RealResult, Scheduled, turns_of

PRIORITY: dict[Order, Callable[[Request], int]] = {
    "priority": lambda request: request.priority,
    "shortest-predicted": lambda request: request.predicted_tokens or 0,
    "shortest-prompt": lambda request: request.prompt_tokens,
}
"""Orders that are a number for each request, which its own field `priority` carries; fcfs needs none."""

CHOICES = {"order": ("fcfs", *PRIORITY), "admission": ("chunk", "prompt")}
"""Options of which it has these values."""

ITS_OWN = ("max_num_seqs", "max_num_batched_tokens", "chunked", "prefix_caching", "async_scheduling", "rules")
"""Options that it has as they are."""


class OwnScheduling(NamedTuple):
    """How an engine's scheduler is set up for a policy, and the priority that a request is sent with."""

    settings: SchedulerSettings
    priority: Callable[[Request], int]


def own_scheduling(policy: str, limits: Limits, engine_name: str) -> OwnScheduling:
    """The policy as settings of an engine that schedules by itself; InputError for what it has not."""
    if limits.tiers:
        raise InputError("kv_tier: keeping KV blocks in slower memory is simulated only")
    options = getattr(make_scheduler(policy, limits), "options", None)
    if not isinstance(options, ContinuousOptions) or options.rules != "vllm":
        raise InputError(
            f"policy {policy}: engine {engine_name} schedules by itself, by the rules of continuous; others "
            "it does not have"
        )
    for name, values in CHOICES.items():
        if (given := getattr(options, name)) not in values:
            known = ", ".join(values)
            raise InputError(f"policy {policy}: {name}={given}, engine {engine_name} has only {known}")
    for each in fields(options):
        if each.name not in (*CHOICES, *ITS_OWN) and getattr(options, each.name) != each.default:
            raise InputError(f"policy {policy}: engine {engine_name} has no {each.name}")
    is_async = limits.async_scheduling if options.async_scheduling is None else options.async_scheduling
    if is_async != limits.async_scheduling:
        here = "with" if limits.async_scheduling else "without"
        raise InputError(f"policy {policy}: engine {engine_name} runs {here} async_scheduling here")
    settings = SchedulerSettings(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        chunked=options.chunked,
        priority=options.order in PRIORITY,
        prefix_caching=options.prefix_caching != "off",
        async_scheduling=is_async,
        reserve_full_prompt=options.admission == "prompt",
        num_gpu_blocks=limits.kv_tokens // limits.block_size,
    )
    return OwnScheduling(settings, PRIORITY.get(options.order, lambda request: 0))


class OwnSchedulerRun:
    """A scenario's trace served by an engine's own scheduler, in real time, an iteration at a time.

    `prompts`: token ids by request id. `end_tokens`: they end answers, which else are as long as the trace
    says. With `skips_waits` the clock jumps over the time in which nothing is to do, as a clock must that
    counts the processor's work only. What it takes to write all down is not on the clock. Several runs on one
    engine may take turns, unless tokens end answers: these would be others then.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        engine: SchedulingEngine,
        loaded: LoadedModel,
        prompts: Prompts,
        clock: Clock = time.perf_counter,
        *,
        skips_waits: bool = False,
        end_tokens: Collection[int] | None = None,
    ) -> None:
        self.scenario, self.policy, self.engine = scenario, policy, engine
        self.turns = turns_of(scenario.trace, prompts, loaded)
        self.own = own_scheduling(policy, scenario.limits, engine.name)
        self.stopwatch, self.skips_waits = Stopwatch(clock), skips_waits
        self.ran = f"{engine.name} on {loaded.label}"
        scheduler = make_scheduler(policy, scenario.limits)
        perception = scenario.perceived_for(scheduler)
        if perception.charged and self.own.settings.priority:
            raise InputError(
                f"predictor {scenario.labels['predictor']}: engine {engine.name} asks for no lengths, so "
                "that they have to be known beforehand (charge=off)"
            )
        self.requests = {request.id: request for request in scenario.requests(perception)}
        self.most_tokens: list[int] = scenario.trace.output_tokens.tolist()
        if end_tokens is not None:
            self.most_tokens = [self.requests[i].max_new_tokens for i in range(len(self.requests))]
        self.end_tokens = end_tokens
        arrival_s = [self.requests[i].arrival_s for i in range(len(self.requests))]
        self.use = ReplicaUse(self.ran, kv_capacity(scheduler, scenario.limits))
        self.ledger = Ledger(len(self.requests), arrival_s, log=True, replicas=[self.use])
        if not perception.charged:
            self.ledger.predicted = column(perception.predicted.astype(np.int64))
        coming = scenario.in_sessions(iter(list(self.requests.values())), self.ledger)
        self.arrivals = WallArrivals(coming, self.ledger, scenario.max_concurrency, self._submit)
        self.arrived = [0] * len(self.requests)  # by id: iterations that had ended
        self.order = list[int]()  # ids as they came
        self.journal = Journal()
        self.setup: Setup | None = None  # once it has begun
        self.num_noted = 0  # decisions that are in the ledger
        self.computed: dict[int, int] = {}  # id -> tokens in memory
        self.generated: dict[int, list[int]] = {}
        self.last_token_s: dict[int, float] = {}

    def step(self) -> bool:
        """One iteration, or a wait for the next request; False where the run is over."""
        if self.setup is None:
            self.setup = self.engine.use(self.own.settings)
            self.journal = self.setup.journal
        elif self.engine.setup is not self.setup:
            self.engine.resume(self.setup)
        with self.stopwatch.running():
            now = self.stopwatch()
            self.arrivals.release(now)
            has_requests = self.engine.has_requests()
            gave = self.engine.step() if has_requests else []
        if has_requests:
            self._note(gave, now, self.stopwatch())
            return True
        return self._wait(now)

    def _submit(self, request: Request) -> None:
        i = request.id
        self.arrived[i] = self.journal.num_ended
        self.order.append(i)
        self.engine.add(
            i,
            self.turns.prompts[i],
            self.most_tokens[i],
            self.own.priority(request),
            request.arrival_s,
            self.end_tokens or (),
        )

    def _wait(self, now: float) -> bool:
        """Wait for the next request; False where none will come."""
        if self.arrivals.next_s is None:
            self.engine.clear()  # the worker is told what has ended
            return False
        wait_s = max(0.0, self.arrivals.next_s - now)
        if self.skips_waits:
            self.stopwatch.skip(wait_s)
        else:
            with self.stopwatch.running():
                time.sleep(wait_s)
        return True

    def _note(self, gave: Sequence[Progress], start_s: float, end_s: float) -> None:
        """Write down the iterations that were scheduled meanwhile, and what came of the one that ended."""
        ledger, journal = self.ledger, self.journal
        self.use.busy_s += end_s - start_s
        for decision in journal.decisions[self.num_noted :]:
            self._note_decision(decision, start_s, end_s)
        self.num_noted = len(journal.decisions)
        finished = []
        for progress in gave:
            i = progress.key
            self.generated.setdefault(i, []).extend(progress.tokens)
            if math.isnan(ledger.first_token_s[i]):
                ledger.record_first_tokens((i,), end_s)
            else:
                ledger.gaps.add(end_s - self.last_token_s[i], 0.0, 1, 1, self.last_token_s[i])
            self.last_token_s[i] = end_s
            if progress.is_finished:
                finished.append(self.requests[i])
                self.computed.pop(i, None)
                self.turns.answered(i, self.generated[i])
        ledger.record_finished(finished, end_s, replica=0)
        if finished:
            self.arrivals.ended(finished, end_s)

    def _note_decision(self, decision: Decision, start_s: float, end_s: float) -> None:
        """An iteration in the terms of `continuous`, as the simulated one is written down."""
        for i in decision.preempted:
            self.computed.pop(i, None)
        self.use.preemptions += len(decision.preempted)
        self.use.iterations += 1
        self.ledger.record_scheduled(
            [i for i in decision.reused if math.isnan(self.ledger.scheduled_s[i])], start_s
        )
        chunks = []
        for i, num_tokens in decision.tokens.items():
            known = len(self.turns.prompts[i]) + len(self.generated.get(i, ()))
            before = self.computed.setdefault(i, decision.reused.get(i, 0))
            self.computed[i] = before + num_tokens
            if i in decision.reused or before + num_tokens < known or num_tokens > 1:
                is_last = before + num_tokens >= known
                chunks.append(Chunk(self.requests[i], num_tokens, is_last, decision.reused.get(i, 0)))
        held = decision.blocks * self.engine.block_size
        self.use.kv_peak_tokens = max(self.use.kv_peak_tokens, held)
        work = Iterations(chunks, [self.requests[i] for i in decision.preempted], 1, True)
        self.ledger.record_iterations(
            work, 1, start_s, end_s, end_s, first_step_s=0.0, step_slope_s=0.0, kv_tokens=held
        )

    def measured(self) -> RealResult:
        """What came of it, once it is over."""
        trace = self.scenario.trace
        lengths = [len(self.generated.get(i, ())) for i in range(len(trace))]
        result = make_result(
            self.ledger,
            request_id=trace.request_id,
            prompt_tokens=trace.prompt_tokens,
            output_tokens=np.array(lengths, dtype=np.int64),
            priority=trace.priority,
            labels={
                "policy": self.policy,
                **self.scenario.labels,
                "profile": self.ran,
                "provenance": "real run",
            },
            goodput_ms=self.scenario.goodput_ms,
            caps=trace.max_tokens,
            session_id=trace.sessions,
            slos=trace.slo_columns,
        )
        scheduled = Scheduled(tuple(self.journal.decisions), tuple(self.arrived), tuple(self.order))
        return RealResult(result, self.generated, lengths, [], scheduled)
