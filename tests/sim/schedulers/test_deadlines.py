"""Orders by deadlines: ranks worked out by hand, and theory on one machine with free preemption."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sim.request import Request
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.deadlines import Deadline, LeastLaxity
from sim.schedulers.disciplines import discipline
from sim.work import Limits
from tests.sim.schedulers.naive_ranked import Job
from tests.sim.schedulers.test_ranked import alone, random_jobs
from traces.errors import InputError


def request(**more: float) -> Request:
    return Request(0, 10.0, 5, 100, predicted_tokens=40, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "generated", "due"),
    [
        ({}, 0, math.inf),
        ({"ttft_slo_ms": 300}, 0, 10.3),
        ({"ttft_slo_ms": 300}, 1, math.inf),  # the first token has come
        ({"ttft_slo_ms": 300, "tpot_slo_ms": 20}, 5, 10.4),
        ({"tpot_slo_ms": 20}, 5, math.inf),  # from a first token that is due at no time
        ({"e2el_slo_ms": 2000}, 30, 12.0),
        ({"e2el_slo_ms": 2000, "ttft_slo_ms": 300}, 0, 10.3),
        ({"e2el_slo_ms": 2000, "deadline_s": 11.0}, 0, 11.0),
        ({"e2el_slo_ms": 2000, "deadline_s": 11.0}, 1, 12.0),
    ],
)
def test_a_request_is_due_by_what_it_states(more: dict[str, float], generated: int, due: float) -> None:
    assert Deadline()(request(**more), generated) == pytest.approx(due)


def test_slack_leaves_time_for_the_predicted_rest() -> None:
    """40 tokens are predicted, each of 10 ms."""
    rank = LeastLaxity(10.0)
    assert rank(request(e2el_slo_ms=2000), 0) == pytest.approx(12 - 0.4)
    assert rank(request(e2el_slo_ms=2000), 30) == pytest.approx(12 - 0.1)
    assert rank(request(e2el_slo_ms=2000), 70) == pytest.approx(12 - 0.01)  # the next token, at least
    assert rank(request(e2el_slo_ms=2000, ttft_slo_ms=500), 0) == pytest.approx(10.5 - 0.01)
    chosen = discipline(ContinuousOptions(order="least-laxity", token_ms=7), Limits(0))
    assert isinstance(chosen, LeastLaxity) and chosen.token_s == 0.007


def with_deadlines(seed: int) -> list[Job]:
    """Random requests, due as soon as some of them may be late whatever the order."""
    rng = np.random.default_rng(seed)
    jobs, spread = random_jobs(seed), float(rng.choice([0.3, 1.0, 2.0]))
    total = sum(job.output for job in jobs)
    return [
        replace(job, slos=(None, None, job.output + int(rng.integers(0, 1 + int(spread * total)))))
        for job in jobs
    ]


def can_all_be_met(jobs: list[Job]) -> bool:
    """Whether some order with free preemption meets all deadlines: between no two times there is more to do
    than time (Baruah, Howell and Rosier, Real-Time Systems 2, 1990).
    """
    dues = [job.arrival + (job.slos[2] or 0) for job in jobs]
    return all(
        sum(j.output for j, d in zip(jobs, dues, strict=True) if j.arrival >= begin and d <= end)
        <= end - begin
        for begin in {job.arrival for job in jobs}
        for end in dues
        if end > begin
    )


@pytest.mark.parametrize("policy", ["order=deadline", "order=least-laxity,token_ms=1000"])
@pytest.mark.parametrize("first_seed", range(0, 300, 100))
def test_it_meets_all_deadlines_where_any_order_does(policy: str, first_seed: int) -> None:
    num_feasible = num_others_miss = 0
    for seed in range(first_seed, first_seed + 100):
        jobs = with_deadlines(seed)
        met = alone(jobs, f"{policy},preempt_until=1").summary["slo_attainment"] == 1
        assert met == can_all_be_met(jobs), seed
        num_feasible += met
        num_others_miss += met and alone(jobs, "order=fcfs").summary["slo_attainment"] < 1
    assert 20 <= num_feasible <= 90 and num_others_miss >= 10


def test_without_bounds_it_goes_first_come_first_served() -> None:
    jobs = random_jobs(3)
    ends = [
        alone(jobs, p).columns["finish_s"].tolist() for p in ("order=fcfs", "order=deadline,preempt_until=1")
    ]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("order=least-laxity,token_ms=-1", "token_ms: -1.0 must be between 0 and 1e+06"),
        ("order=deadline,rules=sglang,preempt_until=1", "preempt_until: an option of rules=vllm"),
    ],
)
def test_bad_options_are_one_line(options: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("+", r"\+")):
        alone(random_jobs(1), options)
