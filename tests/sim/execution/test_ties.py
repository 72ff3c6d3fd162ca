"""What falls on one instant happens in one order: outages, ends of work, arrivals, decisions by number.

Leaping and stepping then agree to the iteration, in fleets with bounded clients, outages and deadlines, on a
machine whose times are exact in binary, so that ties are ties in both ways to run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.outages import Outages, Schedules
from sim.fleet.routers import ROUTERS
from sim.results.result import Result
from sim.scenario.scenario import Scenario, scenario
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

TICK_S = 1 / 64
ROWS = ("arrival_s", "scheduled_s", "first_token_s", "finish_s", "replica", "status", "reroutes", "attempts")


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 16))
    ticks = st.sampled_from([0, 0, 1, 2, 3, 5, 8, 16, 17, 40])

    def column(values: st.SearchStrategy[Any]) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    arrival = np.sort(column(ticks))
    arrival = (arrival - arrival[0]) * TICK_S
    patience = column(st.sampled_from([math.inf, math.inf, 1.0, 2.0, 9.0])) * TICK_S
    return Trace(
        "made up",
        np.arange(n),
        column(st.integers(1, 60)),
        column(st.sampled_from([1, 1, 2, 3, 7, 40])),
        arrival_s=arrival,
        deadline_s=arrival + patience if draw(st.booleans()) else None,
    )


@st.composite
def outages(draw: st.DrawFn, num_replicas: int) -> dict[int, list[tuple[float, float]]]:
    """Spans in ticks of the machine, by replica."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for replica in range(num_replicas):
        at = np.cumsum(draw(st.lists(st.integers(1, 30), max_size=6))) * TICK_S
        pairs = [(float(a), float(b)) for a, b in zip(at[::2], at[1::2], strict=False)]
        if pairs:
            spans[replica] = pairs
    return spans


@dataclass(frozen=True)
class Scheduled(Outages):
    """Outages that are given outright."""

    spans: Mapping[int, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.spans)

    def schedules(self, num_replicas: int, rng: np.random.Generator) -> Schedules:
        return {replica: iter(spans) for replica, spans in self.spans.items()}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Scenario, str]:
    replicas = draw(st.sampled_from([1, 2, 2, 3]))
    shared = scenario(
        draw(traces()),
        profile=flat_machine(TICK_S, name="exact"),
        replicas=replicas,
        router=draw(st.sampled_from(list(ROUTERS.names))),
        max_concurrency=draw(st.sampled_from([None, 1, 2, 3, 6])),
        kv_blocks=draw(st.sampled_from([None, 8, 30])),
        max_new_tokens=60,
        cap=draw(st.sampled_from(["shared", "own"])),
    )
    spans = draw(outages(replicas)) if draw(st.booleans()) else {}
    places, budget = draw(st.sampled_from([1, 2, 30])), draw(st.sampled_from([30, 2048]))
    policy = draw(
        st.sampled_from(
            [
                f"continuous:max_num_seqs={places},max_num_batched_tokens={budget}",
                f"continuous:max_num_seqs={places},order=shortest-remaining,admission=prompt",
                f"continuous:max_num_seqs={places},max_num_batched_tokens={budget},async_scheduling=on",
                f"continuous:max_num_seqs={places},order=shortest-remaining,admission=chunk,async_scheduling=on",
                f"vanilla:batch_size={places}",
                "sequence:max_wait_s=0.0625,batch_size=3",
            ]
        )
    )
    return replace(shared, outages=Scheduled(spans=spans)), policy


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_leaping_is_stepping_and_bounds_hold(world: tuple[Scenario, str]) -> None:
    shared, policy = world
    leaped, stepped = shared.run(policy), shared.run(policy, leap=False)
    for name in ROWS:
        assert leaped.columns[name].tolist() == pytest.approx(stepped.columns[name].tolist(), nan_ok=True), (
            name
        )
    for result in (leaped, stepped):
        check_bounds(result, shared.max_concurrency)


def check_bounds(result: Result, max_concurrency: int | None) -> None:
    assert result.summary["max_concurrent_requests"] <= (max_concurrency or len(result.requests))
    assert (result.summary["gpu_busy_fraction"] or 0) <= 1


def test_a_place_given_back_between_decisions_is_not_given_twice() -> None:
    """One at a time, 200 ticks each, arrivals at 0, 64 and 128, two places: the third waits for the first.

    As in a fleet with an outage that never matters, whose requests arrive while a batch runs.
    """
    n = 3
    trace = Trace("made up", np.arange(n), np.full(n, 10), np.full(n, 200), arrival_s=np.arange(n) * 1.0)
    how: dict[str, Any] = {"profile": flat_machine(TICK_S), "max_concurrency": 2, "max_new_tokens": 200}
    alone = simulate(trace, policy="vanilla:batch_size=1", **how)
    assert alone.columns["arrival_s"].tolist() == [0.0, 1.0, 200 * TICK_S]
    assert alone.summary["max_concurrent_requests"] == 2
    fleet = replace(scenario(trace, **how), outages=Scheduled(spans={0: [(1e6, 2e6)]}))
    assert (fleet.run("vanilla:batch_size=1").columns["finish_s"] == alone.columns["finish_s"]).all()


@pytest.mark.parametrize("leap", [True, False])
def test_an_arrival_that_comes_with_a_finish_finds_its_place_and_joins_the_next_iteration(leap: bool) -> None:
    """Two places, two replicas in turn: the third comes as the second ends, and joins the first."""
    trace = Trace("made up", np.arange(3), np.full(3, 10), np.array([2, 1, 2]))
    result = simulate(
        trace,
        policy="continuous",
        profile=flat_machine(TICK_S),
        replicas=2,
        router="round-robin",
        max_concurrency=2,
        leap=leap,
    )
    assert (result.columns["arrival_s"] / TICK_S).tolist() == [0, 0, 1]
    assert (result.columns["first_token_s"] / TICK_S).tolist() == [1, 1, 2]
    assert (result.columns["finish_s"] / TICK_S).tolist() == [2, 1, 3]


def test_work_after_the_last_finish_is_not_busy_time() -> None:
    """The second outlives its deadline on a replica that fails at 400 ticks; the first is done after one."""
    trace = Trace(
        "made up",
        np.arange(2),
        np.ones(2, dtype=int),
        np.array([1, 500]),
        arrival_s=np.zeros(2),
        deadline_s=np.full(2, 5 * TICK_S),
    )
    shared = scenario(trace, profile=flat_machine(TICK_S), replicas=2, max_new_tokens=500)
    result = replace(shared, outages=Scheduled(spans={1: [(400 * TICK_S, 500 * TICK_S)]})).run("continuous")
    assert result.columns["status"].tolist() == ["completed", "expired"]
    assert result.replicas.busy_s.tolist() == [TICK_S, TICK_S]
    assert result.summary["gpu_busy_fraction"] == 1


def test_what_a_failure_meets_at_the_end_of_an_iteration_is_lost_both_ways() -> None:
    trace = Trace("made up", np.arange(1), np.full(1, 10), np.full(1, 9), arrival_s=np.zeros(1))
    shared = scenario(trace, profile=flat_machine(TICK_S), replicas=1, max_new_tokens=60)
    failing = replace(shared, outages=Scheduled(spans={0: [(5 * TICK_S, 6 * TICK_S)]}))
    for result in (failing.run("continuous"), failing.run("continuous", leap=False)):
        assert (result.columns["finish_s"] / TICK_S).tolist() == [15]
        assert result.summary["iterations"] == 4 + 9 and result.tokens.recomputed == 4
