"""When replicas are down: what may be asked for, what is drawn, what is read, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim import simulate
from sim.fleet.fleet import Fleet
from sim.fleet.outages import NONE, DrawnOutages, Outages
from sim.request import Request
from sim.schedulers.continuous import ContinuousScheduler
from sim.work import SchedulingError
from tests.sim.flat_machine import flat_machine
from traces.errors import InputError
from traces.trace import Trace


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def first(spans: Iterator[tuple[float, float]], n: int) -> list[tuple[float, float]]:
    return list(itertools.islice(spans, n))


def file(folder: Path, text: str) -> Path:
    path = folder / "failures.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_fails_unless_asked_to() -> None:
    assert not NONE.any and NONE.schedules(3, rng()) == {}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mtbf_s": 5.0}, "mtbf_s: 5 needs mttr_s as well"),
        ({"mttr_s": 5.0}, "mttr_s: 5 needs mtbf_s as well"),
        ({"mtbf_s": 0.0, "mttr_s": 1.0}, "mtbf_s: 0 must be a number of seconds above 0"),
        ({"mtbf_s": 1.0, "mttr_s": -2.0}, "mttr_s: -2 must be a number of seconds above 0"),
        ({"mtbf_s": math.inf, "mttr_s": 1.0}, "mtbf_s: inf must be"),
        ({"mtbf_s": math.nan, "mttr_s": 1.0}, "mtbf_s: nan must be"),
        ({"startup_s": -1.0}, "startup_s: -1 must be at least 0 seconds"),
        ({"startup_s": math.inf}, "startup_s: inf must be"),
        ({"failures": "f.csv", "mtbf_s": 1.0, "mttr_s": 1.0}, "either a schedule or mtbf_s and mttr_s"),
    ],
)
def test_times_that_cannot_be_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        Outages(**how)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_up_and_down_times_are_exponential_with_the_means_given() -> None:
    """Kolmogorov-Smirnov at 1 in 1,000 over 4,000 outages; the start-up is added to every repair."""
    spans = first(Outages(50.0, 8.0, startup_s=3.0).schedules(1, rng())[0], 4000)
    down, up = np.array(spans).T
    up_times = down - np.concatenate([[0.0], up[:-1]])
    assert stats.kstest(up_times, stats.expon(scale=50.0).cdf).pvalue > 1e-3
    assert stats.kstest(up - down - 3.0, stats.expon(scale=8.0).cdf).pvalue > 1e-3


@settings(max_examples=50)
@given(
    mtbf=st.floats(1e-3, 1e6),
    mttr=st.floats(1e-3, 1e6),
    startup=st.sampled_from([0.0, 0.5, 100.0]),
    seed=st.integers(0, 9),
)
def test_drawn_spans_are_in_order_and_each_replica_has_its_own(
    mtbf: float, mttr: float, startup: float, seed: int
) -> None:
    drawn = {
        k: first(spans, 20) for k, spans in Outages(mtbf, mttr, None, startup).schedules(3, rng(seed)).items()
    }
    for spans in drawn.values():
        times = [t for span in spans for t in span]
        assert times == sorted(times) and times[0] > 0
        assert all(up - down >= startup for down, up in spans)
    assert drawn[0] != drawn[1] != drawn[2]
    again = Outages(mtbf, mttr, None, startup).schedules(3, rng(seed))
    assert {k: first(spans, 20) for k, spans in again.items()} == drawn


def test_one_more_replica_does_not_move_the_outages_of_the_others() -> None:
    few, many = (Outages(9.0, 1.0).schedules(n, rng(4)) for n in (2, 3))
    assert [first(few[k], 5) for k in (0, 1)] == [first(many[k], 5) for k in (0, 1)]


def test_a_schedule_is_sorted_by_time_within_a_replica(tmp_path: Path) -> None:
    path = file(tmp_path, "replica,down_s,up_s\n2,50,60\n0,5,6\n2,1,10.5\n")
    found = Outages(failures=path, startup_s=2.0).schedules(3, rng())
    assert {k: list(spans) for k, spans in found.items()} == {0: [(5, 8)], 2: [(1, 12.5), (50, 62)]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("replica,down_s\n0,1\n", "column up_s is missing"),
        ("replica,down_s,up_s\n3,1,2\n", "row 1, replica: 3 is not below 3"),
        ("replica,down_s,up_s\n0,1,2\n-1,1,2\n", "row 2, replica: -1 is below 0"),
        ("replica,down_s,up_s\n0.5,1,2\n", "row 1, replica: 0.5 is not a whole number"),
        ("replica,down_s,up_s\n0,1,2\n1,7,7\n", "row 2, up_s: 7 is not after down_s (7)"),
        ("replica,down_s,up_s\n0,soon,2\n", "row 1, down_s: 'soon' is not a number"),
        ("replica,down_s,up_s\n0,-1,2\n", "row 1, down_s: -1 is below 0"),
        ("replica,down_s,up_s\n0,1,inf\n", "row 1, up_s: 'inf' is not"),
        ("replica,down_s,up_s\n0,4,9\n1,0,9\n0,1,3.5\n", "row 1, down_s: replica 0 is down until 4.5"),
        ("replica,down_s,up_s\n", "has 0 rows"),
    ],
)
def test_a_bad_schedule_is_one_line_with_file_row_column_value_and_bound(
    rows: str, said: str, tmp_path: Path
) -> None:
    path = file(tmp_path, rows)
    with pytest.raises(InputError) as refused:
        Outages(failures=path, startup_s=1.0).schedules(3, rng())
    text = str(refused.value)
    assert said in text and str(path) in text and "\n" not in text


def test_a_schedule_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv"):
        Outages(failures=tmp_path / "none.csv").schedules(1, rng())


@settings(max_examples=50)
@given(
    skips=st.lists(st.floats(0, 3000), max_size=5).map(sorted),
    startup=st.sampled_from([0.0, 2.5]),
    seed=st.integers(0, 5),
)
def test_skipping_is_drawing_and_leaving_out(skips: list[float], startup: float, seed: int) -> None:
    """Of all that begins before a time only the last is left; numbers are those drawn one by one."""
    drawn = Outages(20.0, 3.0, None, startup)
    skipping, one_by_one = (drawn.schedules(1, rng(seed))[0] for _ in range(2))
    assert isinstance(skipping, DrawnOutages)
    plain, at = first(one_by_one, 600), 0
    for until_s in skips:
        count, seconds = skipping.skip(until_s)
        early = max(at, sum(down < until_s for down, _ in plain) - 1)
        assert count == early - at
        assert seconds == pytest.approx(sum(up - down for down, up in plain[at:early]))
        at = early + 1
        assert next(skipping) == plain[early]


def test_drawn_spans_are_those_of_single_draws() -> None:
    stream = rng(3).spawn(1)[0]
    now, expected = 0.0, []
    for _ in range(200):
        down = now + float(stream.exponential(20.0))
        now = down + float(stream.exponential(3.0)) + 1.5
        expected.append((down, now))
    assert first(Outages(20.0, 3.0, None, 1.5).schedules(1, rng(3))[0], 200) == expected


def idle_trace(span_s: float) -> Trace:
    """Three requests, the second 10 s after the first, the third at the end of the span."""
    return Trace(
        "idle", np.arange(3), np.full(3, 10), np.full(3, 20), arrival_s=np.array([0.0, 10.0, span_s])
    )


def test_failures_that_meet_no_request_cost_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, with their time, as if each had been an event."""
    how: dict[str, Any] = {"policy": "continuous", "replicas": 2, "mtbf_s": 30.0, "mttr_s": 2.0, "seed": 1}
    skipped = simulate(idle_trace(50_000.0), profile=flat_machine(0.01), **how)
    monkeypatch.setattr(Fleet, "_is_empty", lambda fleet: False)
    stepped = simulate(idle_trace(50_000.0), profile=flat_machine(0.01), **how)
    assert skipped.replicas.failures.tolist() == stepped.replicas.failures.tolist()
    assert skipped.replicas.failures.min() > 1000
    assert skipped.replicas.down_s.tolist() == pytest.approx(stepped.replicas.down_s.tolist())
    for key in ("finish_s", "replica", "reroutes"):
        assert skipped.columns[key].tolist() == stepped.columns[key].tolist()


