"""What always holds, over policies, traces, predictors, arrivals, memories, fleets, routers and failures."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.routers import ROUTERS
from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of, make_scheduler
from sim.scenario.scenario import Scenario, scenario, stream
from sim.testing import check_predictor, check_router, check_scheduler
from sim.testing.invariants import check_run, check_work_conserving
from sim.work import Limits, Scheduler
from traces.trace import Trace

POLICIES = [
    "vanilla",
    "vanilla:batch_size=1",
    "vanilla:batch_size=5",
    "sequence",
    "sequence:fcr=off",
    "sequence:vbs=memory",
    "sequence:vbs=off,batch_size=4",
    "sequence:vbs=off,margin=0.9",
    "sequence:group_size=5,margin=40",
    "sequence:max_wait_s=0.7,batch_size=3",
    "sequence:max_wait_s=5,vbs=off,batch_size=3",
    "sequence:max_wait_s=2,vbs=memory,margin=0.8",
]
CONTINUOUS = [
    "continuous",
    "continuous:max_num_seqs=3,max_num_batched_tokens=40",
    "continuous:chunked=off,max_num_batched_tokens=800,order=shortest-predicted",
    "continuous:order=shortest-remaining,admission=prompt",
    "continuous:order=priority,aging_s=0.5,max_num_seqs=5",
    "continuous:order=fair,admission=predicted,max_num_batched_tokens=256",
    "continuous:admission=predicted,margin=0.9",
    "continuous:order=shortest-remaining,preempt_until=0.8,max_num_seqs=3",
    "continuous:order=gittins,max_num_seqs=3,admission=quantile:0.9",
    "continuous:order=lower-bound,max_num_seqs=30,max_num_batched_tokens=64,admission=chunk",
    "continuous:order=mlfq,max_num_seqs=3,level_tokens=4,starve_after=20,quantum=5",
    "continuous:order=ltr,max_num_seqs=5,async_scheduling=on,starve_after=30",
    "continuous:order=tie,preempt_until=1,async_scheduling=on,admission=predicted",
    "continuous:order=shortest-prompt,admission=quantile:0.6",
    "continuous:async_scheduling=on,max_num_seqs=5,max_num_batched_tokens=64",
    "continuous:async_scheduling=on,admission=chunk,order=shortest-remaining",
    "continuous:async_scheduling=on,admission=predicted,order=fair",
    "continuous:rules=sglang,chunked_prefill_size=64,max_num_seqs=5",
    "continuous:rules=sglang,mixed_chunk=on,schedule_conservativeness=0.1,order=priority",
    "continuous:rules=trtllm,max_num_seqs=5,max_num_batched_tokens=64,order=shortest-predicted",
    "continuous:rules=trtllm,capacity_scheduler_policy=max_utilization",
    "continuous:rules=trtllm,batch_wait_timeout_iters=5,batch_wait_max_tokens_ratio=0.2",
]
PREDICTORS = [
    "oracle",
    "exact:charge=on",
    "trace",
    "constant:tokens=70",
    "tuned",
    "noisy:sigma=0.8,miss=0.2",
    "noisy:sigma=0.5,round_to=50,charge=off",
]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 30))
    longest = draw(st.sampled_from([30, 120, 600]))

    def column(values: st.SearchStrategy[Any], dtype: type = np.int64) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    pattern = draw(st.sampled_from(["at once", "spread", "bursts"]))
    times = {
        "at once": st.just(0.0),
        "spread": st.floats(0, 60),
        "bursts": st.sampled_from([0.0, 3.0, 3.1, 40.0]),
    }[pattern]
    arrival = np.sort(column(times, float))
    some = draw(st.booleans())
    return Trace(
        "made up",
        np.arange(n),
        column(st.integers(1, 120)),
        column(st.integers(1, longest)),
        arrival_s=arrival - arrival[0],
        predicted_tokens=column(st.integers(0, 700)),
        priority=column(st.sampled_from([0, 0, 0, -1, 3])) if some else None,
        deadline_s=arrival + column(st.sampled_from([math.inf, math.inf, 1.0, 9.0]), float) if some else None,
    )


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


def check_any(result: Result, kv_tokens: int | Sequence[int]) -> None:
    """What holds for any run; `kv_tokens`: the capacity, of all replicas or of each."""
    s, t = result.summary, result.requests
    check_run(result, [kv_tokens] * len(result.replicas) if isinstance(kv_tokens, int) else kv_tokens)
    assert all(reason.startswith(status) for status, reason in zip(t.status, t.reason, strict=True) if reason)
    done = t[t.status == "completed"]
    assert (done.scheduled_s < done.first_token_s).all()
    # Shares are shares.
    for key in ("gpu_busy_fraction", "effective_token_ratio", "failure_ratio"):
        assert s[key] is None or 0 <= s[key] <= 1 + 1e-9


def check(result: Result, kv_tokens: int) -> None:
    """What holds for padded batches."""
    check_any(result, kv_tokens)
    t, done = result.requests, result.requests[result.requests.status == "completed"]
    for batch in result.batches:
        if batch.kind == "PaddedBatch":
            prompt = max(t.prompt_tokens[i] for i in batch.request_ids)
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
    assert t.attempts.max() <= 2


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


class Kept:
    """A policy that keeps its schedulers at hand."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.all: list[Any] = []

    def __call__(self, limits: Limits) -> Scheduler:
        self.scheduler: Any = make_scheduler(self.policy, limits)
        self.all.append(self.scheduler)
        return self.scheduler


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


