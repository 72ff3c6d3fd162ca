"""Requests that wait for others of their session come when these have ended, in a leap as step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.routers import ROUTERS
from sim.hardware.host import Host
from sim.results.result import Result
from sim.scenario.scenario import Scenario, scenario
from tests.sim.execution import test_ties as ties
from tests.sim.execution.test_ties import ROWS, TICK_S, Scheduled, check_bounds, outages
from tests.sim.flat_machine import flat_machine
from traces import InputError, load
from traces.reuse import reuse_of
from traces.sessions import padded
from traces.trace import Trace


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Requests of which each may wait for up to three of the rows before it, in steps of the machine."""
    trace = draw(ties.traces())
    n = len(trace)
    parents = [
        draw(st.lists(st.integers(0, row - 1), max_size=3, unique=True))
        if row and draw(st.booleans())
        else []
        for row in range(n)
    ]
    think = draw(st.lists(st.sampled_from([0, 0, 1, 4, 30]), min_size=n, max_size=n))
    return replace(trace, waits_for=padded(parents), think_s=np.array(think) * TICK_S)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Scenario, str]:
    replicas = draw(st.sampled_from([1, 1, 2, 4]))  # what a frontend shares among them is exact in binary
    host = Host(before_ms=draw(st.sampled_from([0, 125])), after_ms=draw(st.sampled_from([0, 250])))
    if draw(st.booleans()):
        host = replace(host, before_per_request_ms=31.25, after_per_request_ms=15.625)
    profile = flat_machine(TICK_S, name="exact")
    shared = scenario(
        draw(traces()),
        profile=replace(profile, host=host) if draw(st.booleans()) else profile,
        replicas=replicas,
        router=draw(st.sampled_from(list(ROUTERS.names))),
        max_concurrency=draw(st.sampled_from([None, None, 1, 2, 6])),
        kv_blocks=draw(st.sampled_from([None, 6, 30])),
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
                f"vanilla:batch_size={places}",
                "sequence:max_wait_s=0.0625,batch_size=3",
            ]
        )
    )
    return replace(shared, outages=Scheduled(spans=spans)), policy


def check_sessions(result: Result, trace: Trace, is_bounded: bool) -> None:
    """Who waits comes its think time after the last end; or never, where one was given up."""
    status, due_s, finish_s = (result.columns[name] for name in ("status", "due_s", "finish_s"))
    arrival_s, reason = result.columns["arrival_s"], result.columns["reason"]
    assert trace.waits_for is not None and trace.arrival_s is not None
    for row, parents in enumerate(trace.waits_for.tolist()):
        parents = [parent for parent in parents if parent >= 0]
        lost = any(status[parent] != "completed" for parent in parents)
        assert (status[row] == "cancelled") == lost
        if lost:
            assert str(reason[row]).startswith("cancelled: an earlier request of its session was ")
            assert math.isnan(finish_s[row])
            continue
        ends = max((finish_s[parent] for parent in parents), default=None)
        due = trace.arrival_s[row] if ends is None else ends + trace.thinks_s[row]
        assert due_s[row] == pytest.approx(due, rel=1e-12)
        assert arrival_s[row] >= due_s[row] if is_bounded else arrival_s[row] == due_s[row]
    failed = int((status != "completed").sum())
    assert result.summary["failed"] == failed and result.summary["completed"] == len(trace) - failed


@settings(max_examples=500, deadline=None)
@given(worlds())
def test_leaping_is_stepping_and_nobody_comes_before_whom_he_waits_for(world: tuple[Scenario, str]) -> None:
    shared, policy = world
    leaped, stepped = shared.run(policy), shared.run(policy, leap=False)
    for name in ROWS:
        assert leaped.columns[name].tolist() == pytest.approx(stepped.columns[name].tolist(), nan_ok=True), (
            name
        )
    for result in (leaped, stepped):
        check_bounds(result, shared.max_concurrency)
        check_sessions(result, shared.trace, shared.max_concurrency is not None)


