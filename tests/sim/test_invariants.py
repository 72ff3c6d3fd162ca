"""What always holds on one accelerator, over policies, traces, predictors, arrivals and memories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.routers import ROUTERS
from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.scenario import scenario
from sim.testing import check_predictor, check_router, check_scheduler
from sim.testing.invariants import check_work_conserving
from tests.sim.any_world import CONTINUOUS, POLICIES, PREDICTORS, Kept, check_any, traces
from traces.trace import Trace

SETTINGS = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(POLICIES),
        "predictor": st.sampled_from(PREDICTORS),
        "seed": st.integers(0, 3),
        "kv_blocks": st.sampled_from([None, None, 12, 20, 60, 200]),
        "max_new_tokens": st.sampled_from([None, None, 40, 150]),
        "cap": st.sampled_from(["shared", "own"]),
        "max_concurrency": st.sampled_from([None, None, 1, 7]),
        "request_rate": st.sampled_from([None, None, 0.5, 20.0]),
    }
)


def check(result: Result, kv_tokens: int) -> None:
    """What holds for padded batches."""
    check_any(result, kv_tokens)
    t, done = result.requests, result.requests[result.requests.status == "completed"]
    for batch in result.batches:
        if batch.kind == "PaddedBatch":
            answered = batch.answered or [0] * len(batch.request_ids)
            prompts = zip(batch.request_ids, answered, strict=True)
            prompt = max(t.prompt_tokens[i] + begun for i, begun in prompts)
            assert batch.kv_tokens == len(batch.request_ids) * (prompt + batch.limit)
    # The account of tokens.
    tokens = result.tokens
    assert tokens.useful + tokens.padding == done.row_length.sum()
    assert tokens.padding >= 0
    rows = Counter[int]()
    for batch in result.batches:
        if batch.kind == "PaddedBatch":
            rows.update(dict.fromkeys(batch.request_ids, batch.iterations))
    assert tokens.useful + tokens.padding + tokens.recomputed == rows.total()
    attempts = Counter(i for b in result.batches if b.kind == "PaddedBatch" for i in b.request_ids)
    assert [attempts[i] for i in t.index] == t.attempts.tolist()
    assert t.attempts.max() <= (10 if any(b.answered for b in result.batches) else 2)


@pytest.mark.parametrize("policy", [*POLICIES, *CONTINUOUS])
def test_every_scheduler_of_ours_passes_the_check_for_all(policy: str) -> None:
    check_scheduler(policy, num_worlds=12, is_work_conserving="max_wait_s" not in policy)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_predictor_of_ours_passes_the_check_for_all(predictor: str) -> None:
    check_predictor(predictor, num_worlds=12)


@pytest.mark.parametrize("router", ROUTERS.names)
def test_every_router_of_ours_passes_the_check_for_all(router: str) -> None:
    check_router(router, num_worlds=12)


@settings(deadline=None, max_examples=250)
@given(trace=traces(), how=SETTINGS)
def test_what_always_holds(trace: Trace, how: dict[str, Any], profile: Profile) -> None:
    result = simulate(trace, profile=profile, **how)
    check(result, profile.kv_tokens(how["kv_blocks"]))


def check_continuous(result: Result, kv_tokens: int) -> None:
    """What holds where no row is padded; the result has a log."""
    check_any(result, kv_tokens)
    s, t, works = result.summary, result.requests, [b for b in result.batches if b.kind == "Iterations"]
    done = t[t.status == "completed"]
    tokens = result.tokens
    assert (tokens.padding, tokens.recomputed, tokens.useful) == (0, 0, done.output_tokens.sum())
    assert (done.row_length == done.output_tokens).all()
    assert s["effective_token_ratio"] in (None, 1.0)
    assert s["preemptions"] == sum(len(b.evicted) for b in works)
    assert s["iterations"] == sum(b.iterations for b in result.batches)
    # Prompts are computed once, and once more with what was generated after every eviction.
    evicted = Counter(i for b in works for i in b.evicted)
    computed = Counter[int]()
    for b in works:
        for i, (num_tokens, _) in zip(b.request_ids, b.chunks, strict=True):
            computed[i] += num_tokens
    for i in done.index:
        assert computed[i] >= t.prompt_tokens[i]
        assert (computed[i] == t.prompt_tokens[i]) or evicted[i]
    assert not set(computed) - set(done.index)


CONTINUOUS_SETTINGS = st.fixed_dictionaries(
    {
        "predictor": st.sampled_from(PREDICTORS),
        "seed": st.integers(0, 3),
        "kv_blocks": st.sampled_from([None, None, 12, 20, 30, 60]),
        "max_new_tokens": st.sampled_from([None, 40, 150]),
        "cap": st.sampled_from(["shared", "own"]),
        "max_concurrency": st.sampled_from([None, None, 1, 7]),
        "request_rate": st.sampled_from([None, None, 0.5, 20.0]),
    }
)


@settings(max_examples=150)
@given(trace=traces(), policy=st.sampled_from(CONTINUOUS), how=CONTINUOUS_SETTINGS)
def test_what_always_holds_for_continuous_batching(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    kept = Kept(policy)
    result = scenario(trace, profile=profile, **how).run(kept, log=True)
    check_continuous(result, profile.kv_tokens(how["kv_blocks"]))
    scheduler, kv = kept.scheduler, kept.scheduler.kv
    assert kv.free == kv.num_blocks
    assert (sum(kv.takers), scheduler.running, scheduler.generated) == (0, {}, {})
    assert scheduler.kv_peak_tokens <= kv.num_blocks * kv.block_size


@settings(max_examples=80)
@given(
    trace=traces(),
    policy=st.sampled_from(CONTINUOUS),
    predictor=st.sampled_from(PREDICTORS),
    kv_blocks=st.sampled_from([None, 60]),
)
def test_continuous_batching_never_idles(
    trace: Trace, policy: str, predictor: str, kv_blocks: int | None, profile: Profile
) -> None:
    """Between two works no time passes while a request is there: one alone always has room."""
    shared = scenario(trace, profile=profile, predictor=predictor, kv_blocks=kv_blocks)
    result = shared.run(policy, log=True)
    check_work_conserving(result)


@settings(max_examples=80)
@given(
    trace=traces(),
    places=st.sampled_from([1, 3, 8]),
    order=st.sampled_from(["fcfs", "shortest-predicted", "priority", "fair"]),
    admission=st.sampled_from(["chunk", "prompt", "predicted"]),
)
def test_a_free_place_is_taken_in_the_next_iteration(
    trace: Trace, places: int, order: str, admission: str, profile: Profile
) -> None:
    """With memory and tokens for all, nobody is scheduled later than the places ask for."""
    policy = (
        f"continuous:order={order},admission={admission},max_num_seqs={places},max_num_batched_tokens=20000"
    )
    result = scenario(trace, profile=profile).run(policy, log=True)
    t = result.requests
    t = t[t.status == "completed"]
    for b in result.batches:
        if b.kind == "Iterations":
            waiting = ((t.arrival_s <= b.start_s) & (t.scheduled_s > b.start_s)).sum()
            running = ((t.scheduled_s <= b.start_s) & (t.finish_s > b.start_s)).sum()
            assert running == places or not waiting


@settings(deadline=None, max_examples=40)
@given(trace=traces(), how=SETTINGS, continuous=st.sampled_from([None, None, *CONTINUOUS]))
def test_same_inputs_same_bytes(
    trace: Trace, how: dict[str, Any], continuous: str | None, profile: Profile
) -> None:
    if continuous is not None:
        how = {**how, "policy": continuous}
    first, second = (simulate(trace, profile=profile, **how) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.requests.to_csv() == second.requests.to_csv()
    assert first.decisions == second.decisions


@settings(deadline=None, max_examples=80)
@given(
    trace=traces(),
    policy=st.sampled_from([p for p in POLICIES if "max_wait_s" not in p]),
    predictor=st.sampled_from(PREDICTORS),
)
def test_never_idle_while_a_request_waits(
    trace: Trace, policy: str, predictor: str, profile: Profile
) -> None:
    check_work_conserving(simulate(trace, policy=policy, predictor=predictor, profile=profile))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("predictor", ["oracle", "tuned"])
@pytest.mark.parametrize("rate", [None, 3.0])
def test_on_the_embedded_trace(policy: str, predictor: str, rate: float | None, profile: Profile) -> None:
    how = {
        "policy": policy,
        "predictor": predictor,
        "request_rate": rate,
        "num_prompts": 150,
        "kv_blocks": 800,
    }
    result = simulate("alpaca-vicuna", profile=profile, **how)
    check(result, 800 * 16)
    assert result.summary["completed"] == 150


def test_max_concurrency_is_never_exceeded(profile: Profile) -> None:
    for bound in (1, 3, 16):
        s = simulate("alpaca-vicuna", num_prompts=60, max_concurrency=bound, profile=profile).summary
        assert s["max_concurrent_requests"] == bound
