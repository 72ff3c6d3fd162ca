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
from sim.schedulers.tiered_memory import block_keys
from sim.schedulers.tiers import Tiers
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
            assert len(tier.ready_s) <= tier.num_blocks
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
    assert not (scheduler.tiers.fetching or scheduler.tiers.promoted)
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
        assert len(ours_of.ready_s) == len(naive_of.blocks)
        assert list(ours_of.ready_s.values()) == [
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


def test_a_failure_takes_the_memory_but_not_what_was_written_to_the_disk() -> None:
    tiers = Tiers((MemoryTier("cpu", 64, 0.25), MemoryTier("disk", 64, 0.5)), 1)
    assert tiers.store(0, [1, 2, 3], 0.0)
    assert list(tiers.cpu.ready_s.values()) == [0.75] * 3
    assert tiers.store(0, [4], 2.0)
    tiers.fail(2.5)
    assert not tiers.cpu.ready_s and tiers.disk is not None
    assert list(tiers.disk.ready_s) == [1, 2, 3]
    assert tiers.find(7, [1, 2, 4], 3.0) == (2, 4.0)
    assert tiers.fetch(7, [1, 2], 4.0) == (4.5, 2)


def test_nothing_that_is_on_its_way_is_given_up() -> None:
    """Vain is what finds no room, and what is asked again later finds it."""
    tiers = Tiers((MemoryTier("cpu", 3, 1.0),), 1)
    assert tiers.store(5, [1, 2], 0.0) and tiers.store(5, [3], 0.0)
    assert not tiers.store(5, [4], 1.0)
    assert tiers.fetch(0, [1], 3.0) == (4.0, 0)
    assert tiers.store(5, [4], 3.5) and 1 in tiers.cpu.ready_s and 2 not in tiers.cpu.ready_s
    tiers.touch(5, [3, 4])
    assert list(tiers.cpu.ready_s) == [1, 4, 3]


def test_who_waits_in_memory_wants_no_blocks_twice() -> None:
    """Of 19 blocks, 4 are of one who decodes and 8 of one who waits for what comes into them, and then takes
    one more: a prompt of 6 blocks has room beside them.
    """
    limits = Limits(kv_tokens=16 * 20, tiers=(MemoryTier("cpu", 16 * 99, 0.01),), block_size=16)
    scheduler = make_scheduler("continuous:prefix_caching=on", limits)
    assert isinstance(scheduler, TieredScheduler)
    blocks = KnownBlocks((7,), (128,))
    keys = block_keys(path_of(asks(0, 129, blocks), 16), 0, 8)
    assert scheduler.tiers.store(9, keys, 0.0)
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


def arc(num_blocks: int) -> tuple[Tiers, ArcTier]:
    tiers = Tiers((MemoryTier("cpu", num_blocks, 0.25),), 1, ArcTier)
    assert isinstance(tiers.cpu, ArcTier)
    return tiers, tiers.cpu


def ends(tiers: Tiers, id: int, keys: list[int], now: float) -> None:
    """A request computes and stores these, and has ended."""
    tiers.store(id, keys, now)
    tiers.touch(id, keys)


def test_a_flood_does_not_push_out_what_several_requests_used() -> None:
    """As it does where the least recently used goes."""
    tiers, cpu = arc(6)
    lru = Tiers((MemoryTier("cpu", 6, 0.25),), 1)
    for each in (tiers, lru):
        ends(each, 0, [1, 2], 0.0)
        ends(each, 1, [1, 2, 3], 10.0)
        for number in range(5):
            ends(each, 2 + number, [10 + 2 * number, 11 + 2 * number], 20.0 + 10 * number)
    assert list(cpu.often) == [2, 1] and {1, 2} <= cpu.ready_s.keys()
    assert not {1, 2} & lru.cpu.ready_s.keys()
    assert cpu.num_evicted == lru.cpu.num_evicted == 7 and len(cpu.ready_s) == 6


def test_what_is_wanted_again_soon_after_it_went_makes_room_for_its_kind() -> None:
    tiers, cpu = arc(4)
    ends(tiers, 0, [1, 2], 0.0)
    ends(tiers, 1, [1, 2], 10.0)
    ends(tiers, 2, [3, 4], 20.0)
    ends(tiers, 3, [5, 6], 30.0)
    assert (cpu.target, list(cpu.gone_once), list(cpu.often)) == (0.0, [4, 3], [2, 1])
    ends(tiers, 4, [3], 40.0)
    assert cpu.target == 1.0 and 3 in cpu.once and list(cpu.gone_once) == [4, 6]
    ends(tiers, 5, [4, 6], 50.0)
    assert cpu.target == 3.0 and list(cpu.gone_often) == [2, 1] and not cpu.often
    tiers.fail(70.0)
    assert not (cpu.ready_s or cpu.once or cpu.often or cpu.gone_once or cpu.accesses or cpu.target)


STORES = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True))
)


@given(num_blocks=st.integers(1, 9), stores=STORES, ending=st.sets(st.integers(0, 9)))
def test_lists_of_arc_hold_what_is_there_and_no_more_is_remembered_than_it_holds(
    num_blocks: int, stores: list[tuple[int, list[int]]], ending: set[int]
) -> None:
    tiers, cpu = arc(num_blocks)
    for turn, (id, keys) in enumerate(stores):
        now = turn * (10.0 if turn % 3 else 0.1)
        tiers.store(id, keys, now)
        found, _ = tiers.find(id, keys, now)
        if found and turn % 2:
            tiers.fetch(id, keys[:found], now)
        if id in ending:
            tiers.touch(id, keys)
        assert (
            cpu.once.keys() | cpu.often.keys() == cpu.ready_s.keys()
            and not cpu.once.keys() & cpu.often.keys()
        )
        assert len(cpu.ready_s) <= num_blocks and 0 <= cpu.target <= num_blocks
        gone = (cpu.gone_once.keys(), cpu.gone_often.keys())
        assert not (gone[0] & gone[1]) and all(len(keys) <= num_blocks for keys in gone)
        assert not (gone[0] | gone[1]) & cpu.ready_s.keys()
    assert not cpu.accesses.keys() & ending
