"""vLLM's rules one by one, in worlds small enough to read: one iteration a line, decided on a desk."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.kv_blocks import blocks_for
from sim.request import Request
from sim.schedulers import ContinuousScheduler
from sim.work import Drop, Iterations, Limits, Outcome, Perceive, Prediction
from traces.errors import InputError
from traces.trace import Trace

Requests = Callable[..., list[Request]]


class Line(NamedTuple):
    """One iteration: who left the memory, which chunks were computed, who got another token."""

    evicted: list[int]
    chunks: list[tuple[int, int]]
    decoding: list[int]


class Pool:
    """Real blocks: a queue of free ones, whose content lasts until they are taken from its head."""

    def __init__(self, blocks: int) -> None:
        self.free = deque(range(blocks))
        self.content: dict[int, tuple[int, int]] = {}  # full block -> whose, which of his
        self.table: dict[int, list[int]] = {}

    def hold(self, i: int, tokens: int) -> None:
        """The request has so many tokens now."""
        table = self.table.setdefault(i, [])
        while len(table) < blocks_for(tokens, 16):
            self.content.pop(self.free[0], None)
            table.append(self.free.popleft())

    def release(self, i: int, tokens: int) -> None:
        """It leaves: full blocks keep their content and are taken last, beginning with its last one."""
        table, num_full = self.table.pop(i), tokens // 16
        self.content |= {table[k]: (i, k) for k in range(num_full)}
        self.free.extend(reversed(table[:num_full]))
        self.free.extendleft(table[num_full:])

    def reuse(self, i: int) -> int:
        """It is back: its blocks from the first on, as far as they are still there."""
        there = {self.content[b][1]: b for b in self.free if self.content.get(b, (None, 0))[0] == i}
        table = []
        while len(table) in there:
            table.append(there[len(table)])
            self.free.remove(table[-1])
        self.table[i] = table
        return len(table)


class Desk:
    """Carries out a scheduler's work, an iteration a second, and keeps an account of the memory of its own.

    `lengths` maps ids to true lengths; `answers` to what a Perceive answers, the true length where it is not
    there. `blocks`: those that requests can hold.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        lengths: Sequence[int],
        answers: Mapping[int, Prediction] | None = None,
        *,
        blocks: int = 10_000,
        perception_tokens: int = 0,
        **options: Any,
    ) -> None:
        limits = Limits(16 * (blocks + 1), perception_tokens=perception_tokens)
        self.scheduler, self.blocks = ContinuousScheduler(limits, **options), blocks
        self.pending = sorted(requests, key=lambda r: r.arrival_s)
        self.requests = {request.id: request for request in requests}
        self.lengths, self.answers = lengths, dict(answers or {})
        self.now = 0.0
        self.tokens: dict[int, int] = {}  # id -> tokens in memory
        self.pool = Pool(blocks)
        self.generated: dict[int, int] = {}  # id -> tokens generated
        self.begun: set[int] = set()  # ids that ever had a chunk
        self.lines: list[Line] = []
        self.asked: list[list[int]] = []
        self.dropped: dict[int, str] = {}
        self.finished: list[int] = []

    def step(self) -> bool:
        """One Work, or a wait for the next arrival; False where nothing is left."""
        scheduler = self.scheduler
        while self.pending and self.pending[0].arrival_s <= self.now:
            scheduler.submit(self.pending.pop(0), self.now)
        work = scheduler.next_work(self.now)
        outcome = Outcome()
        if work is None:
            if not self.pending:
                return False
            self.now = self.pending[0].arrival_s
            return True
        if isinstance(work, Perceive):
            self.asked.append([r.id for r in work.requests])
            answers = [self.answers.get(r.id, Prediction(self.lengths[r.id])) for r in work.requests]
            outcome, self.now = Outcome(predictions=answers), self.now + 1
        elif isinstance(work, Drop):
            self.dropped |= {r.id: work.reason for r in work.requests}
        else:
            assert isinstance(work, Iterations)
            outcome, self.now = self.iterate(work), self.now + 1
        scheduler.record(work, outcome, self.now)
        assert scheduler.kv.free == len(self.pool.free)
        assert sum(scheduler.kv.takers) == len(scheduler.kv.births)
        assert scheduler.kv.free == self.blocks - sum(blocks_for(n, 16) for n in self.tokens.values())
        return True

    def iterate(self, work: Iterations) -> Outcome:
        o = self.scheduler.options
        before = {i: n for i, n in self.tokens.items() if i not in {r.id for r in work.evict}}
        requests = {c.request.id: c.request for c in work.chunks}
        self.begun |= requests.keys()
        incomplete = self.scheduler.kv.partial
        paused = {request.id for request in work.pause}
        assert paused <= before.keys() - incomplete.keys() - requests.keys()
        assert not paused or (work.evict and work.at_most == 1)
        decoding = [i for i in before if i not in requests and i not in incomplete and i not in paused]
        if work.evict:
            self.make_room(work.evict)
        for i in decoding:
            self.tokens[i] += 1
            self.pool.hold(i, self.tokens[i])
        for chunk in work.chunks:
            i = chunk.request.id
            if o.prefix_caching != "off" and i not in self.tokens:
                assert chunk.cached == 16 * self.pool.reuse(i)
            done = self.tokens.get(i, 0) + chunk.cached + chunk.num_tokens
            self.pool.hold(i, done)
            assert chunk.last == (done == chunk.request.prompt_tokens + self.generated.get(i, 0))
            self.tokens[i] = done
        assert work.at_most >= 1
        assert work.chunks or decoding
        assert len(decoding) + sum(c.num_tokens for c in work.chunks) <= o.max_num_batched_tokens
        assert len(self.tokens) <= o.max_num_seqs
        assert sum(blocks_for(n, 16) for n in self.tokens.values()) <= self.blocks
        # Where nobody could go on, others may have been let in beside those that are left.
        assert not paused or set(requests) <= set(before)
        if not work.evict and len(self.tokens) < o.max_num_seqs:
            budget = o.max_num_batched_tokens - len(decoding) - sum(c.num_tokens for c in work.chunks)
            self.assert_first_in_queue_has_no_room(budget)
        self.lines.append(
            Line([r.id for r in work.evict], [(c.request.id, c.num_tokens) for c in work.chunks], decoding)
        )
        came = [c.request.id for c in work.chunks if c.last]
        known = {i: request for i, (_, _, request) in self.scheduler.running.items()}
        finished = []
        for i in [*decoding, *came]:
            self.generated[i] = self.generated.get(i, 0) + 1
            if self.generated[i] == self.lengths[i]:
                finished.append(known[i])
                self.pool.release(i, self.tokens.pop(i))
        self.finished += [r.id for r in finished]
        return Outcome(1, finished)

    def make_room(self, evicted: Sequence[Request]) -> None:
        """Who is evicted leaves when somebody finds no block, in the order of those that run: what went on
        before has its blocks by then, also where it is one that leaves.
        """
        leaving = deque(request.id for request in evicted)
        while leaving:
            self.go_on_until_short(leaving)

    def go_on_until_short(self, leaving: deque[int]) -> None:
        budget, given = self.scheduler.max_num_batched_tokens, dict[int, int]()
        for i in list(self.tokens):
            if i not in self.tokens:
                continue
            length = self.requests[i].prompt_tokens + self.generated.get(i, 0)
            num_tokens = min(length - self.tokens[i], budget)
            need = blocks_for(self.tokens[i] + num_tokens, 16) - len(self.pool.table[i])
            while need > len(self.pool.free):
                gone = leaving.popleft()
                returned = given.pop(gone, 0)
                budget += returned
                self.pool.release(gone, self.tokens.pop(gone) + returned)
                if gone == i:
                    return
            given[i] = num_tokens
            budget -= num_tokens
            self.pool.hold(i, self.tokens[i] + num_tokens)
        assert not leaving, "more were evicted than had to be"

    def assert_first_in_queue_has_no_room(self, budget: int) -> None:
        """What an eviction left in memory, and what was predicted, is left out of account."""
        o, scheduler = self.scheduler.options, self.scheduler
        waiting = [
            request for *_, request in sorted(scheduler.waiting) if request.id not in scheduler.withdrawn
        ]
        if not waiting or waiting[0].id in self.begun or o.admission == "predicted" or not budget:
            return
        length = waiting[0].prompt_tokens
        at_once = min(length, budget) if o.chunked else length
        needed = length if o.admission == "prompt" else at_once
        free = self.blocks - sum(blocks_for(n, 16) for n in self.tokens.values())
        assert at_once > budget or blocks_for(needed, 16) > free

    def run(self, most_steps: int = 20_000) -> list[Line]:
        for _ in range(most_steps):
            if not self.step():
                assert self.scheduler.kv.free == self.blocks
                return self.lines
        raise AssertionError(f"still at work after {most_steps} steps")


