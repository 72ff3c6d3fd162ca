"""Memory held between turns, in fleets: leaping is stepping, and no block and no request is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.fleet.outages import Outages
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of, make_scheduler
from sim.scenario.scenario import Scenario, scenario
from sim.schedulers.preserving import PreservingTieredScheduler
from sim.testing.invariants import check_run
from sim.work import Limits, Outcome, Work
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers.test_prefixes import assert_sound


class Checked:
    """A scheduler whose memory is looked at after each decision."""

    def __init__(self, policy: str, limits: Limits) -> None:
        self.scheduler: Any = make_scheduler(policy, limits)
        self.preserved = self.swapped = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        self.scheduler.record(work, outcome, now)
        kept = self.scheduler.kv.kept
        assert_sound(self.scheduler.kv)
        assert kept.preserved_blocks == sum(each.num_blocks for each in kept.preserved)
        assert not kept.undecided and not kept.coming_back and not kept.num_let_go
        self.preserved = max(self.preserved, len(list(kept.preserved)))
        if isinstance(self.scheduler, PreservingTieredScheduler):
            swapped = [blocks for each in self.scheduler.kv.kept.swapped for blocks in each.blocks]
            wanted = Counter((node, high) for node, _, high in swapped)
            nodes = set(self.scheduler.tiers.tree.nodes.values())
            assert Counter((node, high) for node in nodes for high in node.wanted) == wanted
            self.swapped = max(self.swapped, len(wanted))


WAYS = ["preserve", "least-waste", "swap"]
OPTIONS = [
    "max_num_seqs=4,max_num_batched_tokens=64",
    "order=memory-time,starve_after=0",
    "order=memory-time,starve_after=20,max_num_seqs=6",
    "order=shortest-predicted,starve_after=30,admission=predicted",
    "order=priority,admission=chunk",
    "order=shortest-prompt,max_num_batched_tokens=64,max_num_seqs=8",
]
TIER = "cpu:1500B@64B/s"
PLAIN = "users=7,turns=4,think_s=3"
TRAFFIC = [
    PLAIN,
    PLAIN,
    "users=7,turns=4,think_s=0",
    "users=6,turns=3,think_s=2,agents=2",
    "users=12,turns=1",
    "users=6,turns=4,think_s=60,rate=20",
    "users=8,turns=3,turns_law=geometric,think_law=fixed,think_s=1,rate=50",
]


def fleets(
    seed: int,
    options: str,
    way: str,
    tier: str | None,
    router: str,
    *,
    fails: bool,
    traffic: str = PLAIN,
    predictor: str = "exact",
    patience_s: float | None = None,
    answers: bool = True,
) -> tuple[Scenario, str]:
    """Iterations take quarters of seconds: no question falls due as one ends, where rounding decides."""
    source = f"sessions:{traffic},system_tokens=40,prompt_tokens=50,output_tokens=30"
    machine = flat_machine(0.25)
    limits = limits_of(machine, 40, kv_tier=tier)
    shared = scenario(
        source, profile=machine, seed=seed, max_new_tokens=60, predictor=predictor, router=router
    )
    trace = shared.trace
    if patience_s is not None:
        assert trace.arrival_s is not None
        trace = replace(trace, deadline_s=trace.arrival_s + patience_s)
    if not answers:
        assert trace.blocks is not None
        trace = replace(trace, blocks=replace(trace.blocks, answers=None))
    shared = replace(shared, trace=trace)
    replicas = 1 if seed % 2 and not fails else 3
    shared = replace(shared, fleet=(Accelerator(machine, limits),) * replicas)
    if fails:
        shared = replace(shared, outages=Outages(mtbf_s=15.0, mttr_s=5.0))
    return shared, f"continuous:prefix_caching=on,waits={way},perceive_wait_s=0.3,{options}"


MEMORY_FALLS_FREE_FOR_A_QUESTION: dict[str, Any] = {
    "seed": 590861,
    "traffic": "users=6,turns=3,think_s=2,agents=2",
    "predictor": "noisy:sigma=1",
    "patience_s": 20.0,
    "answers": True,
    "options": "order=shortest-predicted,starve_after=30,admission=predicted",
    "way": "preserve",
    "has_tier": False,
    "blocks": True,
    "is_ahead": True,
    "router": "prefix-aware",
    "fails": False,
}


MEMORY_FALLS_FREE_FOR_WHO_WAITS_FOR_ALL_REPLICAS: dict[str, Any] = {
    "seed": 367378,
    "traffic": "users=7,turns=4,think_s=0",
    "predictor": "tuned",
    "patience_s": None,
    "answers": False,
    "options": "order=memory-time,starve_after=0",
    "way": "least-waste",
    "has_tier": False,
    "blocks": True,
    "is_ahead": True,
    "router": "shared-queue",
    "fails": True,
}


NO_BLOCK_IS_FREE_FOR_WHAT_HAS_COME: dict[str, Any] = {
    "seed": 991671,
    "traffic": "users=6,turns=3,think_s=2,agents=2",
    "predictor": "exact",
    "patience_s": 20.1,
    "answers": False,
    "options": "order=memory-time,starve_after=0",
    "way": "least-waste",
    "has_tier": True,
    "blocks": False,
    "is_ahead": False,
    "router": "sticky",
    "fails": False,
}


COPIES_ARE_GIVEN_UP_FOR_WHO_IS_TURNED_AWAY: dict[str, Any] = {
    "seed": 74175,
    "traffic": "users=6,turns=3,think_s=2,agents=2",
    "predictor": "exact",
    "patience_s": None,
    "answers": True,
    "options": "max_num_seqs=4,max_num_batched_tokens=64",
    "way": "swap",
    "has_tier": False,
    "blocks": True,
    "is_ahead": True,
    "router": "prefix-aware",
    "fails": False,
}


A_QUESTION_FITS_ONCE_SOMEBODY_WAS_EVICTED: dict[str, Any] = {
    "seed": 326309,
    "traffic": "users=7,turns=4,think_s=3",
    "predictor": "tuned",
    "patience_s": None,
    "answers": True,
    "options": "order=memory-time,starve_after=0",
    "way": "swap",
    "has_tier": True,
    "blocks": False,
    "is_ahead": False,
    "router": "prefix-aware",
    "fails": True,
}


WHO_WAITS_FOR_BLOCKS_TAKES_FEWER_THAN_WERE_COUNTED: dict[str, Any] = {
    "seed": 619393,
    "traffic": "users=12,turns=1",
    "predictor": "exact",
    "patience_s": None,
    "answers": False,
    "options": "order=shortest-prompt,max_num_batched_tokens=64,max_num_seqs=8",
    "way": "swap",
    "has_tier": True,
    "blocks": False,
    "is_ahead": False,
    "router": "shared-queue",
    "fails": True,
}


@settings(max_examples=100, deadline=None)
@example(**A_QUESTION_FITS_ONCE_SOMEBODY_WAS_EVICTED)
@example(**WHO_WAITS_FOR_BLOCKS_TAKES_FEWER_THAN_WERE_COUNTED)
@example(**COPIES_ARE_GIVEN_UP_FOR_WHO_IS_TURNED_AWAY)
@example(**MEMORY_FALLS_FREE_FOR_A_QUESTION)
@example(**NO_BLOCK_IS_FREE_FOR_WHAT_HAS_COME)
@example(**MEMORY_FALLS_FREE_FOR_WHO_WAITS_FOR_ALL_REPLICAS)
@given(
    seed=st.integers(0, 10**6),
    traffic=st.sampled_from(TRAFFIC),
    predictor=st.sampled_from(["exact", "exact", "noisy:sigma=1", "tuned"]),
    patience_s=st.sampled_from([None, None, 3.1, 20.1]),
    answers=st.sampled_from([True, True, False]),
    options=st.sampled_from(OPTIONS),
    way=st.sampled_from(WAYS),
    has_tier=st.booleans(),
    blocks=st.booleans(),
    is_ahead=st.booleans(),
    router=st.sampled_from(["prefix-aware", "sticky", "shared-queue", "round-robin"]),
    fails=st.booleans(),
)
def test_leaping_is_stepping_and_no_block_or_request_is_lost(
    seed: int,
    traffic: str,
    predictor: str,
    patience_s: float | None,
    answers: bool,
    options: str,
    way: str,
    has_tier: bool,
    blocks: bool,
    is_ahead: bool,
    router: str,
    fails: bool,
) -> None:
    is_tiered = way == "swap" or (has_tier and "starve_after=0" in options) or (has_tier and blocks)
    if is_tiered:
        options = options if "starve" not in options and "chunk" not in options else OPTIONS[1]
    tier = f"{TIER},blocking" if blocks else TIER
    options = f"{options},async_scheduling={'on' if is_ahead else 'off'}"
    shared, policy = fleets(
        seed,
        options,
        way,
        tier if is_tiered else None,
        router,
        fails=fails,
        traffic=traffic,
        predictor=predictor,
        patience_s=patience_s,
        answers=answers,
    )
    schedulers: list[Checked] = []

    def make(limits: Limits) -> Any:
        schedulers.append(Checked(policy, limits))
        return schedulers[-1]

    leaped = shared.run(make, log=True)
    check_run(leaped, [each.limits.kv_tokens for each in shared.machines])
    assert set(leaped.columns["status"]) <= {"completed", "rejected", "cancelled", "expired"}
    is_cancelled = "cancelled" in set(leaped.columns["status"])
    for each in schedulers:
        kv = each.scheduler.kv
        for request in each.scheduler.elsewhere:  # since the last decision
            kv.give_up_for(request)
        assert kv.free == kv.num_blocks - len(held_blocks(kv)) and not kv.kept.pieces
        assert not each.scheduler.back
        assert is_cancelled or not kv.kept.preserved, "held for turns that have come, here or elsewhere"
        assert is_cancelled or not getattr(kv.kept, "swapped", None)
    stepped = shared.run(make, leap=False)
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        assert leaped.columns[name] == pytest.approx(stepped.columns[name], rel=1e-9, nan_ok=True)
    for name in ("prefix_hit_fraction", "average_length_all_attempts", "preemptions"):
        assert leaped.summary[name] == stepped.summary[name], name


def held_blocks(kv: Any) -> set[tuple[int, int]]:
    """Blocks that are held for turns that have not come back, each once."""
    return {
        (id(run), at)
        for each in kv.kept.preserved
        for run, until in each.pieces
        for at in range(run.first, until)
    }


def test_every_way_is_taken() -> None:
    """The worlds above hold memory in either place."""
    for way, tier in (("preserve", None), ("least-waste", None), ("swap", TIER), ("least-waste", TIER)):
        taken = np.zeros(2, dtype=int)
        for seed in range(10):
            shared, policy = fleets(seed, OPTIONS[1], way, tier, "round-robin", fails=False)
            schedulers: list[Checked] = []

            def make(limits: Limits, policy: str = policy, made: list[Checked] = schedulers) -> Any:
                made.append(Checked(policy, limits))
                return made[-1]

            shared.run(make)
            taken += sum((np.array([each.preserved, each.swapped]) for each in schedulers), np.zeros(2, int))
        assert (taken > 0).tolist() == [way != "swap", tier is not None], (way, tier, taken)
