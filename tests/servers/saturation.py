"""How many requests a second a server ends while there are always some that wait."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from real.observing.observation import Observation
from real.observing.observe import observe
from sim.scenario.settings import WorkloadSettings

AT_ONCE = 40
"""Requests of a run, all sent at once."""
LEAST_RUNS, MOST_RUNS = 3, 9
LEAST_S = 15.0
"""Seconds of runs from which on the fewest runs are enough: what else a machine does comes and goes."""


def saturated_rates(url: str, trace: str, slots: int) -> list[float]:
    """Requests per second of a server that works on `slots` at a time, in each of some short runs: in their
    median no busy moment decides. A first run, which warms the server up, does not count.
    """
    watched(url, WorkloadSettings(trace=trace, num_prompts=slots, request_rate=float("inf")))
    workload = WorkloadSettings(trace=trace, num_prompts=AT_ONCE, request_rate=float("inf"))
    rates: list[float] = []
    begin = time.monotonic()
    while len(rates) < LEAST_RUNS or (len(rates) < MOST_RUNS and time.monotonic() - begin < LEAST_S):
        rates.append(saturated_rate(watched(url, workload).log["finish_s"].to_numpy(), slots))
    return rates


def saturated_rate(finish_s: npt.NDArray[np.float64], slots: int) -> float:
    """Requests per second of a run that sent all at once, as long as every slot was taken: the last `slots`
    to end found others empty. `finish_s`: seconds from the start, NaN for a request that failed.
    """
    ends = np.sort(finish_s[np.isfinite(finish_s)])
    if len(ends) <= slots:
        raise RuntimeError(f"{len(ends)} of {len(finish_s)} requests completed, more than {slots} needed")
    return float((len(ends) - slots) / ends[-slots - 1])


def watched(url: str, workload: WorkloadSettings, seed: int = 0) -> Observation:
    """What a client saw. KeyboardInterrupt where it was interrupted: a part of a run is none."""
    observation = observe(url, workload, seed=seed)
    if observation.is_interrupted:
        raise KeyboardInterrupt
    return observation
