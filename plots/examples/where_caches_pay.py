"""Where does a router that knows what is cached pay, or a cache at all, by load and by what prompts share?

    python plots/examples/where_caches_pay.py --out caches.png

Simulates conversations of more and more turns, of whose prompts more and more was there before, at rising
rates, the same requests under two ways to serve them, and says how many times lower the mean TTFT is under
the second. A cell is the geometric mean over seeds; where these do not agree who is ahead by more than 5 %,
it is in brackets. Prints a Markdown table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import Parameter

from plots import reuse, style
from sim import sweep
from sim.cli import run_script
from traces import load
from traces.reuse import reuse_of


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """The two ways to serve, the grid, and how long to simulate."""

    baseline_policy: str = "continuous:prefix_caching=on"
    """The first way: how a replica schedules."""
    baseline_router: str = "least-requests"
    """And who sends it requests."""
    policy: str = "continuous:prefix_caching=on"
    """The second way, likewise."""
    router: str = "prefix-aware"
    """And its router."""
    replicas: int = 4
    """Replicas of both."""
    profile: str = "h100-llama-3.1-8b-vllm"
    """The machine."""
    talk: str = "think_s=2,system_tokens=200,prompt_tokens=800,output_tokens=150"
    """What conversations are but for their turns: options of the generator `sessions`."""
    turns: tuple[int, ...] = (1, 2, 4, 8)
    """Turns of a session."""
    rates: tuple[float, ...] = (5.0, 10.0, 20.0, 30.0, 40.0)
    """Requests per second, of all replicas together."""
    num_prompts: int = 4000
    """Requests of a run."""
    num_seeds: int = 3
    """Runs of a cell."""
    seed: int = 0
    """First of the seeds."""
    jobs: int = -1
    """Processes; -1: one for every core."""
    out: Path | None = None
    """Draw the map into this PNG or SVG file."""


DEFAULT = Options()


def main(options: Options = DEFAULT) -> None:
    """The map of one way to serve over another."""
    specs = {f"sessions:turns={turns},{options.talk}": turns for turns in options.turns}
    shared = [_share(spec, options) for spec in specs]
    base = _runs(options, list(specs), options.baseline_policy, options.baseline_router)
    other = _runs(options, list(specs), options.policy, options.router)
    cells, agreed, waits = [], [], []
    for spec in specs:
        gains = [
            [base[spec, rate, k] / other[spec, rate, k] for k in _seeds(options)] for rate in options.rates
        ]
        cells.append([float(np.exp(np.mean(np.log(each)))) for each in gains])
        agreed.append([reuse.is_agreed(each) for each in gains])
        waits.append(
            [float(np.mean([base[spec, rate, k] for k in _seeds(options)])) for rate in options.rates]
        )
    print(f"| turns, found again | {' | '.join(f'{rate:g}/s' for rate in options.rates)} |")
    print(f"|---|{'---:|' * len(options.rates)}")
    for row, turns in enumerate(options.turns):
        texts = [reuse.cell_text(gain, sure) for gain, sure in zip(cells[row], agreed[row], strict=True)]
        print(f"| {turns}, {shared[row]:.0%} | {' | '.join(texts)} |")
    if options.out is not None:
        fig, (ax,) = style.figure(7.5, 4.6)
        rows = [f"{turns} ({share:.0%})" for turns, share in zip(options.turns, shared, strict=True)]
        reuse.gain_cells(np.array(cells), np.array(agreed), np.array(waits), options.rates, rows, ax)
        one, other_one = _apart(options)
        ax.set_title(
            f"Mean TTFT with {one} ÷ with {other_one}; below it, that with {one}", fontsize=style.FONT_SIZE
        )
        style.save(fig, options.out)
    about: dict[str, Any] = {"turns": options.turns, "rates": options.rates, "found_again": shared}
    print(json.dumps({**about, "gain": cells, "agreed": agreed, "baseline_ttft_ms": waits}))


def _apart(options: Options) -> tuple[str, str]:
    """What tells the two ways apart: their routers, and their policies where these differ."""
    if options.baseline_policy == options.policy:
        return options.baseline_router, options.router
    return f"{options.baseline_policy} {options.baseline_router}", f"{options.policy} {options.router}"


def _seeds(options: Options) -> range:
    return range(options.seed, options.seed + options.num_seeds)


def _share(spec: str, options: Options) -> float:
    """What of the prompts an endless cache finds again."""
    reuse_ = reuse_of(load(spec, num_prompts=options.num_prompts, seed=options.seed))
    return 0.0 if reuse_ is None else reuse_.most


def _runs(
    options: Options, specs: list[str], policy: str, router: str
) -> dict[tuple[str, float, int], float]:
    """(trace, rate, seed) -> mean TTFT in ms."""
    grid = {
        "policy": policy,
        "router": router,
        "replicas": options.replicas,
        "profile": options.profile,
        "num_prompts": options.num_prompts,
        "grid": {"trace": specs, "request_rate": list(options.rates), "seed": list(_seeds(options))},
    }
    rows = sweep(grid, jobs=options.jobs).rows
    return {(row["trace"], row["request_rate"], row["seed"]): row["mean_ttft_ms"] for row in rows}


if __name__ == "__main__":
    run_script(main)
