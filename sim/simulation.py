"""`simulate` and `compare`: replay a trace under a policy on a profile; the command line is a thin skin over
these.

Everything random comes from one seed, one stream per purpose, so that changing a policy moves nobody else's
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from traces.errors import InputError
from traces.trace import DEFAULT_MAX_NEW_TOKENS, Trace

from .arrivals import Arrivals, Progress
from .hardware.profile import Profile
from .metrics import GOODPUT_METRICS, Ledger, Result, make_result
from .perception import Perception, Predictor, asking_tokens, perceive, predictor
from .policies import Policy, limits_of, make_scheduler, policy_name
from .replica import PerceptionCost, Replica, SchedulingError
from .request import Request
from .version import __version__
from .work import Limits, Prediction

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_POLICY = "sequence"
DEFAULT_PREDICTOR = "oracle"
DEFAULT_PROFILE = "a100-80gb-vicuna-7b-transformers"
DEFAULT_TRACE = "alpaca-vicuna"

STREAMS = ("arrivals", "lengths", "perception", "routing")


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random stream of one purpose; InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"seed: {seed} must be at least 0")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(purpose),)))


@dataclass(frozen=True)
class Scenario:
    """All that runs under several policies share: the workload, what is predicted of it, and the machine."""

    trace: Trace
    profile: Profile
    predictor: Predictor
    limits: Limits
    max_new_tokens: int
    seed: int
    max_concurrency: int | None
    goodput_ms: Mapping[str, float]
    labels: Mapping[str, Any]

    def run(
        self,
        policy: Policy,
        label: str | None = None,
        output_tokens: list[int] | None = None,
        *,
        log: bool = False,
        leap: bool = True,
        on_progress: Progress | None = None,
    ) -> Result:
        """One run. `output_tokens`, by request id, stands in for the trace's own lengths.

        `log` keeps a record of every Work of continuous batching too. Without `leap` it goes iteration by
        iteration, to the same end.
        """
        scheduler = make_scheduler(policy, self.limits)
        quantile = getattr(scheduler, "upper_quantile", None)
        said = perceive(self.predictor, self.trace, stream(self.seed, "perception"), quantile)
        requests = self.requests(said)
        ledger = Ledger(len(requests), [r.arrival_s for r in requests], log=log)
        lengths = self.trace.output_tokens.tolist() if output_tokens is None else output_tokens
        env = simpy.Environment()
        arrivals = Arrivals(
            env, sorted(requests, key=lambda r: r.arrival_s), ledger, self.max_concurrency, on_progress
        )
        replica = Replica(
            env,
            scheduler,
            self.profile.step_cost,
            arrivals,
            ledger,
            kv_capacity_tokens=self.limits.kv_tokens,
            output_tokens=lengths,
            predictions=predictions_of(said) if said.charged else (),
            perception=PerceptionCost(said.question_tokens, said.answer_tokens),
            leap=leap,
        )
        env.process(arrivals.run())
        env.run()
        lost = [i for i in range(len(requests)) if not ledger.ended(i)]
        ledger.kv_peak_tokens = getattr(scheduler, "kv_peak_tokens", 0)
        if lost:
            raise SchedulingError(
                f"{type(replica.scheduler).__name__} left {len(lost)} requests unserved: {lost[:5]}"
            )
        return make_result(
            ledger,
            request_id=self.trace.request_id,
            prompt_tokens=self.trace.prompt_tokens,
            output_tokens=np.asarray(lengths, dtype=np.int64),
            priority=self.trace.priority,
            labels={"policy": label or policy_name(policy), **self.labels},
            kv_capacity_tokens=self.limits.kv_tokens,
            goodput_ms=self.goodput_ms,
        )

    def requests(self, said: Perception) -> list[Request]:
        """The requests as a scheduler sees them; what costs nothing to predict is already on them."""
        trace, n = self.trace, len(self.trace)

        def column(values: Any, default: Any) -> list[Any]:
            return [default] * n if values is None else list(values.tolist())

        free = not said.charged
        return [
            Request(i, arrival, prompt, self.max_new_tokens, priority, user, deadline, predicted, upper)
            for i, (arrival, prompt, priority, user, deadline, predicted, upper) in enumerate(
                zip(
                    column(trace.arrival_s, 0.0),
                    trace.prompt_tokens.tolist(),
                    column(trace.priority, 0),
                    column(trace.user, None),
                    column(trace.deadline_s, None),
                    column(said.predicted if free else None, None),
                    column(said.upper if free else None, None),
                    strict=True,
                )
            )
        ]


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
) -> Scenario:
    """Read and check everything a run needs; see `simulate` for the arguments."""
    import traces
    from traces import arrivals

    from .hardware import profile as profiles

    rng = stream(seed, "arrivals")
    if isinstance(trace, str):
        trace = traces.load(trace, seed=seed, num_prompts=num_prompts, max_new_tokens=max_new_tokens)
    trace = trace.sample(num_prompts, sample_seed)
    cap = _output_cap(trace, max_new_tokens)
    trace = trace.with_output_cap(cap)
    trace = arrivals.assign(
        trace, request_rate=request_rate, burstiness=burstiness, time_scale=time_scale, rng=rng
    )
    if max_concurrency is not None and max_concurrency < 1:
        raise InputError(f"max_concurrency: {max_concurrency} must be at least 1")
    machine = profiles.load(profile) if isinstance(profile, str) else profile
    made, name = _predictor_and_name(predictor)
    return Scenario(
        trace=trace,
        profile=machine,
        predictor=made,
        limits=replace(limits_of(machine, kv_blocks), perception_tokens=sum(asking_tokens(made))),
        max_new_tokens=cap,
        seed=seed,
        max_concurrency=max_concurrency,
        goodput_ms=_goodput_bounds(goodput),
        labels={
            "predictor": name,
            "profile": machine.name,
            "provenance": machine.provenance.kind,
            "trace": trace.name,
            "seed": seed,
            "replicas": 1,
            "version": __version__,
        },
    )


def simulate(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    policy: Policy = DEFAULT_POLICY,
    log: bool = False,
    leap: bool = True,
    on_progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Replay a trace under one policy.

    `trace`: a Trace, or what `traces.load` takes. `policy`: a spec `NAME[:key=value,...]`, or a callable that
    builds a scheduler from its Limits. `log` keeps the decisions of continuous batching too; without `leap`
    that goes iteration by iteration, to the same end. `on_progress(ended, requests)` is called now and then.
    `settings`, the names of the command line's flags:

    - `predictor` (spec), `profile` (name, path or Profile), `seed`;
    - `num_prompts`, `sample_seed`: the first N requests, of the file or of its seeded permutation;
    - `request_rate` (requests/s; None: the trace's own times, inf: all at once), `burstiness`, `time_scale`;
    - `max_concurrency`, `max_new_tokens`, `goodput` (`{"ttft": ms}` or `["ttft:2000"]`), `kv_blocks`.

    Raises InputError for anything that cannot be used.
    """
    return scenario(trace, **settings).run(policy, log=log, leap=leap, on_progress=on_progress)


