"""What several policies are run on: a workload, what is predicted of it, and the machines that serve it.

Everything random comes from one seed, one stream per purpose, so that changing a policy moves nobody else's
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from traces.errors import InputError
from traces.trace import DEFAULT_MAX_NEW_TOKENS, Trace

from ..execution.arrivals import Arrivals, Progress
from ..execution.environment import Environment
from ..execution.padded_batch import FREE, PerceptionCost
from ..execution.replica import Replica, Source
from ..fleet.cluster import Fleet, Sole
from ..fleet.outages import NONE, Outages
from ..fleet.routers import DEFAULT_ROUTER, ROUTERS, Router
from ..fleet.routers import router as make_router
from ..hardware.overrides import Settings
from ..hardware.profile import Profile
from ..perception.predictions import Perception, asking_tokens, perceive
from ..perception.predictors import Predictor, make_predictor
from ..request import Request
from ..results.ledger import Ledger, ReplicaUse, column
from ..results.metrics import request_latencies
from ..results.result import Result, make_result
from ..version import __version__
from ..work import Limits, Prediction, SchedulingError
from .policies import Policy, limits_of, policy_name, scheduler_maker

DEFAULT_PREDICTOR = "oracle"
DEFAULT_PROFILE = "a100-80gb-vicuna-7b-transformers"
DEFAULT_TRACE = "alpaca-vicuna"

STREAMS = ("arrivals", "lengths", "perception", "routing", "failures")

REQUESTS_AT_A_TIME = 4096
MOST_REPLICAS = 100_000


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random stream of one purpose; InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"seed: {seed} must be at least 0")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(purpose),)))


class Machine(NamedTuple):
    """An accelerator of a fleet: how long its iterations take, and what a scheduler may know of it."""

    profile: Profile
    limits: Limits


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
    router: str = DEFAULT_ROUTER
    fleet: tuple[Machine, ...] = ()
    outages: Outages = NONE

    @property
    def machines(self) -> tuple[Machine, ...]:
        """One per replica."""
        return self.fleet or (Machine(self.profile, self.limits),) * self.replicas

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
    ) -> Result:
        """One run. `output_tokens`, by request id, stands in for the trace's own lengths; a policy may change
        them as it goes.

        `log` keeps a record of every Work of continuous batching too, or of those in the seconds of
        `log_window`. Without `leap` it goes iteration by iteration, to the same end.
        """
        machines = self.machines
        make = scheduler_maker(policy)
        schedulers = [make(machine.limits) for machine in machines]
        quantile = schedulers[0].upper_quantile
        said = perceive(self.predictor, self.trace, stream(self.seed, "perception"), quantile)
        lengths: list[int] = output_tokens or self.trace.output_tokens.tolist()
        ledger = Ledger(
            len(self.trace),
            np.zeros(len(self.trace)) if self.trace.arrival_s is None else self.trace.arrival_s,
            log=log,
            window=log_window,
            replicas=[ReplicaUse(m.profile.name, m.limits.kv_tokens) for m in machines],
        )
        if not said.charged:
            ledger.predicted = column(said.predicted.astype(np.int64))
        env = Environment()
        coming = (self.requests(said), ledger, self.max_concurrency, on_progress)
        alone = len(machines) == 1 and not self.outages.any
        fleet = None if alone else Fleet(env, Arrivals(*coming), self._router(machines))
        source: Source = fleet or Sole(*coming)
        predictions = predictions_of(said) if said.charged else ()
        perception = PerceptionCost(*said.cost) if said.charged else FREE
        replicas = [
            Replica(
                env,
                scheduler,
                machine.profile.step_cost,
                source,
                ledger,
                output_tokens=lengths,
                predictions=predictions,
                perception=perception,
                leap=leap,
                number=number,
            )
            for number, (machine, scheduler) in enumerate(zip(machines, schedulers, strict=True))
        ]
        with env:
            if fleet is None:
                env.run()
            else:
                fleet.run(replicas, self.outages.schedules(len(machines), stream(self.seed, "failures")))
        for use, scheduler in zip(ledger.replicas, schedulers, strict=True):
            use.kv_peak_tokens = max(use.kv_peak_tokens, scheduler.kv_peak_tokens)
        unfinished = np.flatnonzero(np.isnan(np.asarray(ledger.finish_s))).tolist()
        lost = [i for i in unfinished if i not in ledger.reason]
        if lost:
            raise SchedulingError(
                f"{type(schedulers[0]).__name__} left {len(lost)} requests unserved: {lost[:5]}"
            )
        return make_result(
            ledger,
            request_id=self.trace.request_id,
            prompt_tokens=self.trace.prompt_tokens,
            output_tokens=np.asarray(lengths, dtype=np.int64),
            priority=self.trace.priority,
            labels={"policy": label or policy_name(policy), **self.labels},
            goodput_ms=self.goodput_ms,
        )

    def requests(self, said: Perception) -> Iterator[Request]:
        """The requests as a scheduler sees them, by rising arrival; what costs nothing to predict is already
        on them.
        """
        trace = self.trace
        n, arrival_s = len(trace), trace.arrival_s
        order = np.arange(n) if arrival_s is None else np.argsort(arrival_s, kind="stable")
        columns: list[tuple[np.ndarray[Any, Any] | None, float | None]] = [
            (arrival_s, 0.0),
            (trace.prompt_tokens, None),
            (None, self.max_new_tokens),
            (trace.priority, 0),
            (trace.user, None),
            (trace.deadline_s, None),
            (None if said.charged else said.predicted, None),
            (None if said.charged else said.upper, None),
        ]

        def block(start: int) -> Iterator[Request]:
            rows = order[start : start + REQUESTS_AT_A_TIME]
            values = [
                repeat(default) if column is None else column[rows].tolist() for column, default in columns
            ]
            return map(Request, rows.tolist(), *values)

        return chain.from_iterable(map(block, range(0, n, REQUESTS_AT_A_TIME)))

    def _router(self, machines: Sequence[Machine]) -> Router | None:
        """The rule that sends requests to these machines."""
        per_token = {id(m.profile): _seconds_per_token(m.profile) for m in machines}
        seconds = [per_token[id(m.profile)] for m in machines]

        def work_s(request: Request, replica: int) -> float:
            prompt_s, answer_s = seconds[replica]
            answer = request.max_new_tokens if request.predicted_tokens is None else request.predicted_tokens
            return request.prompt_tokens * prompt_s + answer * answer_s

        return make_router(self.router, len(machines), stream(self.seed, "routing"), work_s)


def _seconds_per_token(profile: Profile) -> tuple[float, float]:
    """What a prompt token and an output token cost on a machine that is busy up to its knee."""
    cost, context = profile.step_cost, 512
    rows = cost.knee(context)
    return cost.padded_prefill_s(1, context) / context, cost.decode_s(rows, rows * context) / rows


def scenario(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    predictor: str | Predictor = DEFAULT_PREDICTOR,
    profile: Profile | str = DEFAULT_PROFILE,
    seed: int = 0,
    num_prompts: int | None = None,
    sample_seed: int | None = None,
    request_rate: float | None = None,
    burstiness: float = 1.0,
    time_scale: float = 1.0,
    max_concurrency: int | None = None,
    max_new_tokens: int | None = None,
    goodput: Mapping[str, float] | Iterable[str] | None = None,
    kv_blocks: int | None = None,
    replicas: int = 1,
    router: str = DEFAULT_ROUTER,
    fleet: str | None = None,
    mtbf_s: float | None = None,
    mttr_s: float | None = None,
    failures: str | Path | None = None,
    startup_s: float = 0.0,
    prompt_scale: float = 1.0,
    output_scale: float = 1.0,
    set: Settings = None,
) -> Scenario:
    """Read and check everything a run needs; see `simulate` for the arguments."""
    import traces
    from traces import arrivals, scaling

    from ..hardware import overrides
    from ..hardware import profile as profiles

    rng = stream(seed, "arrivals")
    if isinstance(trace, str):
        first_cap = max_new_tokens if output_scale == 1 else None  # the cap is one on the scaled lengths
        trace = traces.load(trace, seed=seed, num_prompts=num_prompts, max_new_tokens=first_cap)
    trace = scaling.scale_lengths(trace.sample(num_prompts, sample_seed), prompt_scale, output_scale)
    cap = _output_cap(trace, max_new_tokens)
    trace = trace.with_output_cap(cap)
    trace = arrivals.assign(
        trace, request_rate=request_rate, burstiness=burstiness, time_scale=time_scale, rng=rng
    )
    if max_concurrency is not None and max_concurrency < 1:
        raise InputError(f"max_concurrency: {max_concurrency} must be at least 1")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InputError(f"replicas: {replicas} must be between 1 and {MOST_REPLICAS}")
    if router not in ROUTERS:
        raise InputError(f"router: {router!r} is not one of {', '.join(ROUTERS)}")
    machine = overrides.apply(profiles.load(profile) if isinstance(profile, str) else profile, set)
    made, name = _predictor_and_name(predictor)
    asked = asking_tokens(made)
    machines = _fleet(fleet, kv_blocks, asked, set)
    if machines:
        if replicas != 1:
            raise InputError(f"replicas: {replicas}, but the fleet {fleet} says itself how many there are")
        machine = machines[0].profile
        replicas = len(machines)
    return Scenario(
        trace=trace,
        profile=machine,
        predictor=made,
        limits=limits_of(machine, kv_blocks, perception_tokens=asked),
        max_new_tokens=cap,
        seed=seed,
        max_concurrency=max_concurrency,
        goodput_ms=goodput_bounds(goodput),
        labels={
            "predictor": name,
            "profile": fleet or machine.name,
            "provenance": _provenance([m.profile for m in machines] or [machine]),
            "trace": trace.name,
            "seed": seed,
            "replicas": replicas,
            "router": router,
            "version": __version__,
        },
        replicas=replicas,
        router=router,
        fleet=machines,
        outages=Outages(mtbf_s, mttr_s, failures, startup_s),
    )


def predictions_of(said: Perception) -> list[Prediction]:
    """What is said of each request, by request id."""
    upper = [None] * len(said.predicted) if said.upper is None else said.upper.tolist()
    return [Prediction(p, u) for p, u in zip(said.predicted.tolist(), upper, strict=True)]


def _fleet(
    spec: str | None, kv_blocks: int | None, perception_tokens: int, changes: Settings
) -> tuple[Machine, ...]:
    """The machines of a fleet's description; none where there is no description."""
    if spec is None:
        return ()
    from ..hardware import overrides
    from ..hardware import profile as profiles

    machines: list[Machine] = []
    for part in spec.split(";"):
        name, star, count = part.strip().rpartition("*")
        if not star:
            name, count = part.strip(), "1"
        if not name.strip() or not count.isdecimal() or not 1 <= int(count) <= MOST_REPLICAS:
            raise InputError(f"fleet: {part.strip()!r} is not NAME*COUNT with 1 to {MOST_REPLICAS} replicas")
        if len(machines) + int(count) > MOST_REPLICAS:
            raise InputError(f"fleet: {spec!r} has more than {MOST_REPLICAS} replicas")
        machine = overrides.apply(profiles.load(name.strip()), changes)
        limits = limits_of(machine, kv_blocks, perception_tokens=perception_tokens)
        machines += [Machine(machine, limits)] * int(count)
    return tuple(machines)


