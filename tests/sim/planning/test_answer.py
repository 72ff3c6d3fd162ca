"""An answer in words: its headline, and why something stayed open."""

from __future__ import annotations

from dataclasses import replace

from sim import plan
from sim.planning.answer import point_text
from sim.planning.search import Effort, decide
from sim.planning.slo import Interval, parse_slo
from sim.planning.verdict import FleetPoint, open_text
from tests.sim.planning.test_search import carry_out, mean_wait_ms


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
