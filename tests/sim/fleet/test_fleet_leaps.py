"""What many replicas have in common with one, and leaps with iteration by iteration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.fleet.routers import ROUTERS
from sim.hardware.kv_memory import KvMemory
from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.sim.fleet.small import (
    COLUMNS,
    decided,
    made,
    outages,
    run,
    with_machines,
)
from traces.prompt_blocks import PromptBlocks
from traces.trace import Trace


@st.composite
def worlds(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 25))
    longest = draw(st.sampled_from([3, 40, 200]))

    def numbers(values: st.SearchStrategy[Any], dtype: type = np.int64) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    arrival = np.sort(numbers(st.floats(0, draw(st.sampled_from([0.01, 6.0]))), float))
    return Trace(
        "made up",
        np.arange(n),
        numbers(st.integers(1, 120)),
        numbers(st.integers(1, longest)),
        arrival_s=arrival - arrival[0],
        predicted_tokens=numbers(st.integers(0, 300)),
        priority=numbers(st.sampled_from([0, 0, -1, 3])),
        user=numbers(st.sampled_from(["a", "b"]), str),
        deadline_s=arrival + numbers(st.sampled_from([np.inf, np.inf, np.inf, 0.7]), float),
    )


TICK_S = 1 / 64

NAMES = [
    *ROUTERS.names,
    "least-predicted-work:quantile=0.9",
    "predicted-latency:ttft_ms=900,tpot_ms=60,explore=0.1",
]

POLICIES = [
    "continuous",
    "continuous:max_num_seqs=3,max_num_batched_tokens=40",
    "continuous:max_num_seqs=1,order=shortest-predicted",
    "continuous:order=shortest-remaining,chunked=off",
    "continuous:order=priority,aging_s=0.5,max_num_seqs=2",
    "continuous:order=fair,admission=predicted,max_num_seqs=5",
    "continuous:rules=sglang,chunked_prefill_size=64,schedule_conservativeness=0.1",
    "continuous:rules=sglang,mixed_chunk=on,max_num_seqs=3",
    "continuous:rules=trtllm,max_num_seqs=3,batch_wait_timeout_iters=9,batch_wait_max_tokens_ratio=0.2",
    "continuous:rules=trtllm,capacity_scheduler_policy=max_utilization",
]


@settings(max_examples=80)
@given(
    trace=worlds(),
    policy=st.sampled_from([*POLICIES, "vanilla:batch_size=3", "sequence:max_wait_s=0.7,batch_size=3"]),
    router=st.sampled_from(NAMES),
    bound=st.sampled_from([None, None, 1, 4]),
    kv_blocks=st.sampled_from([None, 20, 30]),
)
def test_a_fleet_of_one_is_a_sole_accelerator(
    trace: Trace,
    policy: str,
    router: str,
    bound: int | None,
    kv_blocks: int | None,
    profile: Profile,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # A shared queue is first come, first served, whatever order the scheduler would have chosen from it.
    assume(router != "shared-queue" or "order=" not in policy)
    how = {"profile": profile, "max_concurrency": bound, "kv_blocks": kv_blocks, "max_new_tokens": 200}
    never = outages(tmp_path_factory.getbasetemp(), (0, 9e8, 9.1e8))
    alone, fleet = run(trace, policy, **how), run(trace, policy, **how, router=router, failures=never)
    # With a shared queue what cannot start waits outside, and is turned away when it is taken.
    assume(router != "shared-queue" or alone.summary["failed"] == 0)
    if router == "shared-queue" and policy not in POLICIES[:2]:
        assert fleet.summary["completed"] == alone.summary["completed"]
        return
    for name in COLUMNS:
        assert fleet.columns[name] == pytest.approx(alone.columns[name], rel=1e-12, nan_ok=True)
    assert decided(fleet) == decided(alone)


FAILURES = st.sampled_from([{}, {}, {"mtbf_s": 3.0, "mttr_s": 0.4}, {"mtbf_s": 9.0, "mttr_s": 4.0}])


@settings(max_examples=120)
@given(
    trace=worlds(),
    policy=st.sampled_from(POLICIES),
    router=st.sampled_from(NAMES),
    blocks=st.lists(st.sampled_from([20, 30, 1000]), min_size=1, max_size=4),
    predictor=st.sampled_from(["oracle", "trace", "tuned"]),
    failures=FAILURES,
    seed=st.integers(0, 50),
    cap=st.sampled_from(["shared", "own"]),
)
def test_leaping_is_iteration_by_iteration_on_every_replica(
    trace: Trace,
    policy: str,
    router: str,
    blocks: list[int],
    predictor: str,
    failures: dict[str, float],
    seed: int,
    cap: str,
    profile: Profile,
) -> None:
    how = {"predictor": predictor, "router": router, "seed": seed, "cap": cap, **failures}
    assert_leaping_changes_nothing(trace, policy, profile, blocks, how)


def assert_leaping_changes_nothing(
    trace: Trace,
    policy: str,
    profile: Profile,
    blocks: list[int],
    how: dict[str, Any],
    *,
    alike: bool = False,
) -> Result:
    """Machines differ a little in speed, unless they are `alike`, so that no two events of two of them fall
    together by chance.
    """
    machines = [
        replace(profile.with_scale(1 + 0.0137 * k * (not alike)), memory=KvMemory(16 * b, 1.0, 0, 0, 1))
        for k, b in enumerate(blocks)
    ]
    shared = with_machines(scenario(trace, profile=profile, max_new_tokens=200, **how), machines)
    leaped, stepped = (shared.run(policy, log=True, leap=leap) for leap in (True, False))
    for name in COLUMNS:
        assert leaped.columns[name] == pytest.approx(stepped.columns[name], rel=1e-9, abs=1e-9, nan_ok=True)
    for name in ("status", "replica", "reroutes", "attempts"):
        assert (leaped.columns[name] == stepped.columns[name]).all(), name
    for name in ("completed", "iterations", "preemptions", "failures"):
        assert (leaped.machines[name] == stepped.machines[name]).all(), name
    for name in ("busy_s", "down_s", "kv_peak_fraction"):
        assert leaped.machines[name] == pytest.approx(stepped.machines[name], rel=1e-9, abs=1e-9), name
    for name in ("prefix_hit_fraction", "prefix_evicted_tokens", "recomputed_tokens"):
        assert leaped.summary.get(name) == stepped.summary.get(name), name
    for k in range(len(blocks)):
        assert decided(leaped, k) == decided(stepped, k)
    return leaped


@st.composite
def alike(draw: st.DrawFn) -> Trace:
    """Prompts of which many begin alike."""
    trace = draw(worlds())
    shared = np.array([0, *draw(st.lists(st.integers(1, 200), min_size=1, max_size=3))])
    kinds = draw(st.lists(st.integers(0, len(shared) - 1), min_size=len(trace), max_size=len(trace)))
    kind = np.array(kinds, dtype=np.int64)
    blocks = PromptBlocks(kind, shared[kind], np.arange(len(trace) + 1))
    return replace(trace, prompt_tokens=trace.prompt_tokens + shared[kind], blocks=blocks)


SHARING = [
    "prefix_caching=on",
    "prefix_caching=on,async_scheduling=on",
    "prefix_caching=on,async_scheduling=on,max_num_seqs=3,max_num_batched_tokens=40",
    "prefix_caching=on,order=longest-prefix-match,max_num_seqs=5",
    "prefix_caching=on,order=shortest-uncached,async_scheduling=on",
    "prefix_caching=on,order=memory-time,max_num_seqs=5,starve_after=30,quantum=5",
    "prefix_caching=on,order=memory-time,async_scheduling=on",
    "prefix_caching=on,order=fair,admission=predicted",
    "prefix_caching=own,async_scheduling=on",
    "prefix_caching=own,order=memory-time,async_scheduling=on",
    "rules=sglang,chunked_prefill_size=64",
    "rules=trtllm,capacity_scheduler_policy=max_utilization",
]


@settings(max_examples=150)
@given(
    trace=alike(),
    options=st.sampled_from(SHARING),
    blocks=st.lists(st.sampled_from([26, 30, 40, 1000]), min_size=1, max_size=3),
    predictor=st.sampled_from(["oracle", "tuned"]),
    failures=FAILURES,
    seed=st.integers(0, 50),
)
def test_what_is_found_in_memory_lets_a_replica_take_more_from_the_queue_in_a_leap_too(
    trace: Trace,
    options: str,
    blocks: list[int],
    predictor: str,
    failures: dict[str, float],
    seed: int,
    profile: Profile,
) -> None:
    how = {"predictor": predictor, "router": "shared-queue", "seed": seed, **failures}
    assert_leaping_changes_nothing(trace, f"continuous:{options}", profile, blocks, how)


def test_what_comes_back_from_a_failed_replica_goes_before_what_waits_in_the_midst_of_a_leap(
    profile: Profile, tmp_path: Path
) -> None:
    """The second replica has no memory for the long prompt that waits there, but for the short one of the
    first replica, which arrived before it.
    """
    trace = replace(
        made([100, 200, 1, 50], [0, 0.01, 0.02, 0.03]), prompt_tokens=np.array([10, 250, 10, 500])
    )
    how = {"router": "round-robin", "failures": outages(tmp_path, (0, 0.5, 90.0))}
    assert_leaping_changes_nothing(trace, "continuous", profile, [45, 45], how)


@pytest.mark.parametrize(
    ("policy", "output", "arrival", "down_s"),
    [
        ("shortest-remaining", [150, 1, 1, 1], [0, 0.5, 0.5, 1.0], 1.2),
        ("fair,admission=predicted,max_num_seqs=5", [190, 170, 140, 1], [0, 0, 0, 0.2], 9e8),
    ],
)
def test_what_a_replica_takes_from_the_queue_while_others_wait_to_be_asked_or_for_the_plan(
    policy: str, output: list[int], arrival: list[float], down_s: float, profile: Profile, tmp_path: Path
) -> None:
    """Who is to be asked about joins others that are; nobody comes to where the plan keeps one waiting."""
    how = {
        "predictor": "tuned",
        "router": "shared-queue",
        "failures": outages(tmp_path, (0, down_s, down_s + 0.5)),
    }
    assert_leaping_changes_nothing(made(output, arrival), f"continuous:order={policy}", profile, [20], how)


def test_a_replica_in_a_leap_takes_the_shorter_one_that_others_leave_at_the_head_of_the_queue(
    profile: Profile,
) -> None:
    """It had no memory for the one that stood there when its leap began."""
    prompt = [95, 1, 48, 81, 1, 49, 55, 97, 33, *[1] * 14]
    trace = made([4, 1, 4, 1, 1, 1, 2, 3, *[1] * 15], [0.0] * 3 + [1 / 128] * 20, prompt=prompt)
    assert_leaping_changes_nothing(trace, "continuous", profile, [20, 20], {"router": "shared-queue"})


def test_a_replica_is_sent_one_request_until_it_decides_again(profile: Profile) -> None:
    """However many it had at decisions before."""
    output = [1, 73, 1, 1, 1, 18, 1, 1, 23, 200, 1, 1, 24, 12, 1, 1, 35, 24, 1, 1, 10, 1, 1, 1, 1]
    arrival = [0.0] * 19 + [1.0, 1.0, 1.0, 1.0625, 1.5, 1.5]
    trace = made(output, arrival, prompt=[1, 1, 1, 1, 2, *[1] * 20])
    policy, how = "continuous:order=shortest-remaining,chunked=off", {"predictor": "tuned"}
    assert_leaping_changes_nothing(trace, policy, profile, [20, 20], {**how, "router": "shared-queue"})


TRTLLM = "continuous:rules=trtllm,max_num_seqs=30"


def test_a_replica_in_a_leap_takes_the_longer_prompt_with_a_smaller_cap_too() -> None:
    """It has 10 blocks; what stood at the head of the queue when its leap began needed 11 with its cap."""
    trace = made(
        [8, 4, 60, 100, 24, 4],
        [0.0, 0.0, TICK_S, TICK_S, 2 * TICK_S, 2 * TICK_S],
        prompt=[280, 220, 68, 92, 142, 156],
    )
    how = {"router": "shared-queue", "cap": "own"}
    result = assert_leaping_changes_nothing(trace, TRTLLM, flat_machine(TICK_S), [22, 22], how, alike=True)
    assert result.columns["replica"].tolist() == [0, 1, 0, 1, 0, 1]
    assert result.columns["scheduled_s"][5] == 8 * TICK_S


def test_a_replica_that_holds_prompts_back_until_there_are_more_takes_more(tmp_path: Path) -> None:
    """What was at the first replica waits at the second for others; the last one comes, and both begin."""
    trace = made([22, 40, 35], [0.0, 4 * TICK_S, 15 * TICK_S], prompt=[167, 8, 24])
    how = {"router": "shared-queue", "failures": outages(tmp_path, (0, 12 * TICK_S, 50 * TICK_S))}
    policy = f"{TRTLLM},max_num_batched_tokens=40,batch_wait_timeout_iters=9,batch_wait_max_tokens_ratio=0.3"
    result = assert_leaping_changes_nothing(trace, policy, flat_machine(TICK_S), [14, 60], how, alike=True)
    assert (result.columns["scheduled_s"] / TICK_S).tolist() == [0, 4, 15]


def test_who_did_not_fit_beside_requests_that_have_ended_is_tried_again_with_the_next_iteration(
    tmp_path: Path,
) -> None:
    """The first has 197 tokens left of its cap when it ends, which count until the second has decoded."""
    prompt, cap = [16, 16, 250, 16], [200, 60, 10, 10]
    trace = made([3, 60, 5, 5], [0.0, 0.0, TICK_S, 40 * TICK_S], prompt=prompt, max_tokens=cap)
    never = outages(tmp_path, (0, 9e8, 9.1e8))  # an accelerator that is there alone has no queue to share
    policy = "continuous:rules=sglang,max_num_seqs=2"
    how = {"router": "shared-queue", "cap": "column", "failures": never}
    result = assert_leaping_changes_nothing(trace, policy, flat_machine(TICK_S), [30], how)
    assert (result.columns["scheduled_s"] / TICK_S).tolist()[:3] == [0, 0, 4]


def test_what_no_replica_can_hold_is_taken_from_the_queue_and_turned_away() -> None:
    trace = made([5, 5], prompt=[10, 400])
    how = {"profile": flat_machine(), "router": "shared-queue", "replicas": 2, "kv_blocks": 20, "cap": "own"}
    assert run(trace, TRTLLM, **how).columns["status"].tolist() == ["completed", "rejected"]


@pytest.mark.parametrize("leap", [True, False])
def test_what_a_decision_lets_in_that_a_failure_overtakes_never_began(leap: bool, tmp_path: Path) -> None:
    """The second comes with the end of an iteration; the one that it is let in to would begin an iteration
    later, and the replica fails before. It has asked for its prompt once, when both begin again.
    """
    blocks = PromptBlocks(np.array([0, 0]), np.array([64, 64]), np.array([0, 1, 2]))
    trace = made([40, 40], [0.0, 5 * TICK_S], prompt=[80, 80], blocks=blocks)
    failures = outages(tmp_path, (0, 5.5 * TICK_S, 8 * TICK_S))
    shared = scenario(trace, profile=flat_machine(TICK_S), failures=failures)
    result = shared.run("continuous:prefix_caching=on,async_scheduling=on", leap=leap)
    assert result.columns["reroutes"].tolist() == [1, 1]
    assert result.summary["prefix_hit_fraction"] == 64 / (3 * 80)
