"""A plan for a trace's own traffic holds for the trace itself, replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plots.report import render
from sim import Plan, plan, simulate
from sim.cli import main
from sim.planning.notes import notes_of
from sim.planning.question import workload_of
from sim.planning.slo import Observation, observe, parse_slo
from sim.planning.verdict import Run, judge_replay
from sim.planning.world import World
from sim.scenario.settings import Settings
from traces.trace import Trace

POLICY = "continuous:max_num_seqs=1"
QUICK: dict[str, Any] = {"policies": POLICY, "profiles": "h200-vicuna-7b", "jobs": 1}
QUICK |= {"num_requests": 100, "max_requests": 300, "max_seeds": 3, "max_replicas": 64}


def day_and_night(n: int = 600, busy: float = 30.0) -> Trace:
    """Half of the requests at one a second, then half of them at `busy` a second."""
    times = np.concatenate([np.arange(n / 2), n / 2 + np.arange(n / 2) / busy])
    rng = np.random.default_rng(1)
    lengths = rng.integers(15, 25, n)
    return Trace("day", np.arange(n), rng.integers(80, 120, n), lengths, times, max_new_tokens=64)


def replayed(trace: Trace, replicas: int) -> np.ndarray[Any, Any]:
    """TTFT of every request of the trace on so many replicas, in ms."""
    result = simulate(trace, policy=POLICY, profile="h200-vicuna-7b", replicas=replicas)
    return np.asarray(result.columns["ttft_ms"])


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(day_and_night(), slo="ttft_p90:500", **QUICK)


def test_the_fleet_meets_the_slo_when_the_trace_is_replayed_and_one_less_does_not(made: Plan) -> None:
    (answer,) = made.answers
    assert answer.replicas is not None and answer.replicas > 1
    trace = day_and_night()
    assert np.percentile(replayed(trace, answer.replicas), 90) <= 500
    assert answer.one_less is not None and answer.one_less.verdict == "fails"
    assert answer.replay is not None and answer.replay.num_requests == 600
    assert answer.undecided == ()


def test_the_highest_rate_is_that_of_the_trace_itself(made: Plan) -> None:
    (answer,) = made.answers
    assert answer.rates is not None and answer.rates.low and answer.rates.high and answer.replicas
    trace = day_and_night()
    for rate, holds in ((answer.rates.low, True), (answer.rates.high, False)):
        faster = Trace(**{**vars(trace), "arrival_s": trace.arrival_s * (trace.mean_rate / rate)})  # type: ignore[operator]
        waits = replayed(faster, answer.replicas)
        busy = waits[540:]  # nearly the busiest window of the plan: its bound holds here within 5 %
        assert (max(np.percentile(waits, 90), np.percentile(busy, 90)) <= 1.05 * 500) == holds


def test_the_headline_and_the_notes_say_that_it_was_replayed(
    made: Plan, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "on the trace itself, replayed" in made.headline
    assert "busiest tenth of day runs at 5" in made.notes[0] and "replayed whole" in made.notes[0]
    assert json.loads(made.to_json())["notes"] == list(made.notes)
    day_and_night().to_frame().to_csv(tmp_path / "day.csv", index=False)
    words = ["plan", "--trace", str(tmp_path / "day.csv"), "--slo", "ttft_p90:500", "--jobs", "1"]
    words += ["--profiles", "h200-vicuna-7b", "--policies", POLICY, "--num-requests", "100"]
    main([*words, "--max-requests", "300", "--max-seeds", "3", "--report", str(tmp_path / "r.html")])
    out = capsys.readouterr().out
    assert all(note in out for note in made.notes) and "replayed" in out
    assert "replayed whole" in (tmp_path / "r.html").read_text()


def test_a_rate_that_varies_is_replayed_at_any_rate() -> None:
    trace = day_and_night()
    faster = plan(trace, slo="ttft_p90:500", request_rate="2x", **QUICK)
    twice = Trace(**{**vars(trace), "arrival_s": trace.arrival_s / 2})  # type: ignore[operator]
    assert faster.answers[0].replicas is not None
    assert np.percentile(replayed(twice, faster.answers[0].replicas), 90) <= 500
    most = plan(trace, slo="ttft_p90:500", max_rate=True, replicas=2, **QUICK)
    (answer,) = most.answers
    assert answer.rate is not None and answer.replay is not None and answer.replay.verdict == "meets"
    scaled = Trace(**{**vars(trace), "arrival_s": trace.arrival_s * (trace.mean_rate / answer.rate)})  # type: ignore[operator]
    assert np.percentile(replayed(scaled, 2), 90) <= 500


def test_a_trace_that_no_fleet_can_keep_up_with_is_unreachable() -> None:
    made = plan(day_and_night(busy=1000.0), slo="ttft_p90:40", **{**QUICK, "max_replicas": 2})
    assert made.answers[0].outcome == "unreachable" and "Fleets were held against" in made.notes[0]
    assert (
        not made.reached
        and "on the trace itself, at" in made.headline
        and "max_replicas is 2" in made.headline
    )


def test_where_an_idle_replica_is_too_slow_no_number_of_them_is_tried() -> None:
    made = plan(day_and_night(), slo="tpot_p90:0.1", **QUICK)
    assert "for one request alone on an idle replica" in made.headline
    assert max(p.replicas for p in made.answers[0].points) < 64


def test_spares_are_beside_the_fleet_that_was_replayed(made: Plan) -> None:
    spared = plan(day_and_night(), slo="ttft_p90:500", spare=1, **QUICK)
    assert spared.answers[0].replicas == (made.answers[0].replicas or 0) + 1


def test_a_steady_rate_is_replayed_where_it_is_the_traces_own_alone() -> None:
    n = 400
    steady = Trace("steady", np.arange(n), np.full(n, 50), np.full(n, 10), np.arange(float(n)))
    own = workload_of(steady, Settings(), 100, None)
    assert own.own_rate is not None and own.replay_at(own.own_rate, Settings(), 3) is not None
    assert (
        own.replay_at(2 * own.own_rate, Settings(), 3) is None and own.replay_at(None, Settings(), 3) is None
    )
    assert workload_of(steady, Settings(), 100, 1.0).replay_at(own.own_rate, Settings(), 3) is None


def test_where_something_is_random_the_worst_of_several_replays_counts() -> None:
    workload = workload_of(day_and_night(), Settings(), 100, None)
    for settings, seeds in ((Settings(seed=4), (4,)), (Settings(seed=4, predictor="tuned"), (4, 5, 6))):
        replay = workload.replay_at(1.0, settings, 3)
        assert replay is not None and replay.seeds == seeds and replay.is_all
    seen = Observation((300.0, 0.8), 0.0, 1.0, 0.0, 1.0, 100, 0, 5.0, 0.5, 0.1)
    slo = parse_slo("ttft_p90:500 attainment:0.7", {"ttft": 500.0})
    runs = [Run(1, 2.0, seed, 100, is_replay=True) for seed in (0, 1)]
    point = judge_replay(slo, runs, [seen, replace(seen, values=(400.0, 0.75))])
    assert [m.mean for m in point.measured] == [400.0, 0.75] and point.verdict == "meets"
    assert judge_replay(slo, runs, [seen, replace(seen, values=(600.0, 0.75))]).verdict == "fails"


def test_of_a_long_trace_the_busiest_stretch_is_replayed_with_its_own_gaps() -> None:
    trace = day_and_night()
    world = World(trace, POLICY, (), Settings())
    assert trace.mean_rate is not None and trace.arrival_s is not None
    run = Run(1, trace.mean_rate, 0, 200, is_replay=True)
    stretch = world._requests(run)
    assert stretch.arrival_s is not None and len(stretch) == 200
    assert np.diff(stretch.arrival_s) == pytest.approx(1 / 30)
    whole = world._requests(run._replace(num_requests=600, rate=2 * trace.mean_rate))
    assert whole.arrival_s == pytest.approx(trace.arrival_s / 2)


def test_a_replay_counts_everything_and_the_worse_of_all_and_its_busiest_tenth() -> None:
    arrival = np.concatenate([np.arange(0.0, 900.0, 0.9), 950 + np.arange(500) / 100])
    takes = np.concatenate([np.full(1000, 1.0), np.full(500, 9.0)])
    takes[0] = 5000.0
    columns = {
        "arrival_s": arrival,
        "finish_s": arrival + takes,
        "e2el_ms": takes * 1e3,
        "output_tokens": np.ones(1500),
    }
    slo = parse_slo("e2el_mean:1 e2el_p99.99:1 e2el_p50:1 attainment:0.5", {"e2el": 2000.0})
    seen = observe(slo, columns, {}, is_replay=True)
    mean, p9999, median, share = seen.values
    assert seen.measured == 1500
    assert mean == pytest.approx(np.mean(takes[arrival >= 0.9 * arrival[-1]]) * 1e3)
    assert median == 9000.0 and share < 0.2
    assert p9999 == pytest.approx(np.percentile(takes * 1e3, 99.99))  # too few in a tenth to decide on that


@pytest.mark.parametrize(
    ("n", "lengths", "max_requests", "says"),
    [
        (200, 200, 6000, "made up has 200 requests, which the longest runs repeat 30 times"),
        (8000, 3, 6000, "made up has but 3 pairs of a prompt and an answer length, 8,000 times"),
        (8000, 1, 6000, "made up has but one pair of"),
        (8000, 500, 6000, None),
    ],
)
def test_few_requests_repeated_are_named(n: int, lengths: int, max_requests: int, says: str | None) -> None:
    outputs = 1 + np.arange(n) % lengths
    trace = Trace("made up", np.arange(n), np.full(n, 50), outputs, np.arange(float(n)))
    workload = workload_of(trace, Settings(), 100, None)
    notes = " ".join(notes_of(workload, 2.0, None, max_requests))
    if says is None:
        assert notes == ""
    else:
        assert says in notes and "the intervals do not speak of requests unlike these" in notes
    drawn = workload_of("fixed:output_tokens=5", Settings(), 100, None)
    assert notes_of(drawn, 2.0, None, max_requests) == ()


def test_the_busy_part_is_named_where_it_is_not_planned_for() -> None:
    n = 8000
    rng = np.random.default_rng(0)
    gaps = np.where(np.arange(n) < 4000, 1.3, 1.0)
    trace = Trace("made up", np.arange(n), rng.integers(1, 99, n), rng.integers(1, 99, n), np.cumsum(gaps))
    workload = workload_of(trace, Settings(), 100, None)
    (note,) = notes_of(workload, 4.0, None, 6000)
    assert note.startswith(
        "The busiest tenth of made up runs at 1.15 times its mean rate (4.6 of 4 requests/s)"
    )
    assert "--request-rate 4.6 plans for that tenth" in note


def test_tenths_of_a_few_requests_that_differ_by_chance_are_no_rate_that_varies() -> None:
    rng = np.random.default_rng(0)
    for n in (60, 600, 6000):
        times = np.cumsum(rng.exponential(1.0, n))
        steady = Trace("steady", np.arange(n), np.full(n, 50), np.full(n, 10), times)
        assert not workload_of(steady, Settings(), 100, None).varies
        assert not workload_of(day_and_night(), Settings(), 100, 1.0).varies
    assert workload_of(day_and_night(), Settings(), 100, None).varies


def test_where_no_fleet_was_tried_on_the_trace_the_notes_do_not_say_so() -> None:
    trace = day_and_night()
    trace.prompt_tokens[5] = 10**6
    made = plan(trace, slo="ttft_p90:500", **QUICK)
    assert not made.reached and "fit no replica" in made.headline
    assert not any("held against" in note for note in made.notes)


def test_what_moves_the_answer_is_found_by_replays_where_the_answer_was() -> None:
    made = plan(day_and_night(300), slo="ttft_p90:500", sensitivity=True, **QUICK)
    found, (answer,) = made.sensitivity, made.answers
    assert found is not None and answer.rates is not None and answer.rates.low
    assert found.rate == pytest.approx(answer.rates.low, rel=0.06)
    swings = {swing.what: swing for swing in found.swings}
    # At the same mean rate, arrivals without day and night leave room for far more.
    assert swings["Burstiness"].low_label == "Poisson" and (swings["Burstiness"].low or 0) > 1.2 * found.rate
    assert "the trace itself replayed" in render(made) and "These runs are shorter" not in render(made)


def test_a_steady_trace_has_windows_for_it_and_the_page_says_so() -> None:
    times = np.arange(300) / 4.0
    lengths = np.random.default_rng(1).integers(15, 25, 300)
    trace = Trace("steady", np.arange(300), np.full(300, 100), lengths, times, max_new_tokens=64)
    made = plan(trace, slo="ttft_p90:500", sensitivity=True, **QUICK)
    assert made.sensitivity is not None
    assert "held against the trace itself as well" in render(made)
