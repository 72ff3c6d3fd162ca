"""What a trace knows and no policy or router makes use of, or the other way about, is said once."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from sim import compare, plan, simulate
from traces import load
from traces.prompt_blocks import blocks_of_lists
from traces.trace import Trace

ON, OWN, OFF = (f"continuous{option}" for option in (":prefix_caching=on", "", ":prefix_caching=off"))
SAID = "50% of the prompt tokens of t can be found again"
FLEET = {"profile": "h200-vicuna-7b", "replicas": 2}


def some(*, shared: bool = True, user: bool = False) -> Trace:
    """Four requests, of which two begin as another one did for all their length."""
    rows = [[1, 2], [1, 2], [3, 4], [3, 4]] if shared else [[1, 2], [3, 4], [5, 6], [7, 8]]
    return Trace(
        "t",
        np.arange(4),
        np.full(4, 64),
        np.full(4, 8),
        arrival_s=np.arange(4.0),
        blocks=blocks_of_lists(rows, 32, [64] * 4),
        user=np.array(["ann"] * 4, dtype=object) if user else None,
    )


@pytest.mark.parametrize(
    ("policies", "is_said"),
    [(OWN, True), (OFF, False), (ON, False), ("vanilla", False), (f"{OWN};{ON}", False)],
)
def test_what_could_be_found_is_said_where_only_the_default_keeps_it_from_it(
    policies: str, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        compare(some(), policies=policies, **FLEET)
    assert caplog.text.count(SAID) == is_said


def test_nothing_is_said_where_nothing_can_be_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        simulate(some(shared=False), policy=OWN, **FLEET)
    assert not caplog.messages


@pytest.mark.parametrize("router", ["prefix-aware:rule=llm-d", "sticky", "least-requests"])
def test_a_router_that_knows_nothing_of_the_requests_is_named(
    router: str, caplog: pytest.LogCaptureFixture
) -> None:
    bare = Trace("t", np.arange(4), np.full(4, 64), np.full(4, 8))
    with caplog.at_level(logging.INFO, "traces"):
        simulate(bare, policy=OWN, router=router, **FLEET)
    assert [m.split(":")[1] for m in caplog.messages] == (
        [] if router == "least-requests" else [f" router {router.partition(':')[0]}"]
    )


@pytest.mark.parametrize(("router", "replicas"), [("sticky", 2), ("prefix-aware", 2), ("sticky", 1)])
def test_one_that_has_what_it_needs_is_not(
    router: str, replicas: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        simulate(some(user=True), policy=ON, router=router, profile="h200-vicuna-7b", replicas=replicas)
    assert not caplog.messages


@pytest.mark.parametrize(("number", "left_out"), [(10, [2]), (12, [])])
def test_sessions_that_are_cut_at_the_end_are_said(
    number: int, left_out: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        simulate("sessions:users=4,turns=3", num_prompts=number, policy=ON, profile="h200-vicuna-7b")
    assert caplog.messages == [
        f"note: the first {number} requests of sessions:users=4,turns=3 end in the midst of sessions: {n} "
        "that go on from these are left out"
        for n in left_out
    ]


BY_DEADLINE = "continuous:order=deadline;continuous;continuous:order=least-laxity"


def test_orders_by_deadlines_where_nothing_is_due_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bare, nothing = Trace("t", np.arange(4), np.full(4, 64), np.full(4, 8)), np.full(4, np.nan)
    said = "order=deadline and least-laxity: no request of t states a bound on TTFT or E2EL"
    for trace, is_said in (
        (bare, True),
        (replace(bare, ttft_slo_ms=nothing, tpot_slo_ms=np.full(4, 5.0)), True),
        (replace(bare, deadline_s=np.full(4, np.inf)), True),
        (replace(bare, e2el_slo_ms=np.array([9.0, np.nan, np.nan, np.nan])), False),
        (replace(bare, deadline_s=np.array([np.inf, np.inf, 9.0, 9.0])), False),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "traces"):
            compare(trace, policies=BY_DEADLINE, profile="h200-vicuna-7b")
        assert caplog.text.count(said) == is_said and len(caplog.messages) == is_said


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ("continuous:order=vtc;continuous;continuous:order=fair", ["order=vtc", "order=fair"]),
        ("continuous:order=priority", ["order=priority"]),
    ],
)
def test_what_tells_no_request_apart_is_named(
    policies: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        compare(Trace("t", np.arange(4), np.full(4, 64), np.full(4, 8)), policies=policies, **FLEET)
        assert [message.split(":")[1].strip() for message in caplog.messages] == said
        caplog.clear()
        known = replace(some(user=True), priority=np.arange(4))
        compare(known, policies=f"{policies};{ON}", **FLEET)
    assert not caplog.messages


def test_a_plan_says_it_in_its_notes() -> None:
    asked = {"slo": "ttft_p99:20000", "num_requests": 20, "max_requests": 40, "num_seeds": 3, "max_seeds": 3}
    made = plan(some(), request_rate=1.0, profiles="h200-vicuna-7b", router="sticky", **asked)
    assert any(note.startswith(SAID) for note in made.notes)
    assert any(note.startswith("router sticky: t does not say") for note in made.notes)
    policy = "continuous:order=deadline"
    made = plan(some(), request_rate=1.0, profiles="h200-vicuna-7b", policies=policy, **asked)
    assert any(note.startswith("order=deadline: no request of t states") for note in made.notes)


def test_a_plan_says_it_of_a_policy_that_needs_slower_memory() -> None:
    asked = {"slo": "ttft_p99:20000", "num_requests": 20, "max_requests": 40, "num_seeds": 3, "max_seeds": 3}
    swaps = "continuous:prefix_caching=on,waits=swap"
    machine = {"profiles": "h200-vicuna-7b", "kv_tier": "cpu:64GiB@50GB/s"}
    made = plan(some(), request_rate=1.0, policies=swaps, **machine, **asked)
    assert any(note.startswith("waits=swap: t has no turns that wait") for note in made.notes)


WAITING = "continuous:prefix_caching=on,waits=preserve"


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("fixed", "has no turns that wait for others of their session"),
        ("sessions:turns=1", "has no turns that wait for others of their session"),
        ("sessions:turns=3", None),
    ],
)
def test_memory_that_is_kept_for_no_turn_is_said(
    trace: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "traces"):
        simulate(trace, num_prompts=6, policy=WAITING, profile="h200-vicuna-7b")
    assert [each for each in caplog.messages if "waits=" in each] == (
        []
        if said is None
        else [
            f"note: waits=preserve: {trace} {said} "
            "(session_id, waits_for), so that no memory is kept between turns"
        ]
    )


def test_sessions_of_which_nobody_knows_how_prompts_begin_keep_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bare = replace(load("sessions:turns=3", num_prompts=6), blocks=None)
    with caplog.at_level(logging.INFO, "traces"):
        compare(bare, policies=f"{OWN};{WAITING}", profile="h200-vicuna-7b")
    assert "does not say which prompts begin alike (hash_ids, prefix_id), so that no memory" in caplog.text
