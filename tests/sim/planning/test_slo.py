"""What a run says about an SLO: bounds as written, requests that count, a backlog that grows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim import Plan, plan
from sim.planning.slo import Bound, Observation, interval, observe, parse_slo
from sim.planning.verdict import Run, judge, long_enough, to_settle
from traces.errors import InputError


def columns(arrival: list[float], latency: list[float], wait: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
    """A run in which request i took `latency[i]` seconds; nan: it never completed."""
    arrives, takes = np.array(arrival), np.array(latency)
    return {
        "arrival_s": arrives,
        "finish_s": arrives + takes,
        "ttft_ms": takes * 500,
        "tpot_ms": takes * 10,
        "e2el_ms": takes * 1e3,
        "wait_ms": np.full(len(arrives), wait * 1e3),
        "output_tokens": np.full(len(arrives), 7),
    }


def test_bounds_are_written_as_metric_statistic_and_value() -> None:
    slo = parse_slo(
        "ttft_p99:2000 tpot_median:100 e2el_mean:30000 wait_p99.9:5 attainment:0.99", {"ttft": 1.0}
    )
    assert [b.name for b in slo.bounds] == ["ttft_p99", "tpot_p50", "e2el_mean", "wait_p99.9", "attainment"]
    assert [b.limit for b in slo.bounds] == [2000, 100, 30000, 5, 0.99]
    assert str(slo).startswith("ttft_p99 ≤ 2000 ms, tpot_p50 ≤ 100 ms")
    assert parse_slo(slo) is slo
    assert parse_slo("attainment:99% ttft_p90:2s", {"ttft": 1.0}).bounds == (
        Bound("attainment", "share", 0.99),
        Bound("ttft", "p90", 2000.0),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one bound"),
        ("ttft_p99:1 ttft_p99:2", "bounds ttft_p99 more than once"),
        ("attainment", "'attainment' needs a number behind a colon, such as attainment:0.99"),
        ("ttft_p99:2m", "'ttft_p99:2m' needs a number of milliseconds or with a unit"),
        ("ttft_p99", "'ttft_p99' needs a number of milliseconds or with a unit"),
        ("ttft:1", "'ttft:1' is not METRIC_STATISTIC:MS"),
        ("itl_p99:1", "METRIC one of ttft, tpot, e2el, wait"),
        ("ttft_p0:1", "pNN"),
        ("ttft_p100:1", "pNN"),
        ("e2el_mean:-3", "-3 ms is not above 0"),
        ("e2el_mean:inf", "not above 0 and finite"),
        ("e2el_mean:nan", "not above 0 and finite"),
        ("attainment:99", "99 is not above 0 and at most 1"),
        ("attainment:0.9", "bounds in goodput"),
    ],
)
def test_what_is_no_bound_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        parse_slo(text, {"ttft": 1.0} if text == "attainment:99" else None)


def test_the_first_fifth_and_the_last_tenth_do_not_count() -> None:
    slow = [100.0] * 20 + [1.0] * 70 + [200.0] * 10
    order = np.random.default_rng(0).permutation(100)
    run = {name: column[order] for name, column in columns(list(range(100)), slow).items()}
    seen = observe(parse_slo("e2el_p99:1 e2el_mean:1 wait_mean:1"), run, {})
    assert seen.values[:2] == pytest.approx((1000.0, 1000.0))
    assert seen.measured == 70 and seen.mean_e2el_s == pytest.approx(1.0)


def test_percentiles_are_those_of_numpy() -> None:
    takes = np.random.default_rng(1).exponential(1.0, 500)
    seen = observe(parse_slo("e2el_p97.5:1 e2el_median:1"), columns(list(range(500)), takes.tolist()), {})
    counted = takes[100:450] * 1e3
    assert seen.values == pytest.approx(tuple(np.percentile(counted, (97.5, 50))))


def test_a_request_that_never_completed_is_not_good_and_leaves_no_latency_bound_met() -> None:
    takes = [1.0] * 100
    for i in range(40, 60):
        takes[i] = math.nan
    slo = parse_slo("e2el_p99:1 e2el_median:1 e2el_mean:1 attainment:0.5", {"e2el": 2000.0})
    seen = observe(slo, columns(list(range(100)), takes), {"failed_reason": "rejected: too long"})
    assert seen.values == pytest.approx((math.inf, math.inf, math.inf, 50 / 70))
    assert (seen.failed, seen.failed_reason) == (20, "rejected: too long")
    assert Observation.from_json(seen.to_json()) == seen


def test_one_token_answers_have_no_tpot_and_meet_any() -> None:
    run = columns(list(range(100)), [1.0] * 100)
    run["tpot_ms"] = np.full(100, np.nan)
    assert observe(parse_slo("tpot_p99:1 attainment:1", {"tpot": 1.0}), run, {}).values == (0.0, 1.0)


def test_a_wait_can_be_bounded_and_make_a_request_good() -> None:
    run = columns(list(range(100)), [1.0] * 100, wait=0.5)
    slo = parse_slo("wait_p90:1 wait_mean:1 attainment:0.5", {"wait": 400.0})
    assert observe(slo, run, {}).values == (500.0, 500.0, 0.0)


@given(load=st.floats(0.1, 3.0), seed=st.integers(0, 99))
def test_a_backlog_grows_only_beyond_the_capacity(load: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / load, 2000))
    finish = np.empty(2000)
    last = 0.0
    for i, at in enumerate(arrival):
        last = finish[i] = max(at, last) + 1.0
    seen = observe(parse_slo("e2el_mean:1"), columns(arrival.tolist(), (finish - arrival).tolist()), {})
    if load > 1.2:
        assert seen.drift == pytest.approx(1 - 1 / load, abs=0.15) and seen.growth > 1.3
    if load < 0.7:
        assert abs(seen.drift) < 0.02


def test_intervals_are_students() -> None:
    values = np.random.default_rng(2).normal(5, 1, 6)
    at = interval(values.tolist(), 0.9)
    half = stats.t.ppf(0.95, 5) * stats.sem(values)
    assert (at.mean, at.low, at.high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half)
    )
    assert interval([1.0]).high == math.inf
    # Of two, a standard error is half of what lies between them, and t is tan(0.45 π).
    assert interval([1.0, 3.0], 0.9).high == pytest.approx(2 + math.tan(0.45 * math.pi))
    assert interval([1.0, math.inf, 2.0]).low == 1.0


@given(st.floats(1, 1e4), st.floats(1, 1e4))
def test_pressure_is_above_one_where_the_bound_is_broken(value: float, limit: float) -> None:
    assert (Bound("ttft", "p99", limit).pressure(value) <= 1) == Bound("ttft", "p99", limit).holds(value)
    share, least = value / 1e4, min(limit / 1e4, 0.999)
    attained = Bound("attainment", "share", least)
    assert (attained.pressure(share) <= 1 + 1e-9) == (attained.holds(share) or share == pytest.approx(least))


def test_a_bound_that_leaves_no_room_is_kept_or_not() -> None:
    every = Bound("attainment", "share", 1.0)
    assert (every.pressure(1.0), every.pressure(0.999)) == (1.0, math.inf)


def test_a_replay_is_as_bad_as_its_busiest_tenth_where_that_has_enough_requests() -> None:
    """One a second, and a hundred more from 30 to 40 s: 110 there, of which 15 take 9 s and all others 1 s.

    Of 201 that are 7.5 %, of the 110 there 13.6 %; a p88 takes 84 requests, a p92 125.
    """
    arrival = [*map(float, range(101)), *(30.05 + 0.09 * k for k in range(100))]
    run = columns(arrival, [1.0] * 101 + [9.0] * 15 + [1.0] * 85)
    slo = parse_slo("e2el_mean:1 e2el_p88:1 e2el_p92:1 attainment:0.88", {"e2el": 2e3})
    seen = observe(slo, run, {}, is_replay=True)
    assert seen.values == pytest.approx((230e3 / 110, 9000, 1000, 95 / 110)) and seen.measured == 201
    seldom = parse_slo("attainment:0.92", {"e2el": 2e3})
    assert observe(seldom, run, {}, is_replay=True).values == pytest.approx((186 / 201,))


def of_sessions(takes: list[float], turns: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    """Sessions of so many turns, one after the other a second apart, which take so long each."""
    run = columns(list(range(len(takes) * turns)), np.repeat(takes, turns).tolist(), wait=0.25)
    run["session_id"] = np.repeat(np.arange(len(takes)), turns)
    return run


def test_sessions_are_bounded_from_their_first_arrival_to_their_last_token() -> None:
    slo = parse_slo("session_p99:1 session_mean:2s session_wait_mean:1 ttft_mean:1")
    assert slo.bounds_sessions and slo.bounds[2].metric == "session_wait"
    seen = observe(slo, of_sessions([9.0] * 10 + [2.0] * 35 + [50.0] * 5), {})
    # A second lies between the two turns; the first fifth and the last tenth of the requests do not count.
    assert seen.values[:3] == pytest.approx((3000.0, 3000.0, 500.0))
    assert (seen.mean_session_s, seen.mean_e2el_s) == pytest.approx((3.0, 2.0))
    assert seen.mean_away_s == 0.0
    lost = [2.0] * 50
    lost[30] = math.nan
    assert observe(slo, of_sessions(lost), {}).values[0] == math.inf


def test_what_comes_when_no_session_starts_any_more_is_not_counted() -> None:
    """Sixty starts a second apart, then forty turns that meet a load that falls: and a queue that empties."""
    run = columns(list(range(100)), [3.0] * 60 + [1.0] * 40, wait=0.25)
    slo = parse_slo("e2el_mean:9s")
    assert observe(slo, run, {}).values[0] == pytest.approx(1000 * (40 * 3 + 30 * 1) / 70)
    run |= {"is_waiting": np.arange(100) >= 60, "session_id": np.arange(100) % 60}
    seen = observe(slo, run, {})
    assert seen.values == (3000.0,) and seen.measured == 40
    growing = columns(list(range(100)), [k / 4 for k in range(60)] + [0.0] * 40)
    growing |= {name: run[name] for name in ("is_waiting", "session_id")}
    assert observe(slo, growing, {}).growth > 1.2
    run["is_waiting"] = np.arange(100) >= 30  # most come later: there is no level to speak of
    assert observe(slo, run, {}).measured == 70


def test_a_warm_up_that_sessions_outlast_decides_nothing() -> None:
    """Two turns with half a minute between them, and a warm-up of ten seconds; five minutes do."""
    asked = {"num_requests": 100, "max_seeds": 3, "max_replicas": 2, "jobs": 1, "profiles": "h200-vicuna-7b"}
    talks = "sessions:turns=2,think_s={},think_law=fixed,prompt_tokens=50,output_tokens=20"

    def made(think_s: int, max_requests: int, **how: Any) -> Plan:
        most = {"max_requests": max_requests}
        return plan(
            talks.format(think_s), slo="ttft_p50:20s", **({"request_rate": 2.0} | how), **most, **asked
        )

    assert made(1, 100).reached
    short = made(30, 100)
    (answer,) = short.answers
    assert (answer.outcome, answer.replicas, answer.likely) == ("undecided", None, 1) and not short.reached
    assert short.headline.startswith("Undecided: whether a fleet meets ttft_p50 ≤ 20000 ms stayed open.")
    said = "their warm-up of 10 s is not 1.5 times as long as the sessions, of 30.4 s on average"
    assert said in answer.reason and said in short.to_json()
    need = int(answer.reason.split("--max-requests ")[1].split()[0])
    assert need == 570  # 0.2 * 570 / 2 are 57 s, and a quarter more than 1.5 times 30.4 s
    longer = made(30, need)
    assert longer.reached and longer.answers[0].points[0].mean_session_s == pytest.approx(30.4, abs=0.1)
    highest = made(30, 200, request_rate=None, max_rate=True, replicas=1).answers[0]
    assert (highest.outcome, highest.rate) == ("undecided", None) and "1.5 times as long" in highest.reason
    assert "would do, and more for higher rates" in highest.reason and "has 1 replica" in answer.reason
    assert highest.rates is not None and highest.rates.low is not None and highest.rates.low < 1


def test_a_backlog_that_grows_as_sessions_come_back_is_not_unstable() -> None:
    """Requests last as long as ever more of them are there; whose sessions are away for long, and not."""
    slo = parse_slo("e2el_p50:1h")
    run = columns(list(range(100)), (1 + np.arange(100) / 4).tolist())
    for away_s, verdict in ((60.0, "undecided"), (1.0, "unstable")):
        seen = dataclasses.replace(observe(slo, run, {}), mean_session_s=away_s + 20, mean_away_s=away_s)
        seeds = [dataclasses.replace(seen, drift=seen.drift + k / 1000) for k in range(3)]
        point = judge(slo, [Run(1, 1.0, k, 100) for k in range(3)], seeds, 0.95)
        assert (point.verdict, point.settled) == (verdict, False)


def test_where_all_sessions_begin_in_the_warm_up_all_count() -> None:
    """No bound is met by none of them, and the warm-up did not outlast them."""
    talks = of_sessions([40.0] * 2, turns=50)
    talks["arrival_s"] = np.tile(np.arange(50.0), 2)
    talks["finish_s"] = talks["arrival_s"] + 1
    seen = observe(parse_slo("session_mean:1s session_wait_p50:1"), talks, {})
    assert seen.values == (50_000, 12_500) and seen.mean_session_s == 50
    assert not long_enough(parse_slo("session_mean:1h"), 2.0, seen.mean_session_s, 3, 100)


def test_a_bound_on_sessions_takes_more_requests() -> None:
    one, two = (
        dataclasses.replace(parse_slo("session_p99:1"), session_requests=number) for number in (1.0, 4.0)
    )
    assert to_settle(two, 1.0, 0.1, 3) == pytest.approx(4 * to_settle(one, 1.0, 0.1, 3), abs=4)


def test_a_plan_bounds_sessions_where_there_are_any() -> None:
    asked = {"num_requests": 200, "max_requests": 400, "num_seeds": 3, "max_seeds": 3, "max_replicas": 4}
    talks = "sessions:turns=2,think_s=1,prompt_tokens=50,output_tokens=20"
    made = plan(talks, slo="session_p90:20s", request_rate=2.0, profiles="h200-vicuna-7b", **asked)
    best = made.best
    assert best is not None and best.point is not None and best.point.measured[0].name == "session_p90"
    assert 1000 < best.point.measured[0].mean < 20_000
    with pytest.raises(
        InputError, match=r"session_p90 bounds sessions, and fixed.* does not say which requests"
    ):
        plan("fixed", slo="session_p90:20s", request_rate=2.0, profiles="h200-vicuna-7b", **asked)
