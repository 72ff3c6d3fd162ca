"""TensorRT-LLM's rules: a step by step reference decides alike, and nobody who is in has to leave."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.simulation import simulate
from sim.testing import check_scheduler
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers.naive_trtllm import Rules
from tests.sim.schedulers.naive_world import PAGE, Job, in_pages, simulated, worlds
from traces.trace import Trace


@settings(max_examples=300)
@given(
    world=worlds(),
    max_batch=st.sampled_from([1, 5, 30]),
    max_tokens=st.sampled_from([40, 100, 8192]),
    chunked=st.booleans(),
    no_evict=st.booleans(),
    wait_iters=st.sampled_from([0, 1, 7]),
    wait_ratio=st.sampled_from([0.0, 0.3, 1.0]),
    page=st.sampled_from([PAGE, PAGE, 1, 4, 32]),
)
def test_a_step_by_step_reference_decides_alike(
    world: tuple[list[Job], int],
    max_batch: int,
    max_tokens: int,
    chunked: bool,
    no_evict: bool,
    wait_iters: int,
    wait_ratio: float,
    page: int,
) -> None:
    jobs, blocks = world
    blocks = in_pages(jobs, blocks, page)
    if not chunked:
        max_tokens = max(max_tokens, *(job.prompt + job.cap for job in jobs), 40)
    policy = (
        f"continuous:rules=trtllm,max_num_seqs={max_batch},max_num_batched_tokens={max_tokens},"
        f"chunked={'on' if chunked else 'off'},prefix_caching=off,"
        f"capacity_scheduler_policy={'guaranteed_no_evict' if no_evict else 'max_utilization'},"
        f"batch_wait_timeout_iters={wait_iters},batch_wait_max_tokens_ratio={wait_ratio}"
    )
    naive = Rules(
        deepcopy(jobs), blocks, page, max_batch, max_tokens, chunked, no_evict, wait_iters, wait_ratio
    ).run()
    ours = simulated(jobs, blocks, policy, page)
    assert ours.events == naive.events
    assert ours.finished == naive.finished
    if no_evict:
        assert not any(event.retracted for event in ours.events)


def test_a_request_enters_where_its_cap_fits_beside_the_caps_of_others() -> None:
    """Each may take 3 of 8 blocks, and takes one: two run at a time."""
    jobs = [Job(i, 0, 10, 3, 38) for i in range(4)]
    assert simulated(jobs, 8, "continuous:rules=trtllm").finished == {0: 3, 1: 3, 2: 6, 3: 6}
    policy = "continuous:rules=trtllm,capacity_scheduler_policy=max_utilization"
    assert simulated(jobs, 8, policy).finished == {0: 3, 1: 3, 2: 3, 3: 3}


def test_prompts_are_held_back_until_there_are_more_or_some_iterations_are_over() -> None:
    jobs = [Job(0, 0, 10, 9, 20), Job(1, 2, 10, 1, 20), Job(2, 4, 70, 1, 20)]
    wait = "continuous:rules=trtllm,max_num_batched_tokens=256,max_num_seqs=8,batch_wait_timeout_iters={},"
    # Alone the second would wait for 5 iterations; the third comes sooner, and 81 tokens are enough.
    assert simulated(jobs, 100, wait.format(5) + "batch_wait_max_tokens_ratio=0.3").finished == {
        0: 9,
        1: 5,
        2: 5,
    }
    assert simulated(jobs, 100, wait.format(5) + "batch_wait_max_tokens_ratio=1").finished == {
        0: 9,
        1: 8,
        2: 8,
    }


def test_without_chunks_only_a_prompt_that_is_too_long_is_refused() -> None:
    def reason(policy: str, prompt: int) -> str:
        trace = Trace("one", np.arange(1), np.array([prompt]), np.array([5]))
        result = simulate(trace, policy=policy, profile=flat_machine(), max_new_tokens=100)
        return str(result.columns["reason"][0])

    policy = "continuous:rules=trtllm,chunked=off,max_num_batched_tokens=300"
    assert reason(policy, 290) == ""
    assert reason(policy, 310) == "rejected: prompt (310) exceeds max_num_batched_tokens (300), chunked=off"
    policy += ",capacity_scheduler_policy=max_utilization"
    assert reason(policy, 290).startswith("rejected: prompt + max_new_tokens (390) exceeds")


@pytest.mark.parametrize(
    "policy",
    [
        "continuous:rules=trtllm",
        "continuous:rules=trtllm,capacity_scheduler_policy=max_utilization,max_num_batched_tokens=256",
        "continuous:rules=trtllm,batch_wait_timeout_iters=5,batch_wait_max_tokens_ratio=0.2,chunked=off",
    ],
)
def test_what_holds_of_every_scheduler_holds(policy: str) -> None:
    check_scheduler(policy, num_worlds=15)
