"""vLLM's rules one by one, in worlds small enough to read: one iteration a line, decided on a desk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.request import Request
from sim.work import Drop
from tests.sim.schedulers.desk import Desk, Line, Pool, chunks
from traces.errors import InputError
from traces.trace import Trace

Requests = Callable[..., list[Request]]


# Budgets


def test_a_prompt_yields_a_token_and_decodes_from_then_on(requests: Requests) -> None:
    assert Desk(requests([None], prompt_tokens=10), [3]).run() == [
        Line([], [(0, 10)], []),
        Line([], [], [0]),
        Line([], [], [0]),
    ]


def test_running_requests_first_then_the_queue(requests: Requests) -> None:
    """Two decode, the rest of the first long prompt goes on, and only what is left is for the next."""
    asked = requests([None] * 4, prompt_tokens=[5, 5, 50, 20])
    lines = Desk(asked, [9, 9, 2, 2], max_num_seqs=4, max_num_batched_tokens=32).run()
    assert lines[:4] == [
        Line([], [(0, 5), (1, 5), (2, 22)], []),
        Line([], [(2, 28), (3, 2)], [0, 1]),
        Line([], [(3, 18)], [0, 1, 2]),
        Line([], [], [0, 1, 3]),
    ]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(64, [[(0, 64)], [(0, 36), (1, 28)], [(1, 2)]]), (200, [[(0, 100), (1, 30)]])],
)
def test_the_token_budget_cuts_prompts(
    tokens: int, expected: list[list[tuple[int, int]]], requests: Requests
) -> None:
    asked = requests([None, None], prompt_tokens=[100, 30])
    lines = Desk(asked, [1, 1], max_num_seqs=8, max_num_batched_tokens=tokens).run()
    assert chunks(lines) == expected


def test_without_chunks_a_prompt_waits_until_it_fits_whole(requests: Requests) -> None:
    asked = requests([None] * 3, prompt_tokens=[40, 40, 10], max_new_tokens=20)
    options = {"max_num_seqs": 8, "max_num_batched_tokens": 64}
    assert chunks(Desk(asked, [3, 3, 3], chunked=True, **options).run())[:2] == [
        [(0, 40), (1, 24)],
        [(1, 16), (2, 10)],
    ]
    # The third could go with the first, but nobody overtakes the second.
    assert chunks(Desk(asked, [3, 3, 3], chunked=False, **options).run())[:2] == [
        [(0, 40)],
        [(1, 40), (2, 10)],
    ]


def test_without_chunks_what_one_iteration_cannot_hold_is_rejected(requests: Requests) -> None:
    asked = requests([None] * 2, prompt_tokens=[40, 45], max_new_tokens=20)
    desk = Desk(asked, [3, 3], max_num_seqs=8, max_num_batched_tokens=60, chunked=False)
    desk.run()
    assert desk.finished == [0]
    assert desk.dropped == {
        1: "rejected: prompt + max_new_tokens (65) exceeds max_num_batched_tokens (60), chunked=off"
    }


def test_no_more_run_than_max_num_seqs(requests: Requests) -> None:
    lines = Desk(requests([None] * 5), [4, 2, 2, 2, 2], max_num_seqs=2).run()
    assert chunks(lines) == [[(0, 10), (1, 10)], [], [(2, 10)], [], [(3, 10), (4, 10)], []]


# Memory


@pytest.mark.parametrize(("prompt", "used"), [(15, [1, 1, 2]), (16, [1, 2, 2]), (17, [2, 2, 2])])
def test_a_block_holds_16_tokens(prompt: int, used: list[int], requests: Requests) -> None:
    """The token that an iteration yields takes its place in memory in the next."""
    desk = Desk(requests([None], prompt_tokens=prompt), [4], blocks=40)
    held = []
    for _ in range(3):
        desk.step()
        held.append(desk.blocks - desk.scheduler.kv.free)
    assert held == used


def test_the_lowest_ranked_makes_room_and_recomputes_what_it_had(requests: Requests) -> None:
    """Two prompts fill both blocks; after a token each, only the first can go on. It is alone until it is
    done.
    """
    asked = requests([None, None], prompt_tokens=16, max_new_tokens=16)
    desk = Desk(asked, [3, 3], blocks=2)
    assert desk.run() == [
        Line([], [(0, 16), (1, 16)], []),
        Line([1], [], [0]),
        Line([], [], [0]),
        Line([], [(1, 17)], []),
        Line([], [], [1]),
    ]
    assert desk.generated == {0: 3, 1: 3}


def test_no_more_leave_than_must(requests: Requests) -> None:
    asked = requests([None] * 4, prompt_tokens=16, max_new_tokens=32)
    lines = Desk(asked, [20] * 4, blocks=6).run()
    # Four need a block each and two are free: the fourth leaves, which makes three for three.
    assert lines[1] == Line([3], [], [0, 1, 2])


def test_a_prompt_in_the_middle_can_be_evicted_and_begins_anew(requests: Requests) -> None:
    """Five blocks: in its fifth iteration the long prompt wants a fourth, and request 0 has two by then."""
    asked = requests([None, None], prompt_tokens=[15, 64], max_new_tokens=16)
    small = {"blocks": 5, "max_num_seqs": 4, "max_num_batched_tokens": 16, "admission": "chunk"}
    lines = Desk(asked, [10, 2], prefix_caching="off", **small).run()
    assert lines[:6] == [
        Line([], [(0, 15), (1, 1)], []),
        Line([], [(1, 15)], [0]),
        Line([], [(1, 15)], [0]),
        Line([], [(1, 15)], [0]),
        Line([1], [], [0]),
        Line([], [(1, 15)], [0]),
    ]


def test_what_memory_still_holds_of_an_evicted_request_is_used_again(requests: Requests) -> None:
    """Evicted with two full blocks, and back before anybody takes one: 32 tokens need no second look."""
    asked = requests([None, None], prompt_tokens=[16, 40], max_new_tokens=16)
    small = {"blocks": 4, "max_num_seqs": 2, "max_num_batched_tokens": 64}
    with_cache, without = Desk(asked, [2, 10], **small), Desk(asked, [2, 10], prefix_caching="off", **small)
    lines = with_cache.run()
    assert lines[:3] == [Line([], [(0, 16), (1, 40)], []), Line([1], [], [0]), Line([], [(1, 9)], [])]
    assert without.run()[2] == Line([], [(1, 41)], [])
    assert with_cache.finished == without.finished == [0, 1]


def test_nobody_is_admitted_in_an_iteration_with_an_eviction(requests: Requests) -> None:
    """Request 3 is first in line and would fit beside the two that stay; it comes in an iteration later."""
    asked = requests(
        [None] * 4,
        prompt_tokens=[16, 16, 48, 1],
        arrival_s=[0, 0, 0, 1],
        priority=[0, 0, 0, -1],
        max_new_tokens=20,
    )
    lines = Desk(asked, [9, 9, 9, 9], blocks=5, order="priority").run()
    assert lines[1:3] == [Line([2], [], [0, 1]), Line([], [(3, 1)], [0, 1])]


def test_the_evicted_is_the_first_to_come_back(requests: Requests) -> None:
    asked = requests([None] * 3, prompt_tokens=16, max_new_tokens=16, arrival_s=[0, 0, 0.5])
    lines = Desk(asked, [3, 3, 3], blocks=2).run()
    assert [line.chunks for line in lines if line.chunks] == [
        [(0, 16), (1, 16)],
        [(1, 17)],
        [(2, 16)],
    ]


@pytest.mark.parametrize(
    ("order", "evicted"), [("fcfs", 2), ("shortest-predicted", 0), ("priority", 1), ("fair", 2)]
)
def test_the_discipline_says_who_leaves(order: str, evicted: int, requests: Requests) -> None:
    asked = requests([30, 20, 10], prompt_tokens=16, priority=[1, 2, 0], max_new_tokens=48)
    lines = Desk(asked, [30, 20, 10], blocks=5, order=order).run()
    assert lines[1].evicted == [evicted]


# Ends


def test_what_can_never_be_held_is_rejected(requests: Requests) -> None:
    asked = requests([None] * 2, prompt_tokens=[60, 64], max_new_tokens=20)
    desk = Desk(asked, [20, 20], blocks=5)
    desk.run()
    assert desk.finished == [0]
    assert desk.dropped == {1: "rejected: prompt + max_new_tokens (84) exceeds the KV capacity (80)"}


def test_a_deadline_ends_waiting_but_not_running_nor_the_evicted(requests: Requests) -> None:
    asked = requests([None] * 3, prompt_tokens=16, deadline_s=[0.5, 0.5, 3.0], max_new_tokens=16)
    desk = Desk(asked, [8, 8, 8], blocks=2, max_num_seqs=2)
    lines = desk.run()
    assert lines[1].evicted == [1]
    assert desk.finished == [0, 1]
    assert desk.dropped == {2: "expired: its deadline passed while it waited"}


@settings(max_examples=100)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=15),
    steps=st.integers(0, 60),
    order=st.sampled_from(["fcfs", "shortest-predicted", "priority", "fair"]),
    blocks=st.sampled_from([6, 9, 40]),
    between=st.booleans(),
)
def test_drained_at_any_moment_it_gives_every_request_back_once(
    shapes: list[tuple[int, int]], steps: int, order: str, blocks: int, between: bool, requests: Requests
) -> None:
    n = len(shapes)
    lengths = [out for _, out in shapes]
    asked = requests(
        [None] * n,
        prompt_tokens=[p for p, _ in shapes],
        arrival_s=[float(i) for i in range(n)],
        max_new_tokens=60,
    )
    desk = Desk(asked, lengths, blocks=blocks, order=order, max_num_seqs=5, max_num_batched_tokens=40)
    for _ in range(steps):
        if not desk.step():
            break
    if between:  # work in flight is not recorded
        work = desk.scheduler.next_work(desk.now)
        if isinstance(work, Drop):
            desk.dropped |= {r.id: work.reason for r in work.requests}
    left = [r.id for r in desk.scheduler.drain(desk.now)]
    assert sorted([*left, *desk.finished, *desk.dropped, *(r.id for r in desk.pending)]) == list(range(n))
    assert desk.scheduler.kv.free == blocks
    assert desk.scheduler.next_work(desk.now) is None
    # It is as good as new.
    again = [r for r in asked if r.id in left]
    desk.tokens, desk.generated, desk.pending, desk.pool = {}, {}, again, Pool(blocks)
    desk.run()
    assert sorted(desk.finished + list(desk.dropped)) == sorted(
        r.id for r in asked if r.id in left or r.id in desk.finished or r.id in desk.dropped
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("max_num_seqs=0", "max_num_seqs: 0 must be at least 1"),
        ("max_num_batched_tokens=0", "max_num_batched_tokens: 0 must be at least 1"),
        ("perceive_batch=0", "perceive_batch: 0 must be at least 1"),
        ("max_num_batched_tokens=255", "max_num_batched_tokens: 255 must be at least max_num_seqs \\(256\\)"),
        ("aging_s=-1", "aging_s: -1.0 must be at least 0"),
        ("aging_s=nan", "aging_s"),
        ("margin=-0.5", "margin: -0.5 must be at least 0"),
        ("order=lifo", "lifo"),
        ("admission=all", "all"),
        ("chunked=maybe", "maybe"),
        ("blocks=3", "blocks"),
        ("rules=tgi", "rules: 'tgi' must be one of vllm, sglang, trtllm"),
        ("mixed_chunk=on", "mixed_chunk: an option of rules=sglang, not of rules=vllm"),
        ("rules=trtllm,admission=chunk", "admission: an option of rules=vllm, not of rules=trtllm"),
        ("rules=sglang,chunked_prefill_size=0", "chunked_prefill_size: 0 must be at least 1"),
        ("rules=sglang,chunked_prefill_size=40", "40 must be a multiple of the block size \\(16\\)"),
        ("rules=sglang,schedule_conservativeness=-1", "schedule_conservativeness: -1.0 must be at least 0"),
        ("rules=trtllm,batch_wait_timeout_iters=-1", "batch_wait_timeout_iters: -1 must be at least 0"),
        ("rules=trtllm,batch_wait_max_tokens_ratio=2", "ratio: 2.0 must be between 0 and 1"),
        ("rules=trtllm,max_num_seqs=8,max_num_batched_tokens=8", "8 must be at least a block \\(16\\)"),
    ],
)
def test_bad_options_are_refused_by_name_and_bound(options: str, message: str, profile: Any) -> None:
    trace = Trace("one", np.arange(1), np.array([1]), np.array([1]))
    with pytest.raises(InputError, match=message):
        simulate(trace, policy=f"continuous:{options}", profile=profile)


# Always


@settings(max_examples=150)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 50), st.integers(0, 30), st.integers(0, 60)),
        min_size=1,
        max_size=20,
    ),
    order=st.sampled_from(["fcfs", "shortest-predicted", "shortest-remaining", "priority", "fair"]),
    admission=st.sampled_from(["chunk", "prompt", "predicted"]),
    chunked=st.booleans(),
    blocks=st.sampled_from([9, 12, 30]),
    batch=st.sampled_from([(1, 200), (3, 40), (8, 64), (20, 200)]),
)
def test_rules_and_memory_hold_in_any_world(
    shapes: list[tuple[int, int, int, int]],
    order: str,
    admission: str,
    chunked: bool,
    blocks: int,
    batch: tuple[int, int],
    requests: Requests,
) -> None:
    """The desk asserts budgets, places, blocks and chunks in every iteration; here, that everybody ends."""
    asked = requests(
        [predicted for *_, predicted in shapes],
        prompt_tokens=[prompt for prompt, *_ in shapes],
        arrival_s=[float(arrival) for _, _, arrival, _ in shapes],
        max_new_tokens=50,
    )
    desk = Desk(
        asked,
        [out for _, out, _, _ in shapes],
        blocks=blocks,
        order=order,
        admission=admission,
        chunked=chunked,
        max_num_seqs=batch[0],
        max_num_batched_tokens=batch[1],
    )
    desk.run()
    assert sorted([*desk.finished, *desk.dropped]) == list(range(len(shapes)))
    assert all(reason.startswith("rejected") for reason in desk.dropped.values())
    assert 0 <= desk.scheduler.kv_peak_tokens <= 16 * blocks