def _provenance(machines: Sequence[Profile]) -> str:
    """Where the numbers come from, of every kind of machine."""
    return ", ".join(dict.fromkeys(m.provenance.kind for m in machines))


def _predictor_and_name(given: str | Predictor) -> tuple[Predictor, str]:
    return make_predictor(given), given if isinstance(given, str) else repr(given)


def _output_cap(trace: Trace, max_new_tokens: int | None) -> int:
    """The given cap; else that of the trace's source; else the longest output, at least the usual 512."""
    if max_new_tokens is not None:
        if not 1 <= max_new_tokens <= 10_000_000:
            raise InputError(f"max_new_tokens: {max_new_tokens} must be between 1 and 10000000")
        return max_new_tokens
    if trace.max_new_tokens is not None:
        return trace.max_new_tokens
    return max(DEFAULT_MAX_NEW_TOKENS, int(trace.output_tokens.max()))


def goodput_bounds(goodput: Mapping[str, float] | Iterable[str] | None) -> dict[str, float]:
    """Bounds in ms by metric, from a mapping, or from texts `METRIC:MS` (or one, with spaces between)."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(goodput, Mapping):
        pairs = list(goodput.items())
    else:
        for text in goodput.split() if isinstance(goodput, str) else goodput or ():
            name, _, value = str(text).partition(":")
            pairs.append((name, value))
    bounds: dict[str, float] = {}
    for name, value in pairs:
        if name not in request_latencies():
            known = ", ".join(request_latencies())
            raise InputError(f"goodput: {name!r} is not one of {known}, as in ttft:2000")
        if name in bounds:
            raise InputError(f"goodput: {name} is given twice ({bounds[name]:g} and {value} ms)")
        try:
            bounds[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"goodput: {name}:{value} is not a number of milliseconds") from None
        if not bounds[name] > 0:
            raise InputError(f"goodput: {name}:{value} must be above 0 ms")
    return bounds
