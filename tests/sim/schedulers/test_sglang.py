"""SGLang's rules: a step by step reference decides alike, and leaping changes nothing."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.testing import check_scheduler
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers.naive_sglang import Rules
from tests.sim.schedulers.naive_world import PAGE, Job, in_pages, simulated, worlds
from traces.trace import Trace


@settings(max_examples=300)
@given(
    world=worlds(),
    max_running=st.sampled_from([1, 5, 30, 30]),
    chunk_size=st.sampled_from([None, 16, 48, 8192]),
    max_prefill=st.sampled_from([40, 16384]),
    conservativeness=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    mixed=st.booleans(),
    page=st.sampled_from([PAGE, PAGE, 1, 4, 64]),
)
def test_a_step_by_step_reference_decides_alike(
    world: tuple[list[Job], int],
    max_running: int,
    chunk_size: int | None,
    max_prefill: int,
    conservativeness: float,
    mixed: bool,
    page: int,
) -> None:
    jobs, blocks = world
    blocks = in_pages(jobs, blocks, page)
    if chunk_size is not None:  # of whole pages
        chunk_size = -(-chunk_size // page) * page
    chunked = "chunked=off" if chunk_size is None else f"chunked_prefill_size={chunk_size}"
    policy = (
        f"continuous:rules=sglang,{chunked},max_num_seqs={max_running},max_prefill_tokens={max_prefill},"
        f"schedule_conservativeness={conservativeness},mixed_chunk={'on' if mixed else 'off'}"
    )
    naive = Rules(
        deepcopy(jobs), blocks, page, max_running, chunk_size, max_prefill, conservativeness, mixed
    ).run()
    ours = simulated(jobs, blocks, policy, page)
    assert ours.events == naive.events
    assert ours.finished == naive.finished


def test_decoding_pauses_for_prompts_unless_they_are_mixed() -> None:
    """The second arrives in the third iteration; it is computed in the fourth, in which the first pauses."""
    jobs = [Job(0, 0, 10, 6, 20), Job(1, 3, 10, 2, 20)]
    assert simulated(jobs, 100, "continuous:rules=sglang").finished == {0: 7, 1: 5}
    assert simulated(jobs, 100, "continuous:rules=sglang,mixed_chunk=on").finished == {0: 6, 1: 5}


def test_a_request_that_has_ended_keeps_its_place_until_the_others_decode() -> None:
    jobs = [Job(0, 0, 10, 5, 20), Job(1, 0, 10, 2, 20), Job(2, 0, 10, 1, 20)]
    # The second ends with iteration 2; the third starts after iteration 3.
    assert simulated(jobs, 100, "continuous:rules=sglang,max_num_seqs=2").finished == {1: 2, 2: 4, 0: 6}


def test_the_model_is_asked_for_lengths_before_an_order_goes_by_them() -> None:
    trace = Trace("four", np.arange(4), np.full(4, 10), np.array([9, 7, 5, 3]), arrival_s=np.zeros(4))
    policy = "continuous:rules=sglang,order=shortest-predicted,max_num_seqs=1"
    result = simulate(trace, policy=policy, predictor="tuned", profile=flat_machine(0.01))
    assert {id for batch in result.batches if batch.is_question for id in batch.request_ids} == {0, 1, 2, 3}
    predicted = result.requests.predicted_tokens.argsort(kind="stable").tolist()
    assert result.requests.finish_s.argsort().tolist() == predicted


@pytest.mark.parametrize(
    "policy",
    [
        "continuous:rules=sglang",
        "continuous:rules=sglang,mixed_chunk=on,chunked_prefill_size=64,order=priority",
        "continuous:rules=sglang,schedule_conservativeness=0,max_num_seqs=5,chunked=off",
    ],
)
def test_what_holds_of_every_scheduler_holds(policy: str) -> None:
    check_scheduler(policy, num_worlds=15)
