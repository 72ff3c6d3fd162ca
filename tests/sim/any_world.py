"""Policies, predictors and traces of which any may meet any other, and what holds of any run; for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sim.results.result import Result
from sim.scenario.policies import make_scheduler
from sim.testing.invariants import check_run
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
    "sequence:group_size=9,limit=quantile:0.9",
    "sequence:max_wait_s=1,limit=quantile:0.6,batch_size=3",
    "sequence:max_wait_s=0.7,batch_size=3",
    "sequence:max_wait_s=5,vbs=off,batch_size=3",
    "sequence:max_wait_s=2,vbs=memory,margin=0.8",
    "sequence:vbs=memory,bins=least-time,requeue=on,group_size=40",
    "sequence:requeue=on,vbs=off,batch_size=3",
    "sequence:requeue=on,max_wait_s=1",
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
    "continuous:prefix_caching=on,order=longest-prefix-match,max_num_seqs=3,admission=predicted",
    "continuous:prefix_caching=on,order=shortest-uncached,async_scheduling=on,max_num_batched_tokens=300",
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


class Kept:
    """A policy that keeps its schedulers at hand."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.all: list[Any] = []

    def __call__(self, limits: Limits) -> Scheduler:
        self.scheduler: Any = make_scheduler(self.policy, limits)
        self.all.append(self.scheduler)
        return self.scheduler