# Fleets


FAILURES = [
    {},
    {"mtbf_s": 4.0, "mttr_s": 0.5},
    {"mtbf_s": 30.0, "mttr_s": 20.0, "startup_s": 3.0},
]
FLEETS = st.fixed_dictionaries(
    {
        "predictor": st.sampled_from(PREDICTORS),
        "seed": st.integers(0, 9),
        "router": st.sampled_from(ROUTERS.names),
        "max_new_tokens": st.sampled_from([None, 40, 150]),
        "cap": st.sampled_from(["shared", "own"]),
        "max_concurrency": st.sampled_from([None, None, None, 1, 7]),
        "request_rate": st.sampled_from([None, None, None, 0.5, 20.0]),
    }
)
BLOCKS = st.lists(st.sampled_from([12, 20, 30, 60, 5000]), min_size=1, max_size=4)


def fleet(trace: Trace, profile: Profile, blocks: Sequence[int], how: dict[str, Any]) -> Scenario:
    """Replicas that differ in memory."""
    shared = scenario(trace, profile=profile, **how)
    return replace(shared, fleet=tuple(Accelerator(profile, limits_of(profile, b)) for b in blocks))


def check_fleet(result: Result, shared: Scenario, schedulers: Sequence[Any]) -> None:
    """What holds for many replicas, whatever fails; the result has a log."""
    check_any(result, [m.limits.kv_tokens for m in shared.machines])
    s, t, table = result.summary, result.requests, result.replicas
    done, end = t[t.status == "completed"], max([b.end_s for b in result.batches], default=0.0)
    # Who did what.
    assert (table.completed == [(done.replica == k).sum() for k in table.replica]).all()
    assert (t.replica[t.status != "completed"] == -1).all()
    for name in ("iterations", "preemptions"):
        assert s[name] == table[name].sum()
    assert s["iterations"] == sum(b.iterations for b in result.batches)
    assert s["reroutes"] == t.reroutes.sum()
    assert (done.attempts >= 1).all()
    # A replica works only while it is up.
    assert (table.busy_s <= end * (1 + 1e-9)).all()
    spans = shared.outages.schedules(len(table), stream(shared.seed, "failures"))
    for k in table.replica:
        works = [b for b in result.batches if b.replica == k and b.end_s > b.start_s]
        down = list(itertools.takewhile(lambda span: span[0] < end, spans.get(k, [])))
        assert table.failures[k] in (len(down), len(down) + 1)
        for b in works:
            assert not any(b.start_s < up_s - 1e-9 and b.end_s > down_s + 1e-9 for down_s, up_s in down)
    if not shared.outages.any:
        assert s["reroutes"] == table.failures.sum() == 0
    # Nothing is left behind: neither requests nor memory.
    for scheduler in schedulers:
        assert scheduler.drain(end) == []
        if hasattr(scheduler, "kv"):
            assert scheduler.kv.free == scheduler.kv.num_blocks and not any(scheduler.kv.takers)


