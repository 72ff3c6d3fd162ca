"""How many requests per CPU second does a simulation do, and how far is that from SimPy's own limit?

    python -m tests.benchmarks.throughput        (`make bench`)

Replays 10,000 requests of the embedded trace (all at once, and Poisson at half the capacity of vanilla
batching), in turn with a bare SimPy run of two events a request, on one core after loading. Medians; the last
line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import simpy

from sim.scenario.scenario import scenario

NUM_REQUESTS = 10_000
ROUNDS = 7
RATE = 0.7
RUNS = {
    "vanilla": ("vanilla", None),
    "sequence": ("sequence", None),
    "sequence:vbs=memory": ("sequence:vbs=memory", None),
    "vanilla, Poisson": ("vanilla", RATE),
    "sequence, Poisson": ("sequence", RATE),
    "sequence:max_wait_s=10, Poisson": ("sequence:max_wait_s=10", RATE),
    "continuous, Poisson": ("continuous", RATE),
}


def bare_simpy(num_requests: int = NUM_REQUESTS) -> None:
    """Two events a request and nothing else."""
    env = simpy.Environment()

    def requests() -> simpy.events.ProcessGenerator:
        for _ in range(num_requests):
            yield env.timeout(1.0)
            yield env.timeout(1.0)

    env.process(requests())
    env.run()


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Measure every run, round by round so that clock drift meets all alike."""
    shared = {
        rate: scenario("alpaca-vicuna", predictor="tuned", num_prompts=NUM_REQUESTS, request_rate=rate)
        for rate in (None, RATE)
    }
    calls: dict[str, Callable[[], object]] = {"bare SimPy": bare_simpy}
    for name, (policy, rate) in RUNS.items():
        calls[name] = lambda policy=policy, rate=rate: shared[rate].run(policy)
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            seconds[name].append(cpu_seconds(call))
    rates = {name: NUM_REQUESTS / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(
            f"{name:32s} {rate:9,.0f} requests per CPU second   {rate / rates['bare SimPy']:.2f} × bare SimPy"
        )
    print(json.dumps({"requests": NUM_REQUESTS, "rounds": ROUNDS, "requests_per_cpu_s": rates}))


if __name__ == "__main__":
    main()