def chunks(lines: Sequence[Line]) -> list[list[tuple[int, int]]]:
    return [line.chunks for line in lines]


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


# Admission


def test_admission_by_the_first_chunk_by_the_prompt_and_by_what_is_predicted(requests: Requests) -> None:
    """The first holds nine blocks and will hold 13; the second has a first chunk of three blocks, a prompt of
    eight, and will hold nine, when the first holds ten: together 19, and one each for what is not full.
    """
    asked = requests([80, 16], prompt_tokens=128, arrival_s=[0, 4.5], max_new_tokens=80)

    def admitted(admission: str, blocks: int) -> int:
        options = {"max_num_seqs": 4, "max_num_batched_tokens": 40}
        lines = Desk(asked, [80, 16], blocks=blocks, admission=admission, **options).run()
        return next(k for k, line in enumerate(lines) if any(i == 1 for i, _ in line.chunks))

    assert [admitted("chunk", blocks) for blocks in (13, 16, 17, 22)] == [5, 5, 5, 5]
    assert [admitted("prompt", blocks) for blocks in (13, 16, 17, 22)] == [83, 83, 5, 5]
    assert [admitted("predicted", blocks) for blocks in (13, 18, 21, 22)] == [83, 83, 5, 5]


@settings(max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20),
    order=st.sampled_from(["fcfs", "shortest-predicted", "shortest-remaining", "fair"]),
    blocks=st.sampled_from([8, 12, 20]),
)
def test_with_true_predictions_nobody_is_ever_evicted(
    shapes: list[tuple[int, int]], order: str, blocks: int, requests: Requests
) -> None:
    lengths = [n for _, n in shapes]
    asked = requests(lengths, prompt_tokens=[p for p, _ in shapes], max_new_tokens=60)
    desk = Desk(asked, lengths, blocks=blocks, admission="predicted", order=order)
    assert not any(line.evicted for line in desk.run())
    assert sorted(desk.finished) == list(range(len(shapes)))


