"""Metrics of sessions, against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import simulate
from sim.results import metrics
from sim.results.session_metrics import SESSIONS, jains_index
from tests.sim.execution.test_sessions import TICK_S, made
from tests.sim.flat_machine import flat_machine

KEYS = [metric.key for metric in SESSIONS]


def test_a_session_lasts_from_its_first_arrival_to_its_last_token_and_loses_its_waits() -> None:
    """One at a time, in iterations: session 0 runs 0 to 4 and, after a think time of 2, waits from 6 to 9 for
    the other, which came at 1 and waited until 4, and ends at 9.
    """
    trace = made([[], [0], []], [0, 2, 0], [4, 3, 5], [0, 1, 1])
    result = simulate(trace, policy="continuous:max_num_seqs=1", profile=flat_machine(TICK_S))
    assert (result.columns["finish_s"] / TICK_S).tolist() == [4, 12, 9]
    assert result.columns["session_id"].tolist() == [0, 0, 2]
    ticks = {key: result.summary[key] / 1e3 / TICK_S for key in KEYS if key.endswith("_ms")}
    assert ticks["mean_session_ms"] == pytest.approx((12 + 8) / 2)
    assert ticks["p99_session_ms"] == pytest.approx(8 + 0.99 * 4)
    assert ticks["mean_session_wait_ms"] == pytest.approx((3 + 3) / 2)
    slowdown = np.array([(4 + 6) / 7, 8 / 5])
    assert result.summary["session_fairness"] == pytest.approx(jains_index(slowdown))
    assert result.summary["session_throughput"] == pytest.approx(2 / (12 * TICK_S))
    assert [result.summary[key] for key in ("sessions", "sessions_completed", "cancelled")] == [2, 2, 0]


def test_what_did_not_complete_is_counted_and_has_no_part_in_times() -> None:
    trace = made([[], [0], [1], []], [0] * 4, [2] * 4, [0, 0, 0, 9])
    trace = replace(trace, prompt_tokens=np.array([10, 10_000, 10, 10]))
    result = simulate(
        trace, policy="continuous", profile=flat_machine(TICK_S), kv_blocks=60, max_new_tokens=40
    )
    assert [result.summary[key] for key in ("sessions", "sessions_completed", "cancelled")] == [2, 1, 1]
    assert result.summary["mean_session_ms"] == pytest.approx(2e3 * TICK_S)
    assert result.summary["failed"] == 2 and result.summary["failed_reason"].startswith("rejected")


def test_only_runs_with_sessions_have_them_and_they_come_last() -> None:
    without = simulate("fixed", num_prompts=4, profile=flat_machine(TICK_S)).summary
    assert not set(KEYS) & set(without)
    summary = simulate("sessions:users=2,turns=2", profile=flat_machine(TICK_S)).summary
    of_bounds = {metric.key for metric in (*metrics.OWN_SLOS, *metrics.OF_SESSIONS)}
    known = [key for key in metrics.table() if key not in of_bounds]
    assert list(summary)[: len(known)] == known
    assert all(metric.text(summary[metric.key]) != "–" for metric in SESSIONS)


def test_ids_alone_are_sessions_too() -> None:
    trace = replace(made([[]] * 3, [0] * 3, [1] * 3, [0] * 3), session_id=np.array(["a", "b", "a"]))
    result = simulate(replace(trace, waits_for=None, think_s=None), profile=flat_machine(TICK_S))
    assert result.summary["sessions"] == 2


def test_requests_without_a_session_are_sessions_of_their_own() -> None:
    """Of five requests at once, one at a time, two are of no session: they are not one."""
    names = np.array(["a", "", "a", "", "b"], dtype=object)
    trace = replace(made([[]] * 5, [0] * 5, [1] * 5, [0] * 5), session_id=names)
    trace = replace(trace, waits_for=None, think_s=None)
    result = simulate(trace, profile=flat_machine(TICK_S), policy="continuous:max_num_seqs=1")
    assert result.summary["sessions"] == 4
    assert result.columns["session_id"].tolist() == ["a", None, "a", None, "b"]
    assert result.summary["mean_session_ms"] == pytest.approx((3 + 2 + 4 + 5) / 4 * 1e3 * TICK_S)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_jains_index_is_between_one_share_and_one(values: list[float]) -> None:
    index = jains_index(np.array(values))
    assert index is not None and 1 / len(values) <= index * (1 + 1e-12) and index <= 1 + 1e-12
    assert jains_index(np.array([2.0, 2.0])) == 1 and jains_index(np.array([3.0, 0.0])) == 0.5
    assert jains_index(np.array([])) is None
