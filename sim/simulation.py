"""`simulate` and `compare`: replay a trace under a policy on a profile; the command line is a thin skin over
these.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from traces.arguments import checked
from traces.spec import names_of
from traces.trace import Trace

from .execution.arrivals import Progress
from .results.result import Result
from .scenario.policies import DEFAULT_POLICY, Policy, make_scheduler
from .scenario.scenario import Scenario, scenario
from .scenario.settings import DEFAULT_TRACE, Keywords
from .scenario.unused import unused

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("traces")


@checked
def simulate(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    policy: Policy = DEFAULT_POLICY,
    log: bool = False,
    leap: bool = True,
    warmup: str | int | None = None,
    on_progress: Progress | None = None,
    **settings: Unpack[Keywords],
) -> Result:
    """Replay a trace under one policy.

    `trace`: a Trace, or what `traces.load` takes. `policy`: a spec `NAME[:key=value,...]`, or a callable that
    builds a scheduler from its Limits. `log` keeps the decisions of continuous batching too; without `leap`
    that goes iteration by iteration, to the same end. `warmup`: requests that have no part in latencies,
    and after which throughput, goodput and ITL begin: a number, by arrival, seconds such as "60s", or "auto".
    `on_progress(ended, requests)` is called now and then.
    `settings`: the flags of the command line by their names, each described in `sim.scenario.settings`, such
    as `predictor="tuned", profile="h200-vicuna-7b", seed=1, request_rate=4.0, goodput={"ttft": 2000}`. A
    predictor, profiles and a fleet may also be given as objects, `goodput` and `set` as mappings.

    Raises InputError for anything that cannot be used.
    """
    chosen = scenario(trace, **settings)
    _say_unused(chosen, [policy])
    return chosen.run(policy, log=log, leap=leap, warmup=warmup, on_progress=on_progress)


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

    @property
    def alike(self) -> bool:
        """Whether the same requests completed under all policies; else their latencies do not compare."""
        done = [np.isfinite(result.columns["finish_s"]) for result in self.results.values()]
        return all(np.array_equal(one, done[0]) for one in done)

    def to_frame(self) -> pd.DataFrame:
        """One row per policy, one column per summary key."""
        import pandas as pd

        return pd.DataFrame(list(self.summaries.values()), index=pd.Index(self.results, name="run"))


@checked
def compare(
    trace: Trace | str = DEFAULT_TRACE,
    *,
    policies: Sequence[str] | str,
    warmup: str | int | None = None,
    on_progress: Progress | None = None,
    **settings: Unpack[Keywords],
) -> Comparison:
    """Replay the same requests, arrivals and predictions (common random numbers) under several policies.

    `policies`: specs, or one text with semicolons between them. `settings` as for `simulate`.
    Raises InputError where two policies are the same, or none is given.
    """
    names = names_of(policies, "policies")
    shared = scenario(trace, **settings)
    _say_unused(shared, names)
    return Comparison(
        {name: shared.run(name, warmup=warmup, on_progress=on_progress) for name in names}, shared
    )


def _say_unused(chosen: Scenario, policies: Sequence[Policy]) -> None:
    """Say what of the trace no policy uses, and what is not there that one goes by; InputError for a policy
    that cannot be built.
    """
    schedulers = [make_scheduler(policy, chosen.limits) for policy in policies if isinstance(policy, str)]
    router = None if chosen.is_alone else chosen.router
    for note in unused(chosen.trace, schedulers, router):
        LOG.info("note: %s", note)
