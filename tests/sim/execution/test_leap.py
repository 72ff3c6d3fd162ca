"""A leap over many iterations is those iterations: same decisions at the same ticks, same times, fewer
events.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.scenario import scenario
from sim.schedulers.kv_cache import FAR
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

TIMES = ("scheduled_s", "first_token_s", "finish_s")
TICK_S = 1 / 64
"""An iteration of the machine whose times are exact in binary, so that ties are ties in both ways to run."""


def exact_machine() -> Profile:
    return flat_machine(TICK_S, name="exact")


@st.composite
def traces(draw: st.DrawFn, *, exact: bool = False, expire: bool = False) -> Trace:
    n = draw(st.integers(1, 25))
    longest = draw(st.sampled_from([3, 40, 300]))

    def column(values: st.SearchStrategy[Any], dtype: type = np.int64) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    times = {
        "at once": st.just(0.0),
        "spread": st.floats(0, 6),
        "bursts": st.sampled_from([0.0, 0.0, 0.5, 0.51, 2.0]),
    }
    ticks = st.sampled_from([0, 1, 2, 3, 5, 8, 16, 17, 40, 41]).map(lambda k: k * TICK_S)
    arrival = np.sort(column(ticks if exact else times[draw(st.sampled_from(sorted(times)))], float))

    patience = st.sampled_from([math.inf, math.inf, 3 * TICK_S, 0.5, 0.501, 3.0])
    return Trace(
        "made up",
        np.arange(n),
        column(st.integers(1, 120)),
        column(st.integers(1, longest)),
        arrival_s=arrival - arrival[0],
        predicted_tokens=column(st.integers(0, 400)),
        priority=column(st.sampled_from([0, 0, -1, 3])),
        user=column(st.sampled_from(["a", "b", "c"]), str),
        deadline_s=arrival - arrival[0] + column(patience, float) if expire else None,
    )


ORDERS = ["fcfs", "fcfs", "shortest-predicted", "shortest-remaining", "priority", "fair"]


def policies(orders: list[str], is_async: bool = False) -> st.SearchStrategy[str]:
    return st.builds(
        (
            "continuous:order={},admission={},chunked={},max_num_seqs={},max_num_batched_tokens={},aging_s={},"
            "margin={},prefix_caching={},perceive_wait_s={},perceive_batch={},async_scheduling="
            + ("on" if is_async else "off")
        ).format,
        st.sampled_from(orders),
        st.sampled_from(["chunk", "prompt", "predicted"]),
        st.sampled_from(["on", "off"]),
        st.sampled_from([1, 2, 5, 30]),
        st.sampled_from([30, 64, 128, 2048]),
        st.sampled_from([0, 0.3]),
        st.sampled_from([0, 20, 0.8]),
        st.sampled_from(["on", "off"]),
        st.sampled_from([0, 0.2, 1]),
        st.sampled_from([1, 3, 128]),
    )


SGLANG = st.builds(
    "continuous:rules=sglang,order={},chunked={},max_num_seqs={},chunked_prefill_size={},"
    "max_prefill_tokens={},schedule_conservativeness={},mixed_chunk={}".format,
    st.sampled_from(ORDERS),
    st.sampled_from(["on", "off"]),
    st.sampled_from([1, 2, 5, 30]),
    st.sampled_from([16, 64, 8192]),
    st.sampled_from([20, 16384]),
    st.sampled_from([0, 0.1, 1]),
    st.sampled_from(["on", "off"]),
)
TRTLLM = st.builds(
    "continuous:rules=trtllm,order={},chunked={},max_num_seqs={},max_num_batched_tokens={},"
    "capacity_scheduler_policy={},batch_wait_timeout_iters={},batch_wait_max_tokens_ratio={}".format,
    st.sampled_from(ORDERS),
    st.sampled_from(["on", "off"]),
    st.sampled_from([1, 2, 5, 30]),
    st.sampled_from([30, 64, 2048]),
    st.sampled_from(["guaranteed_no_evict", "max_utilization"]),
    st.sampled_from([0, 1, 9]),
    st.sampled_from([0, 0.3, 1]),
)

SETTINGS = st.fixed_dictionaries(
    {
        "predictor": st.sampled_from(
            [
                "oracle",
                "constant:tokens=30",
                "trace",
                "noisy:sigma=0.8,charge=off",
                "tuned",
                "exact:charge=on",
            ]
        ),
        "kv_blocks": st.sampled_from([None, 11, 15, 30, 60]),
        "max_new_tokens": st.sampled_from([None, 40, 50, 300]),
        "max_concurrency": st.sampled_from([None, None, None, 1, 6]),
    }
)


def events(result: Result) -> list[tuple[Any, ...]]:
    """All that was decided, and the tick of the iteration counter at which it was."""
    tick, found = 0, []
    for b in result.batches:
        if b.kind == "Perceive":
            found.append((tick, b.kind, b.request_ids))
        elif b.kind == "Drop":
            continue  # who was turned away is told later within a leap; it moves nobody
        elif b.request_ids or b.evicted:
            found.append((tick, b.evicted, b.request_ids, b.chunks))
        tick += b.iterations if b.kind == "Iterations" else 0
    return [*found, (tick, "end")]


def both_ways(trace: Trace, policy: str, profile: Profile, how: dict[str, Any]) -> tuple[Result, Result]:
    shared = scenario(trace, profile=profile, **how)
    return shared.run(policy, log=True), shared.run(policy, log=True, leap=False)


def assert_same(leaped: Result, stepped: Result) -> None:
    assert events(leaped) == events(stepped)
    for name in TIMES:
        assert leaped.columns[name] == pytest.approx(stepped.columns[name], rel=1e-9, abs=1e-9, nan_ok=True)
    assert (leaped.columns["status"] == stepped.columns["status"]).all()
    for key, value in stepped.summary.items():
        close = {} if "itl" not in key or "mean" in key else {"rel": 5e-3}
        if isinstance(value, float):
            assert leaped.summary[key] == pytest.approx(value, **({"rel": 1e-7, "abs": 1e-9} | close)), key
        else:
            assert leaped.summary[key] == value, key


def settable(policy: str, how: dict[str, Any]) -> dict[str, Any]:
    """A memory that holds a question; who is asked in the middle of a leap has a test of its own."""
    if how["predictor"] in ("tuned", "exact:charge=on"):
        assume("order=fcfs,admission=predicted" not in policy)
        if how["kv_blocks"] == 11:
            return {**how, "kv_blocks": 15}
    return how


def assert_leaping_changes_nothing(trace: Trace, policy: str, profile: Profile, how: dict[str, Any]) -> None:
    leaped, stepped = both_ways(trace, policy, profile, settable(policy, how))
    assert_same(leaped, stepped)


@settings(max_examples=400)
@given(trace=traces(expire=True), policy=policies(ORDERS) | SGLANG | TRTLLM, how=SETTINGS)
def test_leaping_is_iteration_by_iteration(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    assert_leaping_changes_nothing(trace, policy, profile, how)


@settings(max_examples=150)
@given(trace=traces(exact=True, expire=True), policy=policies(ORDERS), how=SETTINGS)
def test_arrivals_at_the_very_end_of_an_iteration(trace: Trace, policy: str, how: dict[str, Any]) -> None:
    assert_leaping_changes_nothing(trace, policy, exact_machine(), how)


@settings(max_examples=300)
@given(
    trace=traces(expire=True),
    policy=policies(ORDERS, is_async=True),
    how=SETTINGS,
    cap=st.sampled_from(["shared", "own"]),
)
def test_leaping_with_a_decision_in_hand(
    trace: Trace, policy: str, how: dict[str, Any], cap: str, profile: Profile
) -> None:
    """With caps of their own, all answers end at these; else mostly before."""
    assert_leaping_changes_nothing(trace, policy, profile, how | {"cap": cap})


@settings(max_examples=150)
@given(
    trace=traces(exact=True, expire=True),
    policy=policies(ORDERS, is_async=True),
    how=SETTINGS,
    cap=st.sampled_from(["shared", "own"]),
)
def test_arrivals_at_the_very_end_with_a_decision_in_hand(
    trace: Trace, policy: str, how: dict[str, Any], cap: str
) -> None:
    assert_leaping_changes_nothing(trace, policy, exact_machine(), how | {"cap": cap})


def ticks_trace(prompt: list[int], output: list[int], arrival: list[int], **columns: Any) -> Trace:
    """Arrivals (and deadlines) in iterations of the exact machine."""
    if "deadline" in columns:
        columns["deadline_s"] = np.array(columns.pop("deadline")) * TICK_S
    return Trace(
        "made up",
        np.arange(len(prompt)),
        np.array(prompt),
        np.array(output),
        arrival_s=np.array(arrival) * TICK_S,
        **columns,
    )


def test_an_arrival_at_the_end_of_an_iteration_joins_the_next() -> None:
    trace = ticks_trace([16, 16, 16], [50, 2, 2], [0, 7, 30])
    leaped, stepped = both_ways(trace, "continuous", exact_machine(), {})
    assert (leaped.columns["scheduled_s"] / TICK_S).tolist() == [0, 7, 30]
    assert (leaped.columns["finish_s"] / TICK_S).tolist() == [50, 9, 32]
    assert_same(leaped, stepped)


# What a leap has to notice, though no running request changes


def test_a_deadline_within_a_leap_lets_the_next_one_in() -> None:
    trace = ticks_trace([100, 150, 10], [100, 50, 5], [0, 0, 1], deadline=[math.inf, 10, math.inf])
    assert_same(*both_ways(trace, "continuous", exact_machine(), {"kv_blocks": 16, "max_new_tokens": 100}))


def test_a_question_within_a_leap_is_asked_when_it_comes() -> None:
    trace = ticks_trace([40, 150, 10], [100, 100, 5], [0, 0, 30])
    how = {"kv_blocks": 18, "max_new_tokens": 100, "predictor": "exact:charge=on"}
    assert_same(*both_ways(trace, "continuous:admission=predicted", exact_machine(), how))


def test_a_rejection_within_a_leap_frees_its_place_at_once() -> None:
    trace = ticks_trace([50, 300, 10], [50, 5, 5], [0, 1, 2])
    how = {"kv_blocks": 16, "max_new_tokens": 50, "max_concurrency": 2}
    leaped, stepped = both_ways(trace, "continuous:max_num_seqs=1", exact_machine(), how)
    assert (leaped.columns["arrival_s"] == stepped.columns["arrival_s"]).all()


# The number of events


@settings(max_examples=100)
@given(
    trace=traces(),
    order=st.sampled_from(ORDERS),
    places=st.sampled_from([1, 3, 30, 256]),
)
def test_an_event_per_finish_and_one_per_admitted_arrival(
    trace: Trace, order: str, places: int, profile: Profile
) -> None:
    """Memory for all, every prompt in one chunk: arrivals that find no place cost nothing under fcfs."""
    policy = f"continuous:order={order},max_num_seqs={places},max_num_batched_tokens=4096"
    result = scenario(trace, profile=profile).run(policy, log=True)
    finishes = len(set(result.columns["finish_s"]))
    admissions = sum(bool(b.chunks) for b in result.batches)
    assert result.summary["preemptions"] == 0
    assert len(result.batches) <= finishes + min(admissions, len(set(result.columns["arrival_s"])))
    assert len(result.batches) <= 2 * len(trace)


@settings(max_examples=100)
@given(trace=traces(), policy=policies(["fcfs"]), blocks=st.sampled_from([30, 40, 60]))
def test_events_are_bounded_by_what_changes(trace: Trace, policy: str, blocks: int, profile: Profile) -> None:
    """Under fcfs: finishes + iterations with a chunk + evictions, and one more each time that memory ran out,
    that an arrival found room in the batch and none in memory, or that memory lasted for long.
    """
    result = scenario(trace, profile=profile, kv_blocks=blocks, max_new_tokens=300).run(policy, log=True)
    works = [b for b in result.batches if b.kind == "Iterations"]
    done = result.columns["status"] == "completed"
    finishes = len(set(result.columns["finish_s"][done]))
    chunked, evicting = sum(bool(b.chunks) for b in works), sum(bool(b.evicted) for b in works)
    arrivals = len(set(result.columns["arrival_s"]))
    far = sum(b.iterations == b.limit >= FAR for b in works)
    assert len(works) <= finishes + chunked + 2 * evicting + arrivals + far


def test_a_long_answer_is_two_events(profile: Profile) -> None:
    """One admission and one finish; the rest of the million iterations is one leap."""
    trace = ticks_trace([10], [100_000], [0])
    result = scenario(trace, profile=profile, max_new_tokens=100_000).run("continuous", log=True)
    assert [b.iterations for b in result.batches] == [100_000]


def test_memory_lasts_to_the_last_iteration_of_a_leap(profile: Profile) -> None:
    """Two that take their blocks at different times: the last free one is gone 15 iterations after the last
    whole round.
    """
    trace = ticks_trace([1, 9], [130, 130], [0, 0])
    shared = scenario(trace, profile=profile, kv_blocks=10, max_new_tokens=130)
    works = shared.run("continuous", log=True).batches
    assert [b.iterations for b in works[:2]] == [64, 1]
    assert [b.evicted for b in works[:2]] == [(), (1,)]


def test_an_unchunked_prompt_that_the_budget_cannot_take_now_waits_for_a_finish() -> None:
    """45 tokens beside 60 that decode are over 100: until one of these leaves, each iteration is the same."""
    trace = ticks_trace([1] * 60 + [45], [40] * 10 + [50] * 50 + [5], [0] * 60 + [1])
    shared = scenario(trace, profile=exact_machine(), max_new_tokens=50)
    result = shared.run("continuous:chunked=off,max_num_seqs=100,max_num_batched_tokens=100", log=True)
    assert [b.iterations for b in result.batches] == [1, 39, 5, 5]
    assert result.columns["scheduled_s"][60] / TICK_S == 40


@pytest.mark.parametrize("places", [1, 4])
def test_arrivals_that_cannot_enter_are_no_events(places: int, profile: Profile) -> None:
    n = 200
    trace = ticks_trace([10] * n, [50] * n, list(range(n)))
    result = scenario(trace, profile=profile).run(f"continuous:max_num_seqs={places}", log=True)
    assert len(result.batches) <= len(set(result.columns["finish_s"])) + places
