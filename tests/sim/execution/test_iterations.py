"""A leap's closed forms against counting one iteration after the other, and gaps that add up to latencies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.execution.iterations import RunningRequests
from sim.execution.leap import Leap
from sim.hardware.profile import Profile
from sim.hardware.step_cost import PiecewiseLinear, StepCost
from sim.request import Request
from sim.results.ledger import Ledger
from sim.results.result import Result
from sim.results.token_gaps import GapPool
from sim.scenario.scenario import scenario
from sim.work import Chunk, Iterations, SchedulingError
from traces.trace import Trace

BINARY = st.integers(1, 64).map(lambda k: k / 64)
"""Durations that add up exactly."""


def ends(leap: Leap) -> list[float]:
    """The end of every iteration, one after the other."""
    steps = [leap.head_s, *(leap.first_s + j * leap.slope_s for j in range(leap.iterations - 1))]
    return list(itertools.accumulate(steps))


@settings(max_examples=200)
@given(st.integers(1, 200), BINARY, BINARY, st.sampled_from([0.0, 1 / 64, 1 / 1024]))
def test_seconds_is_the_sum(iterations: int, head_s: float, first_s: float, slope_s: float) -> None:
    leap = Leap(iterations, head_s, first_s, slope_s)
    assert [leap.seconds(k + 1) for k in range(iterations)] == ends(leap)


@settings(max_examples=300)
@given(
    st.integers(1, 150),
    BINARY,
    BINARY,
    st.sampled_from([0.0, 1 / 64, 1 / 1024]),
    st.integers(0, 40_000).map(lambda k: k / 128),
)
def test_iterations_begun_is_a_count(
    iterations: int, head_s: float, first_s: float, slope_s: float, seconds: float
) -> None:
    leap = Leap(iterations, head_s, first_s, slope_s)
    begun = 1 + sum(end < seconds for end in ends(leap)[:-1])
    assert leap.iterations_begun(seconds) == begun


@given(st.integers(1, 100), BINARY, BINARY, st.sampled_from([0.0, 1 / 64]))
def test_the_end_of_an_iteration_still_belongs_to_it(
    iterations: int, head_s: float, first_s: float, slope_s: float
) -> None:
    leap = Leap(iterations, head_s, first_s, slope_s)
    assert leap.iterations_begun(0.0) == 1
    for k, end in enumerate(ends(leap), start=1):
        assert leap.iterations_begun(end) == k
        assert leap.iterations_begun(math.nextafter(end, math.inf)) == min(k + 1, iterations)
        assert leap.iterations_begun(math.nextafter(end, 0.0)) == k


@given(st.integers(1, 60), st.integers(0, 59), BINARY, BINARY, st.sampled_from([0.0, 1 / 64]), BINARY)
def test_a_leap_after_others_of_its_stretch_is_a_part_of_it(
    iterations: int, done: int, head_s: float, first_s: float, slope_s: float, start_s: float
) -> None:
    whole = Leap(done + iterations, head_s, first_s, slope_s, start_s)
    leap = Leap(iterations, head_s, first_s, slope_s, start_s, done)
    all_s = [start_s + end for end in ends(whole)]
    end_s = all_s[done:]
    assert [leap.ends_s(k) for k in range(1, iterations + 1)] == end_s
    if iterations > 1:
        assert leap.second_s == end_s[1] - end_s[0]
    for k, now in enumerate(end_s, start=1):
        before, behind = math.nextafter(now, 0.0), math.nextafter(now, math.inf)
        assert [leap.iterations_ended(at) for at in (before, now, behind)] == [k - 1, k, k]
        begun = [leap.iterations_begun(at) for at in (before, now, behind)]
        assert begun == [k, k, min(k + 1, iterations)] and leap.iterations_begun(now, after=True) == begun[2]
    for now in all_s[:done]:
        assert (leap.iterations_begun(now), leap.iterations_ended(now)) == (1, 0)


@given(st.integers(1, 100), st.floats(1e-4, 1.0), st.floats(1e-4, 1.0), st.floats(0, 1e6))
def test_the_end_of_an_iteration_belongs_to_it_whenever_the_leap_began(
    iterations: int, head_s: float, first_s: float, start_s: float
) -> None:
    """A time less another is rounded otherwise than the sum: 3.9 + 0.25 - 3.9 may be above 0.25."""
    leap = Leap(iterations, head_s, first_s, start_s=start_s)
    for k in range(1, iterations + 1):
        assert leap.iterations_begun(leap.ends_s(k)) == k


@given(
    st.integers(1, 10**6),
    st.floats(1e-4, 1.0),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1e-4),
    st.floats(0.0, 1.0),
)
def test_iterations_begun_agrees_with_seconds(
    iterations: int, head_s: float, first_s: float, slope_s: float, part: float
) -> None:
    leap = Leap(iterations, head_s, first_s + slope_s, slope_s)
    seconds = part * leap.seconds(iterations)
    k = leap.iterations_begun(seconds)
    assert 1 <= k <= iterations
    assert k == iterations or seconds <= leap.seconds(k)
    assert k == 1 or leap.seconds(k - 1) < seconds


# One request in and out of memory


def test_a_paused_request_is_a_token_behind(cost: StepCost) -> None:
    ledger = Ledger(2, [0.0, 0.0])
    running = RunningRequests(cost, [10, 4], ledger)
    one, other = Request(0, 0.0, 20, 100), Request(1, 0.0, 30, 100)

    def run(work: Iterations, now: float) -> tuple[float, list[Request]]:
        leap = running.begin(work, now)
        end = leap.end_s
        return end, running.advance(leap, leap.iterations, now, end)

    now, _ = run(Iterations((Chunk(one, 20, True), Chunk(other, 30, True)), (), 1, False), 0.0)
    leap = running.begin(Iterations((), (), 1, False, pause=[other]), now)
    assert leap.head_s == cost.decode_s(1, 20)
    running.advance(leap, 1, now, now + leap.head_s)
    assert (running.peak_tokens, running.context_tokens, running.prompt_tokens) == (21 + 30, 51, 0)
    paused_s, now = now, now + leap.head_s
    now, _ = run(Iterations((), (), 1, False), now)
    assert max(ledger.gaps.steps[::2]) == now - paused_s  # from its first token to its second
    _, finished = run(Iterations((), (), 9, False), now)
    assert (finished, running.use.iterations) == ([other], 5)  # 4 tokens in 5 iterations
    with pytest.raises(SchedulingError, match="does not decode"):
        running.begin(Iterations((), (), 1, False, pause=[Request(7, 0.0, 1, 1)]), now)


def test_an_evicted_request_goes_on_where_it_was(cost: StepCost) -> None:
    ledger = Ledger(1, [0.0])
    running = RunningRequests(cost, [10], ledger)
    r = Request(0, 0.0, 20, 100)

    def run(work: Iterations, now: float) -> tuple[int, float, list[Request]]:
        leap = running.begin(work, now)
        end = leap.end_s
        return leap.iterations, end, list(running.advance(leap, leap.iterations, now, end))

    iterations, now, finished = run(Iterations((Chunk(r, 12, False),), (), 1, False), 0.0)
    assert (iterations, finished, running.peak_tokens, running.num_decoding) == (1, [], 12, 0)
    iterations, now, finished = run(Iterations((Chunk(r, 8, True),), (), 4, False), now)
    assert (iterations, finished, running.peak_tokens, running.num_decoding) == (4, [], 23, 1)
    first_token_s = ledger.first_token_s[0]
    # Four tokens are out; it leaves, and comes back with its prompt and those four to compute.
    with pytest.raises(SchedulingError, match="nothing to run"):
        running.begin(Iterations((), (r,), 1, False), now)
    assert (ledger.replicas[0].preemptions, running.num_decoding, running.generated) == (1, 0, {0: 4})
    iterations, now, finished = run(Iterations((Chunk(r, 24, True),), (), 99, False), now + 3.0)
    assert (iterations, finished, ledger.finish_s[0]) == (6, [r], now)
    assert ledger.first_token_s[0] == first_token_s
    assert (running.context_tokens, running.prompt_tokens, running.ending) == (0, 0, {})
    gaps = ledger.gaps.ramps()
    assert (gaps.counts * gaps.weight).sum() == 9
    assert total(gaps) == pytest.approx(now - first_token_s, rel=1e-12)


# Gaps of whole runs


def total(log: object) -> float:
    ramps = log.ramps() if isinstance(log, GapPool) else log
    first, slope, counts, weight, _ = ramps  # type: ignore[misc]
    return float((weight * (counts * first + slope * counts * (counts - 1) / 2)).sum())


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 20))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    arrival = np.sort(column(0, 300)) / 100
    return Trace(
        "made up",
        np.arange(n),
        column(1, 120),
        column(1, 200),
        arrival_s=arrival - arrival[0],
        priority=column(0, 2),
    )


@settings(max_examples=80)
@given(
    trace=traces(),
    order=st.sampled_from(["fcfs", "shortest-predicted", "shortest-remaining", "fair", "priority"]),
    kv_blocks=st.sampled_from([21, 30, 60, None]),
    tokens=st.sampled_from([40, 2048]),
    predictor=st.sampled_from(["exact", "exact:charge=on"]),
)
def test_gaps_add_up_to_latencies(
    trace: Trace, order: str, kv_blocks: int | None, tokens: int, predictor: str, profile: Profile
) -> None:
    """All gaps together = E2EL - TTFT of all, evicted or not; one gap for every token but the first."""
    policy = f"continuous:order={order},max_num_seqs=30,max_num_batched_tokens={tokens}"
    shared = scenario(trace, profile=profile, kv_blocks=kv_blocks, max_new_tokens=200, predictor=predictor)
    result = shared.run(policy, log=True)
    s, t = result.summary, result.requests
    assert s["completed"] == len(trace)
    gaps = int((t.output_tokens - 1).sum())
    decoding = (t.e2el_ms - t.ttft_ms).sum()
    if gaps:
        assert s["mean_itl_ms"] * gaps == pytest.approx(decoding, rel=1e-9)
    else:
        assert s["mean_itl_ms"] is None
    assert tokens_by_decisions(result) == t.output_tokens.sum()


def tokens_by_decisions(result: Result) -> int:
    """Tokens by replaying the decision log: who decodes in every iteration, and whose prompt is done."""
    output, left, decoding, produced = result.columns["output_tokens"], {}, set[int](), 0
    for b in result.batches:
        if b.kind != "Iterations":
            continue
        decoding -= set(b.evicted)
        came = {i for i, (_, last) in zip(b.request_ids, b.chunks, strict=True) if last}
        for i in (decoding - set(b.paused)) | came:
            count = b.iterations
            left[i] = left.get(i, int(output[i])) - count
            produced += count
            assert left[i] >= 0
        decoding = {i for i in decoding | came if left[i]}
    return produced


def test_rows_of_those_who_have_ended_cost_what_they_would() -> None:
    """Beside a row with 11 tokens in memory, one that ended with 25; the next iteration is without it."""
    cost = StepCost(
        decode_base=PiecewiseLinear((1, 4), (1.0, 4.0)),
        decode_per_context_s=0.01,
        mixed_base=PiecewiseLinear((1, 64), (1.0, 2.0)),
        mixed_per_context_s=0.0,
        mixed_per_attention_s=0.0,
    )
    here, gone = Request(0, 0.0, 10, 9), Request(1, 0.0, 20, 9)
    running = RunningRequests(cost, [5, 6], Ledger(2, [0.0, 0.0]))
    running.advance(running.begin(Iterations([Chunk(here, 10, True)], (), 1, False), 0.0), 1, 0.0, 1.0)
    running.advance(running.begin(Iterations((), (), 1, False), 1.0), 1, 1.0, 2.0)
    leap = running.begin(Iterations((), (), 9, False, overrun=[gone]), 2.0)
    assert leap.head_s == cost.decode_s(2, 11 + 25)
    assert leap.first_s == cost.decode_s(1, 12)


# All pause


def test_where_all_pause_others_get_their_first_tokens_and_nobody_else_does(cost: StepCost) -> None:
    ledger = Ledger(3, [0.0] * 3)
    running = RunningRequests(cost, [4, 3, 1], ledger)
    a, b, c = (Request(i, 0.0, 10, 100) for i in range(3))

    def run(work: Iterations, now: float) -> tuple[float, list[Request]]:
        leap = running.begin(work, now)
        end = leap.end_s
        return end, running.advance(leap, leap.iterations, now, end)

    t1, _ = run(Iterations((Chunk(a, 10, True),), (), 1, False), 0.0)
    t2, _ = run(Iterations((), (), 1, False), t1)
    assert t2 - t1 == pytest.approx(cost.decode_s(1, 10))
    t3, finished = run(Iterations((Chunk(b, 10, True), Chunk(c, 10, True)), (), 1, False, pause=(a,)), t2)
    assert t3 - t2 == pytest.approx(cost.mixed_s(0, 0, 2, 20, 100.0))
    assert finished == [c]
    assert (running.context_tokens, running.num_decoding, running.peak_tokens) == (21, 2, 31)
    t4, finished = run(Iterations((), (), 9, False), t3)
    assert (ledger.first_token_s[1], ledger.finish_s[0], ledger.finish_s[1]) == (t3, t4, t4)
    assert [r.id for r in finished] == [0, 1]
    gaps = ledger.gaps.ramps()
    assert (gaps.counts * gaps.weight).sum() == 3 + 2
    assert total(gaps) == pytest.approx((t4 - t1) + (t4 - t3), rel=1e-12)


def test_what_fails_while_all_pause_has_lost_what_it_had(cost: StepCost) -> None:
    ledger = Ledger(2, [0.0] * 2)
    running = RunningRequests(cost, [9, 9], ledger)
    a, b = (Request(i, 0.0, 10, 100) for i in range(2))
    leap = running.begin(Iterations((Chunk(a, 10, True),), (), 1, False), 0.0)
    running.advance(leap, 1, 0.0, 1.0)
    leap = running.begin(Iterations((), (), 3, False), 1.0)
    running.advance(leap, 3, 1.0, 2.0)
    running.begin(Iterations((Chunk(b, 10, True),), (), 1, False, pause=(a,)), 2.0)
    assert running.abandon() == {0: 4, 1: 0}