def made(
    parents: list[list[int]], think: list[int], output: list[int], arrival: list[int], **columns: Any
) -> Trace:
    """Times in iterations of the machine."""
    n = len(output)
    return Trace(
        "made up",
        np.arange(n),
        np.full(n, 10),
        np.array(output),
        arrival_s=np.array(arrival) * TICK_S,
        waits_for=padded(parents),
        think_s=np.array(think) * TICK_S,
        **columns,
    )


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("replicas", [1, 2])
def test_turns_follow_each_other_and_sub_agents_join(replicas: int, leap: bool) -> None:
    """0 ends at 4; 1 and 2 run side by side, think 1 and 0, end at 10 and 6; 3 waits for both and thinks 2.

    4 is another session, open, at 5: it is not held up.
    """
    trace = made([[], [0], [0], [1, 2], []], [0, 1, 0, 2, 0], [4, 5, 2, 3, 1], [0, 1, 1, 2, 5])
    result = simulate(trace, policy="continuous", profile=flat_machine(TICK_S), replicas=replicas, leap=leap)
    assert (result.columns["arrival_s"] / TICK_S).tolist() == [0, 5, 4, 12, 5]
    assert (result.columns["finish_s"] / TICK_S).tolist() == [4, 10, 6, 15, 6]


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_rest_of_a_session_is_cancelled_with_a_request_that_never_fits(replicas: int) -> None:
    trace = made([[], [0], [1], [2], []], [0] * 5, [2] * 5, [0, 0, 0, 0, 9])
    trace = replace(trace, prompt_tokens=np.array([10, 10_000, 10, 10, 10]))
    result = simulate(
        trace,
        policy="continuous",
        profile=flat_machine(TICK_S),
        kv_blocks=60,
        max_new_tokens=40,
        replicas=replicas,
    )
    assert result.columns["status"].tolist() == [
        *("completed", "rejected", "cancelled", "cancelled", "completed")
    ]
    assert result.columns["reason"][3] == "cancelled: an earlier request of its session was rejected"
    assert result.summary["completed"] == 2 and result.summary["failed"] == 3
    assert (result.columns["arrival_s"] / TICK_S).tolist() == [0, 2, 2, 2, 9]


def test_a_client_knows_the_end_when_the_last_token_has_reached_it() -> None:
    profile = replace(flat_machine(TICK_S), host=Host(before_ms=1e3, after_ms=2e3))
    result = simulate(made([[], [0]], [0, 64], [2, 2], [0, 0]), policy="continuous", profile=profile)
    assert result.columns["finish_s"].tolist() == [3 + 2 * TICK_S, 7 + 4 * TICK_S]
    assert result.columns["arrival_s"].tolist() == [0, 4 + 2 * TICK_S]


def test_a_deadline_keeps_its_distance_from_the_arrival() -> None:
    """Each has ten iterations: the second would have missed the time of day that the trace states."""
    deadline = np.array([10, 11, 12]) * TICK_S
    trace = made([[], [0], [1]], [0, 30, 0], [5, 5, 1], [0, 1, 2], deadline_s=deadline)
    result = simulate(trace, policy="continuous", profile=flat_machine(TICK_S))
    assert result.columns["status"].tolist() == ["completed"] * 3


