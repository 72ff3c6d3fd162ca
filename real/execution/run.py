"""One run of one policy on a real model: `run(scenario, policy, engine, …)`, like `Scenario.run`.

Takes the same scenario as the simulator, so that requests, arrivals and predictions are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import numpy as np

from sim.execution.padded_batch import PerceptionCost
from sim.perception.predictors import QUESTION_TOKENS
from sim.results.ledger import Ledger, ReplicaUse, column
from sim.results.result import Result, make_result
from sim.scenario.policies import kv_capacity, make_scheduler
from sim.scenario.scenario import Scenario, note_memory, predictions_of
from traces.errors import InputError
from traces.trace import Trace

from ..engines.arena import ArenaEngine
from ..engines.decision import Decision
from ..engines.eager import EagerEngine
from ..engines.engine import ENGINES, Engine, KvOvercommitted, Row
from ..engines.model import LoadedModel
from ..lengths.asking import Asking
from ..lengths.prompts import Prompts, question
from ..lengths.turns import Turns
from .clocks import Clock, Stopwatch
from .executor import Executor
from .job import Job


class Scheduled(NamedTuple):
    """What an engine's own scheduler decided; how many iterations had ended when each request came, by its
    id; and the ids in the order in which they came.
    """

    decisions: tuple[Decision, ...]
    arrived: tuple[int, ...]
    order: tuple[int, ...]


class RealResult(NamedTuple):
    """The outcome of a real run: the result, answers by request id, their lengths, and incidents; where the
    engine scheduled by itself, what it decided.
    """

    result: Result
    answers: dict[int, list[int]]
    output_tokens: list[int]
    incidents: list[str]
    scheduled: Scheduled | None = None


def make_engine(
    name: str, loaded: LoadedModel, capacity_tokens: int, *, compile_layers: bool = False
) -> Engine:
    """The engine of that name with the whole KV capacity allocated; InputError for another name."""
    if name == EagerEngine.name:
        return EagerEngine(loaded, capacity_tokens)
    if name == ArenaEngine.name:
        return ArenaEngine(loaded, capacity_tokens, compile_layers=compile_layers)
    raise InputError(f"engine: {name!r} is not one of {', '.join(ENGINES)} that run what they are told")


def turns_of(trace: Trace, prompts: Prompts, loaded: LoadedModel) -> Turns:
    """The prompts, with answers in them where they go on from these; texts have them as recorded."""
    is_text = trace.prompt is not None and loaded.tokenizer is not None
    return Turns(prompts, None if is_text else trace.blocks)


class RealRun:
    """A scenario's trace served under `policy` on an engine, in real time, a Work at a time.

    `prompts`: token ids by request id, as long as the trace says. `lengths`: answers stop at the trace's
    lengths, or where the model ends them. `clock` gives seconds; any but the wall's serves only where nothing
    waits for an arrival. `asking`: how the model was asked for what the scenario's predictor says, so that it
    is asked again in the same way. `on_batch`: is told the rows of each padded batch. Raises KvOvercommitted
    where the scenario counts on more KV memory than the engine has.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        engine: Engine,
        loaded: LoadedModel,
        prompts: Prompts,
        lengths: Literal["trace", "model"] = "trace",
        clock: Clock = time.perf_counter,
        asking: Asking | None = None,
        on_batch: Callable[[Sequence[Row]], None] | None = None,
    ) -> None:
        trace, capacity = scenario.trace, scenario.limits.kv_tokens
        if capacity > engine.capacity_tokens:
            raise KvOvercommitted(
                f"{engine.name}: the scheduler counts on {capacity} KV tokens, "
                f"{engine.capacity_tokens} are allocated"
            )
        self.scenario, self.policy, self.stopwatch = scenario, policy, Stopwatch(clock)
        self.ran = f"{engine.name} on {loaded.label}"
        scheduler = make_scheduler(policy, scenario.limits)
        if "again" in scheduler.needs:
            raise InputError(f"policy {policy}: asking again while answers grow is simulated only")
        if "wait" in scheduler.needs:
            raise InputError(
                f"policy {policy}: keeping memory between the turns of a session is simulated only"
            )
        if scenario.limits.tiers:
            raise InputError("kv_tier: keeping KV blocks in slower memory is simulated only")
        perception = scenario.perceived_for(scheduler)
        requests = list(scenario.requests(perception))
        free = lengths == "model"
        self.asking = asking
        rng = np.random.default_rng(scenario.seed)
        job = Job(
            requests=requests,
            turns=turns_of(trace, prompts, loaded),
            output_tokens=[r.max_new_tokens for r in requests] if free else trace.output_tokens.tolist(),
            predictions=predictions_of(perception),
            question=asking.question
            if asking
            else question(
                loaded.tokenizer, perception.cost[0] or QUESTION_TOKENS, loaded.ordinary_tokens, rng
            ),
            perception=PerceptionCost(*perception.cost) if perception.charged else PerceptionCost(),
            eos_tokens=loaded.eos_tokens if free else frozenset(),
            max_concurrency=scenario.max_concurrency,
            turn_tokens=asking.turn_tokens if asking else 0,
            asking=asking.awake if asking else nullcontext,
        )
        self.ledger = Ledger(
            len(requests),
            [r.arrival_s for r in sorted(requests, key=lambda r: r.id)],
            log=True,
            replicas=[ReplicaUse(self.ran, kv_capacity(scheduler, scenario.limits))],
        )
        if not perception.charged:
            self.ledger.predicted = column(perception.predicted.astype(np.int64))
        coming = scenario.in_sessions(iter(requests), self.ledger)
        log, stopwatch = self.ledger, self.stopwatch
        self.executor = Executor(engine, scheduler, job, log, stopwatch, coming=coming, on_batch=on_batch)

    def step(self) -> bool:
        """One Work, on the run's own stopwatch; False where the run is over."""
        with self.stopwatch.running():
            return self.executor.step()

    def measured(self) -> RealResult:
        """What came of it, once it is over."""
        scenario, trace, executor = self.scenario, self.scenario.trace, self.executor
        note_memory(self.ledger.replicas[0], executor.scheduler)
        result = make_result(
            self.ledger,
            request_id=trace.request_id,
            prompt_tokens=trace.prompt_tokens,
            output_tokens=np.asarray(executor.output_tokens, dtype=np.int64),
            priority=trace.priority,
            labels={
                "policy": self.policy,
                **scenario.labels,
                "profile": self.ran,
                "provenance": "real run",
            },
            goodput_ms=scenario.goodput_ms,
            caps=trace.max_tokens,
            session_id=trace.sessions,
            slos=trace.slo_columns,
        )
        incidents = list(executor.incidents)
        if executor.sequences is not None:
            incidents += executor.sequences.incidents
            if again := executor.sequences.recomputed_tokens:
                incidents.append(f"{again} tokens computed again that the scheduler counted as cached")
        if self.asking is not None and (others := self._num_other_answers()):
            incidents.append(
                f"{others} of {len(executor.heard)} requests: asked in another batch, the model stated "
                "another length than the one that was kept for all runs"
            )
        return RealResult(result, executor.answers, executor.output_tokens, incidents)

    def _num_other_answers(self) -> int:
        """How many answers heard in this run state another length than those collected before it."""
        assert self.asking is not None
        predictions, most = self.executor.job.predictions, self.scenario.max_new_tokens
        stated = {i: self.asking.read(row) for i, row in self.executor.heard.items()}
        return sum(n is not None and min(n, most) != predictions[i].tokens for i, n in stated.items())


def run(
    scenario: Scenario,
    policy: str,
    engine: Engine,
    loaded: LoadedModel,
    prompts: Prompts,
    *,
    lengths: Literal["trace", "model"] = "trace",
    asking: Asking | None = None,
) -> RealResult:
    """One real run from beginning to end; see `RealRun`."""
    under_way = RealRun(scenario, policy, engine, loaded, prompts, lengths, asking=asking)
    while under_way.step():
        pass
    return under_way.measured()
