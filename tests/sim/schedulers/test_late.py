"""Who can no longer be in time waits behind all that still can: as defined, and leaping changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.fleet.routers import ROUTERS
from sim.hardware.profile import Profile
from tests.sim.execution.test_leap import (
    SETTINGS,
    TICK_S,
    assert_leaping_changes_nothing,
    exact_machine,
    traces,
)
from tests.sim.fleet import test_fleet_leaps
from tests.sim.fleet.test_fleet_leaps import FAILURES
from tests.sim.schedulers.naive_ranked import RANKS, Job, World
from tests.sim.schedulers.test_ranked import alone, random_jobs, simulated, worlds
from traces.errors import InputError
from traces.trace import SLO_COLUMNS, Trace

LATE = 1e10


@dataclass
class LateWorld(World):
    """Waiting jobs are put off once their times have passed; who runs has the rank that it entered by."""

    entered_by: dict[int, float] = field(default_factory=dict)

    def key(self, job: Job) -> tuple[float, int]:
        if job in self.waiting:
            rank = self.rank(job)
            self.entered_by[job.id] = rank + LATE if rank < self.now else rank
        return self.entered_by[job.id], job.id


@settings(max_examples=300)
@given(
    world=worlds(),
    order=st.sampled_from(["deadline", "least-laxity"]),
    places=st.sampled_from([1, 2, 5, 30]),
)
def test_it_decides_as_defined(world: tuple[list[Job], int], order: str, places: int) -> None:
    jobs, blocks = world
    policy = (
        f"continuous:order={order},late=last,max_num_seqs={places},max_num_batched_tokens=1000000,"
        "prefix_caching=off,token_ms=1000"
    )
    run, _ = simulated(jobs, blocks, policy)
    naive = LateWorld([replace(job) for job in jobs], blocks - 1, places, RANKS[order], 0.0, 0, 1).run()
    assert run.events == naive.events
    assert run.finished == naive.finished


@st.composite
def bounded(draw: st.DrawFn, *, exact: bool = False) -> Trace:
    """Random requests, most of which are due at some time."""
    trace = draw(traces(exact=exact, expire=draw(st.booleans())))
    n = len(trace)
    spans = st.sampled_from([math.nan, 2, 3, 16, 40]).map(lambda k: 1e3 * k * TICK_S)
    columns: dict[str, Any] = {
        name: np.array(draw(st.lists(spans, min_size=n, max_size=n))) for name in SLO_COLUMNS
    }
    return replace(trace, **columns)


def policies(is_async: bool) -> st.SearchStrategy[str]:
    return st.builds(
        (
            "continuous:order={},late=last,admission={},chunked={},max_num_seqs={},max_num_batched_tokens={},"
            "token_ms={},perceive_wait_s={},async_scheduling=" + ("on" if is_async else "off")
        ).format,
        st.sampled_from(["deadline", "least-laxity"]),
        st.sampled_from(["chunk", "prompt", "predicted"]),
        st.sampled_from(["on", "off"]),
        st.sampled_from([1, 2, 5, 30]),
        st.sampled_from([30, 64, 2048]),
        st.sampled_from([0, 15.625]),
        st.sampled_from([0, 0.2]),
    )


@settings(max_examples=300)
@given(trace=bounded(), policy=policies(False), how=SETTINGS)
def test_leaping_is_iteration_by_iteration(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    assert_leaping_changes_nothing(trace, policy, profile, how)


@settings(max_examples=200)
@given(trace=bounded(exact=True), policy=policies(False), how=SETTINGS)
def test_who_is_due_at_the_very_end_of_an_iteration(trace: Trace, policy: str, how: dict[str, Any]) -> None:
    assert_leaping_changes_nothing(trace, policy, exact_machine(), how)


@settings(max_examples=300)
@given(trace=bounded(), policy=policies(True), how=SETTINGS)
def test_leaping_with_a_decision_in_hand(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    assert_leaping_changes_nothing(trace, policy, profile, how)


@settings(max_examples=100)
@given(
    trace=bounded(),
    policy=policies(False) | policies(True),
    router=st.sampled_from(ROUTERS.names),
    blocks=st.lists(st.sampled_from([20, 30, 1000]), min_size=1, max_size=3),
    predictor=st.sampled_from(["oracle", "trace", "tuned"]),
    failures=FAILURES,
    seed=st.integers(0, 50),
)
def test_leaping_is_iteration_by_iteration_on_every_replica(
    trace: Trace,
    policy: str,
    router: str,
    blocks: list[int],
    predictor: str,
    failures: dict[str, float],
    seed: int,
    profile: Profile,
) -> None:
    how = {"predictor": predictor, "router": router, "seed": seed, **failures}
    test_fleet_leaps.assert_leaping_changes_nothing(trace, policy, profile, blocks, how)


def test_who_fits_enters_when_the_one_before_it_is_late() -> None:
    """One that runs for 60 s leaves memory for a small prompt, and not for the one that is due by 9.5 s."""
    jobs = [
        Job(0, 0, 80, 60, 60, [60], slos=(1, None, None)),
        Job(1, 1, 80, 4, 4, [4], slos=(8.5, None, None)),  # type: ignore[arg-type]
        Job(2, 2, 16, 4, 4, [4], slos=(50, None, None)),
    ]
    policy = "continuous:order=deadline,late={},prefix_caching=off"
    ends = {
        late: simulated(jobs, 10, policy.format(late), max_new_tokens=60)[0].finished
        for late in ("first", "last")
    }
    assert ends == {"first": {0: 60, 1: 64, 2: 64}, "last": {0: 60, 1: 64, 2: 14}}


@pytest.mark.parametrize(
    ("order", "gain"), [("order=deadline", 0.02), ("order=least-laxity,token_ms=1000", 0.08)]
)
def test_beyond_what_can_be_done_more_are_in_time(order: str, gain: float) -> None:
    """One at a time and without preemption, over 40 worlds in which two of five have to be late."""
    shares = {"first": 0.0, "last": 0.0}
    for seed in range(40):
        jobs, rng = random_jobs(seed), np.random.default_rng(seed)
        most = 1 + int(0.3 * sum(job.output for job in jobs))
        jobs = [replace(job, slos=(None, None, job.output + int(rng.integers(0, most)))) for job in jobs]
        for late in shares:
            shares[late] += alone(jobs, f"{order},late={late}").summary["slo_attainment"] / 40
    assert shares["last"] > shares["first"] + gain


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("late=last", "late: last needs order=deadline or least-laxity, not fcfs"),
        (
            "order=deadline,late=last,preempt_until=1",
            "late: last does not go with preempt_until=1; preempt_until=0 is needed",
        ),
        (
            "order=deadline,late=last,rules=sglang",
            "late: last does not go with rules=sglang; rules=vllm is needed",
        ),
        ("order=deadline,late=never", "'never' must be one of first, last"),
        ("order=dedline", "shortest-uncached, vtc; did you mean deadline?"),
    ],
)
def test_bad_options_are_one_line(options: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        alone(random_jobs(1), options)
    assert said in str(caught.value) and "\n" not in str(caught.value)
