"""Does our `continuous` decide as vLLM does? Random small worlds of every setting, iteration by iteration.

    make vllm-check
    .venv-vllm/bin/python -m tests.vllm.check --worlds 200 --eos 20 --engine 3

Compared in each iteration: which requests run and how many tokens of each, who is let in and how many of its
tokens are found in memory, who is preempted, and the blocks in use. Exit status 1 where a world differs. A
line of totals ends the table; the last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from real.engines.decision import Decision
from real.engines.vllm.engine import prepare_environment
from real.validation.decisions import Difference, differences
from tests.vllm import simulated
from tests.vllm.worlds import SETTINGS, World, random_world, smallest, without

Decide = Callable[[World], list[Decision]]
FIRST_SEED = 1_000
ENGINE_BLOCK_SIZE = 32
"""vLLM's attention on a processor takes no smaller blocks."""


@dataclass
class Agreement:
    """How many worlds of a setting were decided alike, and the first that was not."""

    setting: str
    num_worlds: int = 0
    num_alike: int = 0
    num_iterations: int = 0
    num_preemptions: int = 0
    differing: list[tuple[World, Difference]] = field(default_factory=list)

    def add(self, world: World, decided: Sequence[Decision], difference: Difference | None) -> None:
        """Count a world."""
        self.num_worlds += 1
        self.num_iterations += len(decided)
        self.num_preemptions += sum(len(decision.preempted) for decision in decided)
        if difference is None:
            self.num_alike += 1
        elif not self.differing:
            self.differing.append((world, difference))


def first_difference(world: World, decided: Sequence[Decision]) -> Difference | None:
    """Where our scheduler departs from these decisions.

    Of what is decided ahead, blocks are not compared: who ends holds them for an iteration more, which is not
    in what is handed out.
    """
    ours = simulated.decide(world)
    if world.async_scheduling:
        ours, decided = ([d._replace(blocks=0) for d in one] for one in (ours, decided))
    return next(differences(decided, ours), None)


def compare(setting: str, worlds: Iterator[World], judge: Decide) -> Agreement:
    """Every world decided by vLLM and by us."""
    agreement = Agreement(setting)
    for world in worlds:
        decided = judge(world)
        agreement.add(world, decided, first_difference(world, decided))
    return agreement


class Group(NamedTuple):
    """Worlds of every setting that are decided under the same conditions."""

    label: str
    num_worlds: int
    is_ahead: bool = False
    stops_by_eos: bool = False
    is_engine: bool = False

    def worlds(self, setting: str, first_seed: int) -> Iterator[World]:
        """Worlds of a setting."""
        for seed in range(first_seed, first_seed + self.num_worlds):
            world = random_world(setting, seed, async_scheduling=self.is_ahead)
            world = replace(world, name=f"{setting}{self.label} {seed}", stops_by_eos=self.stops_by_eos)
            yield in_larger_blocks(world) if self.is_engine else world


def in_larger_blocks(world: World) -> World:
    """The same in blocks that the engine takes: fewer of them, so that memory is as scarce. Without further
    turns, and with an end of its own for every prompt: what its model answers is not known beforehand.
    """
    requests = tuple(asking._replace(prompt_tokens=asking.prompt_tokens + 1) for asking in world.requests)
    world = replace(world, requests=requests)
    while any(asking.after >= 0 for asking in world.requests):
        world = without(world, next(k for k, asking in enumerate(world.requests) if asking.after >= 0))
    num_usable = (world.num_gpu_blocks - 1) * world.block_size // ENGINE_BLOCK_SIZE
    return replace(world, block_size=ENGINE_BLOCK_SIZE, num_gpu_blocks=num_usable + 1)