def test_a_session_held_back_by_a_bound_on_concurrency_waits_its_turn() -> None:
    """One place: the second session has come before the first one's next turn, so it goes first."""
    trace = made([[], [0], []], [0, 1, 0], [4, 2, 3], [0, 0, 2])
    result = simulate(trace, policy="continuous", profile=flat_machine(TICK_S), max_concurrency=1)
    assert (result.columns["arrival_s"] / TICK_S).tolist() == [0, 7, 4]
    assert (result.columns["due_s"] / TICK_S).tolist() == [0, 5, 2]
    assert (result.columns["held_ms"] / 1e3 / TICK_S).tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"waits_for": [[-1], [1]]}, "row 2, waits_for: row 2 does not come before it"),
        ({"waits_for": [[1], [-1]]}, "row 1, waits_for: row 2 does not come before it"),
        ({"waits_for": [[-1], [7]]}, "row 2, waits_for: row 8 does not come before it"),
        ({"think_s": [0.0, -2.0]}, "row 2, think_s: -2 is not at least 0 and finite"),
        ({"think_s": [0.0, math.nan]}, "row 2, think_s: nan is not at least 0 and finite"),
        ({"session_id": ["a", "b"]}, "row 2, waits_for: row 1 is of session a, not of b"),
        ({"waits_for": [-1, 0]}, r"waits_for has shape \(2,\), not \(n, k\)"),
    ],
)
def test_a_trace_whose_requests_cannot_wait_so_is_refused(columns: dict[str, Any], said: str) -> None:
    trace = made([[], [0]], [0, 0], [1, 1], [0, 0])
    with pytest.raises(InputError, match=said):
        replace(trace, **{name: np.array(values) for name, values in columns.items()})
    with pytest.raises(InputError, match="think_s is of no use without waits_for"):
        replace(trace, waits_for=None)


@settings(max_examples=80, deadline=None)
@given(
    spec=st.sampled_from(
        [
            "sessions:turns=4,rate=20,think_s=0.2,system_tokens=40,prompt_tokens=20,output_tokens=10",
            "sessions:turns=3,turns_law=geometric,rate=5,agents=2,system_tokens=0,prompt_tokens=30,output_tokens=6",
        ]
    ),
    seed=st.integers(0, 1000),
    replicas=st.sampled_from([1, 2]),
    blocks=st.sampled_from([25, 60, 4000]),
    cap=st.sampled_from([4, 60]),
)
def test_a_cache_finds_the_same_in_a_leap_and_never_more_than_an_endless_one(
    spec: str, seed: int, replicas: int, blocks: int, cap: int
) -> None:
    trace = load(spec, num_prompts=40, seed=seed, max_new_tokens=cap)
    how: dict[str, Any] = {"profile": flat_machine(TICK_S), "replicas": replicas, "kv_blocks": blocks}
    shared = scenario(trace, **how)
    policy = "continuous:prefix_caching=on,max_num_seqs=8"
    leaped, stepped = shared.run(policy), shared.run(policy, leap=False)
    for name in ROWS:
        assert leaped.columns[name].tolist() == pytest.approx(stepped.columns[name].tolist(), nan_ok=True), (
            name
        )
    assert leaped.summary["prefix_hit_fraction"] == stepped.summary["prefix_hit_fraction"]
    check_sessions(leaped, shared.trace, is_bounded=False)
    reuse, found = reuse_of(shared.trace), leaped.summary["prefix_hit_fraction"]
    assert reuse is not None and found is not None
    if leaped.summary["preemptions"] == 0 and leaped.summary["failed"] == 0:
        assert found <= reuse.most


def test_what_failures_send_back_is_looked_for_and_counted_again(tmp_path: Path) -> None:
    """The second request finds 64 of its 96 tokens, fails with its machine, and finds nothing after that."""
    trace, outages = tmp_path / "trace.csv", tmp_path / "outages.csv"
    rows = [
        "arrival_s,prompt_tokens,output_tokens,prefix_id,prefix_tokens",
        *(f"{t},96,20,a,64" for t in (0, 0.9)),
    ]
    trace.write_text("\n".join(rows) + "\n")
    outages.write_text("replica,down_s,up_s\n0,1,2\n")
    result = scenario(str(trace), profile=flat_machine(TICK_S), failures=outages).run(
        "continuous:prefix_caching=on"
    )
    assert result.columns["reroutes"].tolist() == [0, 1] and result.summary["failed"] == 0
    assert result.summary["prefix_hit_fraction"] == 64 / (3 * 96)
