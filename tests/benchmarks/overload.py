"""What do an accelerator that is always full, asynchronous scheduling and uneven contexts cost?

    python -m tests.benchmarks.overload [ROUNDS]        (`make bench`)

Short chats on an H200 with 256 seats: at 95 a second, which is twice what it can do, in turn with a bare
SimPy run of two events a request, with and without the host of the profile; and at half of what it can do,
asynchronous scheduling against none, on one and on eight accelerators, and a profile in which uneven contexts
cost something against the same without. CPU times on one core after loading; every line is a median over
rounds, and JSON.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sim.hardware.host import NO_HOST
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.scenario.scenario import Scenario, scenario
from traces.trace import Trace

from .throughput import bare_simpy, cpu_seconds

OVERLOAD, HALF = 95.0, 25.0
"""Requests a second for each accelerator."""

NUM_FULL, NUM_HALF = 100_000, 20_000
SYNC, ASYNC = (f"continuous:max_num_seqs=256,async_scheduling={how}" for how in ("off", "on"))
ALPHA = 0.1
"""What a token costs by which a context is shorter than the longest, of what one costs that is there."""


def chats(num_requests: int, rate: float) -> Trace:
    """Poisson arrivals of lognormal prompts (median 60 tokens) and answers (150), drawn with seed 0."""
    rng = np.random.default_rng(0)

    def lengths(median: int, sigma: float, low: int) -> np.ndarray:
        return np.clip(np.round(rng.lognormal(math.log(median), sigma, num_requests)), low, 2048).astype(int)

    arrival_s = np.cumsum(rng.exponential(1 / rate, num_requests))
    prompt, output = lengths(60, 0.7, 5), lengths(150, 0.8, 1)
    return Trace("chats", np.arange(num_requests), prompt, output, arrival_s=arrival_s)


def uneven(profile: Profile) -> Profile:
    """The profile, with a decode-only iteration that takes longer where contexts differ."""
    cost = profile.step_cost
    sizes = (1.0, 64.0, 256.0)
    seconds = tuple(n * ALPHA * cost.decode_context_s(int(n)) for n in sizes)
    curve = PiecewiseLinear(sizes, seconds, may_fall=True)
    return replace(profile, step_cost=replace(cost, decode_uneven=curve))


def in_turn(rounds: int, one: Callable[[], object], other: Callable[[], object]) -> float:
    """CPU time of one over that of the other: the median over rounds in which each runs once."""
    one(), other()
    return statistics.median(cpu_seconds(one) / cpu_seconds(other) for _ in range(rounds))


def run(shared: Scenario, policy: str) -> Callable[[], object]:
    """A run that waits to be called."""
    return lambda: shared.run(policy)


def say(what: str, ratio: float) -> None:
    """One line of JSON."""
    print(json.dumps({"what": what, "ratio": round(ratio, 3)}), flush=True)


def main(rounds: int) -> None:
    """Measure and print one ratio after the other."""
    profile = scenario(chats(1, HALF), profile="h200-vicuna-7b").profile
    bare_host = replace(profile, host=NO_HOST)
    for name, machine in (("without a host", bare_host), ("with the profile's host", profile)):
        full = scenario(chats(NUM_FULL, OVERLOAD), profile=machine)
        for how, policy in (("", SYNC), (", asynchronous", ASYNC)):
            ratio = in_turn(rounds, lambda: bare_simpy(NUM_FULL), run(full, policy))
            say(f"always full {name}{how}: speed of bare SimPy", ratio)
    for replicas in (1, 8):
        trace = chats(NUM_HALF * replicas, HALF * replicas)
        half = scenario(trace, profile=profile, replicas=replicas)
        say(
            f"asynchronous on {replicas}: time of synchronous",
            in_turn(rounds, run(half, ASYNC), run(half, SYNC)),
        )
    trace = chats(NUM_HALF, HALF)
    even, other = (scenario(trace, profile=p) for p in (profile, uneven(profile)))
    say("uneven contexts: speed without", in_turn(rounds, run(even, SYNC), run(other, SYNC)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
