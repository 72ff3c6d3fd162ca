"""Leaping where ranks matter to those that run: same decisions at the same ticks, same times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from tests.sim.execution.test_leap import (
    TICK_S,
    assert_same,
    both_ways,
    exact_machine,
    traces,
)
from traces.trace import Trace

ORDERS = ("ltr", "gittins", "lower-bound", "mlfq", "tie", "shortest-remaining", "priority", "shortest-prompt")
PREDICTORS = ("oracle", "exact:charge=on", "noisy:sigma=1,charge=off", "tuned", "trace", "constant:tokens=30")


def policies(is_async: bool) -> st.SearchStrategy[str]:
    """Those that preempt, guard or plan by distributions; a few tokens are many to these small worlds."""
    return st.builds(
        (
            "continuous:order={},admission={},preempt_until={},starve_after={},quantum={},chunked={},"
            "max_num_seqs={},max_num_batched_tokens={},prefix_caching={},level_tokens={},perceive_wait_s={},"
            "perceive_batch={},async_scheduling=" + ("on" if is_async else "off")
        ).format,
        st.sampled_from(ORDERS),
        st.sampled_from(["prompt", "prompt", "chunk", "predicted", "quantile:0.9", "quantile:0.5"]),
        st.sampled_from([0, 0.3, 0.8, 1, 1]),
        st.sampled_from([0, 0, 5, 60]),
        st.sampled_from([1, 8]),
        st.sampled_from(["on", "off"]),
        st.sampled_from([1, 2, 5, 30]),
        st.sampled_from([30, 64, 128, 2048]),
        st.sampled_from(["on", "off"]),
        st.sampled_from([1, 4, 32]),
        st.sampled_from([0, 0.2, 1]),
        st.sampled_from([1, 3, 128]),
    )


SETTINGS = st.fixed_dictionaries(
    {
        "predictor": st.sampled_from(PREDICTORS),
        "kv_blocks": st.sampled_from([None, 15, 30, 60]),
        "max_new_tokens": st.sampled_from([None, 40, 50, 300]),
        "max_concurrency": st.sampled_from([None, None, None, 1, 6]),
    }
)


@settings(max_examples=300)
@given(trace=traces(expire=True), policy=policies(False), how=SETTINGS)
def test_leaping_is_iteration_by_iteration(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    assert_same(*both_ways(trace, policy, profile, how))


@settings(max_examples=150)
@given(trace=traces(exact=True, expire=True), policy=policies(False), how=SETTINGS)
def test_arrivals_at_the_very_end_of_an_iteration(trace: Trace, policy: str, how: dict[str, Any]) -> None:
    assert_same(*both_ways(trace, policy, exact_machine(), how))


@settings(max_examples=300)
@given(trace=traces(expire=True), policy=policies(True), how=SETTINGS, cap=st.sampled_from(["shared", "own"]))
def test_leaping_with_a_decision_in_hand(
    trace: Trace, policy: str, how: dict[str, Any], cap: str, profile: Profile
) -> None:
    assert_same(*both_ways(trace, policy, profile, how | {"cap": cap}))


@settings(max_examples=150)
@given(
    trace=traces(expire=True),
    ask_every=st.sampled_from([1, 3, 20]),
    admission=st.sampled_from(["prompt", "predicted"]),
    places=st.sampled_from([1, 2, 30]),
    how=SETTINGS,
    ask_ms=st.sampled_from([0, 5]),
    is_async=st.sampled_from(["on", "off"]),
)
def test_leaping_where_the_model_is_asked_again(
    trace: Trace,
    ask_every: int,
    admission: str,
    places: int,
    how: dict[str, Any],
    ask_ms: int,
    is_async: str,
    profile: Profile,
) -> None:
    policy = (
        f"continuous:order=shortest-remaining,preempt_until=0.8,ask_every={ask_every},max_num_seqs={places}"
    )
    asked = f"progressive:sigma=1,ask_ms={ask_ms},charge=off"
    assert_same(
        *both_ways(
            trace,
            f"{policy},admission={admission},async_scheduling={is_async}",
            profile,
            how | {"predictor": asked},
        )
    )


def test_who_arrives_within_a_leap_waits_from_its_end_on(profile: Profile) -> None:
    """Not from its beginning: else those that come late starve at once, and go before all others."""
    trace = Trace(
        "made up",
        np.arange(10),
        np.array([78, 84, 16, 111, 32, 74, 69, 20, 100, 109]),
        np.array([265, 8, 87, 118, 267, 282, 243, 138, 2, 48]),
        arrival_s=np.array([0, 0, 0, 0, 0, 0.51, 0.51, 0.51, 0.51, 2]),
        priority=np.array([0, 0, 0, -1, 3, 3, 3, 0, -1, 3]),
        predicted_tokens=np.array([158, 15, 145, 222, 110, 170, 0, 108, 273, 400]),
    )
    policy = "continuous:order=priority,admission=quantile:0.9,preempt_until=0.8,starve_after=5,quantum=1"
    how = {"max_new_tokens": 40, "predictor": "noisy:sigma=1,charge=off", "kv_blocks": 30}
    leaped, stepped = both_ways(trace, policy, profile, how | {"max_concurrency": 6})
    assert_same(leaped, stepped)
    assert leaped.columns["scheduled_s"][8] < leaped.columns["scheduled_s"][6]


@pytest.mark.parametrize("is_async", ["off", "on"])
def test_who_found_no_tokens_left_is_made_way_for_in_the_next_iteration(is_async: str) -> None:
    """Two short prompts come while two others decode: one to the last place, and it takes all the tokens that
    an iteration may have.
    """
    trace = Trace(
        "made up",
        np.arange(4),
        np.array([60, 61, 28, 28]),
        np.array([90, 90, 20, 20]),
        arrival_s=np.array([0, 0, 16, 16]) * TICK_S,
    )
    policy = (
        "continuous:order=shortest-prompt,preempt_until=1,max_num_seqs=3,max_num_batched_tokens=30,"
        f"prefix_caching=off,async_scheduling={is_async}"
    )
    leaped, stepped = both_ways(trace, policy, exact_machine(), {})
    assert_same(leaped, stepped)
    first, second = leaped.columns["scheduled_s"][2:]
    assert second - first == TICK_S
