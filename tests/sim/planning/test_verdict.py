"""The verdict on one fleet at one rate, by observations that were made up: every case worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sim.planning.slo import Observation, parse_slo
from sim.planning.verdict import (
    FleetPoint,
    Measured,
    Run,
    attainment_text,
    interval_text,
    judge,
    judge_replay,
    long_enough,
    open_text,
    point_standing,
    to_settle,
    value_text,
)

T = 4.302653
"""Student's t with two degrees of freedom: half a 95 % interval of three seeds, in standard errors."""


def seen(*values: float, **how: Any) -> Observation:
    """A run of which 70 requests count that take a second, without a backlog."""
    given = {"drift": 0.0, "growth": 1.0, "backlog": 4.0, "mean_e2el_s": 1.0, "measured": 70, "failed": 0}
    given |= {"output_tokens": 5.0, "utilisation": 0.5, "kv_peak": 0.25}
    return Observation(values, **{**given, **how})


def point_of(slo: str, *observations: Observation, num_requests: int = 100, **how: Any) -> FleetPoint:
    """The verdict on two replicas at 8 requests/s."""
    runs = [Run(2, 8.0, seed, num_requests) for seed in range(len(observations))]
    return judge(parse_slo(slo, {"e2el": 1.0}, **how), runs, observations, 0.95)


def of_three(slo: str, *values: float, **how: Any) -> FleetPoint:
    return point_of(slo, *(seen(value, **how) for value in values))


@pytest.mark.parametrize(
    ("slo", "values", "verdict"),
    [
        ("e2el_mean:1249", (900, 1000, 1100), "meets"),  # 1000 ± T × 100 / √3, which is 248.4
        ("e2el_mean:1248", (900, 1000, 1100), "undecided"),
        ("e2el_mean:752", (900, 1000, 1100), "undecided"),
        ("e2el_mean:751", (900, 1000, 1100), "fails"),
        ("e2el_mean:1000", (1000, 1000, 1000), "meets"),
        ("e2el_mean:9000", (900, math.inf, 900), "fails"),
        ("attainment:0.9", (0.9, 0.9, 0.9), "meets"),
        ("attainment:0.91", (0.9, 0.9, 0.9), "fails"),
        ("attainment:0.8", (0.7, 0.8, 0.9), "undecided"),
    ],
)
def test_it_is_met_or_broken_only_where_the_interval_leaves_no_doubt(
    slo: str, values: tuple[float, ...], verdict: str
) -> None:
    assert of_three(slo, *values).verdict == verdict


def test_one_bound_that_is_broken_is_enough_and_all_have_to_be_met() -> None:
    slo = "e2el_mean:1000 wait_mean:100"
    for waits, verdict in (
        ((50, 50, 50), "meets"),
        ((90, 100, 110), "undecided"),
        ((200, 200, 200), "fails"),
    ):
        point = point_of(slo, *(seen(900.0, wait) for wait in waits))
        assert point.verdict == verdict and point.value("e2el_mean") == 900
    assert point.binding.name == "wait_mean" and point.binding.pressure == 2


@pytest.mark.parametrize(
    ("drifts", "growth", "within", "beyond"),
    [
        ((0.01, 0.01, 0.01), 1.3, "unstable", "unstable"),
        ((0.009, 0.009, 0.009), 1.3, "meets", "fails"),
        ((0.01, 0.01, 0.01), 1.29, "meets", "fails"),
        ((0.00, 0.02, 0.04), 1.3, "undecided", "fails"),  # 0.02 ± T × 0.02 / √3, which is 0.05
    ],
)
def test_a_backlog_that_grows_leaves_nothing_met(
    drifts: tuple[float, ...], growth: float, within: str, beyond: str
) -> None:
    for limit, verdict in ((900, within), (800, beyond)):
        point = point_of(f"e2el_mean:{limit}", *(seen(900.0, drift=drift, growth=growth) for drift in drifts))
        assert point.verdict == verdict and point.settled == (within == "meets")
        assert point.may_grow == (drifts[1] >= 0.01)


def test_runs_have_to_last_longer_than_their_requests() -> None:
    """A fifth of the requests, at 8/s, has to last for 1.5 s and a quarter more: 75, or 60 with some room."""
    slo = parse_slo("e2el_mean:1000")
    assert to_settle(slo, 8.0, 1.0, 3) == 75
    assert long_enough(slo, 8.0, 1.0, 3, 60) and not long_enough(slo, 8.0, 1.0, 3, 59)
    for num_requests, met, broken in ((60, "meets", "fails"), (59, "undecided", "fails")):
        good, bad = (
            point_of("e2el_mean:1000", *[seen(value)] * 3, num_requests=num_requests) for value in (900, 1100)
        )
        assert (good.verdict, bad.verdict, good.settled) == (met, broken, met == "meets")


def test_a_percentile_takes_ten_requests_beyond_it_in_all_seeds_together() -> None:
    """Of 70 % of the requests of each of three seeds, and a quarter more."""
    assert to_settle(parse_slo("e2el_mean:1 e2el_p90:1"), 0.0, 1.0, 3) == math.ceil(12.5 / (0.1 * 3 * 0.7))
    assert to_settle(parse_slo("attainment:0.99", {"e2el": 1.0}), 0.0, 1.0, 5) == 358  # 12.5 / 0.035, and up
    assert to_settle(parse_slo("attainment:1", {"e2el": 1.0}), 8.0, 1.0, 3) == 75
    assert to_settle(parse_slo("e2el_mean:1"), 1e300, 1e300, 3) == 10**12
    talks = dataclasses.replace(parse_slo("session_p90:1"), session_requests=4.0)
    assert to_settle(talks, 0.0, 1.0, 3) == math.ceil(50 / (0.1 * 3 * 0.7))


