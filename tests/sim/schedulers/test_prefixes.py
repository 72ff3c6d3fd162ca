"""Shared beginnings of prompts in memory: block by block as vLLM has them, and none lost or freed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real.validation.decisions import Decision, Recorder, differences
from sim.scenario.policies import make_scheduler
from sim.schedulers.continuous import ContinuousScheduler
from sim.schedulers.kv_cache import KvCache
from sim.schedulers.prefix_blocks import Run
from sim.schedulers.prefixes import SharedPrefixes
from sim.schedulers.preserved_memory import PreservedPrefixes
from sim.work import Limits, Outcome, Work
from tests.sim.schedulers import naive_prefixes
from tests.vllm import simulated
from tests.vllm.worlds import SETTINGS, World, random_world

SHARED = [name for name in SETTINGS if "shared" in name]
WORLDS = st.builds(
    random_world, st.sampled_from(SHARED), st.integers(0, 10**9), async_scheduling=st.just(False)
)


def assert_sound(kv: KvCache) -> None:
    """Every block is held or free, once; who holds a run, and what of it is in the queue, are the same."""
    prefixes = kv.prefixes
    assert isinstance(prefixes, SharedPrefixes)
    blocks = prefixes.blocks
    in_queue = sum(part.high - part.low for part in blocks.queue) + blocks.unhashed
    assert in_queue == kv.free and blocks.unhashed >= 0
    runs: set[Run] = {run for run, _ in blocks.places.values()}
    runs |= {run for others in blocks.others.values() for run, _ in others}
    holders: dict[tuple[Run, int], int] = {}
    kept = prefixes.preserved if isinstance(prefixes, PreservedPrefixes) else ()
    for pieces in (*prefixes.pieces.values(), *(each.pieces for each in kept)):
        for run, until in pieces:
            holders[run, until] = holders.get((run, until), 0) + 1
    queued = {id(part) for part in blocks.queue if part.low < part.high}
    for run in runs:
        assert run.held == {until: count for (held, until), count in holders.items() if held is run}
        assert run.top == max(run.held, default=run.first) <= run.end
        bounds = [(part.low, part.high) for part in reversed(run.queued) if part.run is run]
        if len(bounds) == len(run.queued):
            assert [low for low, _ in bounds] == [run.top, *(high for _, high in bounds[:-1])][: len(bounds)]
            assert (bounds[-1][1] if bounds else run.top) == run.end
        assert all(id(part) in queued for part in run.queued)


class Checked(Recorder):
    """Writes decisions down, and looks at memory after each."""

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        super().record(work, outcome, now)
        assert isinstance(self.scheduler, ContinuousScheduler)
        assert_sound(self.scheduler.kv)


def checked(world: World) -> tuple[list[Decision], list[Checked]]:
    decisions: list[Decision] = []
    schedulers: list[Checked] = []

    def make(limits: Limits) -> Checked:
        schedulers.append(Checked(make_scheduler(world.policy, limits), limits.block_size, decisions))
        return schedulers[-1]

    simulated.run(world, make)
    return decisions, schedulers


@settings(max_examples=500)
@given(world=WORLDS)
def test_hits_and_preemptions_are_those_of_a_replay_block_by_block(world: World) -> None:
    decided, naive = naive_prefixes.decide(world)
    ours, schedulers = checked(world)
    assert not next(differences(decided, ours), None)
    kv = schedulers[0].scheduler.kv
    assert kv.free == kv.num_blocks == len(naive.pool.free) and not kv.prefixes.num_held_twice
    assert not kv.prefixes.pieces and not kv.prefixes.paths
    assert not any(block.holders for block in naive.pool.blocks)


@settings(max_examples=60)
@given(world=WORLDS)
def test_decided_ahead_no_block_is_lost_either(world: World) -> None:
    for _, schedulers in [checked(replace(world, async_scheduling=True))]:
        kv = schedulers[0].scheduler.kv
        assert kv.free == kv.num_blocks and not kv.prefixes.pieces and not kv.prefixes.num_held_twice


def figures(world: World, *, leap: bool) -> Any:
    result = simulated.run(world, world.policy, leap=leap)
    keys = ("prefix_hit_fraction", "prefix_evicted_tokens", "recomputed_tokens", "preemptions", "iterations")
    times = [result.requests[name].to_numpy() for name in ("scheduled_s", "first_token_s", "finish_s")]
    return times, [result.summary[key] for key in keys]


@settings(max_examples=60)
@given(world=WORLDS, is_ahead=st.booleans())
def test_a_leap_finds_what_its_iterations_do(world: World, is_ahead: bool) -> None:
    world = replace(world, async_scheduling=is_ahead)
    (leaps, of_leaps), (steps, of_steps) = figures(world, leap=True), figures(world, leap=False)
    assert np.allclose(leaps, steps, rtol=1e-9) and of_leaps == of_steps


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("setting", ["scarce, arrivals", "priority, scarce", "prefix caching, arrivals"])
def test_where_nothing_is_shared_on_is_as_own(setting: str, is_ahead: bool) -> None:
    for seed in range(4):
        world = random_world(setting, seed, async_scheduling=is_ahead)
        own, shared = list[Decision](), list[Decision]()
        for caching, decisions in (("own", own), ("on", shared)):
            policy = world.policy.replace("prefix_caching=off", "prefix_caching=on")
            policy = policy.replace("prefix_caching=on", f"prefix_caching={caching}")
            simulated.run(world, simulated.recorded(policy, decisions))
        assert own == shared and own
