"""Bounds that requests state themselves: who meets them, and what counts as good, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sim import plan, simulate
from sim.perception.predictions import Perception
from sim.planning.slo import observe, parse_slo
from sim.results.own_slos import bounds_of
from sim.results.result import Result
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from traces.errors import InputError
from traces.trace import Trace

NAN = math.nan
ONE_AT_A_TIME = "vanilla:batch_size=1"


def line(ttft_slo_ms: list[float] | None = None, tpot_slo_ms: list[float] | None = None) -> Trace:
    """Two tokens each, half a second a token, one at a time: first tokens at 0.5, 1.5, 2.5, 3.5."""
    n = 4
    return Trace(
        "line",
        np.arange(n),
        np.full(n, 10),
        np.full(n, 2),
        arrival_s=np.zeros(n),
        ttft_slo_ms=None if ttft_slo_ms is None else np.array(ttft_slo_ms),
        tpot_slo_ms=None if tpot_slo_ms is None else np.array(tpot_slo_ms),
    )


def run(trace: Trace, **settings: Any) -> Result:
    return simulate(trace, policy=ONE_AT_A_TIME, profile=flat_machine(0.5), **settings)


def test_the_world_is_as_described() -> None:
    result = run(line())
    assert result.columns["ttft_ms"].tolist() == pytest.approx([500, 1500, 2500, 3500])
    assert result.columns["tpot_ms"].tolist() == pytest.approx([500] * 4)
    assert "slo_attainment" not in result.summary and result.summary["request_goodput"] is None


def test_attainment_is_of_the_requests_that_state_a_bound() -> None:
    """The second is late for its own bound, the third states none, the fourth is slow by token."""
    result = run(line([600, 1000, NAN, NAN], [NAN, 600, NAN, 400]))
    assert result.summary["slo_attainment"] == pytest.approx(1 / 3)
    assert list(result.requests["ttft_slo_ms"].fillna(0)) == [600, 1000, 0, 0]


def test_attainment_is_undefined_where_none_states_any() -> None:
    summary = run(line([NAN] * 4)).summary
    assert summary["slo_attainment"] is None and summary["request_goodput"] is None


def test_a_request_that_is_not_served_misses_its_bounds() -> None:
    trace = line([1e4] * 4)
    trace.prompt_tokens[1] = 10**7
    summary = run(trace).summary
    assert summary["failed"] == 1 and summary["slo_attainment"] == 0.75


def test_a_warm_up_has_no_part_in_it() -> None:
    assert run(line([1, 2000, 2000, 4000]), warmup=1).summary["slo_attainment"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("goodput", "good"),
    [
        ({}, 3),  # the second alone misses its own; who states none is within any
        ({"ttft": 3000}, 2),  # the fourth states none, and is late for all
        ({"ttft": 100}, 1),  # the first states its own, which counts in place of it
        ({"ttft": 3000, "e2el": 1200}, 1),  # bounds that none states hold for all
    ],
)
def test_a_request_that_states_bounds_is_good_by_its_own(goodput: dict[str, float], good: int) -> None:
    summary = run(line([600, 1000, NAN, NAN]), goodput=goodput).summary
    assert summary["request_goodput"] == pytest.approx(good / 4.0)
    assert summary["request_goodput_from_schedule"] == pytest.approx(good / 4.0)


def test_a_bound_from_the_schedule_counts_what_a_client_held_back() -> None:
    summary = run(line([600] * 4), max_concurrency=1).summary
    assert summary["slo_attainment"] == 1 and summary["request_goodput"] == pytest.approx(1)
    assert summary["request_goodput_from_schedule"] == pytest.approx(1 / 4)


def test_a_stated_bound_takes_the_place_of_that_for_all() -> None:
    bounds = bounds_of({"ttft_slo_ms": np.array([NAN, 3.0])}, {"ttft": 7.0, "e2el": 9.0})
    assert bounds["e2el"] == 9.0 and list(bounds) == ["ttft", "e2el"]
    np.testing.assert_array_equal(bounds["ttft"], [7, 3])
    assert bounds_of({"tpot_slo_ms": np.array([NAN, NAN])}, {}) == {}


def test_schedulers_and_routers_see_what_a_request_states_and_nothing_else() -> None:
    for trace, seen in (
        (line([600, NAN, 5, 6]), [(600, None), (None, None), (5, None), (6, None)]),
        (line(None, [NAN, NAN, NAN, 7.5]), [(None, None)] * 3 + [(None, 7.5)]),
        (line(), [(None, None)] * 4),
    ):
        world = scenario(trace, profile=flat_machine(0.5))
        requests = list(world.requests(Perception(np.ones(4), None, False, (0.0, 0.0))))
        assert [(r.ttft_slo_ms, r.tpot_slo_ms) for r in requests] == seen
        assert [r.answered_tokens for r in requests] == [0] * 4


def test_a_plan_bounds_the_share_of_requests_that_are_good_by_their_own() -> None:
    n = 100
    columns = {
        "arrival_s": np.arange(n) * 1.0,
        "finish_s": np.arange(n) + 1.0,
        "ttft_ms": np.full(n, 100.0),
        "ttft_slo_ms": np.where(np.arange(n) < 55, 99.0, NAN),
        "output_tokens": np.full(n, 7),
    }
    for goodput, share in ((None, 35 / 70), ({"ttft": 99.5}, 0.0), ({"ttft": 101.0}, 35 / 70)):
        seen = observe(parse_slo("attainment:0.5", goodput, has_own=True), columns, {})
        assert seen.values == pytest.approx((share,))


def test_a_plan_needs_no_goodput_where_the_trace_states_bounds() -> None:
    rows = np.arange(60)
    trace = Trace(
        "stated", rows, rows + 10, np.full(60, 5), arrival_s=rows * 0.5, ttft_slo_ms=np.full(60, 900.0)
    )
    settings: dict[str, Any] = {
        "slo": "attainment:0.9",
        "policies": ONE_AT_A_TIME,
        "profiles": "h200-vicuna-7b",
        "request_rate": 4.0,
        **{"num_requests": 200, "max_requests": 400, "num_seeds": 3, "max_seeds": 3, "jobs": 1},
    }
    planned = plan(trace, **settings)
    (answer,) = planned.answers
    assert answer.point is not None and planned.question.goodput == ()
    with pytest.raises(InputError, match=r"attainment needs bounds in goodput, .* or in the trace"):
        plan(Trace("bare", rows, rows + 10, np.full(60, 5), arrival_s=rows * 0.5), **settings)
