"""What the runs of a search share: all of a run but the fleet's size, the rate, the seed and the length."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from traces.arrivals import at_rate, busiest, stretched, window
from traces.scaling import scale_lengths
from traces.trace import FloatArray, Trace

from ..fleet.outages import NONE
from ..hardware.profile import Profile
from ..results.result import Result
from ..scenario.inputs import digest, digest_of, digest_of_trace
from ..scenario.machines import fleet_text
from ..scenario.requests import requests_of
from ..scenario.scenario import scenario_on
from ..scenario.settings import Settings
from .verdict import Run

OF_THE_RUN = ("trace", "profile", "fleet", "set", "seed", "replicas", "request_rate", "burstiness", "goodput")
"""Settings that a world or a run says in its own way."""
FROM_ARRIVAL = ("wait_ms", "ttft_ms", "e2el_ms")


@dataclass(frozen=True)
class World:
    """Workload, policy and machines; `run` supplies the rest.

    `source`: a Trace of the requests that the settings choose, or a generator's spec, which gives every seed
    requests of its own. `machines`: the profiles of one copy of the fleet, of which a run has as many as it
    says replicas. `burstiness`: shape of the gamma distributed gaps between arrivals (1: Poisson); None: the
    trace's own gaps, scaled. `length_scale` multiplies output lengths, their cap, and what is predicted of
    them.
    """

    source: Trace | str
    policy: str
    machines: tuple[Profile, ...]
    settings: Settings = field(default_factory=Settings)
    burstiness: float | None = None
    length_scale: float = 1.0

    def run(self, run: Run) -> Result:
        """One simulation. Where a bound on concurrency holds a request back, that counts as waiting. Where
        requests wait for others of their session, a column `is_waiting` says which.

        Rows of a schedule of outages are left out where the fleet has no such replica.
        """
        trace = self._requests(run)
        is_mixed = len(self.machines) > 1
        settings = replace(
            self.settings,
            profile=self.machines[0],
            fleet=self.machines * run.replicas if is_mixed else None,
            set=None,
            replicas=1 if is_mixed else run.replicas,
            seed=run.seed,
            request_rate=None if self.burstiness is None else run.rate,
            burstiness=1.0 if self.burstiness is None else self.burstiness,
            time_scale=1.0,
            goodput=None,
        )
        shared = scenario_on(trace, settings)
        outages = replace(shared.outages, is_partial=True) if run.outages else NONE
        result = replace(shared, outages=outages).run(self.policy)
        if shared.trace.is_waiting.any():
            result = _with(result, is_waiting=shared.trace.is_waiting)
        if self.settings.max_concurrency is None:
            return result
        return _counted_from_due(result, result.columns["due_s"])

    def _requests(self, run: Run) -> Trace:
        if isinstance(self.source, str):
            drawn = replace(self.settings, trace=self.source, num_prompts=run.num_requests, sample_seed=None)
            trace = requests_of(drawn, run.seed, whole_sessions=True)
        elif run.is_replay:
            assert self.source.mean_rate is not None
            trace = stretched(busiest(self.source, run.num_requests), self.source.mean_rate / run.rate)
        else:
            trace = window(self.source, run.seed, run.num_requests)
        if self.burstiness is None and not run.is_replay:
            trace = at_rate(trace, run.rate)
        return scale_lengths(trace, output_scale=self.length_scale)

    @property
    def name(self) -> str:
        """Its machines, for people: a profile's name, or a fleet as it is written."""
        return self.machines[0].name if len(self.machines) == 1 else fleet_text(self.machines)

    def name_of(self, run: Run) -> str:
        """Names a run in an error."""
        return (
            f"{self.policy} on {run.replicas} × {self.name} at {run.rate:.6g} requests/s, "
            f"seed {run.seed}, {run.num_requests} requests{' of the trace itself' if run.is_replay else ''}"
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this world from another, in plain values; what they refer to by digests of content."""
        return {
            "trace": self.source if isinstance(self.source, str) else digest_of_trace(self.source),
            "policy": self.policy,
            "machines": digest([machine.to_json() for machine in self.machines]),
            "burstiness": self.burstiness,
            "length_scale": self.length_scale,
            "settings": {name: repr(value) for name, value in self._given().items()},
            "inputs": {name: digest_of(name, text) for name, text in self.texts().items()},
        }

    def texts(self) -> dict[str, str]:
        """Setting -> text, of every setting that a text gives and that may refer to a file."""
        given = {"policy": self.policy, "trace": self.source, **self._given()}
        return {name: str(value) for name, value in given.items() if isinstance(value, str | Path)}

    def _given(self) -> dict[str, Any]:
        """The settings that a run takes as they are."""
        values = {each.name: getattr(self.settings, each.name) for each in fields(Settings)}
        return {name: value for name, value in values.items() if name not in OF_THE_RUN}


def _counted_from_due(result: Result, due_s: FloatArray) -> Result:
    """The result with latencies measured from when a request was due, not from when it was let in.

    Else a fleet would seem to carry any rate: a bound on concurrency keeps from it what it cannot carry.
    """
    held_ms = (result.columns["arrival_s"] - due_s) * 1e3
    late = {name: result.columns[name] + held_ms for name in FROM_ARRIVAL}
    return _with(result, arrival_s=due_s, **late)


def _with(result: Result, **columns: np.ndarray[Any, Any]) -> Result:
    """The result with these columns beside its own, or in their place."""
    return replace(result, columns=MappingProxyType({**result.columns, **columns}))