def table(agreements: Sequence[Agreement]) -> str:
    """A line a setting."""
    lines = [f"{'setting':40}{'alike':>12}{'iterations':>12}{'preemptions':>13}"]
    for a in agreements:
        alike = f"{a.num_alike}/{a.num_worlds}"
        lines.append(f"{a.setting:40}{alike:>12}{a.num_iterations:>12,}{a.num_preemptions:>13,}")
    return "\n".join(lines)


def totals(agreements: Sequence[Agreement], seconds: float) -> str:
    """One line for all."""
    worlds, alike, iterations, preemptions = (
        sum(getattr(a, f"num_{what}") for a in agreements)
        for what in ("worlds", "alike", "iterations", "preemptions")
    )
    return (
        f"{alike:,} of {worlds:,} worlds decided alike, in {len(agreements)} settings: {iterations:,} "
        f"iterations, {preemptions:,} preemptions, {seconds / 60:.1f} minutes"
    )


def explain(agreement: Agreement, judge: Decide) -> str:
    """The first world that differs, cut down to the requests that matter."""
    world, _ = agreement.differing[0]
    small = smallest(world, lambda w: first_difference(w, judge(w)) is not None)
    difference = first_difference(small, judge(small))
    assert difference is not None
    requests = " ".join(str(tuple(request)) for request in small.requests)
    memory = f"{small.num_gpu_blocks} blocks of {small.block_size}"
    return (
        f"{world.name}: {small.policy}, {memory}, requests {requests}\n"
        f"  vLLM {difference.one}\n  ours {difference.other}"
    )


def compare_all(groups: Sequence[Group], first_seed: int, only: str) -> tuple[list[Agreement], list[str]]:
    """Every setting of every group; and the first difference of those that have one, in words."""
    prepare_environment(cpu_kv_gib=1)
    from tests.vllm import judged

    agreements, explained = list[Agreement](), list[str]()
    of_group = {
        group: [name for name in SETTINGS if only in f"{name}{group.label}"]
        for group in groups
        if group.num_worlds
    }
    num_settings, began_s = sum(map(len, of_group.values())), time.perf_counter()
    for group, settings in of_group.items():
        if not settings:
            continue
        made = judged.Engine() if group.is_engine else judged.Dry()
        judge: Decide = partial(judged.decide, judge=made)
        for setting in settings:
            agreement = compare(f"{setting}{group.label}", group.worlds(setting, first_seed), judge)
            agreements.append(agreement)
            row, passed_s = table([agreement]).splitlines()[1], time.perf_counter() - began_s
            progress = f"{len(agreements)} of {num_settings}, {passed_s:.0f} s"
            print(f"{row}  ({progress})", file=sys.stderr, flush=True)
            if agreement.differing:
                explained.append(explain(agreement, judge))
    return agreements, explained


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print a table and the first difference of every setting that has one."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.check", description=__doc__)
    parser.add_argument("--worlds", type=int, default=200, help="worlds of each setting, scheduler alone")
    parser.add_argument("--eos", type=int, default=0, help="those of answers that end by EOS, ahead")
    parser.add_argument(
        "--engine", type=int, default=0, help="those of each synchronous setting, whole engine"
    )
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="the first seed")
    parser.add_argument("--only", default="", help="only settings that contain this text")
    given = parser.parse_args(arguments)
    began_s = time.perf_counter()
    groups = (
        Group("", given.worlds),
        Group(", ahead", given.worlds, is_ahead=True),
        Group(", ahead, EOS", given.eos, is_ahead=True, stops_by_eos=True),
        Group(", engine", given.engine, is_engine=True),
    )
    agreements, explained = compare_all(groups, given.seed, given.only)
    seconds = round(time.perf_counter() - began_s, 1)
    print(table(agreements), *explained, totals(agreements, seconds), sep="\n")
    alike = {a.setting: [a.num_alike, a.num_worlds] for a in agreements}
    print(json.dumps({"alike": alike, "seconds": seconds}))
    sys.exit(any(a.num_alike < a.num_worlds for a in agreements))


if __name__ == "__main__":
    main()