def test_an_interval_ends_where_its_quantity_does() -> None:
    (share,) = of_three("attainment:0.5", 0.98, 1.0, 1.0).measured
    assert share.high == 1.0 and share.low < share.mean < share.high
    (latency,) = of_three("e2el_mean:50", 0.0, 0.0, 300.0).measured
    assert (latency.low, latency.mean) == (0.0, 100.0) and latency.high == pytest.approx(100 + T * 100)


def test_a_point_sums_up_its_seeds() -> None:
    point = point_of(
        "e2el_mean:1000",
        seen(900.0, utilisation=0.2, kv_peak=0.9, failed=0, slo_attainment={"all": 0.9, "chat": 0.8}),
        seen(900.0, utilisation=0.4, backlog=7.0, failed=7, failed_reason="expired: late", output_tokens=8.0),
        seen(900.0, utilisation=0.9, mean_e2el_s=4.0, failed=14, slo_attainment={"all": 0.7}),
    )
    assert (point.replicas, point.rate, point.num_requests, point.num_seeds) == (2, 8.0, 100, 3)
    assert (point.utilisation, point.kv_peak, point.backlog) == (pytest.approx(0.5), 0.9, 5.0)
    assert (point.output_tokens, point.mean_e2el_s, point.failed) == (6.0, 2.0, 0.1)
    assert point.failed_reason == "expired: late"
    assert point.slo_attainment == pytest.approx({"all": 0.8, "chat": 0.8})
    assert attainment_text(point) == "within their own bounds: 80.0% (chat 80.0%) of the requests"
    bare = of_three("e2el_mean:1000", 900.0, 900.0, 900.0)
    assert bare.slo_attainment is None and attainment_text(bare) == "" and bare.failed_reason == ""


def test_of_replays_the_worst_counts_whatever_the_noise() -> None:
    slo = parse_slo("e2el_mean:1000 attainment:0.9", {"e2el": 1.0})
    runs = [Run(2, 8.0, seed, 10, is_replay=True) for seed in range(2)]
    for worst, verdict in (((1000.0, 0.9), "meets"), ((1001.0, 0.9), "fails"), ((1000.0, 0.89), "fails")):
        point = judge_replay(slo, runs, [seen(500.0, worst[1], drift=0.5), seen(worst[0], 1.0, drift=0.1)])
        assert point.verdict == verdict and point.is_replay and point.settled
        assert [(m.low, m.mean, m.high) for m in point.measured] == [(value,) * 3 for value in worst]
        assert dataclasses.astuple(point.drift) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("verdict", "settled", "pressure", "by_mean", "may"),
    [
        ("meets", True, 1.5, True, False),
        ("undecided", True, 1.0, True, True),
        ("undecided", True, 1.1, False, False),
        ("undecided", False, 1.0, False, True),
        ("fails", True, 0.5, False, False),
        ("unstable", True, 0.5, False, False),
    ],
)
def test_the_better_guess_and_what_nothing_speaks_against(
    verdict: Any, settled: bool, pressure: float, by_mean: bool, may: bool
) -> None:
    point = of_three("e2el_mean:1000", 900.0, 900.0, 900.0)
    measured = (dataclasses.replace(point.measured[0], pressure=pressure),)
    point = dataclasses.replace(point, verdict=verdict, settled=settled, measured=measured)
    assert (point.meets_by_mean, point.may_meet) == (by_mean, may)


def test_values_are_shown_with_their_unit() -> None:
    latency, share = Measured("e2el_mean", 1.0, 1, 1, 1, 1), Measured("attainment", 0.9, 1, 1, 1, 1)
    assert [value_text(latency, value) for value in (751.62, 9999, 1e4, 1.2345e6, math.inf)] == [
        *("751.6 ms", "9,999 ms", "10 s", "1,234 s", "never"),
    ]
    assert value_text(share, 0.98765) == "0.9877"
    for low, high, text in ((751.6, 1248.4, "751.6 to 1,248 ms"), (9000.0, 12e3, "9,000 ms to 12 s")):
        assert interval_text(dataclasses.replace(latency, low=low, high=high)) == text
    assert interval_text(dataclasses.replace(share, low=0.9, high=1.0)) == "0.9000 to 1.0000"


def test_where_a_fleet_stands_says_what_is_left_out() -> None:
    whole = of_three("e2el_mean:1000", 900.0, 1000.0, 1100.0)
    assert point_standing(whole) == "e2el_mean 1,000 ms (751.6 to 1,248 ms)"
    assert point_standing(dataclasses.replace(whole, is_replay=True)) == "e2el_mean 1,000 ms"
    lossy = dataclasses.replace(whole, failed=0.1, failed_reason="expired: late")
    lost = "10 % of the requests do not complete (expired: late)"
    assert point_standing(lossy) == f"e2el_mean 1,000 ms (751.6 to 1,248 ms), and {lost}"
    never = of_three("e2el_mean:1000", 900.0, math.inf, 900.0, failed=7, failed_reason="expired: late")
    assert point_standing(never) == f"e2el_mean not kept, as {lost}"
    assert open_text(whole) == (
        "e2el_mean 1,000 ms (751.6 to 1,248 ms), across the bound of 1,000 ms, with 3 seeds of 100 requests"
    )
