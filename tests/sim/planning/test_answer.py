"""An answer in words: its headline, and why something stayed open."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sim import plan
from sim.planning.answer import Answer, Plan, point_text
from sim.planning.rate_search import RateRange
from sim.planning.search import Effort, decide
from sim.planning.slo import Interval, parse_slo
from sim.planning.verdict import FleetPoint, open_text
from tests.sim.planning.test_search import carry_out, mean_wait_ms
from tests.sim.planning.test_verdict import of_three

ANSWER = Answer(
    *("a policy", "a machine", "a GPU", 2, "measured", 4, 1, 8.0, "met", None, "", "e2el_mean", ()),
    *(None,) * 7,
    (),
)
"""Four replicas of two GPUs, one of them spare, carry 8 requests/s."""


@pytest.mark.parametrize(
    ("asked_rate", "of", "best"),
    [
        (8.0, [(4, 8.0, 3.0), (5, 8.0, 2.0)], 1),  # 12 and 10 USD an hour
        (8.0, [(6, 8.0, 2.0), (4, 8.0, 3.0)], 1),  # 12 both
        (8.0, [(4, 8.0, 3.0), (5, 8.0, None)], 0),
        (8.0, [(None, 8.0, 1.0), (9, 8.0, 3.0)], 1),
        (None, [(4, 8.0, 3.0), (4, 10.0, 3.5)], 1),  # 1.5 and 1.4 USD an hour for each request/s
        (None, [(4, 8.0, None), (4, 10.0, 4.0)], 1),
        (None, [(4, None, 1.0)], None),
    ],
)
def test_the_best_costs_least_and_where_a_price_is_missing_is_smallest_or_fastest(
    asked_rate: float | None, of: list[tuple[Any, ...]], best: int | None
) -> None:
    answers = tuple(replace(ANSWER, replicas=n, rate=rate, price_per_hour=price) for n, rate, price in of)
    question: Any = SimpleNamespace(request_rate=asked_rate)
    made = Plan(question, answers, ())
    assert made.best is (None if best is None else answers[best]) and made.reached == (best is not None)


def test_what_a_fleet_costs_and_how_much_room_it_has() -> None:
    point = of_three("e2el_mean:1000", 900.0, 900.0, 900.0)  # of 5 tokens a request, half busy
    rates = RateRange(10.0, 10.0, 10.2, "", (), "met")
    answer = replace(ANSWER, price_per_hour=3.0, point=point, rates=rates)
    assert (answer.gpus, answer.cost_per_hour) == (8, 12.0)
    assert answer.cost_per_million_output_tokens == pytest.approx(12 / (8 * 5 * 3600 / 1e6))
    assert (answer.headroom, answer.headroom_rate) == (pytest.approx(0.1), 0.25)
    assert replace(answer, rate=12.0).headroom_rate == 0.0
    assert answer.utilisation == 0.5
    assert replace(answer, normal=replace(point, utilisation=0.4)).utilisation == 0.4
    none = replace(ANSWER, replicas=None, rate=None)
    assert (none.gpus, none.cost_per_hour, none.cost_per_million_output_tokens) == (None,) * 3
    assert (none.headroom, none.headroom_rate, none.utilisation, none.measured) == (None,) * 4


def test_smaller_fleets_that_may_do_are_counted_up() -> None:
    assert replace(ANSWER, undecided=(44, 45, 46)).undecided_text == "44, 45 or 46"
    assert replace(ANSWER, undecided=(3,)).undecided_text == "3"


def test_why_a_point_is_undecided_is_said_in_the_answer_and_in_its_cell() -> None:
    slo = parse_slo(f"wait_mean:{mean_wait_ms(2, 1.5)}")
    effort = Effort(num_seeds=3, max_seeds=3, num_requests=1000, max_requests=1000)
    point: FleetPoint = carry_out(decide(slo, 2, 1.5, effort), slo)
    assert point.verdict == "undecided" and point.across is not None
    assert open_text(point).startswith("wait_mean ")
    assert open_text(point).endswith("across the bound of 1,286 ms, with 3 seeds of 1,000 requests")
    assert point_text(point).startswith("undecided: wait_mean ")
    inside = (replace(point.measured[0], limit=1e9),)
    growing = replace(point, measured=inside, drift=Interval(0.05, -0.01, 0.11))
    assert open_text(growing) == (
        "the backlog seems to grow, but not beyond the noise between 3 seeds of 1,000 requests"
    )
    assert point_text(growing) == "undecided: backlog +0.05 per arrival, within the noise"
    short = replace(point, measured=inside, drift=Interval(0.0, -0.01, 0.01))
    assert open_text(short).endswith("but 3 seeds of 1,000 requests are too short to settle")


def test_the_headline_says_why_a_smaller_fleet_is_undecided() -> None:
    made = plan(
        "fixed:output_tokens=100",
        policies="continuous:max_num_seqs=1",
        profiles="h200-vicuna-7b",
        slo="wait_p90:1500",
        request_rate=6,
        spare=1,
        num_requests=100,
        max_requests=200,
        max_seeds=3,
        jobs=1,
    )
    (answer,) = made.answers
    assert answer.replicas is not None and answer.point is not None
    smaller = replace(answer.point, replicas=answer.point.replicas - 1, verdict="undecided")
    doubtful = replace(answer, undecided=(answer.replicas - 1,), points=(smaller, *answer.points))
    headline = replace(made, answers=(doubtful,)).headline
    start = f"It is undecided whether {answer.replicas - 1} would do: with the other {smaller.replicas} "
    assert headline.endswith(f"{start}{open_text(smaller)}.")
