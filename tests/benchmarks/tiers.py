"""How much longer does a simulation take with prefix caching, and with slower memory beside it?

    python -m tests.benchmarks.tiers [--rounds 3]        (`make bench`)

Mooncake's conversations, whose prompts begin alike in blocks of 512 tokens: on eight replicas, and eight
times as slow on one. Runs without a cache, with one and with each of several tiers take turns, on one core
after loading; printed is how many times the CPU time of the run with a cache alone each takes, the median of
the rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics

from sim.scenario.scenario import Scenario, scenario
from traces import InputError

from .throughput import cpu_seconds

TRACE = "mooncake-conversation"
PROFILE = "h100-llama-3.1-8b-vllm"
CACHED = "continuous:prefix_caching=on"
TIERS = (
    "cpu:64GiB@50GB/s",
    "cpu:64GiB@50GB/s,arc",
    "cpu:64GiB@50GB/s,blocking",
    "cpu:64GiB@50GB/s,disk:4TiB@5GB/s",
)


def worlds() -> dict[str, dict[str | None, Scenario]]:
    """Scenarios by tiers, None for without, on as many replicas as the name says."""
    tiers = (None, *TIERS)
    return {
        "8 replicas": {
            kv_tier: scenario(TRACE, profile=PROFILE, replicas=8, router="prefix-aware", kv_tier=kv_tier)
            for kv_tier in tiers
        },
        "1 replica": {
            kv_tier: scenario(TRACE, profile=PROFILE, time_scale=8.0, kv_tier=kv_tier) for kv_tier in tiers
        },
    }


def ratios(by_tiers: dict[str | None, Scenario], rounds: int) -> dict[str, float]:
    """The CPU time of each run over that with a cache alone."""
    found: dict[str, list[float]] = {}
    plain = by_tiers[None]
    for _ in range(rounds):
        cached_s = cpu_seconds(lambda: plain.run(CACHED))
        found.setdefault("no cache", []).append(cpu_seconds(lambda: plain.run("continuous")) / cached_s)
        for kv_tier in TIERS:
            seconds = cpu_seconds(lambda kv_tier=kv_tier: by_tiers[kv_tier].run(CACHED))
            found.setdefault(kv_tier, []).append(seconds / cached_s)
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    """Measure both; without the trace, say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    try:
        by_replicas = worlds()
    except InputError as error:
        print(f"not measured: {error}")
        return
    measured = {name: ratios(by_tiers, given.rounds) for name, by_tiers in by_replicas.items()}
    for name, of_tiers in measured.items():
        for kv_tier, ratio in of_tiers.items():
            print(f"{name:10s}  {kv_tier:34s} {ratio:5.2f} × the CPU time with a cache alone")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
