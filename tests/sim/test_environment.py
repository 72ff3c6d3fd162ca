"""A run's environment: processes end with it, and nothing of the run stays in memory."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import Any

import pytest
import simpy

from sim.environment import Environment
from sim.ledger import Ledger
from sim.simulation import scenario


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