@pytest.mark.parametrize("bound", [None, 1])
def test_years_without_requests_pass_at_once(bound: int | None) -> None:
    result = simulate(
        idle_trace(3e8),
        policy="continuous",
        profile=flat_machine(0.01),
        max_concurrency=bound,
        mtbf_s=300.0,
        mttr_s=1.0,
    )
    assert result.replicas.failures.sum() == pytest.approx(3e8 / 301, rel=0.01)
    assert result.summary["completed"] == 3


def test_absurdly_many_failures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.fleet.outages.MOST_OUTAGES", 3_000_000)
    with pytest.raises(InputError, match=r"mtbf_s: 1 with mttr_s 1 gives a replica more than 3,000,000 fail"):
        simulate(idle_trace(1e8), policy="continuous", profile=flat_machine(0.01), mtbf_s=1.0, mttr_s=1.0)


class DrainsNothing(ContinuousScheduler):
    def drain(self, now: float) -> list[Request]:
        super().drain(now)
        return None  # type: ignore[return-value]


def test_a_scheduler_that_gives_nothing_back_when_its_replica_fails_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, "replica,down_s,up_s\n0,0.5,2\n")
    with pytest.raises(SchedulingError, match=r"^DrainsNothing: drain returned NoneType, not a list"):
        simulate(num_prompts=20, request_rate=20, replicas=2, failures=path, policy=DrainsNothing)