@settings(max_examples=500)
@given(
    trace=traces(),
    policy=st.sampled_from([*CONTINUOUS, *CONTINUOUS, *POLICIES]),
    blocks=BLOCKS,
    how=FLEETS,
    failures=st.sampled_from(FAILURES),
)
def test_what_always_holds_in_a_fleet(
    trace: Trace,
    policy: str,
    blocks: list[int],
    how: dict[str, Any],
    failures: dict[str, float],
    profile: Profile,
) -> None:
    shared, kept = fleet(trace, profile, blocks, how | failures), Kept(policy)
    result = shared.run(kept, log=True)
    check_fleet(result, shared, kept.all)


@settings(max_examples=100)
@given(
    trace=traces(),
    policy=st.sampled_from([p for p in (*CONTINUOUS, *POLICIES) if "max_wait_s" not in p]),
    blocks=BLOCKS,
    router=st.sampled_from(ROUTERS.names),
)
def test_no_replica_idles_while_a_request_is_there_for_it(
    trace: Trace, policy: str, blocks: list[int], router: str, profile: Profile
) -> None:
    """What was sent there it served; from a shared queue it could have taken any that it holds.

    Policies of whole batches and groups take these from a shared queue at once, whoever else idles.
    """
    assume(router != "shared-queue" or policy.startswith("continuous"))
    shared = fleet(trace, profile, blocks, {"router": router})
    result = shared.run(policy, log=True)
    t = result.requests
    dropped = {i: b.end_s for b in result.batches if b.kind == "Drop" for i in b.request_ids}
    ended = {i: dropped.get(i, t.finish_s[i]) for i in t.index}
    largest = max(m.limits.kv_tokens for m in shared.machines)
    for k, machine in enumerate(shared.machines):
        works = [b for b in result.batches if b.replica == k and b.is_busy]
        for before, after in itertools.pairwise(works):
            if after.start_s > before.end_s:
                there = (t.arrival_s < after.start_s * (1 - 1e-12)) & (pd.Series(ended) > before.end_s)
                if router == "shared-queue":
                    holds = t.prompt_tokens + shared.max_new_tokens
                    there &= ~(t.scheduled_s < after.start_s) & (t.reason == "")
                    there &= (holds <= machine.limits.kv_tokens) | (holds > largest)
                else:
                    there &= t.replica == k
                assert t.index[there].tolist() == []


def test_a_replica_that_is_full_takes_from_a_shared_queue_when_all_have_left(profile: Profile) -> None:
    n = 15
    prompts, outputs = np.full(n, 1), np.full(n, 1)
    prompts[1], outputs[0] = 59, 2
    made = Trace("made up", np.arange(n), prompts, outputs, arrival_s=np.zeros(n))
    policy = "continuous:rules=sglang,chunked_prefill_size=64,max_num_seqs=5"
    result = fleet(made, profile, [12, 60], {"router": "shared-queue"}).run(policy)
    assert result.summary["completed"] == n


@settings(max_examples=60)
@given(
    trace=traces(),
    policy=st.sampled_from([*CONTINUOUS, *POLICIES]),
    blocks=BLOCKS,
    how=FLEETS,
    failures=st.sampled_from(FAILURES),
)
def test_same_inputs_same_bytes_in_a_fleet(
    trace: Trace,
    policy: str,
    blocks: list[int],
    how: dict[str, Any],
    failures: dict[str, float],
    profile: Profile,
) -> None:
    first, second = (fleet(trace, profile, blocks, how | failures).run(policy, log=True) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.requests.to_csv() == second.requests.to_csv()
    assert first.replicas.to_csv() == second.replicas.to_csv()
    assert first.decisions == second.decisions
