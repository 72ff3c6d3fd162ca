"""When does fetching KV from CPU memory or a disk beat computing it again?

    python plots/examples/when_fetching_pays.py --out tiers.png

By machine, the TTFT of one request alone, by the length of its prompt, when all of it is computed, and when
all but the last token comes from CPU memory at some bandwidths. Then how many times lower the mean TTFT of
conversations is with tiers than without, at rising rates, the same requests on both sides, over some seeds.
Prints Markdown tables; the last line of stdout is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import Parameter

from plots import style, tiers
from sim import simulate, sweep
from sim.cli import run_script
from traces.prompt_blocks import blocks_of_lists
from traces.trace import Trace

POLICY = "continuous:prefix_caching=on"
BLOCK = 16
APART_S = 1000.0
"""Seconds after which a request finds nobody at work."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """The machines, the tiers, the talk, and how long to simulate."""

    machines: tuple[str, ...] = (
        "h100-llama-3.1-8b-vllm",
        "h100-llama-3.1-70b-tp8-vllm",
        "a100-80gb-vicuna-7b-sglang",
    )
    """Profiles, three at most."""
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    """Prompt tokens, multiples of a block of 16."""
    bandwidths: tuple[str, ...] = ("5GB/s", "25GB/s", "50GB/s", "200GB/s")
    """What links from slower memory carry."""
    profile: str = "h100-llama-3.1-8b-vllm"
    """The machine of the conversations."""
    kv_tiers: tuple[str, ...] = (
        "cpu:64GiB@50GB/s",
        "cpu:256GiB@50GB/s",
        "cpu:256GiB@50GB/s,blocking",
        "cpu:64GiB@50GB/s,disk:1TiB@5GB/s",
    )
    """What stands beside it, of every replica."""
    talk: str = "turns=8,think_s=30,system_tokens=200,prompt_tokens=800,output_tokens=150"
    """Options of the generator `sessions`."""
    replicas: int = 2
    """Replicas that serve."""
    router: str = "sticky"
    """Who sends them requests."""
    rates: tuple[float, ...] = (5.0, 15.0, 30.0)
    """Requests per second, of all replicas together."""
    num_prompts: int = 2500
    """Requests of a run."""
    num_seeds: int = 2
    """Runs of a point."""
    jobs: int = -1
    """Processes; -1: one for every core."""
    out: Path | None = None
    """Draw the figure into this PNG or SVG file."""


DEFAULT = Options()


def main(options: Options = DEFAULT) -> None:
    """Both halves of the figure, and what they are drawn from."""
    computed = {name: [_computed_ms(name, n) for n in options.lengths] for name in options.machines}
    fetched = {
        name: {rate: [_fetched_ms(name, n, rate) for n in options.lengths] for rate in options.bandwidths}
        for name in options.machines
    }
    _print_row("prompt tokens", [f"{n:,}" for n in options.lengths])
    _print_row("---", ["---:"] * len(options.lengths))
    for name, times in computed.items():
        _print_row(f"{name}, computed", [f"{time:,.1f}" for time in times])
        for rate, those in fetched[name].items():
            _print_row(f"fetched at {rate}", [f"{time:,.1f}" for time in those])
    gains, found = _gains(options)
    _print_row("", [])
    _print_row("mean TTFT without / with", [f"{rate:g}/s" for rate in options.rates])
    _print_row("---", ["---:"] * len(options.rates))
    for name, rows in gains.items():
        _print_row(
            name, [f"{np.exp(np.mean(np.log(row))):.2f} ({min(row):.2f} to {max(row):.2f})" for row in rows]
        )
    if options.out is not None:
        fig, axes = style.figure(11.0, 8.0, rows=2, cols=2)
        for name, ax in zip(options.machines, axes, strict=False):
            tiers.fetch_or_compute(options.lengths, computed[name], fetched[name], ax)
            ax.set_title(name, fontsize=style.FONT_SIZE)
        tiers.gain_by_load(options.rates, gains, axes[3])
        where = f"{options.replicas} × {options.profile}"
        axes[3].set_title(f"conversations on {where}", fontsize=style.FONT_SIZE)
        style.save(fig, options.out)
    print(json.dumps({"computed_ms": computed, "fetched_ms": fetched, "gain": gains, "found": found}))


def _print_row(name: str, cells: list[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |")


def _trace(prompts: list[list[str]], tokens: int) -> Trace:
    """One request after the other whose prompts are these texts, each of so many tokens."""
    n, prompt_tokens = len(prompts), np.full(len(prompts), tokens)
    blocks = blocks_of_lists([list(row) for row in prompts], [[tokens]] * n, prompt_tokens)
    arrival_s = np.arange(n, dtype=np.float64) * np.float64(APART_S)
    return Trace(
        "texts", np.arange(n), prompt_tokens, np.ones(n, dtype=np.int64), arrival_s=arrival_s, blocks=blocks
    )


def _last_ttft_ms(profile: str, prompts: list[list[str]], tokens: int, kv_tier: str | None) -> float:
    result = simulate(
        _trace(prompts, tokens),
        policy=POLICY,
        profile=profile,
        kv_tier=kv_tier,
        kv_blocks=tokens // BLOCK + 2,
        max_new_tokens=1,
    )
    return float(result.columns["ttft_ms"][-1])


def _computed_ms(profile: str, tokens: int) -> float:
    """TTFT where nothing is found."""
    return _last_ttft_ms(profile, [["one"]], tokens, None)


def _fetched_ms(profile: str, tokens: int, rate: str) -> float:
    """TTFT of a prompt that was there before, and that another has pushed out of GPU memory since."""
    return _last_ttft_ms(profile, [["one"], ["other"], ["one"]], tokens, f"cpu:1TiB@{rate}")


def _gains(options: Options) -> tuple[dict[str, list[list[float]]], dict[str, list[float | None]]]:
    """By tier: mean TTFT without over that with it, by rate and seed; and the shares of prompt tokens that
    were found in GPU memory and beside it, at the highest rate.
    """
    without = _runs(options, None)
    gains: dict[str, list[list[float]]] = {}
    found: dict[str, list[float | None]] = {}
    for tier in options.kv_tiers:
        runs = _runs(options, tier)
        seeds = range(options.num_seeds)
        gains[tier] = [
            [without[rate, k]["mean_ttft_ms"] / runs[rate, k]["mean_ttft_ms"] for k in seeds]
            for rate in options.rates
        ]
        last = runs[options.rates[-1], 0]
        keys = ("prefix_hit_fraction", "cpu_hit_fraction", "disk_hit_fraction")
        found[tier] = [last.get(key) for key in keys]
    return gains, found


def _runs(options: Options, kv_tier: str | None) -> dict[tuple[float, int], dict[str, Any]]:
    """(rate, seed) -> summary."""
    beside = {} if kv_tier is None else {"kv_tier": kv_tier}
    grid = {
        "trace": f"sessions:{options.talk}",
        "policy": POLICY,
        "router": options.router,
        "replicas": options.replicas,
        "profile": options.profile,
        "num_prompts": options.num_prompts,
        **beside,
        "grid": {"request_rate": list(options.rates), "seed": list(range(options.num_seeds))},
    }
    rows = sweep(grid, jobs=options.jobs).rows
    return {(row["request_rate"], row["seed"]): row for row in rows}


if __name__ == "__main__":
    run_script(main)
