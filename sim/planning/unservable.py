"""Requests that no fleet of a plan can ever serve, however many replicas it has, and what decides that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from traces.trace import Trace

from ..hardware.profile import Profile
from ..parallel.runner import Runner
from ..parallel.tasks import Shared, Task
from ..results.failures import share_text
from ..scenario.policies import POLICIES
from ..scenario.scenario import scenario_on
from ..scenario.settings import DEFAULT_TRACE, Settings
from .answer_search import Parts
from .search import Effort, Search, decide
from .slo import Slo
from .units import Unit


@dataclass(frozen=True)
class Unservable:
    """How many requests every machine turns away; `example`: the first of them, `reason`: why it is, `cap`:
    the flag that says how long its answer may be.
    """

    count: int
    total: int
    example: str
    reason: str
    cap: str

    def __str__(self) -> str:
        share = share_text(self.count / self.total)
        return (
            f"{share} of the requests ({self.count:,} of {self.total:,}, the first: request {self.example}) "
            f"fit no replica ({self.reason}); {self.what_decides}"
        )

    @property
    def what_decides(self) -> str:
        """The flags that settle whether they fit."""
        if "max_num_batched_tokens" in self.reason:
            return (
                "the policy's chunked=on or a larger max_num_batched_tokens would serve them, and so might "
                + self.cap
            )
        if "KV capacity" in self.reason:
            return (
                f"{self.cap}, --kv-blocks and the machine's memory "
                "(--set tensor_parallel=2, kv_bits=8) decide that"
            )
        return "the policy decides that"


def unservable(
    trace: Trace, policy: str, machines: Sequence[Profile], settings: Settings
) -> Unservable | None:
    """What the policy turns away on each of these machines as it comes; None where that is nothing.

    `settings`: those of the plan. A request that only some machines of a mix can serve is not among them.
    """
    is_mixed = len(machines) > 1
    of_one = replace(
        settings,
        profile=machines[0],
        fleet=tuple(machines) if is_mixed else None,
        set=None,
        replicas=1,
        request_rate=None,
        burstiness=1.0,
        time_scale=1.0,
        goodput=None,
    )
    shared = scenario_on(trace, of_one)
    refused = shared.turned_away(policy)
    if not refused:
        return None
    first = min(refused)
    example = str(np.asarray(trace.request_id)[first])
    caps = shared.trace.max_tokens
    cap = f"{shared.max_new_tokens:,} here" if caps is None else f"its own is {caps[first]:,}, by --cap"
    return Unservable(len(refused), len(trace), example, refused[first], f"--max-new-tokens ({cap})")


def unservable_of_each(
    trace: Trace, pairs: Sequence[tuple[str, Unit]], settings: Settings, runner: Runner
) -> list[Unservable | None]:
    """`unservable` of each policy on the machines of its unit.

    A policy from outside is asked where runs are: it may end the process, which these survive. Where it fails
    nothing is known of it here, and its runs name the failure.
    """
    found: dict[int, Unservable | None] = {}
    tasks = []
    for k, (policy, unit) in enumerate(pairs):
        machines = unit.machines
        if POLICIES.is_outside(policy):
            tasks.append(
                Task(str(k), (Shared(trace), policy, machines, replace(settings, trace=DEFAULT_TRACE)))
            )
        else:
            found[k] = unservable(trace, policy, machines, settings)
    for ended in runner.run(unservable, tasks):
        found[int(ended.key)] = ended.value
    return [found[k] for k in range(len(pairs))]


def ask_nothing(slo: Slo, rate: float, effort: Effort, found: Unservable) -> Search[Parts]:
    """The end of a search before it began: one replica shows what is left out, no number of them helps."""
    point = yield from decide(slo, 1, rate, effort.at_a_glance())
    bound = next(bound for bound in slo.bounds if bound.metric != "attainment")
    reason = f"{found}; {bound.name} counts every request"
    shows = point if point.failed else None
    return Parts(None, None, reason, shows, None, (point,), "unreachable")
