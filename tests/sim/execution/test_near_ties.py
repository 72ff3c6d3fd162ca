"""Leaping is stepping to the last bit, where sums of rounded times tie, or miss each other by one bit.

Arrivals, deadlines, patience and the waits of questions are multiples of an iteration that is no binary
fraction: ten times 0.1, added one by one, is 0.9999999999999999, so that an end reckoned step by step may lie
on the other side of such a time than one reckoned at once. Outages are at such times, too; and arrivals and
deadlines at ends of iterations that a run has had, or next to them. So are the ends of transfers from slower
memory, of what a host does, and of the time in which a session is away.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.host import Host
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.step_cost import StepCost
from sim.results.result import Result
from sim.scenario.scenario import Scenario, scenario
from tests.sim.execution.test_leap import ORDERS, SETTINGS, SGLANG, TRTLLM, events, policies, settable
from tests.sim.execution.test_ties import ROWS, Scheduled
from tests.sim.flat_machine import flat_machine
from traces.prompt_blocks import blocks_of_lists
from traces.sessions import padded
from traces.trace import Trace

TICKS = st.sampled_from([0, 0, 1, 2, 3, 5, 7, 10, 16, 17, 25, 30, 40, 41, 100])
POLICIES = policies([*ORDERS, "memory-time", "memory-time", "deadline"])
ASYNC = policies([*ORDERS, "memory-time", "deadline"], is_async=True)


def machine(tick_s: float, share: float) -> Profile:
    """An iteration takes a tick, and `share` of one more per token in memory."""
    tick = PiecewiseLinear((1,), (tick_s,))
    cost = StepCost(tick, share * tick_s, tick, share * tick_s, 0.0)
    return replace(flat_machine(tick_s), step_cost=cost)


@st.composite
def traces(draw: st.DrawFn, tick_s: float) -> Trace:
    """Times are whole ticks, each rounded once."""
    n = draw(st.integers(1, 16))

    def column(values: st.SearchStrategy[Any]) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    ticks = np.sort(column(TICKS))
    ticks -= ticks[0]
    patience = column(st.sampled_from([math.inf, math.inf, 1.0, 3.0, 9.0, 30.0]))
    return Trace(
        "made up",
        np.arange(n),
        column(st.integers(1, 60)),
        column(st.sampled_from([1, 2, 3, 7, 30, 60])),
        arrival_s=ticks * tick_s,
        predicted_tokens=column(st.integers(0, 90)),
        priority=column(st.sampled_from([0, 0, -1, 3])),
        deadline_s=(ticks + patience) * tick_s if draw(st.booleans()) else None,
        e2el_slo_ms=column(st.sampled_from([math.nan, 10.0, 40.0])) * tick_s * 1e3,
    )


@st.composite
def sessions(draw: st.DrawFn, tick_s: float) -> Trace:
    """Turns of sessions, each with all that was said before, and a few whole ticks after the one before."""
    trace = draw(traces(tick_s))
    n = len(trace)
    parents: list[list[int]] = [[]]
    rows: list[list[int]] = [[0, 1]]
    sizes: list[list[int]] = [[draw(st.sampled_from([16, 40])), draw(st.integers(1, 60))]]
    for i in range(1, n):
        before = draw(st.none() | st.integers(0, i - 1))
        parents.append([] if before is None else [before])
        said = ([0], sizes[0][:1]) if before is None else (rows[before], sizes[before])
        rows.append([*said[0], 2 * i, 2 * i + 1])
        tokens = 8 if before is None else int(trace.output_tokens[before])
        sizes.append([*said[1], tokens, draw(st.integers(1, 30))])
    prompts = [sum(row) for row in sizes]
    think = np.array(draw(st.lists(TICKS, min_size=n, max_size=n))) * tick_s
    return replace(
        trace,
        prompt_tokens=np.array(prompts),
        blocks=blocks_of_lists(rows, sizes, prompts),
        waits_for=padded(parents) if any(parents) else None,
        think_s=np.where([bool(row) for row in parents], think, 0.0) if any(parents) else None,
    )


@st.composite
def tiered_worlds(draw: st.DrawFn) -> tuple[Scenario, str]:
    """Memory to which blocks come back in whole ticks, and hosts that take whole ticks, too."""
    tick_s = draw(st.sampled_from([0.1, 0.02, 0.05, 0.003]))
    profile = machine(tick_s, draw(st.sampled_from([0.0, 0.0, 0.01])))
    if draw(st.booleans()):
        before, each = (draw(st.sampled_from([0, 1, 4])) * tick_s * 1e3 for _ in range(2))
        profile = replace(profile, host=Host(before_ms=before, before_per_request_ms=each))
    rate = 16 * draw(st.sampled_from([0.25, 0.5, 1.0, 4.0])) / tick_s
    policy = "continuous:prefix_caching=on,order={},async_scheduling={},max_num_seqs={},waits={}".format(
        draw(st.sampled_from(["fcfs", "shortest-predicted", "priority"])),
        draw(st.sampled_from(["on", "off"])),
        draw(st.sampled_from([1, 2, 5, 30])),
        draw(st.sampled_from(["discard", "preserve", "swap"])),
    )
    made = scenario(
        draw(sessions(tick_s)),
        profile=profile,
        kv_tier=f"cpu:{draw(st.sampled_from([160, 2000]))}B@{rate}B/s"
        + draw(st.sampled_from(["", ",blocking"])),
        kv_blocks=draw(st.sampled_from([30, 60, 500])),
        max_concurrency=draw(st.sampled_from([None, 1, 4])),
        replicas=draw(st.sampled_from([1, 2])),
        router=draw(st.sampled_from(["least-tokens", "prefix-aware", "shared-queue"])),
    )
    return made, policy


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Scenario, str]:
    tick_s = draw(st.sampled_from([0.1, 0.02, 0.05, 0.003, 1 / 64]))
    policy = draw(POLICIES | ASYNC | SGLANG | TRTLLM)
    how = settable(policy, draw(SETTINGS))
    replicas = draw(st.sampled_from([1, 1, 2]))
    made = scenario(
        draw(traces(tick_s)),
        profile=machine(tick_s, draw(st.sampled_from([0.0, 0.0, 0.01, 0.001]))),
        replicas=replicas,
        router=draw(st.sampled_from(["round-robin", "least-requests", "shared-queue"])),
        **how,
    )
    spans = {
        replica: [(a * tick_s, (a + draw(st.integers(1, 9))) * tick_s)]
        for replica in range(replicas)
        if (a := draw(st.sampled_from([0, 0, 3, 10, 30])))
    }
    return replace(made, outages=Scheduled(spans=spans)) if spans else made, policy


def assert_alike(shared: Scenario, policy: str) -> Result:
    """The same to the last bit, and gaps between tokens count alike from when half of the requests have come;
    returns what went iteration by iteration.
    """
    leaped, stepped = (
        shared.run(policy, log=True, leap=leap, warmup=len(shared.trace) // 2) for leap in (True, False)
    )
    for name in ROWS:
        a, b = leaped.columns[name], stepped.columns[name]
        assert all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True)), name
    if (gap_ms := stepped.summary["mean_itl_ms"]) is not None:
        assert leaped.summary["mean_itl_ms"] == pytest.approx(gap_ms, rel=1e-7)
    if len(leaped.machines["iterations"]) == 1:
        assert events(leaped) == events(stepped)
    return stepped


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_multiples_of_an_iteration(world: tuple[Scenario, str]) -> None:
    assert_alike(*world)


@settings(max_examples=200, deadline=None)
@given(tiered_worlds())
def test_turns_that_come_back_and_blocks_on_their_way(world: tuple[Scenario, str]) -> None:
    assert_alike(*world)


@settings(max_examples=200, deadline=None)
@given(worlds(), st.data())
def test_arrivals_and_deadlines_at_ends_and_next_to_them(
    world: tuple[Scenario, str], data: st.DataObject
) -> None:
    """The ends are those of a run before, so that up to the first that moves they are those of this one."""
    shared, policy = world
    trace = shared.trace
    ends = [0.0, *(b.end_s for b in shared.run(policy, log=True, leap=False).batches)]
    aim = st.builds(
        lambda end, way: max(math.nextafter(end, way) if way else end, 0.0),
        st.sampled_from(ends),
        st.sampled_from([0.0, -math.inf, math.inf]),
    )

    def column() -> Any:
        return np.array(data.draw(st.lists(aim, min_size=len(trace), max_size=len(trace))))

    arrival_s = np.sort(column())
    arrival_s[0] = 0.0
    deadline_s = None if trace.deadline_s is None else np.maximum(arrival_s, column())
    assert_alike(replace(shared, trace=replace(trace, arrival_s=arrival_s, deadline_s=deadline_s)), policy)


def test_an_arrival_at_the_tenth_tenth_of_a_second() -> None:
    """Ten iterations end at 1, and not, as if added one by one, before: it joins the eleventh."""
    trace = Trace("made up", np.arange(2), np.full(2, 5), np.array([40, 2]), arrival_s=np.array([0.0, 1.0]))
    stepped = assert_alike(scenario(trace, profile=machine(0.1, 0.0)), "continuous")
    assert stepped.columns["scheduled_s"][1] == 1.0
