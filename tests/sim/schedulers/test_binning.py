"""Bins, batch sizes and limits, clause by clause, and against a second implementation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.kv_blocks import padded_tokens, split_to_fit
from sim.request import Request
from sim.schedulers import SequenceScheduler
from sim.schedulers.binning import (
    Batch,
    batches_by_bin,
    batches_of_least_time,
    bin_edge,
    capped,
    expected_tokens,
    fitted,
    memory_size,
    table_size,
)
from sim.work import Limits

Requests = Callable[..., list[Request]]
Plan = list[tuple[list[int], int]]

TABLE = {50: 256, 100: 128, 150: 64, 200: 32}


def published_size(edge: int) -> int:
    return TABLE.get(edge, 16)


def second_opinion(predicted: Sequence[int], fcr: bool, max_new_tokens: int) -> Plan:
    """The published rules written down once more, without looking at the first time."""
    edges = sorted({max(50, math.ceil(p / 50) * 50) for p in predicted})
    ranked = sorted(range(len(predicted)), key=lambda i: (predicted[i], i))
    waiting = {e: [i for i in ranked if max(50, math.ceil(predicted[i] / 50) * 50) == e] for e in edges}
    plan: Plan = []
    for edge, longer in zip(edges, [*edges[1:], None], strict=True):
        size, left = published_size(edge), waiting[edge]
        while len(left) >= size:
            plan.append((left[:size], edge))
            left = left[size:]
        if not left:
            continue
        if len(left) < max(size / 2, 16) and longer is not None:
            waiting[longer] = waiting[longer] + left
        else:
            plan.append((left, edge))
    return [(rows, min(edge, max_new_tokens) if fcr else max_new_tokens) for rows, edge in plan]


@pytest.fixture
def plan(limits: Limits, requests: Requests, run_scheduler: Callable[..., Any]) -> Callable[..., Plan]:
    """(predictions, **options) -> the batches of their group when every answer is as short as can be."""

    def plan(predicted: Sequence[int], kv_tokens: int = 1_000_000, **options: Any) -> Plan:
        prompts = options.pop("prompt_tokens", 10)
        asked = requests(predicted, max_new_tokens=options.pop("max_new_tokens", 512), prompt_tokens=prompts)
        scheduler = SequenceScheduler(Limits(kv_tokens), **{"group_size": 1000, **options})
        batches: Plan = run_scheduler(scheduler, asked, dict.fromkeys(range(len(predicted)), 1)).batches
        return batches

    return plan


@pytest.mark.parametrize(
    ("predicted", "edge"), [(0, 50), (1, 50), (49, 50), (50, 50), (51, 100), (100, 100), (512, 550)]
)
def test_a_bin_edge_is_the_smallest_multiple_of_50_not_below_the_prediction(
    predicted: int, edge: int
) -> None:
    assert bin_edge(predicted, 50) == edge


@given(st.integers(1, 10**7), st.integers(1, 1000))
def test_bin_edge_in_general(tokens: int, width: int) -> None:
    edge = bin_edge(tokens, width)
    assert edge % width == 0
    assert edge - width < tokens <= edge


@pytest.mark.parametrize(
    ("edge", "size"), [(50, 256), (100, 128), (150, 64), (200, 32), (250, 16), (300, 16), (10_000, 16)]
)
def test_the_published_batch_sizes(edge: int, size: int, plan: Callable[..., Plan]) -> None:
    assert table_size(16)(edge, []) == size
    batches = plan([edge] * 600, max_new_tokens=20_000, kv_tokens=10**9)
    assert [len(rows) for rows, _ in batches[: 600 // size]] == [size] * (600 // size)


@pytest.mark.parametrize(
    ("width", "edge", "size"), [(25, 25, 256), (25, 75, 128), (20, 160, 32), (30, 210, 16)]
)
def test_the_table_with_other_bins_is_read_by_length(width: int, edge: int, size: int) -> None:
    # A bin that lies within a published one has its batch size: 50 -> 256 means "up to 50".
    assert bin_edge(edge, width) == edge
    assert table_size(16)(edge, []) == size


def test_a_small_remainder_joins_the_next_longer_bin_behind_its_own(plan: Callable[..., Plan]) -> None:
    short, longer = [50] * 300, [100] * 100
    assert plan(short + longer) == [
        (list(range(256)), 50),
        ([*range(300, 400), *range(256, 300)][:128], 100),
        ([*range(300, 400), *range(256, 300)][128:], 100),
    ]


def test_the_next_longer_bin_is_the_next_that_is_not_empty(plan: Callable[..., Plan]) -> None:
    assert plan([30] * 3 + [430] * 20) == [([*range(3, 19)], 450), ([19, 20, 21, 22, 0, 1, 2], 450)]


def test_what_joined_may_move_on_again(plan: Callable[..., Plan]) -> None:
    assert plan([10, 60, 110, 160, 210]) == [([4, 3, 2, 1, 0], 250)]


@pytest.mark.parametrize(("rows", "stays"), [(127, False), (128, True)])
def test_half_a_batch_may_leave(rows: int, stays: bool, plan: Callable[..., Plan]) -> None:
    batches = plan([50] * rows + [500] * 16)
    assert batches[0] == ((list(range(rows)), 50) if stays else (list(range(rows, rows + 16)), 500))


@pytest.mark.parametrize(("rows", "stays"), [(15, False), (16, True)])
def test_no_fewer_than_16_leave_where_half_a_batch_is_less(
    rows: int, stays: bool, plan: Callable[..., Plan]
) -> None:
    batches = plan([200] * rows + [500] * 16)
    assert batches[0] == ((list(range(rows)), 200) if stays else (list(range(rows, rows + 16)), 500))


def test_a_full_batch_below_16_is_no_remainder(plan: Callable[..., Plan]) -> None:
    assert plan([250] * 4 + [300] * 4, batch_size=4) == [([0, 1, 2, 3], 250), ([4, 5, 6, 7], 300)]


def test_the_last_bin_keeps_its_remainder(plan: Callable[..., Plan]) -> None:
    assert plan([500] * 17) == [(list(range(16)), 500), ([16], 500)]
    assert plan([50]) == [([0], 50)]


def test_within_a_bin_the_order_of_predictions_then_of_arrival(plan: Callable[..., Plan]) -> None:
    assert plan([44, 41, 50, 41, 1]) == [([4, 1, 3, 0, 2], 50)]


def test_without_vbs_there_are_no_bins(plan: Callable[..., Plan]) -> None:
    predicted = [500, 10, 60, 10, 55, 499, 3]
    assert plan(predicted, vbs="off", batch_size=3) == [([6, 1, 3], 10), ([4, 2, 5], 499), ([0], 500)]


def test_without_fcr_the_limit_is_max_new_tokens(plan: Callable[..., Plan]) -> None:
    assert plan([10, 400], fcr=False, max_new_tokens=77) == [([1, 0], 77)]
    assert plan([10, 400], fcr=False, vbs="off", max_new_tokens=77, batch_size=1) == [([0], 77), ([1], 77)]


@pytest.mark.parametrize("vbs", ["table", "memory", "off"])
def test_max_new_tokens_caps_every_limit(vbs: str, plan: Callable[..., Plan]) -> None:
    assert {limit for _, limit in plan([30, 90, 500, 4000], vbs=vbs, max_new_tokens=40)} <= {30, 40}


def test_a_zero_prediction_still_runs(plan: Callable[..., Plan]) -> None:
    assert plan([0, 0]) == [([0, 1], 50)]
    assert plan([0, 0], vbs="off") == [([0, 1], 1)]


def test_a_batch_that_the_memory_cannot_hold_is_split(plan: Callable[..., Plan]) -> None:
    # 100 rows of 10 + 50 tokens; 40 of them fit.
    assert plan([50] * 100, kv_tokens=40 * 60, max_new_tokens=50) == [
        (list(range(40)), 50),
        (list(range(40, 80)), 50),
        (list(range(80, 100)), 50),
    ]


def test_without_vbs_each_part_of_a_split_batch_stops_at_its_own_largest_prediction(
    plan: Callable[..., Plan],
) -> None:
    batches = plan([10, 20, 30, 40], vbs="off", kv_tokens=100, max_new_tokens=50, batch_size=4)
    predicted = {0: 10, 1: 20, 2: 30, 3: 40}
    assert all(limit == max(predicted[i] for i in rows) for rows, limit in batches)


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=60),
    st.integers(1, 200),
    st.integers(600, 5000),
)
def test_splitting_loses_nothing_and_fits(prompts: list[int], limit: int, kv_tokens: int) -> None:
    asked = [Request(i, 0.0, prompt, limit) for i, prompt in enumerate(prompts)]
    parts = list(split_to_fit(asked, limit, kv_tokens))
    assert [r for part in parts for r in part] == asked
    assert all(padded_tokens(part, limit) <= kv_tokens for part in parts)
    for part, after in itertools.pairwise(parts):
        assert padded_tokens([*part, after[0]], limit) > kv_tokens


def test_memory_sizes_fill_the_cache_but_stay_below_the_knee(requests: Requests) -> None:
    limits = Limits(kv_tokens=6000, knee=((0, 64), (100, 32)))
    rows = requests([50] * 3, prompt_tokens=[10, 50, 20])
    size = memory_size(limits)
    assert size(50, rows) == 60  # 6000 // (50 + 50)
    assert size(100, rows) == 32  # the knee at a context of 50 + 100 / 2
    assert size(10_000, rows) == 6000 // (50 + 512)
    assert memory_size(Limits(kv_tokens=1))(50, rows) == 1


def test_memory_sizes_do_not_go_by_caps_that_may_be_the_answers(requests: Requests) -> None:
    shared = requests([50] * 3, prompt_tokens=50, max_new_tokens=200)
    own = [replace(r, max_new_tokens=10 + i, largest_cap=200) for i, r in enumerate(shared)]
    for fcr in (True, False):
        size = memory_size(Limits(kv_tokens=6000), fcr)
        assert [size(edge, own) for edge in (50, 150, 9999)] == [
            size(edge, shared) for edge in (50, 150, 9999)
        ]
    assert capped(own, 150) == 12  # yet no row runs on beyond them


@pytest.mark.parametrize(("context", "size"), [(0, 64), (99, 64), (100, 32), (10**6, 32)])
def test_knee_by_context(context: int, size: int) -> None:
    assert Limits(1, knee=((0, 64), (100, 32))).knee_at(context) == size


def test_expected_tokens(requests: Requests) -> None:
    (request,) = requests([100], upper=[160])
    assert expected_tokens(request, 0) == 100
    assert expected_tokens(request, 1) == 101
    assert expected_tokens(request, 25) == 125
    assert expected_tokens(request, 0.9) == 160
    (surer,) = requests([100], upper=[90])
    assert expected_tokens(surer, 0.9) == 100
    (unknown,) = requests([None])
    with pytest.raises(ValueError, match="request 0: predicted_tokens is None"):
        expected_tokens(unknown, 0)


def test_capped_by_the_rows_own_cap(requests: Requests) -> None:
    rows = requests([1], max_new_tokens=30) + requests([1], max_new_tokens=70)
    assert [capped(rows, limit) for limit in (None, 50, 100)] == [70, 50, 70]


def test_a_part_of_a_split_batch_stops_at_its_own_caps() -> None:
    short, long = Request(0, 0.0, 1, 119), Request(1, 0.0, 74, 1)
    parts = fitted([Batch([short, long], 119)], Limits(192))
    assert [(batch.requests, batch.token_limit) for batch in parts] == [([short], 119), ([long], 1)]


@settings(deadline=None, max_examples=150)
@given(
    predicted=st.lists(st.integers(0, 700), min_size=1, max_size=300),
    fcr=st.booleans(),
    max_new_tokens=st.sampled_from([1, 60, 512, 1000]),
)
def test_the_plan_of_a_group_is_the_published_one(
    predicted: list[int],
    fcr: bool,
    max_new_tokens: int,
    limits: Limits,
    requests: Requests,
    run_scheduler: Callable[..., Any],
) -> None:
    asked = requests(predicted, max_new_tokens=max_new_tokens)
    scheduler = SequenceScheduler(limits, group_size=300, fcr=fcr)
    log = run_scheduler(scheduler, asked, dict.fromkeys(range(len(asked)), 1))
    assert log.batches == second_opinion(predicted, fcr, max_new_tokens)


@settings(deadline=None, max_examples=100)
@given(
    predicted=st.lists(st.integers(1, 700), min_size=1, max_size=100),
    batch_size=st.integers(1, 40),
    fcr=st.booleans(),
)
def test_the_plan_without_vbs(
    predicted: list[int],
    batch_size: int,
    fcr: bool,
    limits: Limits,
    requests: Requests,
    run_scheduler: Callable[..., Any],
) -> None:
    scheduler = SequenceScheduler(limits, vbs="off", batch_size=batch_size, fcr=fcr)
    log = run_scheduler(scheduler, requests(predicted), dict.fromkeys(range(len(predicted)), 1))
    ranked = sorted(range(len(predicted)), key=lambda i: (predicted[i], i))
    cuts = [ranked[k : k + batch_size] for k in range(0, len(ranked), batch_size)]
    assert log.batches == [(c, min(512, predicted[c[-1]]) if fcr else 512) for c in cuts]


@given(
    predicted=st.lists(st.integers(0, 600), min_size=1, max_size=200),
    width=st.integers(1, 200),
    kv_tokens=st.integers(600, 20_000),
)
def test_every_request_is_in_one_batch_that_fits(
    predicted: list[int], width: int, kv_tokens: int, requests: Requests
) -> None:
    asked, limits = requests(predicted), Limits(kv_tokens)
    ordered = sorted(((r.predicted_tokens or 0, r) for r in asked), key=lambda pair: pair[0])
    batches = fitted(batches_by_bin(ordered, width, memory_size(limits), True), limits)
    assert sorted(r.id for b in batches for r in b.requests) == list(range(len(predicted)))
    assert all(padded_tokens(b.requests, b.token_limit) <= kv_tokens for b in batches)
    assert all(
        r.predicted_tokens <= b.token_limit or b.token_limit == 512 for b in batches for r in b.requests
    )


def seconds_of(plan: Sequence[Sequence[Request]], limits: Limits, width: int) -> float:
    """What a plan's batches take together, as the knee says it."""
    total = 0.0
    for rows in plan:
        edge = bin_edge(max(r.predicted_tokens or 0 for r in rows), width)
        knee = limits.knee_at(max(r.prompt_tokens for r in rows) + edge // 2)
        total += edge * (1 + 2 * len(rows) / knee)
    return total


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    prompts=st.lists(st.integers(1, 300), min_size=8, max_size=8),
    knee=st.sampled_from([((0, 1),), ((0, 4),), ((0, 8), (200, 2)), ((0, 64),)]),
    kv_tokens=st.sampled_from([912, 2000, 10**6]),
)
def test_no_other_cut_of_a_group_takes_less_time(
    lengths: list[int], prompts: list[int], knee: Any, kv_tokens: int
) -> None:
    limits = Limits(kv_tokens, knee=knee)
    group = [
        Request(i, 0.0, prompt, 512, predicted_tokens=n)
        for i, (n, prompt) in enumerate(zip(sorted(lengths), prompts, strict=False))
    ]
    pairs = [(expected_tokens(r, 0.0), r) for r in group]
    batches = batches_of_least_time(pairs, 50, True, limits)
    assert [r for batch in batches for r in batch.requests] == group
    for batch in batches:
        assert batch.token_limit == bin_edge(max(r.predicted_tokens or 0 for r in batch.requests), 50)
    best = math.inf
    for cuts in itertools.product([False, True], repeat=len(group) - 1):
        plan: list[list[Request]] = [[group[0]]]
        for request, is_cut in zip(group[1:], cuts, strict=True):
            if is_cut:
                plan.append([request])
            else:
                plan[-1].append(request)
        edges = [bin_edge(max(r.predicted_tokens or 0 for r in rows), 50) for rows in plan]
        if all(
            len(rows) == 1 or padded_tokens(rows, edge) <= kv_tokens
            for rows, edge in zip(plan, edges, strict=True)
        ):
            best = min(best, seconds_of(plan, limits, 50))
    assert seconds_of([batch.requests for batch in batches], limits, 50) == pytest.approx(best)


def test_without_limits_on_answers_a_batch_of_least_time_fits_the_longest() -> None:
    group = [Request(i, 0.0, 10, 400, predicted_tokens=20) for i in range(4)]
    batches = batches_of_least_time([(20, r) for r in group], 50, False, Limits(820, knee=((0, 64),)))
    assert [(len(batch.requests), batch.token_limit) for batch in batches] == [(2, 400), (2, 400)]


def test_a_request_whose_bin_the_memory_cannot_hold_spoils_no_batch_behind_it() -> None:
    """It is held at its own cap, of 80 tokens, not at the edge of its bin: those behind it go together."""
    large = Request(0, 0.0, 450, 80)
    small = [Request(i, 0.0, 10, 80) for i in (1, 2)]
    pairs = [(90, large), *((110, request) for request in small)]
    batches = batches_of_least_time(pairs, 50, True, Limits(530, knee=((0, 64),)))
    assert batches == [([large], 80), (small, 80)]
