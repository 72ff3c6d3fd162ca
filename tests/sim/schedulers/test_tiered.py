"""Slower memory beside the GPU's: hits block by block as a naive replay has them, and nothing lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from real.validation.decisions import Decision, Recorder, differences
from sim.fleet.outages import Outages
from sim.request import KnownBlocks, Request
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of, make_scheduler
from sim.scenario.scenario import scenario
from sim.schedulers.arc_tier import ArcTier
from sim.schedulers.prefixes import path_of
from sim.schedulers.tiered import TieredScheduler
from sim.work import Iterations, Limits, MemoryTier, Outcome, Work
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers import naive_tiers, test_prefixes
from tests.sim.schedulers.test_prefixes import assert_sound
from tests.vllm import simulated
from tests.vllm.worlds import World, random_world

SHARED = [name for name in test_prefixes.SHARED if "no chunks" not in name]
WORLDS = st.builds(
    random_world, st.sampled_from(SHARED), st.integers(0, 10**9), async_scheduling=st.just(False)
)


class Beside(NamedTuple):
    """Tiers in blocks, and the quarters of a second that a block takes to or from each."""

    cpu_blocks: int
    cpu_quarters: int
    disk_blocks: int | None
    disk_quarters: int
    overlaps: bool
    is_arc: bool = False

    def text(self, size: int) -> str:
        tiers = f"cpu:{self.cpu_blocks * size}B@{4 * size / self.cpu_quarters}B/s"
        if self.disk_blocks is not None:
            tiers += f",disk:{self.disk_blocks * size}B@{4 * size / self.disk_quarters}B/s"
        return tiers + ("" if self.overlaps else ",blocking") + (",arc" if self.is_arc else "")

    def naive(self) -> list[naive_tiers.NaiveTier]:
        tiers = [naive_tiers.NaiveTier(self.cpu_blocks, self.cpu_quarters / 4)]
        if self.disk_blocks is not None:
            tiers.append(naive_tiers.NaiveTier(self.disk_blocks, self.disk_quarters / 4))
        return tiers


TIERS = st.builds(
    Beside,
    st.sampled_from([3, 9, 20, 60, 500]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([None, None, 8, 40, 500]),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([True, True, False]),
    st.just(False),
)


ARC_TOO = TIERS | TIERS.map(lambda tiers: tiers._replace(is_arc=True))


class Checked(Recorder):
    """Writes decisions down, and looks at memory after each."""

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        super().record(work, outcome, now)
        assert isinstance(self.scheduler, TieredScheduler)
        assert_sound(self.scheduler.kv)
        for tier in self.scheduler.tiers.all:
            assert tier.num_held <= tier.num_blocks
        assert self.scheduler.kv.tiered.held_tokens == sum(self.scheduler.kv.waiting.values())


def checked(world: World, tiers: Beside) -> tuple[list[Decision], TieredScheduler]:
    decisions: list[Decision] = []
    schedulers: list[Any] = []

    def make(limits: Limits) -> Checked:
        schedulers.append(make_scheduler(world.policy, limits))
        return Checked(schedulers[-1], limits.block_size, decisions)

    simulated.run(world, make, kv_tier=tiers.text(world.block_size))
    return decisions, schedulers[-1]


def assert_nothing_is_left(scheduler: TieredScheduler) -> None:
    kv = scheduler.kv
    assert kv.free == kv.num_blocks and not kv.tiered.pieces and not kv.tiered.num_held_twice
    assert not kv.waiting and not kv.tiered.held_tokens and not kv.tiered.offered
    assert not (scheduler.held or scheduler.coming or scheduler.blocked or scheduler.since_s)
    assert not (scheduler.tiers.named or scheduler.tiers.promoted)
    assert not isinstance(scheduler.tiers.cpu, ArcTier) or not scheduler.tiers.cpu.accesses


@settings(max_examples=300)
@given(world=WORLDS, tiers=TIERS)
def test_hits_and_waits_are_those_of_a_replay_block_by_block(world: World, tiers: Beside) -> None:
    decided, naive = naive_tiers.decide(world, tiers.naive(), overlaps=tiers.overlaps)
    ours, scheduler = checked(world, tiers)
    assert not next(differences(decided, ours), None)
    assert_nothing_is_left(scheduler)
    fetched: dict[int, list[int]] = {}
    for fetch in scheduler.kv.tiered.fetches:
        blocks = [fetch.cpu_tokens // world.block_size, fetch.disk_tokens // world.block_size]
        fetched.setdefault(fetch.request_id, []).extend(blocks)
    assert fetched == naive.fetched
    for ours_of, naive_of in zip(scheduler.tiers.all, naive.tiers, strict=True):
        assert ours_of.num_evicted == naive_of.num_evicted
        assert ours_of.num_held == len(naive_of.blocks)
        assert [span.ready_s for span in ours_of.order for _ in range(span.low, span.high)] == [
            naive_of.blocks[name].ready
            for name in sorted(naive_of.blocks, key=lambda name: naive_of.blocks[name].rank)
        ]


@settings(max_examples=100)
@given(world=WORLDS, tiers=ARC_TOO)
def test_decided_ahead_no_block_is_lost_either(world: World, tiers: Beside) -> None:
    assert_nothing_is_left(checked(replace(world, async_scheduling=True), tiers)[1])


def figures(world: World, tiers: Beside, *, leap: bool) -> Any:
    result = simulated.run(world, world.policy, leap=leap, kv_tier=tiers.text(world.block_size))
    times = [result.requests[name].to_numpy() for name in ("scheduled_s", "first_token_s", "finish_s")]
    texts = {key for key, value in result.summary.items() if isinstance(value, str | None)}
    return times, {k: v for k, v in result.summary.items() if k not in texts and "itl" not in k}


@settings(max_examples=150)
@given(world=WORLDS, tiers=ARC_TOO, is_ahead=st.booleans())
def test_a_leap_fetches_what_its_iterations_do(world: World, tiers: Beside, is_ahead: bool) -> None:
    world = replace(world, async_scheduling=is_ahead)
    (leaps, of_leaps), (steps, of_steps) = (figures(world, tiers, leap=leap) for leap in (True, False))
    assert np.allclose(leaps, steps, rtol=1e-9)
    assert of_leaps == pytest.approx(of_steps, rel=1e-9)


OPTIONS = [
    "max_num_seqs=4,max_num_batched_tokens=64",
    "order=priority,async_scheduling=on",
    "order=shortest-prompt",
    "async_scheduling=on,max_num_seqs=6",
]
ROUTERS = ["prefix-aware", "sticky", "shared-queue", "round-robin"]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    options=st.sampled_from(OPTIONS),
    router=st.sampled_from(ROUTERS),
    tiers=ARC_TOO,
    fails=st.booleans(),
)
def test_fleets_that_fail_and_sessions_lose_nothing(
    seed: int, options: str, router: str, tiers: Beside, fails: bool
) -> None:
    """Every replica has tiers of its own; leaping changes nothing here, either. Iterations that wait longer
    for a disk than replicas live would never end.
    """
    assume(not fails or tiers.overlaps or tiers.disk_quarters < 16)
    source = "sessions:users=5,turns=3,think_s=4,system_tokens=40,prompt_tokens=50,output_tokens=30"
    machine = flat_machine(0.25)
    limits = limits_of(machine, 40, kv_tier=tiers.text(16))
    shared = scenario(source, profile=machine, replicas=3, router=router, seed=seed, max_new_tokens=60)
    fleet = replace(shared, fleet=(Accelerator(machine, limits),) * 3)
    if fails:
        fleet = replace(fleet, outages=Outages(mtbf_s=15.0, mttr_s=5.0))
    schedulers: list[Any] = []

    def make(limits: Limits) -> Any:
        schedulers.append(make_scheduler(f"continuous:prefix_caching=on,{options}", limits))
        return schedulers[-1]

    leaped = fleet.run(make)
    assert len(leaped.columns["status"]) == 15
    assert set(leaped.columns["status"]) <= {"completed", "rejected", "cancelled"}
    for scheduler in schedulers:
        assert_nothing_is_left(scheduler)
    stepped = fleet.run(make, leap=False)
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        assert leaped.columns[name] == pytest.approx(stepped.columns[name], rel=1e-9, nan_ok=True)
    assert leaped.summary["fetched_tokens"] == stepped.summary["fetched_tokens"]


def test_who_waits_in_memory_wants_no_blocks_twice() -> None:
    """Of 19 blocks, 4 are of one who decodes and 8 of one who waits for what comes into them, and then takes
    one more: a prompt of 6 blocks has room beside them.
    """
    limits = Limits(kv_tokens=16 * 20, tiers=(MemoryTier("cpu", 16 * 99, 0.01),), block_size=16)
    scheduler = make_scheduler("continuous:prefix_caching=on", limits)
    assert isinstance(scheduler, TieredScheduler)
    blocks = KnownBlocks((7,), (128,))
    assert scheduler.tiers.store(9, path_of(asks(0, 129, blocks), 16), 0, 8, 0.0)
    scheduler.submit(asks(1, 50), 90.0)
    scheduler.submit(asks(0, 129, blocks), 90.0)
    work = scheduler.next_work(90.0)
    assert isinstance(work, Iterations) and [chunk.request.id for chunk in work.chunks] == [1]
    assert scheduler.coming == {0} and scheduler.kv.free == 19 - 8
    scheduler.record(work, Outcome(1), 90.1)
    assert scheduler.kv.free == 7 and scheduler.wants(asks(2, 16 * 6))
    assert not scheduler.wants(asks(2, 16 * 6 + 1))


def asks(id: int, prompt_tokens: int, blocks: Any = None) -> Request:
    return Request(id, 0.0, prompt_tokens, 20, blocks=blocks)
