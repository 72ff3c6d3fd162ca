"""Timelines: valid JSON, slices that do not overlap, counters as recorded, and a bound on their number."""

from __future__ import annotations

import gzip
import inspect
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.results import perfetto
from sim.results.batch_record import BatchRecord
from sim.simulation import simulate
from sim.work import Fetch
from traces.errors import InputError


def record(start_s: float, end_s: float, replica: int = 0, **more: Any) -> BatchRecord:
    made = BatchRecord("Iterations", (7,), 9, 5, start_s, start_s, end_s, kv_tokens=100, chunks=((40, True),))
    return made._replace(replica=replica, **more)


def read(path: Path) -> dict[str, Any]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def tracks(events: list[dict[str, Any]]) -> dict[int, list[tuple[int, int]]]:
    """Replica -> start and end of its slices, in nanoseconds."""
    found = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            found[e["pid"] - 1].append((round(e["ts"] * 1e3), round((e["ts"] + e["dur"]) * 1e3)))
    return found


@st.composite
def logs(draw: st.DrawFn) -> list[BatchRecord]:
    """Records of some replicas that ran back to back or with gaps, in the order in which they ended."""
    made = []
    for replica in range(draw(st.integers(1, 3))):
        now = 0.0
        for gap, span, waiting, kv in draw(
            st.lists(
                st.tuples(
                    st.sampled_from((0.0, 0.3)), st.floats(0, 2), st.integers(0, 9), st.integers(1, 99)
                ),
                max_size=20,
            )
        ):
            now += gap
            made.append(record(now, now + span, replica, num_waiting=waiting, kv_tokens=kv))
            now += span
    return sorted(made, key=lambda b: b.end_s)


@given(logs(), st.integers(7, 200), st.sampled_from(((0.0, float("inf")), (1.0, 3.5))))
def test_whatever_ran(
    tmp_path_factory: pytest.TempPathFactory,
    log: list[BatchRecord],
    max_events: int,
    window: tuple[float, float],
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.json"
    told = perfetto.write(log, path, window_s=window, max_events=max_events)
    found = read(path)
    events = found["traceEvents"]
    assert len(events) == told.events <= max_events
    for slices in tracks(events).values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(slices)))
    for e in events:
        if e["ph"] != "M":
            assert window[0] * 1e6 - 1e-3 <= e["ts"] and e["ts"] + e.get("dur", 0) <= window[1] * 1e6 + 1e-3
    shown = sum(e["args"].get("works", 1) for e in events if e["ph"] in "Xi")
    inside = sum(perfetto._overlaps(b, window) for b in log)
    assert shown == told.works == found["otherData"]["works"]
    assert shown == inside or told.omitted_replicas > 0
    assert bool(told.left_out()) == (told.merged > 1 or told.omitted_replicas > 0)


def test_nothing_is_merged_where_all_of_it_fits(tmp_path: Path) -> None:
    log = [record(k, k + 1.0, replica) for k in range(50) for replica in (0, 1)]
    told = perfetto.write(log, tmp_path / "t.json")
    assert told.merged == 1 and told.left_out() == ""
    assert {r: len(s) for r, s in tracks(read(tmp_path / "t.json")["traceEvents"]).items()} == {0: 50, 1: 50}


def test_a_bound_merges_neighbours_and_keeps_their_sums(tmp_path: Path) -> None:
    log = [record(k, k + 0.5, num_waiting=k % 5, evicted=(1,)) for k in range(1000)]
    told = perfetto.write(log, tmp_path / "t.json", max_events=100)
    events = read(tmp_path / "t.json")["traceEvents"]
    assert len(events) <= 100 and told.merged > 10
    slices = [e for e in events if e["ph"] == "X"]
    for key, each in (
        ("works", 1),
        ("iterations", 5),
        ("evictions", 1),
        ("prefill_tokens", 40),
        ("requests", 1),
    ):
        assert sum(e["args"][key] for e in slices) == 1000 * each
    assert all(e["args"]["value"] == 4 for e in events if e["name"] == "requests waiting")
    assert slices[0]["args"]["busy_fraction"] == pytest.approx(0.5, abs=0.02)
    assert str(told.merged) in read(tmp_path / "t.json")["otherData"]["left_out"]


def test_replicas_beyond_the_bound_are_named_as_left_out(tmp_path: Path) -> None:
    told = perfetto.write([record(0.0, 1.0, r) for r in range(40)], tmp_path / "t.json", max_events=70)
    assert told.events <= 70 and told.omitted_replicas == 30
    assert "last 30 replicas" in told.left_out()


