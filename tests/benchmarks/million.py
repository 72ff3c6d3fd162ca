"""How long does a million requests of continuous batching take, and how far is that from SimPy's own limit?

    python -m tests.benchmarks.million        (`make bench`)

One accelerator at 100 requests a second, short lognormal prompts and answers, 8,000 KV blocks, all metrics
kept; on one core after loading. First rounds of 100,000 requests in turn with a bare SimPy run of two events
a request (medians), then the million a few times, each with its bare run after it: other work on the machine
only ever adds to the time, so that the least of them says the most. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import resource
import statistics

import numpy as np

from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from sim.scenario.scenario import Scenario, scenario
from traces.trace import Trace

from .throughput import bare_simpy, cpu_seconds

RATE, KV_BLOCKS = 100.0, 8000
ROUNDS, ROUND_REQUESTS = 7, 100_000
RUNS, REQUESTS = 3, 1_000_000
BASE_S, PER_SEQUENCE_S, PER_CONTEXT_S, PER_PROMPT_S = 0.0040, 2e-5, 1.2e-7, 3e-5


class PlainCost(StepCost):
    """Affine in everything: a decoding sequence costs less than a prompt token, also where both mix."""

    def mixed_s(
        self,
        num_decode: int,
        decode_context_tokens: float,
        num_prefill: int,
        prefill_tokens: int,
        prefill_attention: float,
        uneven_tokens: float = 0.0,
    ) -> float:
        """Base + sequences + context + prompt tokens."""
        decode_s = PER_SEQUENCE_S * num_decode + PER_CONTEXT_S * decode_context_tokens
        return BASE_S + decode_s + PER_PROMPT_S * prefill_tokens


def workload(num_requests: int) -> Scenario:
    """Poisson arrivals, lengths drawn with seed 0."""
    rng = np.random.default_rng(0)

    def lengths(median: int, sigma: float, low: int) -> np.ndarray:
        return np.clip(np.round(rng.lognormal(math.log(median), sigma, num_requests)), low, 512).astype(int)

    arrival_s = np.cumsum(rng.exponential(1 / RATE, num_requests))
    output, prompt = lengths(100, 0.9, 1), lengths(35, 0.5, 5)
    decode = PiecewiseLinear((1.0, 2.0), (BASE_S + PER_SEQUENCE_S, BASE_S + 2 * PER_SEQUENCE_S))
    profile = Profile(
        name="plain",
        model=None,
        gpu=None,
        engine="made up",
        step_cost=PlainCost(decode, PER_CONTEXT_S, decode, PER_CONTEXT_S, 0.0),
        memory=None,
        provenance=Provenance("roofline estimate", "2026-11-25", "made up for a benchmark"),
    )
    trace = Trace("drawn", np.arange(num_requests), prompt, output, arrival_s=arrival_s)
    return scenario(trace, profile=profile, kv_blocks=KV_BLOCKS)


def memory_mib() -> float:
    """The most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Rounds first, so that clock drift meets both alike; then the million."""
    small = workload(ROUND_REQUESTS)
    small.run("continuous")
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(cpu_seconds(lambda: bare_simpy(ROUND_REQUESTS)))
        ours.append(cpu_seconds(lambda: small.run("continuous")))
    share = statistics.median(b / o for b, o in zip(bare, ours, strict=True))
    print(
        f"bare SimPy, two events a request  {ROUND_REQUESTS / statistics.median(bare):9,.0f} per CPU second"
    )
    print(
        f"continuous, Poisson {RATE:g}/s         {ROUND_REQUESTS / statistics.median(ours):9,.0f} "
        f"per CPU second   {share:.3f} × bare SimPy (median of {ROUNDS} pairs)"
    )
    large = workload(REQUESTS)
    before = memory_mib()
    seconds, shares = [], []
    for _ in range(RUNS):
        seconds.append(cpu_seconds(lambda: large.run("continuous")))
        grown = memory_mib() - before
        shares.append(cpu_seconds(lambda: bare_simpy(REQUESTS)) / seconds[-1])
        print(
            f"{REQUESTS:,} requests: {seconds[-1]:.1f} CPU s, {grown:.0f} MiB beyond the trace, "
            f"{shares[-1]:.3f} × bare SimPy right after",
            flush=True,
        )
    said = {"share_of_bare_simpy": share, "cpu_s": min(seconds), "cpu_s_of_each": seconds}
    said |= {"share_of_each": shares, "memory_mib": grown, "requests": REQUESTS}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