@dataclass(frozen=True)
class Comparison:
    """The same workload under several policies, in the order given; ratios are to the first."""

    results: dict[str, Result]
    scenario: Scenario

    @property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """Policy -> summary."""
        return {name: result.summary for name, result in self.results.items()}

    def ratios(self, key: str = "request_throughput") -> dict[str, float | None]:
        """Policy -> its figure over that of the first policy; None where one of the two is undefined."""
        values = [s[key] for s in self.summaries.values()]
        return {
            n: v / values[0] if v is not None and values[0] else None
            for n, v in zip(self.results, values, strict=True)
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per policy, one column per summary key."""
        import pandas as pd

        return pd.DataFrame(list(self.summaries.values()), index=pd.Index(self.results, name="run"))


def compare(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    policies: Sequence[str] | str,
    on_progress: Progress | None = None,
    **settings: Any,
) -> Comparison:
    """Replay the same requests, arrivals and predictions (common random numbers) under several policies.

    `policies`: specs, or one text with semicolons between them. `settings` as for `simulate`.
    Raises InputError where two policies are the same, or none is given.
    """
    names = [p.strip() for p in policies.split(";")] if isinstance(policies, str) else list(policies)
    names = [name for name in names if name]
    if not names or len(set(names)) != len(names):
        raise InputError(f"policies: {';'.join(names)!r} must name at least one policy, and none twice")
    shared = scenario(trace, **settings)
    for name in names:
        make_scheduler(name, shared.limits)
    return Comparison({name: shared.run(name, on_progress=on_progress) for name in names}, shared)


def predictions_of(said: Perception) -> list[Prediction]:
    """What is said of each request, by request id."""
    upper = [None] * len(said.predicted) if said.upper is None else said.upper.tolist()
    return [Prediction(p, u) for p, u in zip(said.predicted.tolist(), upper, strict=True)]


def _predictor_and_name(given: str | Predictor) -> tuple[Predictor, str]:
    return predictor(given), given if isinstance(given, str) else repr(given)


def _output_cap(trace: Trace, max_new_tokens: int | None) -> int:
    """The given cap; else that of the trace's source; else the longest output, at least the usual 512."""
    if max_new_tokens is not None:
        if not 1 <= max_new_tokens <= 10_000_000:
            raise InputError(f"max_new_tokens: {max_new_tokens} must be between 1 and 10000000")
        return max_new_tokens
    if trace.max_new_tokens is not None:
        return trace.max_new_tokens
    return max(DEFAULT_MAX_NEW_TOKENS, int(trace.output_tokens.max()))


def _goodput_bounds(goodput: Mapping[str, float] | Iterable[str] | None) -> dict[str, float]:
    """Bounds in ms by metric, from a mapping or from texts `METRIC:MS`."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(goodput, Mapping):
        pairs = list(goodput.items())
    else:
        for text in goodput or ():
            name, _, value = str(text).partition(":")
            pairs.append((name, value))
    bounds: dict[str, float] = {}
    for name, value in pairs:
        if name not in GOODPUT_METRICS:
            raise InputError(f"goodput: {name!r} is not one of {', '.join(GOODPUT_METRICS)}, as in ttft:2000")
        try:
            bounds[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"goodput: {name}:{value} is not a number of milliseconds") from None
        if not bounds[name] > 0:
            raise InputError(f"goodput: {name}:{value} must be above 0 ms")
    return bounds
