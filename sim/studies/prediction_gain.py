"""What predictions of lengths are worth: GPU time of padded batches, and the rush of the same mean latency.

Lengths and predictions are those of a log, so that the errors are those that were made on rows held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Unpack

import numpy as np

from traces.arguments import checked
from traces.errors import InputError
from traces.trace import IntArray, Trace

from ..perception.predictors import FromTrace
from ..results.result import Result
from ..scenario.scenario import scenario
from ..scenario.settings import Keywords
from .capacity import capacity

PADDED_BASE, PADDED = "vanilla", "sequence"
BASE, SHORTEST = "continuous", "continuous:order=shortest-predicted"
LOAD, MOST_LOAD = 1.2, 2.4
"""A rush, as a multiple of what is served at most, in which first come, first served is compared with, and
the largest that is looked for. Where nobody waits no order helps.
"""
LEAST_REQUESTS = 2000
"""Requests of a run: those of the log, over and over where they are fewer."""
SEEDS = 3
STEPS = 6
"""Halvings of the range in which a rate is looked for."""


@dataclass(frozen=True)
class Worth:
    """What one way to predict is worth.

    `gpu_s`: GPU seconds per 1,000 answers in padded batches, of which `gpu_saved` is the share saved.
    `mean_e2el_ms`, `p99_e2el_ms`: of continuous batching in a rush, the shortest predicted first.
    `rate_gain`: by how much the rush may be larger until its mean is that of first come, first served;
    `cost_saved`: the share of the GPUs that may be left out.
    """

    gpu_s: float
    gpu_saved: float
    mean_e2el_ms: float
    p99_e2el_ms: float
    rate_gain: float
    cost_saved: float


@dataclass(frozen=True)
class Gain:
    """What predictions are worth on a machine, by the name of the predictor; `base`: no predictions, that is
    padded batches in order of arrival, and first come, first served at `request_rate`.
    """

    profile: str
    load: float
    request_rate: float
    base: Worth
    worth: Mapping[str, Worth]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@checked
def prediction_gain(
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    predictions: Mapping[str, IntArray],
    **settings: Unpack[Keywords],
) -> Gain:
    """What each of `predictions` of these lengths is worth; arrays of shape (n,), tokens.

    `settings` as for `simulate`: the machine. InputError where it cannot serve all of these requests.
    """
    count = max(LEAST_REQUESTS, len(output_tokens))
    rows = np.random.default_rng(0).permutation(np.resize(np.arange(len(output_tokens)), count))
    trace = Trace("held-out rows", np.arange(count), prompt_tokens[rows], output_tokens[rows])
    runs = _Runs(trace, settings)
    base_gpu_s = runs.padded_gpu_s(PADDED_BASE, trace.output_tokens)
    mean, p99 = runs.latencies(BASE, trace.output_tokens, LOAD)
    worth = {}
    for name, values in predictions.items():
        predicted = values[rows]
        gpu_s = runs.padded_gpu_s(PADDED, predicted)
        own_mean, own_p99 = runs.latencies(SHORTEST, predicted, LOAD)
        load = runs.load_with_mean(predicted, mean) if own_mean < mean else LOAD
        worth[name] = Worth(
            gpu_s, 1 - gpu_s / base_gpu_s, own_mean, own_p99, load / LOAD - 1, 1 - LOAD / load
        )
    base = Worth(base_gpu_s, 0.0, mean, p99, 0.0, 0.0)
    return Gain(runs.profile, LOAD, LOAD * runs.most, base, worth)


class _Runs:
    """Simulations of the same requests on the same machine."""

    def __init__(self, trace: Trace, settings: Keywords) -> None:
        self.trace, self.settings = trace, settings
        self.profile = scenario(trace, **settings).profile.name

    @cached_property
    def most(self) -> float:
        """Requests per second that are served at most."""
        return capacity(self.trace, policy=BASE, **self.settings)

    def padded_gpu_s(self, policy: str, predicted: IntArray) -> float:
        """GPU seconds per 1,000 answers, with everything there at once."""
        result = self._run(policy, predicted, {"request_rate": np.inf})
        return float(1000 * result.summary["duration"] / result.summary["completed"])

    def latencies(self, policy: str, predicted: IntArray, load: float) -> tuple[float, float]:
        """Mean and p99 of E2EL in ms, means over seeds, at a multiple of what is served at most."""
        rate = load * self.most
        found = [
            self._run(policy, predicted, {"request_rate": rate, "seed": seed}).summary
            for seed in range(SEEDS)
        ]
        mean, p99 = (float(np.mean([s[key] for s in found])) for key in ("mean_e2el_ms", "p99_e2el_ms"))
        return mean, p99

    def load_with_mean(self, predicted: IntArray, mean_ms: float) -> float:
        """The rush up to which the shortest predicted first has a lower mean."""
        low, high = LOAD, MOST_LOAD
        for _ in range(STEPS):
            load = (low + high) / 2
            if self.latencies(SHORTEST, predicted, load)[0] < mean_ms:
                low = load
            else:
                high = load
        return low

    def _run(self, policy: str, predicted: IntArray, workload: Keywords) -> Result:
        trace = replace(self.trace, predicted_tokens=predicted)
        settings = self.settings | workload | {"predictor": FromTrace()}
        result = scenario(trace, **settings).run(policy)
        if failed := result.summary["failed"]:
            raise InputError(
                f"{self.profile}: {failed} of {len(trace)} requests cannot be served there "
                f"({result.summary['failed_reason']})"
            )
        return result
