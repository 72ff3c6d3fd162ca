"""What always holds in a fleet, over policies, traces, predictors, memories, routers and failures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.fleet.routers import ROUTERS
from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of
from sim.scenario.scenario import Scenario, scenario, stream
from tests.sim.any_world import CONTINUOUS, POLICIES, PREDICTORS, Kept, check_any, traces
from traces.trace import Trace

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
