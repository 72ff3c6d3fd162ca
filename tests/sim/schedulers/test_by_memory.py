"""Orders by what memory holds: as a replay block by block has them, the same leaping, and nobody is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real.validation.decisions import Decision, differences
from sim.request import KnownBlocks, Request
from sim.scenario.policies import make_scheduler
from sim.schedulers import by_memory
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.order import BY_MEMORY
from sim.work import Iterations, Limits, Outcome
from tests.sim.schedulers import naive_prefixes
from tests.sim.schedulers.test_prefixes import Checked
from tests.vllm import simulated
from tests.vllm.worlds import SETTINGS, World, random_world

SHARED = [name for name in SETTINGS if "shared" in name and "priority" not in name]
CROWDED = {"shared prefixes": 4, "shared prefixes, turns": 3}
"""Settings with so much memory that only few places make a queue."""
ORDERS = st.sampled_from(BY_MEMORY)


def crowded(setting: str, seed: int, *, is_ahead: bool = False) -> World:
    world = random_world(setting, seed, async_scheduling=is_ahead)
    return replace(world, max_num_seqs=CROWDED.get(setting, world.max_num_seqs))


WORLDS = st.builds(crowded, st.sampled_from(SHARED), st.integers(0, 10**9))


def policy_of(world: World, order: str) -> str:
    """`order` may have options behind it."""
    return world.policy.replace("order=fcfs", f"order={order}").replace("caching=off", "caching=on")


def checked(world: World, order: str) -> tuple[list[Decision], list[Checked]]:
    """Our decisions, with a look at memory after each."""
    decisions, schedulers = list[Decision](), list[Checked]()

    def make(limits: Limits) -> Checked:
        made = make_scheduler(policy_of(world, order), limits)
        schedulers.append(Checked(made, limits.block_size, decisions))
        return schedulers[-1]

    simulated.run(world, make)
    return decisions, schedulers


@settings(max_examples=300)
@given(
    world=WORLDS,
    order=ORDERS,
    far_back=st.sampled_from([2, 5, by_memory.FAR_BACK]),
    starve_after=st.sampled_from([0, 1, 4, 20, 100]),
)
def test_decisions_are_those_of_a_replay_block_by_block(
    world: World, order: str, far_back: int, starve_after: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_memory, "FAR_BACK", far_back)
        ours, schedulers = checked(world, f"{order},starve_after={starve_after}")
    decided, _ = naive_prefixes.decide(world, order, far_back, starve_after)
    assert not next(differences(decided, ours), None)
    kv = schedulers[0].scheduler.kv
    assert kv.free == kv.num_blocks and not kv.prefixes.pieces and not kv.prefixes.num_held_twice


@pytest.mark.parametrize("order", BY_MEMORY)
def test_worlds_have_queues_in_which_memory_matters(order: str) -> None:
    plain = {"longest-prefix-match": "fcfs", "shortest-uncached": "shortest-prompt"}[order]
    for setting in SHARED:
        worlds = [crowded(setting, seed) for seed in range(8)]
        assert any(checked(world, order)[0] != checked(world, plain)[0] for world in worlds), setting


def figures(world: World, order: str, *, leap: bool) -> Any:
    result = simulated.run(world, policy_of(world, order), leap=leap)
    keys = ("prefix_hit_fraction", "prefix_evicted_tokens", "recomputed_tokens", "preemptions", "iterations")
    times = [result.requests[name].to_numpy() for name in ("scheduled_s", "first_token_s", "finish_s")]
    return times, [result.summary[key] for key in keys]


@settings(max_examples=150)
@given(
    setting=st.sampled_from(SHARED),
    seed=st.integers(0, 10**9),
    order=ORDERS,
    is_ahead=st.booleans(),
    far_back=st.sampled_from([3, by_memory.FAR_BACK]),
    starve_after=st.sampled_from([0, 3, 30]),
)
def test_a_leap_decides_as_its_iterations_do(
    setting: str, seed: int, order: str, is_ahead: bool, far_back: int, starve_after: int
) -> None:
    world, order = crowded(setting, seed, is_ahead=is_ahead), f"{order},starve_after={starve_after}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_memory, "FAR_BACK", far_back)
        (leaps, of_leaps), (steps, of_steps) = (figures(world, order, leap=leap) for leap in (True, False))
    assert np.allclose(leaps, steps, rtol=1e-9) and of_leaps == of_steps


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("setting", ["plenty, arrivals", "few seats", "long prompts, plenty", "no chunks"])
@pytest.mark.parametrize(
    ("order", "plain"), [("longest-prefix-match", "fcfs"), ("shortest-uncached", "shortest-prompt")]
)
def test_where_nothing_is_shared_memory_says_nothing(
    order: str, plain: str, setting: str, is_ahead: bool
) -> None:
    for seed in range(4):
        world = replace(random_world(setting, seed, async_scheduling=is_ahead), max_num_seqs=3)
        ours, without = checked(world, order)[0], checked(world, plain)[0]
        assert ours == without and ours


@pytest.mark.parametrize(
    ("order", "ids"), [("longest-prefix-match", [0, 2, 3, 1]), ("shortest-uncached", [3, 0, 2, 1])]
)
def test_whom_each_puts_first(order: str, ids: list[int]) -> None:
    """One place; of the third 64 tokens are as in the first, and 32 as in the last."""
    prompts = [
        (80, KnownBlocks([1, 2], [32, 64])),
        (70, KnownBlocks([3], [64])),
        (112, KnownBlocks([1, 2, 4], [32, 64, 96])),
        (66, KnownBlocks([1], [32])),
    ]
    requests = [Request(id, float(id), n, 50, blocks=blocks) for id, (n, blocks) in enumerate(prompts)]
    limits = Limits(10_000, block_size=16)
    scheduler: Any = make_scheduler(f"continuous:prefix_caching=on,max_num_seqs=1,order={order}", limits)
    for request in requests:
        scheduler.submit(request, 9.0)
    entered = []
    while (work := scheduler.next_work(9.0)) is not None:
        assert isinstance(work, Iterations)
        entered += [chunk.request.id for chunk in work.chunks]
        scheduler.record(work, Outcome(1, [chunk.request for chunk in work.chunks]), 9.0)
    assert entered == ids


@pytest.mark.parametrize("starve_after", [0, 7, 40])
@pytest.mark.parametrize("order", BY_MEMORY)
def test_who_is_overtaken_for_ever_gets_in_after_so_many_iterations(order: str, starve_after: int) -> None:
    """One place, and always somebody who is found in memory and has less to compute; answers of 5 tokens."""
    limits, known = Limits(100_000, block_size=16), KnownBlocks([1, 2], [32, 64])
    policy = f"continuous:prefix_caching=on,max_num_seqs=1,order={order},starve_after={starve_after}"
    scheduler: Any = make_scheduler(policy, limits)
    stranger = Request(999, 0.5, 500, 50)
    entered, tick = dict[int, int](), 0
    for id in range(60):
        scheduler.submit(Request(id, float(id), 70, 50, blocks=known), float(id))
        if id == 1:
            scheduler.submit(stranger, 1.0)
        work = scheduler.next_work(float(id))
        entered |= {chunk.request.id: tick for chunk in work.chunks}
        scheduler.record(work, Outcome(5, [chunk.request for chunk in work.chunks]), float(id))
        tick += 5
    if not starve_after:
        assert 999 not in entered
    else:
        assert starve_after <= entered[999] - 5 < starve_after + 5


@pytest.mark.parametrize("order", BY_MEMORY)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs prefix_caching=on, not own"),
        ({"prefix_caching": "off"}, "needs prefix_caching=on, not off"),
        ({"rules": "sglang"}, "needs prefix_caching=on, not own"),
        (
            {"prefix_caching": "on", "preempt_until": 0.5},
            "does not go with preempt_until=0.5; preempt_until=0 is needed",
        ),
    ],
)
def test_what_they_cannot_do_is_refused(order: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"order: {order} {message}"):
        ContinuousOptions(order=order, **options)
