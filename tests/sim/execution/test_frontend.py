"""A frontend: what a client waits before and after the engine, and that leaps do not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.host import Host
from sim.hardware.profile import Profile
from sim.scenario.scenario import scenario
from sim.simulation import simulate
from tests.sim.execution.test_leap import ORDERS, SETTINGS, TICK_S, policies, settable
from tests.sim.execution.test_leap import assert_same as assert_same_events
from tests.sim.execution.test_leap import traces as requests_over_time
from tests.sim.flat_machine import flat_machine
from tests.sim.fleet.test_fleet_leaps import FAILURES, POLICIES, worlds
from tests.sim.fleet.test_fleet_leaps import assert_leaping_changes_nothing as assert_leaping_is_stepping
from traces.trace import Trace

HOSTS = st.builds(
    Host,
    iteration_ms=st.sampled_from([0.0, 0.7]),
    per_seq_ms=st.sampled_from([0.0, 0.03]),
    before_ms=st.sampled_from([0.0, 20.3, 700.1]),
    before_per_request_ms=st.sampled_from([0.0, 3.1, 211.7]),
    after_ms=st.sampled_from([0.0, 1.7, 400.9]),
    after_per_request_ms=st.sampled_from([0.0, 0.9, 97.3]),
)
COLUMNS = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")


def fronted(step_s: float, **terms: float) -> Profile:
    """Every iteration takes `step_s`."""
    return replace(flat_machine(step_s), host=Host(**terms))


def made(arrival_s: list[float], output_tokens: list[int]) -> Trace:
    n = len(arrival_s)
    return Trace(
        "made up", np.arange(n), np.full(n, 10), np.array(output_tokens), arrival_s=np.array(arrival_s)
    )


def columns(result: Any, *names: str) -> list[list[float]]:
    return [np.asarray(result.columns[name]).round(9).tolist() for name in names]


@settings(max_examples=150)
@given(trace=requests_over_time(expire=True), policy=policies(ORDERS), how=SETTINGS, host=HOSTS)
def test_leaping_is_iteration_by_iteration_behind_a_frontend(
    trace: Trace, policy: str, how: dict[str, Any], host: Host, profile: Profile
) -> None:
    shared = scenario(trace, profile=replace(profile, host=host), **settable(policy, how))
    assert_same_events(shared.run(policy, log=True), shared.run(policy, log=True, leap=False))


@settings(max_examples=120)
@given(
    trace=worlds(),
    policy=st.sampled_from(POLICIES),
    router=st.sampled_from(["least-requests", "round-robin", "shared-queue", "power-of-two"]),
    blocks=st.lists(st.sampled_from([20, 30, 1000]), min_size=1, max_size=3),
    failures=FAILURES,
    bound=st.sampled_from([None, None, 2, 5]),
    host=HOSTS,
)
def test_leaping_is_iteration_by_iteration_in_a_fleet_behind_a_frontend(
    trace: Trace,
    policy: str,
    router: str,
    blocks: list[int],
    failures: dict[str, float],
    bound: int | None,
    host: Host,
    profile: Profile,
) -> None:
    how = {"router": router, "max_concurrency": bound, **failures}
    assert_leaping_is_stepping(trace, policy, replace(profile, host=host), blocks, how)


@settings(max_examples=80)
@given(
    trace=worlds(),
    policy=st.sampled_from([*POLICIES, "vanilla:batch_size=3"]),
    bound=st.sampled_from([None, 1, 4]),
    host=HOSTS,
)
def test_a_fleet_of_one_is_a_sole_accelerator(
    trace: Trace, policy: str, bound: int | None, host: Host, profile: Profile, tmp_path_factory: Any
) -> None:
    never = tmp_path_factory.getbasetemp() / "never.csv"
    never.write_text("replica,down_s,up_s\n0,9e8,9.1e8\n")
    shared: dict[str, Any] = {
        "policy": policy,
        "profile": replace(profile, host=host),
        "max_concurrency": bound,
        "max_new_tokens": 200,
    }
    alone, fleet = simulate(trace, **shared), simulate(trace, **shared, failures=str(never))
    for name in COLUMNS:
        assert fleet.columns[name] == pytest.approx(alone.columns[name], rel=1e-9, abs=1e-9, nan_ok=True)


@settings(max_examples=60)
@given(trace=requests_over_time(), policy=policies(["fcfs"]), before=st.sampled_from([3, 64]))
def test_a_constant_way_in_is_a_later_arrival(trace: Trace, policy: str, before: int) -> None:
    assert trace.arrival_s is not None
    machine, delay_s = flat_machine(TICK_S), before * TICK_S
    late = simulate(trace, policy=policy, profile=replace(machine, host=Host(before_ms=delay_s * 1e3)))
    moved = simulate(replace(trace, arrival_s=trace.arrival_s + delay_s), policy=policy, profile=machine)
    for name in COLUMNS[1:]:
        assert late.columns[name] == pytest.approx(moved.columns[name], rel=1e-9, nan_ok=True)
    assert late.columns["arrival_s"] == pytest.approx(trace.arrival_s)


def test_every_token_comes_later_by_the_way_out() -> None:
    trace = made([0.0, 10.0], [3, 1])
    plain, late = (
        simulate(trace, policy="continuous", profile=fronted(1.0, after_ms=ms)) for ms in (0.0, 250.0)
    )
    assert columns(plain, "first_token_s", "finish_s") == [[1.0, 11.0], [3.0, 11.0]]
    assert columns(late, "first_token_s", "finish_s") == [[1.25, 11.25], [3.25, 11.25]]
    assert late.summary["mean_tpot_ms"] == plain.summary["mean_tpot_ms"] == 1000


def test_the_more_are_under_way_the_longer_the_way_in() -> None:
    machine = fronted(1.0, before_ms=100.0, before_per_request_ms=50.0)
    result = simulate(made([0.0, 0.0, 0.5, 5.0], [1, 1, 1, 1]), policy="continuous", profile=machine)
    # One under way: due at 0.15. Two: at 0.2, seen when the iteration ends at 1.15. Three: at 0.75. Then one.
    assert columns(result, "scheduled_s") == [[0.15, 1.15, 1.15, 5.15]]
    assert columns(result, "finish_s") == [[1.15, 2.15, 2.15, 6.15]]


def test_replicas_share_the_load_of_the_way_in() -> None:
    machine = fronted(1.0, before_per_request_ms=100.0)
    trace = made([0.0, 0.0], [1, 1])
    assert columns(simulate(trace, policy="continuous", profile=machine), "scheduled_s") == [[0.1, 1.1]]
    two = simulate(trace, policy="continuous", profile=machine, replicas=2, router="round-robin")
    assert columns(two, "scheduled_s") == [[0.05, 0.1]]


def test_in_a_mixed_fleet_the_times_are_the_means() -> None:
    fleet = [fronted(1.0, before_ms=100.0), replace(fronted(1.0), name="other")]
    result = simulate(made([0.0], [1]), policy="continuous", fleet=fleet)
    assert columns(result, "scheduled_s") == [[0.05]]


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bounded_client_sends_when_it_has_its_last_token(leap: bool, replicas: int) -> None:
    machine = fronted(1.0, before_ms=100.0, after_ms=200.0)
    how: dict[str, Any] = {"max_concurrency": 1, "replicas": replicas, "leap": leap}
    result = simulate(made([0.0, 0.0, 0.0, 9.0], [2, 2, 2, 2]), policy="continuous", profile=machine, **how)
    assert columns(result, "arrival_s") == [[0.0, 2.3, 4.6, 9.0]]
    assert columns(result, "finish_s") == [[2.3, 4.6, 6.9, 11.3]]
    assert result.summary["mean_ttft_ms"] == pytest.approx(1300)


def test_without_terms_nothing_changes() -> None:
    trace = made([0.0, 0.3, 0.9], [4, 2, 7])
    plain = simulate(trace, policy="continuous", profile=flat_machine(0.25))
    assert simulate(trace, policy="continuous", profile=fronted(0.25)).summary == plain.summary
