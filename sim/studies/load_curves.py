"""What each policy does to latency, throughput and goodput as requests come faster. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from traces.arguments import checked
from traces.spec import names_of
from traces.trace import Trace

from ..results import failures
from ..results.metrics import request_latencies
from ..results.slo_metrics import is_of_own_bounds
from ..scenario.scenario import scenario
from ..scenario.settings import Keywords
from .capacity import check
from .prediction_error import check_policies
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

POLICIES = (
    "vanilla",
    "sequence:max_wait_s=10",
    "continuous",
    "continuous:order=shortest-predicted",
    "continuous:order=shortest-remaining,admission=predicted",
)
CURVE_LOADS = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4)
"""From where padded batches are idle to where continuous batching is overrun; shares of its capacity."""


def curve_keys() -> tuple[str, ...]:
    """The keys of a summary that `load_curves` has."""
    latencies = (latency.metric(s).key for latency in request_latencies().values() for s in ("mean", "p99"))
    figures = ("request_throughput", "output_throughput", "request_goodput", "queue_growth", "preemptions")
    return (*latencies, *figures, *failures.KEYS)


@checked
def load_curves(
    trace: Trace | str,
    *,
    rates: Sequence[float],
    policies: Sequence[str] | str = POLICIES,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """What each policy does to latency, throughput and goodput at each of `rates` (requests/s).

    One row per rate, seed and policy: columns policy, request_rate, seed and those of `curve_keys`, with the
    shares that are within bounds of their own where requests state any. At one
    seed all rates see the same requests and the same pattern of arrivals. `settings` as for `simulate` and
    `Study`.
    """
    running, rest = split(settings)
    policies = names_of(policies, "policies")
    check_policies(*policies)
    first_seed, rest = check(num_seeds, rest, rates=rates)
    points = [{"rate": rate, "seed": first_seed + k} for k in range(num_seeds) for rate in rates]
    with Study(**running) as study:
        about = {"trace": trace, "policies": policies, **rest}
        return frame_of(study.run(_curve_rows, _Curves(trace, policies, rest), points, about))


class _Curves(NamedTuple):
    """What all points of load curves share."""

    trace: Trace | str
    policies: Sequence[str]
    settings: Keywords


def _curve_rows(shared: _Curves, rate: float, seed: int) -> list[dict[str, Any]]:
    workload = scenario(shared.trace, **(shared.settings | {"seed": seed, "request_rate": rate}))
    rows = []
    for policy in shared.policies:
        summary = workload.run(policy).summary
        names = (*curve_keys(), *filter(is_of_own_bounds, summary))
        figures = {name: summary[name] for name in names}
        rows.append({"policy": policy, "request_rate": rate, "seed": seed, **figures})
    return rows
