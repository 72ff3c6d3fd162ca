"""What several policies are run on: a workload, what is predicted of it, and the machines that serve it.

Everything random comes from one seed, one stream per purpose, so that changing a policy moves nobody else's
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, repeat
from typing import Any, TypedDict, Unpack, cast

import numpy as np

from traces.errors import InputError
from traces.prompt_blocks import PromptBlocks
from traces.trace import FloatArray, Trace

from ..execution.arrivals import Arrivals, Progress
from ..execution.asked import LaterAnswers
from ..execution.blame import blame
from ..execution.environment import Environment
from ..execution.frontend import FrontedArrivals
from ..execution.padded_batch import FREE, PerceptionCost
from ..execution.replica import Replica, Source
from ..execution.sessions import Sessions
from ..fleet.fleet import Fleet
from ..fleet.outages import NONE, Outages
from ..fleet.routed import RoutedFleet
from ..fleet.routers import DEFAULT_ROUTER, RouterSpec, router_maker, router_name
from ..fleet.routing import Router, needs_of
from ..fleet.shared_queue import SharedQueueFleet
from ..fleet.sole import FrontedSole, Sole
from ..hardware.profile import Profile
from ..perception.predictions import Perception, asking_tokens, perceive
from ..perception.predictors import Predictor
from ..perception.registry import make_predictor
from ..perception.waits import predicted_waits
from ..request import KnownBlocks, Request
from ..results.ledger import Ledger, PrefixUse, ReplicaUse, column
from ..results.result import Result, make_result
from ..results.warmup import read_warmup
from ..schedulers.base import CompleteScheduler
from ..version import __version__
from ..work import Limits, Prediction, Scheduler, SchedulingError
from .machines import Accelerator, accelerators_of, fleet_text, frontend_of, outages_of, provenance_of
from .policies import Policy, kv_capacity, policy_name, scheduler_maker
from .requests import arriving, check_concurrency, goodput_bounds, output_cap, requests_of
from .routing import router_of
from .settings import DEFAULT_TRACE, Keywords, Settings, read_settings

STREAMS = ("arrivals", "lengths", "perception", "routing", "failures", "waits")

REQUESTS_AT_A_TIME = 4096


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random stream of one purpose; InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"seed: {seed} must be at least 0")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(purpose),)))


@dataclass(frozen=True)
class Scenario:
    """All that runs under several policies share: the workload, what is predicted of it, and the machines.

    `profile` and `limits` are those of every replica, unless `fleet` names each one's.
    """

    trace: Trace
    profile: Profile
    predictor: Predictor
    limits: Limits
    max_new_tokens: int
    seed: int
    max_concurrency: int | None
    goodput_ms: Mapping[str, float]
    labels: Mapping[str, Any]
    replicas: int = 1
    router: RouterSpec = DEFAULT_ROUTER
    fleet: tuple[Accelerator, ...] = ()
    outages: Outages = NONE

    @property
    def is_alone(self) -> bool:
        """Whether a single accelerator that never fails serves all, so that nothing is routed."""
        return len(self.machines) == 1 and not self.outages.any

    @property
    def machines(self) -> tuple[Accelerator, ...]:
        """One per replica."""
        return self.fleet or (Accelerator(self.profile, self.limits),) * self.replicas

    def run(
        self,
        policy: Policy,
        label: str | None = None,
        output_tokens: list[int] | None = None,
        *,
        log: bool = False,
        log_window: tuple[float, float] = (-math.inf, math.inf),
        leap: bool = True,
        on_progress: Progress | None = None,
        warmup: str | int | None = None,
    ) -> Result:
        """One run. `output_tokens`, by request id, stands in for the trace's own lengths; a policy may change
        them as it goes.

        `log` keeps a record of every Work of continuous batching too, or of those in the seconds of
        `log_window`. `warmup`: what is left out (`make_result`). Without `leap` it goes iteration by
        iteration, to the same end.
        """
        read_warmup(warmup)
        machines, make, env = self.machines, scheduler_maker(policy), Environment()
        schedulers = [make(machine.limits) for machine in machines]
        pairs = list(zip(machines, schedulers, strict=True))
        router = None if self.is_alone else self._router(schedulers, env)
        perception = self.perceived_for(schedulers[0], router)
        lengths: list[int] = output_tokens or self.trace.output_tokens.tolist()
        ledger = Ledger(
            len(self.trace),
            np.zeros(len(self.trace)) if self.trace.arrival_s is None else self.trace.arrival_s,
            log=log,
            window=log_window,
            replicas=[ReplicaUse(m.profile.name, kv_capacity(scheduler, m.limits)) for m, scheduler in pairs],
            keeps_gap_times=warmup is not None,
        )
        if not perception.charged:
            ledger.predicted = column(perception.predicted.astype(np.int64))
        arrivals = self._arrivals(self.requests(perception), ledger, on_progress, schedulers)
        fleet = None if isinstance(arrivals, Sole) else fleet_of(env, arrivals, router)
        source: Source = fleet or cast(Sole, arrivals)
        answers = answers_of(perception, lengths)
        replicas = [
            Replica(
                env,
                scheduler,
                machine.profile.iteration_cost,
                source,
                ledger,
                output_tokens=lengths,
                **answers,
                leap=leap,
                number=number,
            )
            for number, (machine, scheduler) in enumerate(pairs)
        ]
        with env:
            if fleet is None:
                env.run()
            else:
                fleet.run(replicas, self.outages.schedules(len(machines), stream(self.seed, "failures")))
        for use, scheduler in zip(ledger.replicas, schedulers, strict=True):
            note_memory(use, scheduler)
        arrivals.close()
        if perception.is_rank:
            ledger.predicted = column(np.full(len(self.trace), -1))  # ranks are no lengths
        _check_none_lost(ledger, type(schedulers[0]).__name__)
        return make_result(
            ledger,
            request_id=self.trace.request_id,
            prompt_tokens=self.trace.prompt_tokens,
            output_tokens=np.asarray(lengths, dtype=np.int64),
            priority=self.trace.priority,
            labels={"policy": label or policy_name(policy), **self.labels},
            goodput_ms=self.goodput_ms,
            warmup=warmup,
            caps=self.trace.max_tokens,
            session_id=self.trace.sessions,
            slos=self.trace.slo_columns,
        )

    def turned_away(self, policy: Policy) -> dict[int, str]:
        """Requests that no machine here can ever serve under the policy, by row: the reason of the first."""
        make, never = scheduler_maker(policy), None
        for machine in {id(m.limits): m for m in self.machines}.values():
            scheduler = make(machine.limits)
            perception = self.perceived_for(scheduler)
            with blame(lambda: [scheduler]):  # noqa: B023
                for request in self.requests(perception):
                    scheduler.submit(request, request.arrival_s)
            refused = {r.id: drop.reason for drop in scheduler.drops for r in drop.requests}
            never = refused if never is None else {i: why for i, why in never.items() if i in refused}
        return never or {}

    def perceived_for(self, scheduler: CompleteScheduler, router: Router | None = None) -> Perception:
        """What the predictor says of the trace, as far as the scheduler and the router need it."""
        rng, needs = stream(self.seed, "perception"), (*scheduler.needs, *needs_of(router))
        perception = perceive(self.predictor, self.trace, rng, scheduler.upper_quantile, needs)
        if "wait" not in needs:
            return perception
        waits = predicted_waits(self.predictor, self.trace, stream(self.seed, "waits"))
        return perception._replace(waits=waits)

    def requests(self, perception: Perception) -> Iterator[Request]:
        """The requests as a scheduler sees them, by rising arrival; what costs nothing to predict is already
        on them. Each field has the trace's column of that name, where there is one.
        """
        trace = self.trace
        n, arrival_s = len(trace), trace.arrival_s
        order = np.arange(n) if arrival_s is None else np.argsort(arrival_s, kind="stable")
        columns: dict[str, np.ndarray[Any, Any] | None] = {
            **{each.name: getattr(trace, each.name, None) for each in fields(Request)},
            "id": np.arange(n),
            "blocks": None,
            "session_id": trace.sessions,
            "max_new_tokens": trace.max_tokens,
            "predicted_tokens": None if perception.charged else perception.predicted,
            "predicted_upper_tokens": None if perception.charged else perception.upper,
            "predicted_lengths": None if perception.charged else perception.lengths,
            **{name: _or_none(bounds) for name, bounds in trace.slos.items()},
            "predicted_wait_s": None if perception.waits is None else _or_none(perception.waits),
        }
        defaults = {each.name: each.default for each in fields(Request)}
        defaults |= {"arrival_s": 0.0, "max_new_tokens": self.max_new_tokens}
        given = {name for name, column in columns.items() if column is not None} | {"max_new_tokens"}
        if trace.max_tokens is not None:
            defaults["largest_cap"] = self.max_new_tokens
            given.add("largest_cap")
        if trace.blocks is not None:
            given.add("blocks")
        while next(reversed(columns)) not in given:  # nobody pays for the last fields unused
            columns.popitem()

        def block(start: int) -> Iterator[Request]:
            rows = order[start : start + REQUESTS_AT_A_TIME]
            values: dict[str, Iterable[Any]] = {
                name: repeat(defaults[name]) if column is None else column[rows].tolist()
                for name, column in columns.items()
            }
            if trace.blocks is not None:
                values["blocks"] = _known_blocks(trace.blocks, rows)
            return map(Request, *values.values())

        return chain.from_iterable(map(block, range(0, n, REQUESTS_AT_A_TIME)))

    def _router(self, schedulers: Sequence[CompleteScheduler], env: Environment) -> Router | None:
        """The rule that sends requests to the machines; None where they take them."""
        rng = stream(self.seed, "routing")
        return router_of(self.router, self.machines, schedulers, self.predictor, rng, lambda: env.now)

    def in_sessions(self, requests: Iterator[Request], ledger: Ledger) -> Iterator[Request]:
        """The same, those that wait for others when these have ended."""
        waits_for = self.trace.waits_for
        if waits_for is None or not self.trace.is_waiting.any():
            return requests
        return Sessions(requests, waits_for, self.trace.thinks_s, ledger)

    def _arrivals(
        self,
        requests: Iterator[Request],
        ledger: Ledger,
        on_progress: Progress | None,
        schedulers: Sequence[Scheduler],
    ) -> Arrivals:
        """Requests as they come to the machines: to a single one directly, unless it may fail."""
        alone, frontend = self.is_alone, frontend_of(self.machines)
        coming = (self.in_sessions(requests, ledger), ledger, self.max_concurrency, on_progress)
        if frontend is None:
            return (Sole if alone else Arrivals)(*coming)
        may_drop = self._may_drop(schedulers)
        return (FrontedSole if alone else FrontedArrivals)(frontend, *coming, may_drop=may_drop)

    def _may_drop(self, schedulers: Sequence[Scheduler]) -> bool:
        """Whether a request may be given up: it has a deadline, or may be larger than what surely fits."""
        trace = self.trace
        caps = self.max_new_tokens if trace.max_tokens is None else trace.max_tokens
        largest = int((trace.prompt_tokens + caps).max())
        too_large = any(largest > getattr(scheduler, "surely_fits_tokens", -1) for scheduler in schedulers)
        return too_large or trace.deadline_s is not None


def fleet_of(env: Environment, arrivals: Arrivals, router: Router | None) -> Fleet:
    """Many replicas behind a router, or without one before a shared queue."""
    return SharedQueueFleet(env, arrivals) if router is None else RoutedFleet(env, arrivals, router)


def note_memory(use: ReplicaUse, scheduler: CompleteScheduler) -> None:
    """What a scheduler says of its memory at the end of a run."""
    use.kv_peak_tokens = max(use.kv_peak_tokens, scheduler.kv_peak_tokens)
    if (cache := scheduler.prefix_cache) is not None:
        use.prefixes = PrefixUse(
            cache.found_tokens,
            cache.let_in_tokens,
            cache.recomputed_tokens,
            cache.evicted_tokens,
            cache.tier_use,
        )


def _or_none(values: FloatArray) -> np.ndarray[Any, Any]:
    """The same with None for what is not a number, shape (n,)."""
    return np.where(np.isnan(values), np.array(None, dtype=object), values.astype(object))


def _known_blocks(blocks: PromptBlocks, rows: np.ndarray[Any, Any]) -> Iterator[KnownBlocks]:
    """What a scheduler may know of the prompts in these rows."""
    answers = repeat(-1) if blocks.answers is None else blocks.answers[rows].tolist()
    for row, answer in zip(rows.tolist(), answers, strict=False):
        hashes, ends = blocks.of(row)
        yield KnownBlocks(hashes, ends, answer)


def _check_none_lost(ledger: Ledger, scheduler: str) -> None:
    """SchedulingError where requests neither finished nor were given up."""
    unfinished = np.flatnonzero(np.isnan(np.asarray(ledger.finish_s))).tolist()
    lost = [i for i in unfinished if i not in ledger.reason]
    if lost:
        raise SchedulingError(f"{scheduler} left {len(lost)} requests unserved, such as {lost[:5]}")


def scenario(trace: Trace | str = DEFAULT_TRACE, **settings: Unpack[Keywords]) -> Scenario:
    """Read and check everything that a run needs; see `simulate` for the arguments."""
    return scenario_of(read_settings(trace, settings))


def scenario_of(settings: Settings) -> Scenario:
    """Read and check everything that a run with these settings needs."""
    stream(settings.seed, "lengths")  # a bad seed is refused before anything is drawn with it
    return scenario_on(requests_of(settings, settings.seed), settings)


def scenario_on(requests: Trace, settings: Settings) -> Scenario:
    """The same, of requests in place of those that the settings choose."""
    if requests.max_new_tokens is None:
        requests = requests.with_output_cap(output_cap(requests))
    assert requests.max_new_tokens is not None
    trace = arriving(requests, settings, stream(settings.seed, "arrivals"))
    check_concurrency(settings)
    router_maker(settings.router)
    given = settings.predictor
    length_predictor = make_predictor(given)
    accelerators = accelerators_of(settings, asking_tokens(length_predictor))
    first, fleet = accelerators[0], settings.fleet
    return Scenario(
        trace=trace,
        profile=first.profile,
        predictor=length_predictor,
        limits=first.limits,
        max_new_tokens=requests.max_new_tokens,
        seed=settings.seed,
        max_concurrency=settings.max_concurrency,
        goodput_ms=goodput_bounds(settings.goodput),
        labels={
            "predictor": given if isinstance(given, str) else repr(given),
            "profile": first.profile.name if fleet is None else fleet_text(fleet),
            "provenance": provenance_of([accelerator.profile for accelerator in accelerators]),
            "trace": trace.name,
            "seed": settings.seed,
            "replicas": len(accelerators),
            "router": router_name(settings.router),
            "version": __version__,
        },
        replicas=len(accelerators),
        router=settings.router,
        fleet=() if fleet is None else accelerators,
        outages=outages_of(settings),
    )


class Answers(TypedDict):
    """What a model answers that is asked how long its answers will be, and what asking costs."""

    predictions: Sequence[Prediction]
    perception: PerceptionCost
    later: LaterAnswers | None


def answers_of(perception: Perception, lengths: Sequence[int]) -> Answers:
    """The answers before and while answers grow; `lengths` are the true ones, by request id."""
    later = None if perception.again is None else later_answers(perception, lengths)
    if not perception.charged:
        return Answers(predictions=(), perception=FREE, later=later)
    cost = PerceptionCost(*perception.cost)
    return Answers(predictions=predictions_of(perception), perception=cost, later=later)


def later_answers(perception: Perception, lengths: Sequence[int]) -> LaterAnswers:
    """What is answered when the model is asked again of a request, by its id and its tokens so far."""
    again = perception.again
    assert again is not None
    first = perception.predicted.tolist()

    def answer(id: int, generated: int) -> Prediction:
        return Prediction(again.tokens(first[id], lengths[id], generated))

    return LaterAnswers(again.ask_s, answer)


def predictions_of(perception: Perception) -> list[Prediction]:
    """What is predicted of each request, by request id."""
    upper, lengths = (
        repeat(None) if each is None else each.tolist() for each in (perception.upper, perception.lengths)
    )
    return list(map(Prediction, perception.predicted.tolist(), upper, lengths))
