"""Runs on an engine that schedules by itself: what it is set to, when requests reach it, what is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.work import Limits, MemoryTier
from traces.errors import InputError

pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines.scheduling import EngineSizes, SchedulerSettings
from real.execution.own_scheduler import OwnSchedulerRun, own_scheduling
from real.lengths.prompts import random_prompts
from real.validation.decisions import compare
from real.validation.own_experiment import as_told
from sim.request import Request
from tests.real.own_engine import STEP_S, OwnEngine

LIMITS = Limits(64 * 32, 32)
SCARCE = "continuous:max_num_seqs=6,max_num_batched_tokens=48"


def test_a_policy_is_what_the_engine_is_set_to() -> None:
    policy = "continuous:max_num_seqs=4,max_num_batched_tokens=64,chunked=off,prefix_caching=off"
    assert own_scheduling(policy, LIMITS, "vllm").settings == SchedulerSettings(
        4, 64, chunked=False, prefix_caching=False, num_gpu_blocks=64
    )
    by_chunk = own_scheduling("continuous:admission=chunk,order=priority", LIMITS, "vllm")
    assert by_chunk.settings == SchedulerSettings(priority=True, reserve_full_prompt=False, num_gpu_blocks=64)
    request = Request(0, 0.0, 9, 9, priority=3, predicted_tokens=7)
    priorities = {
        order: own_scheduling(f"continuous:order={order}", LIMITS, "vllm").priority(request)
        for order in ("fcfs", "priority", "shortest-predicted")
    }
    assert priorities == {"fcfs": 0, "priority": 3, "shortest-predicted": 7}


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ("vanilla", "policy vanilla: engine vllm schedules by itself"),
        ("continuous:rules=sglang", "by the rules of continuous"),
        (
            "continuous:order=fair",
            "order=fair, engine vllm has only fcfs, priority, shortest-predicted, shortest-prompt",
        ),
        ("continuous:order=shortest-remaining", "order=shortest-remaining"),
        ("continuous:admission=predicted", "admission=predicted, engine vllm has only chunk, prompt"),
        ("continuous:order=priority,aging_s=2", "engine vllm has no aging_s"),
        ("continuous:order=priority,preempt_until=1", "engine vllm has no preempt_until"),
        ("continuous:prefix_caching=on,waits=preserve", "engine vllm has no waits"),
        ("continuous:async_scheduling=on", "runs without async_scheduling here"),
    ],
)
def test_what_the_engine_does_not_have_is_refused(policy: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        own_scheduling(policy, LIMITS, "vllm")


def test_slower_memory_is_not_set_up_there() -> None:
    limits = replace(LIMITS, tiers=(MemoryTier("cpu", 640, 1e-6),))
    with pytest.raises(InputError, match="kv_tier: keeping KV blocks in slower memory is simulated only"):
        own_scheduling("continuous:prefix_caching=on", limits, "vllm")


@pytest.fixture
def served(loaded: Any, make_scenario: Callable[..., Any]) -> Callable[..., Any]:
    """(policy, kv_tokens, twist, **settings) -> (scenario, the run once it is over)."""

    def run(policy: str, kv_tokens: int = 4096, twist: Any = None, **settings: Any) -> Any:
        sizes = EngineSizes(16, 256, 64, kv_tokens)
        engine = OwnEngine(loaded, sizes, **({} if twist is None else {"twist": twist}))
        scenario = as_told(make_scenario(24, **settings), engine)
        lengths = scenario.trace.prompt_tokens.tolist()
        prompts = random_prompts(lengths, loaded.ordinary_tokens, np.random.default_rng(1))
        under_way = OwnSchedulerRun(scenario, policy, engine, loaded, prompts, skips_waits=True)
        while under_way.step():
            pass
        return scenario, under_way

    return run


@pytest.mark.parametrize(
    ("policy", "kv_tokens", "settings"),
    [
        (SCARCE, 4096, {}),
        (SCARCE, 256, {}),
        (f"{SCARCE},order=shortest-predicted", 256, {"request_rate": 600.0}),
        (f"{SCARCE},order=shortest-prompt", 256, {"request_rate": 600.0}),
        (f"{SCARCE},prefix_caching=off,admission=chunk", 224, {"max_concurrency": 9}),
        # A prompt and the cap of all would exceed the budget; a prompt and its own length do not.
        ("continuous:max_num_seqs=3,max_num_batched_tokens=52,chunked=off", 4096, {"request_rate": 300.0}),
    ],
)
def test_all_is_served_and_decided_as_we_would(
    served: Any, policy: str, kv_tokens: int, settings: dict[str, Any]
) -> None:
    scenario, run = served(policy, kv_tokens, **settings)
    measured = run.measured()
    summary, columns = measured.result.summary, measured.result.columns
    assert (
        summary["completed"] == 24 and summary["preemptions"] == scenario.run(policy).summary["preemptions"]
    )
    assert summary["iterations"] == len(measured.scheduled.decisions)
    assert (columns["scheduled_s"] >= columns["arrival_s"]).all()
    assert (columns["first_token_s"] - columns["scheduled_s"] >= STEP_S).all()
    comparison = compare(scenario, policy, measured.scheduled)
    assert comparison.first is None and comparison.num_iterations == summary["iterations"]


def test_what_an_engine_decides_otherwise_is_found(served: Any) -> None:
    def twist(number: int, tokens: dict[int, int]) -> dict[int, int]:
        return {**tokens, next(iter(tokens)): 5} if number == 7 else tokens

    scenario, run = served(SCARCE, twist=twist)
    comparison = compare(scenario, SCARCE, run.measured().scheduled)
    assert comparison.first is not None and comparison.first.number == 7
    assert str(comparison.first) in comparison.to_json()["first_difference"]


def test_waits_are_jumped_over_and_requests_come_at_their_times(served: Any) -> None:
    scenario, run = served(SCARCE, request_rate=2.0)
    columns = run.measured().result.columns
    np.testing.assert_array_equal(columns["arrival_s"], scenario.trace.arrival_s)
    assert columns["finish_s"].max() > scenario.trace.arrival_s.max() > 5.0
    assert run.arrived == sorted(run.arrived) and run.arrived[-1] > 0


def test_lengths_that_would_have_to_be_asked_for_are_refused(
    loaded: Any, make_scenario: Callable[..., Any]
) -> None:
    engine = OwnEngine(loaded, EngineSizes(16, 256, 64, 4096))
    scenario = as_told(make_scenario(4, predictor="tuned"), engine)
    with pytest.raises(InputError, match="asks for no lengths"):
        OwnSchedulerRun(scenario, f"{SCARCE},order=shortest-predicted", engine, loaded, [[1]] * 4)
    free = replace(scenario, predictor=replace(scenario.predictor, charge=False))  # type: ignore[type-var]
    OwnSchedulerRun(free, f"{SCARCE},order=shortest-predicted", engine, loaded, [[1]] * 4)
