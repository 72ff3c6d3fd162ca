"""`simulate` and `compare`: replay a trace under a policy on a profile; the command line is a thin skin over
these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traces.spec import names_of
from traces.trace import Trace

from .execution.arrivals import Progress
from .results.result import Result
from .scenario.policies import DEFAULT_POLICY, Policy, make_scheduler
from .scenario.scenario import DEFAULT_TRACE, Scenario, scenario

if TYPE_CHECKING:
    import pandas as pd


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
    - `max_concurrency`, `max_new_tokens`, `goodput` (`{"ttft": ms}` or `["ttft:2000"]`), `kv_blocks`;
    - `replicas`, `router` (see `sim.fleet.routers`), `fleet` (`"NAME*COUNT;NAME*COUNT"` in place of
      profile and replicas), `mtbf_s`, `mttr_s`, `failures`, `startup_s` (see `sim.fleet.outages`);
    - `prompt_scale`, `output_scale`: factors on the lengths;
    - `set`: what-ifs and fields of the profile (`{"weight_bits": 8}` or `["gpu=H100"]`).

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
    names = names_of(policies, "policies")
    shared = scenario(trace, **settings)
    for name in names:
        make_scheduler(name, shared.limits)
    return Comparison({name: shared.run(name, on_progress=on_progress) for name in names}, shared)
