"""A client that keeps the order of a session's turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from real.observing.observe import observe
from sim.scenario.settings import WorkloadSettings
from sim.studies.server_log import against, read_log
from tests.real.observing.server import Behaviour, serving
from tests.real.observing.test_observe import watch
from traces.trace import Trace


def talks(think_s: float = 0.05) -> Trace:
    """Two sessions of three turns each; the last turn of the second waits for both others."""
    return Trace(
        "talks",
        np.array(["a0", "b0", "a1", "b1", "a2", "b2"], dtype=object),
        np.full(6, 30),
        np.array([4, 2, 3, 2, 2, 5]),
        arrival_s=np.array([0.0, 0.01, 0.02, 0.03, 0.04, 0.05]),
        session_id=np.array(["a", "b", "a", "b", "a", "b"], dtype=object),
        waits_for=np.array([[-1, -1], [-1, -1], [0, -1], [1, -1], [2, -1], [1, 3]]),
        think_s=np.array([0.0, 0.0, think_s, think_s, think_s, think_s]),
    )


@pytest.mark.parametrize("max_concurrency", [None, 1])
def test_a_turn_is_sent_when_those_before_have_been_answered(
    max_concurrency: int | None, tmp_path: Path
) -> None:
    does = Behaviour(first_s=0.04, gap_s=0.01)
    watched = watch(does, talks(), max_concurrency=max_concurrency)
    log = watched.log
    assert watched.summary["completed"] == 6 and does.most <= (max_concurrency or 2)
    for row, parents in ((2, [0]), (3, [1]), (4, [2]), (5, [1, 3])):
        due_s = log.finish_s[parents].max() + 0.05
        assert log.due_s[row] == pytest.approx(due_s, abs=1e-6)
        assert log.arrival_s[row] >= due_s - 1e-6
    assert watched.summary["sessions_completed"] == 2
    assert watched.summary["mean_session_ms"] > 1e3 * (2 * 0.05 + 3 * 0.04)
    watched.save_log(tmp_path / "log.csv")
    again = read_log(tmp_path / "log.csv").trace
    ids = again.request_id.tolist()
    assert again.waits_for is not None and again.session_id is not None
    waits = {
        ids[row]: {ids[p] for p in again.waits_for[row] if p >= 0} for row in np.flatnonzero(again.is_waiting)
    }
    assert waits == {"a1": {"a0"}, "b1": {"b0"}, "a2": {"a1"}, "b2": {"b0", "b1"}}
    found = against(tmp_path / "log.csv", profile="h200-vicuna-7b", policy="continuous")
    assert found.predicted.keys() == found.measured.keys() and found.result.summary["sessions_completed"] == 2


def test_rates_move_the_starts_of_sessions_and_no_think_time() -> None:
    with serving(Behaviour()) as url:
        settings = WorkloadSettings(trace=talks(0.03), time_scale=20.0)
        log = observe(url, settings).log.set_index("request_id")
    assert log.due_s["b0"] == pytest.approx(0.2)
    assert log.due_s["a1"] == pytest.approx(log.finish_s["a0"] + 0.03, abs=1e-6)


def test_the_rest_of_a_session_is_cancelled_where_a_request_fails(tmp_path: Path) -> None:
    watched = watch(Behaviour(dies_after=3), talks())  # two probes, and the first turn of session a
    log = watched.log.set_index("request_id")
    assert log.status["a0"] == "completed" and watched.summary["failed"] == 5
    assert log.error["b2"] == log.error["b1"] == "cancelled: an earlier request of its session failed"
    assert log.arrival_s["b1"] == log.arrival_s["b0"]
    assert not str(log.error["b0"]).startswith("cancelled")
    watched.save_log(tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv").trace.request_id.tolist() == ["a0"]
