"""A run's environment: processes end with it, and nothing of the run stays in memory."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import Any

import pytest
import simpy

from sim.execution.environment import Environment
from sim.results.ledger import Ledger
from sim.scenario.scenario import scenario


def test_processes_end_and_the_search_for_cycles_goes_on() -> None:
    ended: list[float] = []

    def waits(env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
        try:
            yield env.timeout(1.0)
            yield env.event()
        finally:
            ended.append(env.now)

    assert gc.isenabled()
    with Environment() as env:
        env.process(waits(env))
        env.run()
        assert not gc.isenabled()
        assert not ended
    assert ended == [1.0]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), Environment() as env:
        env.process(waits(env))
        env.run(until=0.5)
        raise ZeroDivisionError
    assert ended == [1.0, 0.5]
    assert gc.isenabled()


@pytest.mark.parametrize("policy", ["vanilla", "sequence", "continuous", "continuous:order=fair"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_concurrency": 3},
        {"replicas": 3, "mtbf_s": 20.0, "mttr_s": 5.0},
        {"replicas": 2, "router": "shared-queue"},
    ],
    ids=["sole", "closed", "failing", "shared"],
)
def test_nothing_of_a_run_stays_in_memory(policy: str, given: dict[str, Any]) -> None:
    """Without a search for cycles, which may come only after many runs."""
    made = scenario("lognormal:output_median=20", num_prompts=60, request_rate=20.0, **given)
    gc.collect()
    gc.disable()
    try:
        result = made.run(policy)
        left = [kept for kept in gc.get_objects() if type(kept) is Ledger]
    finally:
        gc.enable()
    assert result.summary["completed"] == 60
    assert not left


def test_time_is_skipped_only_where_nothing_else_happens() -> None:
    seen: list[tuple[str, float]] = []

    def rings(env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(2.0)
        seen.append(("bell", env.now))
        yield env.event()

    def skips(env: Environment) -> Generator[simpy.Event, Any, None]:
        for seconds in (1.5, 0.5, 5.0):
            if not env.skip_to(env.now + seconds):
                seen.append(("waits", env.now))
                yield env.timeout(seconds)
            seen.append(("goes on", env.now))

    with Environment() as env:
        env.process(rings(env))
        env.process(skips(env))
        env.run()
    # At two seconds both are due: the bell was there first.
    assert seen == [
        ("goes on", 1.5),
        ("waits", 1.5),
        ("bell", 2.0),
        ("goes on", 2.0),
        ("goes on", 7.0),
    ]
    assert env.now == 7.0


def test_time_is_not_skipped_beyond_the_end_of_a_run() -> None:
    def skips(env: Environment) -> Generator[simpy.Event, Any, None]:
        while True:
            if not env.skip_to(env.now + 1.0):
                yield env.timeout(1.0)

    with Environment() as env:
        env.process(skips(env))
        env.run(until=3.5)
    assert env.now == 3.5