def test_counters_say_what_was_recorded_and_fall_to_nothing_in_between(tmp_path: Path) -> None:
    log = [
        record(0.0, 1.0, num_waiting=3, kv_tokens=10),
        record(1.0, 2.0, num_waiting=2, kv_tokens=20),
        record(5.0, 6.0, num_waiting=0, kv_tokens=30),
    ]
    perfetto.write(log, tmp_path / "t.json")
    counted = defaultdict(list)
    for e in read(tmp_path / "t.json")["traceEvents"]:
        if e["ph"] == "C":
            counted[e["name"]].append((e["ts"], e["args"]["value"]))
    assert counted["requests waiting"] == [(0, 3), (1e6, 2), (5e6, 0)]
    assert counted["KV tokens in use"] == [(0, 10), (1e6, 20), (2e6, 0), (5e6, 30), (6e6, 0)]


def test_a_window_cuts_slices_and_says_so(tmp_path: Path) -> None:
    log = [record(0.0, 10.0), record(10.0, 11.0), record(11.0, 12.0)]
    perfetto.write(log, tmp_path / "t.json", window_s=(4.0, 10.5))
    events = read(tmp_path / "t.json")["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert [(e["ts"], e["dur"]) for e in slices] == [(4e6, 6e6), (10e6, 0.5e6)]
    assert slices[0]["args"]["cut_from_s"] == [0.0, 10.0]
    assert [e["args"]["value"] for e in events if e["name"] == "KV tokens in use"] == [100, 100]


def test_what_takes_no_time_is_an_instant(tmp_path: Path) -> None:
    drop = BatchRecord("Drop", (1, 2), 0, 0, 3.0, 3.0, 3.0)
    perfetto.write([drop], tmp_path / "t.json")
    event = next(e for e in read(tmp_path / "t.json")["traceEvents"] if e["ph"] == "i")
    assert (event["name"], event["ts"]) == ("drop 2", 3e6)


@pytest.mark.parametrize("policy", ["vanilla", "sequence", "continuous"])
def test_a_run_comes_back_from_its_timeline(policy: str, profile: Profile, tmp_path: Path) -> None:
    result = simulate(
        policy=policy, num_prompts=200, request_rate=20, predictor="tuned", profile=profile, log=True
    )
    perfetto.write(result.batches, tmp_path / "t.json.gz")
    events = read(tmp_path / "t.json.gz")["traceEvents"]
    slices = [e for e in events if e["ph"] in "Xi"]
    assert len(slices) == len(result.batches) < result.summary["iterations"] / 2, "a leap is one slice"
    assert sum(e["args"].get("iterations", 0) for e in slices) == result.summary["iterations"]
    assert sum(e["args"].get("evictions", 0) for e in slices) == result.summary["preemptions"]
    busy_s = sum(e["dur"] for e in slices if e["ph"] == "X") / 1e6
    assert busy_s == pytest.approx(sum(b.end_s - b.start_s for b in result.batches), rel=1e-6)


def test_events_are_made_one_by_one_and_the_same_each_time(tmp_path: Path) -> None:
    def endless() -> Any:
        k = 0
        while True:
            yield record(k, k + 1)
            k += 1

    stream = perfetto.events(endless(), [0], merge=10)
    assert inspect.isgenerator(stream)
    assert sum(1 for _, _ in zip(range(1000), stream, strict=False)) == 1000
    for name in ("a.json.gz", "b.json.gz"):
        perfetto.write([record(0, 1)], tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize("text", ["5:3", "3:3", "-1:2", "a:b", "5", "", "nan:2", "1:2:3"])
def test_a_window_that_holds_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="perfetto-window"):
        perfetto.parse_window(text)


def test_a_window_may_be_open() -> None:
    assert perfetto.parse_window(":") == (0.0, float("inf"))
    assert perfetto.parse_window("2.5:") == (2.5, float("inf"))
    assert perfetto.parse_window(":4") == (0.0, 4.0)


def test_a_bound_too_small_for_one_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_events"):
        perfetto.write([record(0, 1)], tmp_path / "t.json", max_events=3)
    with pytest.raises(InputError, match="no folder"):
        perfetto.write([record(0, 1)], tmp_path / "none" / "t.json")


def test_fetches_from_slower_memory_are_spans_that_may_overlap(tmp_path: Path) -> None:
    fetches = [
        (0, Fetch(7, 0.5, 1.5, 160, 0)),
        (0, Fetch(8, 1.0, 9.0, 0, 32)),
        (1, Fetch(9, 5.0, 6.0, 16, 0)),
    ]
    log = [record(k, k + 1.0) for k in range(4)]
    perfetto.write(log, tmp_path / "t.json", window_s=(0.0, 4.0), fetches=fetches)
    events = [e for e in read(tmp_path / "t.json")["traceEvents"] if e.get("cat") == "fetch"]
    assert [(e["ph"], e["id"], e["ts"]) for e in events] == [
        ("b", 0, 0.5e6),
        ("e", 0, 1.5e6),
        ("b", 1, 1e6),
        ("e", 1, 4e6),
    ]
    assert events[2]["args"] == {"request": 8, "cpu_tokens": 0, "disk_tokens": 32}
    told = perfetto.write(log, tmp_path / "t.json", max_events=20, fetches=fetches * 10)
    assert told.events <= 20 and told.omitted_fetches and "fetches" in told.left_out()