def test_what_outlives_its_prediction_counts_with_what_it_holds(requests: Requests) -> None:
    """Told 4, the first answers 80: when it holds six blocks of seven, there is no room for two more."""
    asked = requests([4, 4], prompt_tokens=[16, 16], arrival_s=[0, 70.0], max_new_tokens=80)
    desk = Desk(asked, [80, 4], blocks=7, admission="predicted")
    lines = desk.run()
    assert desk.finished == [0, 1]
    assert not any(line.evicted for line in lines)
    assert lines[80].chunks == [(1, 16)]
    early = requests([4, 4], prompt_tokens=[16, 16], arrival_s=[0, 30.0], max_new_tokens=80)
    desk = Desk(early, [80, 4], blocks=7, admission="predicted")
    assert desk.run()[30].chunks == [(1, 16)]


@pytest.mark.parametrize(("margin", "second"), [(0, 1), (32, 50), (0.9, 50)])
def test_a_margin_is_planned_for(margin: float, second: int, requests: Requests) -> None:
    """Seven blocks: two of 16 + 32 tokens fit, two of 16 + 64 do not."""
    asked = requests([32, 32], prompt_tokens=16, arrival_s=[0, 0.5], upper=[64, 64], max_new_tokens=80)
    lines = Desk(asked, [50, 5], blocks=7, admission="predicted", margin=margin).run()
    assert next(k for k, line in enumerate(lines) if (1, 16) in line.chunks) == second


