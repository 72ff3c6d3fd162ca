"""How do time and memory of a simulation grow with replicas and with requests?

    python -m tests.benchmarks.scale [--most 10000] [--figure plots/gallery/scale.png]        (`make bench`)

Three series under `continuous` at a fixed load of each replica, every run in a process of its own: the same
number of requests on more and more replicas; as many requests for each of more and more replicas; more and
more requests on ten. Prints CPU time and peak memory, as ratios to the smallest run of the series, and the
exponents fitted to them (the slope between logarithms; 1: linear). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.scenario.scenario import scenario

from .soak import LOAD, POLICY, machine, workload

RATE = 55.3 * LOAD
"""Requests per second for each replica; 55.3 is what one gets done (`tests.benchmarks.soak.capacity`)."""

EACH, ALL = 20, 100_000
REPLICAS = (1, 10, 100, 1_000, 10_000)
REQUESTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)


def measure(replicas: int, requests: int, router: str) -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of one run in this process, and what was there before."""
    trace = workload(requests, RATE * replicas)
    shared = scenario(trace, profile=machine(), replicas=replicas, router=router)
    before, start = peak_mib(), time.process_time()
    result = shared.run(POLICY)
    seconds = time.process_time() - start
    assert result.summary["completed"] == requests
    return {
        "replicas": replicas,
        "requests": requests,
        "cpu_s": seconds,
        "peak_mib": peak_mib(),
        "before_mib": before,
    }


def peak_mib() -> float:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(replicas: int, requests: int, router: str) -> dict[str, float]:
    """`measure`, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", str(replicas), str(requests)]
    done = subprocess.run([*command, "--router", router], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def series(name: str, worlds: Sequence[tuple[int, int]], by: str, router: str) -> dict[str, object]:
    """Run the worlds (replicas, requests), print them as ratios to the first, and fit exponents in `by`."""
    print(f"\n{name}, {router}")
    rows: list[dict[str, float]] = []
    for replicas, requests in worlds:
        rows.append(row := in_a_process(replicas, requests, router))
        first = rows[0]
        print(
            f"{replicas:8,} replicas {requests:10,} requests  {row['cpu_s']:8.2f} CPU s "
            f"({row['cpu_s'] / first['cpu_s']:7.2f} ×)  {row['cpu_s'] / requests * 1e6:6.1f} µs a request  "
            f"{row['peak_mib']:7.0f} MiB ({row['peak_mib'] / first['peak_mib']:5.2f} ×)",
            flush=True,
        )
    x = [row[by] for row in rows]
    fitted = {
        "time_exponent": exponent(x, [row["cpu_s"] for row in rows]),
        "memory_exponent": exponent(x, [row["peak_mib"] for row in rows]),
    }
    print("exponents in " + by + ": " + ", ".join(f"{k.split('_')[0]} {v:.2f}" for k, v in fitted.items()))
    return {"name": name, "by": by, "router": router, "rows": rows, **fitted}


def main() -> None:
    """Measure the three series, or one world with `--one`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, type=int, metavar=("REPLICAS", "REQUESTS"))
    parser.add_argument("--router", default="least-requests")
    parser.add_argument("--most", type=int, default=REPLICAS[-1], help="most replicas")
    parser.add_argument("--figure", type=Path, help="where to draw them")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, given.router)))
        return
    replicas = [k for k in REPLICAS if k <= given.most]
    found = [
        series(f"{ALL:,} requests in all", [(k, ALL) for k in replicas], "replicas", given.router),
        series(
            f"{EACH} requests each", [(k, EACH * k) for k in replicas if k >= 100], "replicas", given.router
        ),
        series("10 replicas", [(10, n) for n in REQUESTS], "requests", given.router),
    ]
    if given.figure:
        from plots.scale import scale
        from plots.style import save

        save(scale(found), given.figure)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
