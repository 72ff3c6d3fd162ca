"""Does memory grow beyond what a run has to keep of each request?

    python -m tests.benchmarks.soak [REQUESTS]        (10,000,000 by default: some minutes)

Replays synthetic requests under `continuous` at 80 % of one accelerator's capacity, and looks at the resident
memory as the run goes, by the number of requests that have ended. The record of a request (the ledger's typed
columns and the trace's arrays) is there from the beginning; the pages of it are touched as the run goes, so
that growth of that size is no leak, and any beyond it is. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from sim.hardware.kv_memory import KvMemory
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from sim.results.ledger import Ledger
from sim.scenario.scenario import scenario
from traces.trace import Trace

NUM_REQUESTS = 10_000_000
POLICY = "continuous"
LOAD = 0.8
MIB = 2**20


def resident_mib() -> float:
    """Resident memory of this process, now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / MIB


def machine() -> Profile:
    """A made-up accelerator: 8 ms a decode iteration and more as batch and context grow."""
    return Profile(
        name="soak",
        model=None,
        gpu=None,
        engine="made up",
        step_cost=StepCost(
            decode_base=PiecewiseLinear((1, 64, 256), (0.008, 0.010, 0.016)),
            decode_per_context_s=2e-8,
            mixed_base=PiecewiseLinear((1, 256, 2048), (0.009, 0.020, 0.100)),
            mixed_per_context_s=2e-8,
            mixed_per_attention_s=1e-10,
        ),
        memory=KvMemory(400_000, 1.0, 0, 0, 1),
        provenance=Provenance("measured", "2026-01-01", "made up for this benchmark"),
    )


def workload(num_requests: int, rate: float, seed: int = 0) -> Trace:
    """Poisson arrivals, prompts of 20 to 400 tokens, geometric answers of 100 tokens on average."""
    rng = np.random.default_rng(seed)
    return Trace(
        name="soak",
        request_id=np.arange(num_requests),
        prompt_tokens=rng.integers(20, 400, num_requests),
        output_tokens=np.minimum(rng.geometric(1 / 100, num_requests), 1024),
        arrival_s=np.cumsum(rng.exponential(1 / rate, num_requests)),
    )


def capacity() -> float:
    """Requests per second when all are there from the beginning."""
    trace = workload(5_000, 1e9)
    found = scenario(trace, profile=machine()).run(POLICY).summary["request_throughput"]
    assert isinstance(found, float)
    return found


def record_bytes(trace: Trace) -> float:
    """Bytes that are kept of one request: the trace's arrays, and a ledger's columns."""
    arrays = [v for v in vars(trace).values() if isinstance(v, np.ndarray)]
    ledger = Ledger(1000, np.zeros(1000))
    columns = [v for v in vars(ledger).values() if hasattr(v, "itemsize")]
    return sum(a.itemsize for a in arrays) + sum(c.itemsize for c in columns)


def main(num_requests: int) -> None:
    """Run it, print memory twenty times, and the growth per request over the second half."""
    rate = LOAD * capacity()
    trace = workload(num_requests, rate)
    shared = scenario(trace, profile=machine())
    kept, start = record_bytes(trace), time.process_time()
    seen: list[tuple[int, float, float]] = []

    def told(ended: int, total: int) -> None:
        if ended * 20 >= total * (len(seen) + 1):
            seen.append((ended, resident_mib(), time.process_time() - start))
            print(f"{ended:12,} ended   {seen[-1][1]:8.1f} MiB   {seen[-1][2]:7.1f} CPU s", flush=True)

    print(
        f"{num_requests:,} requests at {rate:.1f}/s ({LOAD:.0%} of capacity), {kept:.0f} bytes kept of each"
    )
    print(f"{0:12,} ended   {resident_mib():8.1f} MiB")
    result = shared.run(POLICY, on_progress=told)
    seconds = time.process_time() - start
    ended, mib = np.array([s[:2] for s in seen]).T
    half = ended >= num_requests / 2
    growth = float(np.polyfit(ended[half], mib[half] * MIB, 1)[0])
    assert result.summary["completed"] == num_requests
    print(
        json.dumps(
            {
                "requests": num_requests,
                "cpu_s": round(seconds, 1),
                "requests_per_cpu_s": round(num_requests / seconds),
                "record_bytes": kept,
                "mib_at_the_end_of_the_run": round(resident_mib(), 1),
                "bytes_per_request_in_the_second_half": round(growth, 1),
                "iterations": result.summary["iterations"],
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_REQUESTS)
