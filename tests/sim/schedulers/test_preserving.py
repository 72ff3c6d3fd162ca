"""Memory held between turns: as a replay block by block has it, the same leaping, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.outages import Outages
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of, make_scheduler
from sim.scenario.scenario import Scenario, scenario
from sim.schedulers.preserving import PreservingTieredScheduler
from sim.testing.invariants import check_run
from sim.work import Limits, Outcome, Work
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers import naive_preserving
from tests.sim.schedulers.test_prefixes import assert_sound
from traces import InputError, load
from traces.trace import Trace

CAP = 40


@st.composite
def conversations(draw: st.DrawFn) -> Trace:
    """Sessions whose starts and waits are whole seconds."""
    users, turns = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    wait_s, system = draw(st.sampled_from([1, 6, 40])), draw(st.sampled_from([0, 20, 64]))
    trace = load(
        f"sessions:users={users},turns={turns},think_s={wait_s},rate={draw(st.sampled_from([0.05, 0.5, 5]))},"
        f"system_tokens={system},prompt_tokens=25,output_tokens=12,max_output_tokens={CAP}",
        seed=draw(st.integers(0, 10**6)),
    )
    assert trace.arrival_s is not None and trace.blocks is not None
    if draw(st.booleans()):
        trace = replace(trace, blocks=replace(trace.blocks, answers=None))
    return replace(trace, arrival_s=np.round(trace.arrival_s), think_s=np.round(trace.thinks_s))


def least_blocks(trace: Trace) -> int:
    """A cache that holds each request, with the block that no request gets."""
    return -(-(int(trace.prompt_tokens.max()) + CAP) // 16) + 1


@settings(max_examples=150, deadline=None)
@given(
    trace=conversations(),
    spare=st.sampled_from([0, 3, 10, 40]),
    seats=st.sampled_from([2, 5, 40]),
    budget=st.sampled_from([40, 64, 2048]),
    way=st.sampled_from(["preserve", "preserve", "least-waste"]),
)
def test_turns_go_as_in_a_replay_block_by_block(
    trace: Trace, spare: int, seats: int, budget: int, way: str
) -> None:
    blocks = least_blocks(trace) + spare
    shared = scenario(
        trace, profile=flat_machine(1.0), kv_blocks=blocks, predictor="oracle", max_new_tokens=CAP
    )
    trace = shared.trace  # in order of arrival if answers took no time
    naive = naive_preserving.replay(trace, blocks, seats, budget, way)
    policy = f"continuous:prefix_caching=on,waits={way},max_num_seqs={seats},max_num_batched_tokens={budget}"
    result = shared.run(policy)
    for name, times in (
        ("scheduled_s", naive.scheduled),
        ("first_token_s", naive.first),
        ("finish_s", naive.finish),
    ):
        assert result.columns[name].tolist() == [times[row] for row in range(len(trace))], name
    assert result.summary["preemptions"] == naive.preemptions
    assert result.summary["prefix_hit_fraction"] == pytest.approx(
        naive.found / int(trace.prompt_tokens.sum())
    )


def test_the_worlds_of_the_replay_hold_memory_and_give_it_up() -> None:
    counts = np.zeros(3, dtype=int)
    for seed in range(20):
        trace = load(
            f"sessions:users=8,turns=4,think_s=6,rate=0.5,system_tokens=20,prompt_tokens=25,output_tokens=12,"
            f"max_output_tokens={CAP}",
            seed=seed,
        )
        assert trace.arrival_s is not None
        trace = replace(trace, arrival_s=np.round(trace.arrival_s), think_s=np.round(trace.thinks_s))
        done = naive_preserving.replay(trace, least_blocks(trace) + 3, 5, 64, "preserve")
        counts += (done.preserved, done.gave_way, done.preemptions)
    assert (counts > 20).all()


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


@settings(max_examples=100, deadline=None)
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
    assert leaped.summary["prefix_hit_fraction"] == stepped.summary["prefix_hit_fraction"]


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


def test_who_comes_back_to_memory_goes_first() -> None:
    """One seat, 20 s an answer, 3 s between turns: those that have begun end before the third begins."""
    source = "sessions:users=3,turns=2,think_s=3,think_law=fixed,rate=100,output_tokens=20,output_sigma=0"
    for way, finish_s in (
        ("discard", [20, 40, 60, 80, 100, 120]),
        ("preserve", [20, 40, 100, 60, 80, 123]),
        ("preserve,order=fair", [20, 40, 100, 60, 80, 123]),  # which keeps account of all that it ranks
    ):
        result = simulate(
            source,
            policy=f"continuous:prefix_caching=on,waits={way},max_num_seqs=1",
            profile=flat_machine(1.0),
            predictor="exact",
        )
        assert result.columns["finish_s"].tolist() == finish_s


SLOW, FAST = "cpu:64GiB@1GB/s,blocking", "cpu:256GiB@50GB/s"


@pytest.mark.parametrize(
    ("wait_s", "prompt_tokens", "rate", "kv_blocks", "tier", "best"),
    [
        (0.5, 3000, 4, 12_000, SLOW, "preserve"),
        (3, 300, 30, 4000, SLOW, "discard"),
        (20, 3000, 4, 12_000, FAST, "swap"),
    ],
)
def test_each_way_is_best_somewhere_and_the_least_waste_finds_it(
    wait_s: float, prompt_tokens: int, rate: float, kv_blocks: int, tier: str, best: str
) -> None:
    """Short waits, long ones of short prompts, long ones of long prompts beside a fast link."""

    def mean_s(way: str, kv_tier: str | None, seed: int) -> float:
        result = simulate(
            f"sessions:turns=5,think_s={wait_s},prompt_tokens={prompt_tokens},output_tokens=80,system_tokens=200",
            policy=f"continuous:prefix_caching=on,waits={way}",
            profile="h100-llama-3.1-8b-vllm",
            predictor="exact",
            num_prompts=400,
            request_rate=rate,
            kv_blocks=kv_blocks,
            kv_tier=kv_tier,
            seed=seed,
        )
        return float(result.summary["mean_session_ms"]) / 1e3

    for seed in (0, 1):
        tiers = {"discard": None, "preserve": None, "swap": tier}
        times = {way: mean_s(way, kv_tier, seed) for way, kv_tier in tiers.items()}
        assert min(times, key=times.__getitem__) == best, times
        assert mean_s("least-waste", tiers[best], seed) <= 1.01 * times[best]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("waits=preserve", "waits: preserve needs prefix_caching=on, not own"),
        (
            "waits=preserve,prefix_caching=on,order=longest-prefix-match",
            "waits: preserve does not go with order=longest-prefix-match; it does with fcfs, ",
        ),
        (
            "waits=least-waste,prefix_caching=on,order=ltr",
            "waits: least-waste does not go with preempt_until=1, of order=ltr; preempt_until=0 is needed",
        ),
        ("waits=swap,prefix_caching=on", "waits: swap needs kv_tier, memory to swap to"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate("fixed", num_prompts=2, policy=f"continuous:{options}", profile=flat_machine(1.0))