# Perception


def test_lengths_are_asked_only_where_they_matter(requests: Requests) -> None:
    for options, asked in (
        ({}, []),
        ({"order": "fair"}, []),
        ({"order": "priority", "admission": "prompt"}, []),
        ({"order": "shortest-predicted"}, [[0, 1, 2]]),
        ({"order": "shortest-remaining", "perceive_batch": 2}, [[0, 1], [2]]),
        ({"admission": "predicted"}, [[0, 1, 2]]),
    ):
        desk = Desk(requests([None] * 3), [5, 4, 3], perception_tokens=44, **options)
        desk.run()
        assert desk.asked == asked
        assert sorted(desk.finished) == [0, 1, 2]
        known = Desk(requests([5, 4, 3]), [5, 4, 3], perception_tokens=44, **options)
        known.run()
        assert known.asked == []


def test_a_question_needs_room_beside_what_runs(requests: Requests) -> None:
    """Eight blocks: the first request holds five, the question about the second needs four."""
    asked = requests([20, None], prompt_tokens=[80, 16], arrival_s=[0, 0.5], max_new_tokens=20)
    desk = Desk(asked, [20, 20], blocks=8, perception_tokens=44, order="shortest-predicted")
    desk.run()
    assert desk.asked == [[1]]
    assert [k for k, line in enumerate(desk.lines) if (1, 16) in line.chunks] == [20]


def test_a_question_that_can_never_fit_is_rejected(requests: Requests) -> None:
    desk = Desk(
        requests([None], prompt_tokens=20, max_new_tokens=10),
        [5],
        blocks=3,
        perception_tokens=44,
        order="shortest-predicted",
    )
    desk.run()
    assert desk.dropped == {0: "rejected: prompt + question (64) exceeds the KV capacity (48)"}


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


# A real vLLM

STEPS, RUN = "rtx4090-llama-3.1-8b-steps.csv", "rtx4090-llama-3.1-8b-vllm.csv"
DATA = Path(os.environ.get("SEQSCHED_DATA", "/nowhere"))


@pytest.mark.skipif(
    not ((DATA / STEPS).exists() and (DATA / RUN).exists()),
    reason=f"SEQSCHED_DATA names no folder with {STEPS} and {RUN}",
)
def test_a_measured_vllm_run_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its step times and settings alone; nothing is fitted to the run."""
    import pandas as pd

    from sim.hardware import regime_fit
    from sim.hardware.fitting import fit, read_steps

    monkeypatch.setattr(regime_fit, "NUM_FOLDS", 2)  # the terms come out the same, in a fifth of the time

    measured = pd.read_csv(DATA / RUN)
    n = len(measured)
    trace = Trace(
        "measured",
        np.arange(n),
        measured.prompt_tokens.to_numpy(),
        measured.output_tokens.to_numpy(),
        arrival_s=measured.arrival_s.to_numpy(),
    )
    machine, _ = fit(read_steps(DATA / STEPS), "rtx4090", date="2026-01-01")
    policy = "continuous:max_num_seqs=256,max_num_batched_tokens=2048"
    s = simulate(trace, policy=policy, profile=machine, kv_blocks=2588).summary
    end = (measured.arrival_s + measured.e2el_ms / 1e3).max() - measured.arrival_s.min()
    assert s["completed"] == n
    assert s["output_throughput"] == pytest.approx(measured.output_tokens.sum() / end, rel=0.05)
    for name, tolerance in (("tpot", 0.06), ("ttft", 0.10), ("e2el", 0.07)):
        column = measured[f"{name}_ms"]
        assert s[f"mean_{name}_ms"] == pytest.approx(column.mean(), rel=tolerance), name
        assert s[f"p99_{name}_ms"] == pytest.approx(np.percentile(column, 99), rel=0.10), name
    assert s["preemptions"] > 0
    assert math.isclose(s["kv_peak_fraction"], 1.0, abs_tol=0.01)
