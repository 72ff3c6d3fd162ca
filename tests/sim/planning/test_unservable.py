"""Requests that fail leave no mean and no percentile met, and are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import plan
from traces.errors import InputError
from traces.trace import Trace


def test_a_few_requests_that_fit_no_replica_leave_a_mean_and_a_percentile_unmet() -> None:
    lengths = np.full(200, 50)
    lengths[190] = 5000
    trace = Trace("made up", np.arange(200), lengths, np.full(200, 10), arrival_s=np.arange(200.0))
    asked: dict[str, Any] = {"profiles": "h200-vicuna-7b", "kv_blocks": 100, "max_new_tokens": 20, "jobs": 1}
    asked |= {"num_requests": 40, "max_requests": 60, "max_seeds": 3, "request_rate": 2.0}
    for slo in ("ttft_mean:9999", "ttft_p50:9999", "ttft_p99:9999 attainment:0.9"):
        made = plan(trace, slo=slo, goodput={"ttft": 9999}, **asked)
        assert not made.reached and made.answers[0].outcome == "unreachable"
        assert "0.5 % of the requests (1 of 200, the first: request 190) fit no replica" in made.headline
        assert "--max-new-tokens (20 here), --kv-blocks" in made.headline and "never" not in made.headline
        assert made.answers[0].alone is None and made.answers[0].headroom is None
    made = plan(trace, slo="attainment:0.9", goodput={"ttft": 9999}, **asked)
    assert made.reached and made.notes[0].startswith(
        "0.5 % of the requests (1 of 200, the first: request 190)"
    )
    assert "--max-new-tokens (20 here)" in made.notes[0]


def test_the_cap_of_a_request_that_fits_no_replica_is_its_own_where_it_has_one() -> None:
    outputs = np.where(np.arange(200) == 190, 5000, 10)
    trace = Trace("made up", np.arange(200), np.full(200, 50), outputs, arrival_s=np.arange(200.0))
    asked: dict[str, Any] = {"profiles": "h200-vicuna-7b", "kv_blocks": 100, "cap": "own", "jobs": 1}
    asked |= {"num_requests": 40, "max_requests": 60, "max_seeds": 3, "request_rate": 2.0}
    made = plan(trace, slo="attainment:0.9", goodput={"ttft": 9999}, **asked)
    assert made.reached and "--max-new-tokens (its own is 5,000, by --cap)" in made.notes[0]
    assert made.notes[0].startswith("0.5 % of the requests (1 of 200, the first: request 190)")
    said = {each.what: each.value for each in made.assumptions}
    assert said["Caps"].startswith("each request's own. Every request's cap is the answer's length")
    assert "Caps" not in {each.what for each in plan(trace, slo="attainment:0.9", goodput={"ttft": 9999},
                                                     **asked | {"cap": "shared"}).assumptions}  # fmt: skip


def test_requests_that_expire_are_named_where_the_slo_is_met_without_them() -> None:
    deadline = np.arange(200.0) + np.where(np.arange(200) % 10 == 3, -1.0, 1e6)
    trace = Trace(
        "made up",
        np.arange(200),
        np.full(200, 50),
        np.full(200, 10),
        arrival_s=np.arange(200.0),
        deadline_s=deadline,
    )
    asked: dict[str, Any] = {"profiles": "h200-vicuna-7b", "jobs": 1, "request_rate": 2.0}
    asked |= {"num_requests": 100, "max_requests": 200, "max_seeds": 3, "goodput": {"ttft": 9999}}
    made = plan(trace, slo="attainment:0.8", **asked)
    assert made.reached and "10 % of the requests do not complete (expired: " in made.headline
    made = plan(trace, slo="attainment:0.8", **{**asked, "request_rate": None}, max_rate=True)
    assert "10 % of the requests do not complete (expired: " in made.headline
    made = plan(trace, slo="e2el_p50:99999", **asked)
    assert not made.reached and "10 % of the requests do not complete (expired: " in made.headline
    assert "never" not in made.headline


OUTSIDE = '''
import os

from sim.schedulers.continuous import ContinuousScheduler


class Own(ContinuousScheduler):
    """Ours under another name."""


class Ends(ContinuousScheduler):
    def submit(self, request, now):
        os._exit(3)
'''


def test_a_policy_from_outside_is_asked_where_its_runs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_own.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lengths = np.full(200, 50)
    lengths[190] = 5000
    trace = Trace("made up", np.arange(200), lengths, np.full(200, 10), arrival_s=np.arange(200.0))
    asked: dict[str, Any] = {"profiles": "h200-vicuna-7b", "kv_blocks": 100, "max_new_tokens": 20, "jobs": 2}
    asked |= {"num_requests": 40, "max_requests": 60, "max_seeds": 3, "request_rate": 2.0}
    made = plan(trace, slo="ttft_p99:9999", policies="outside_own:Own", **asked)
    assert not made.reached
    assert "0.5 % of the requests (1 of 200, the first: request 190) fit no replica" in made.headline
    with pytest.raises(InputError, match=r"outside_own:Ends on .* the process that ran it died"):
        plan(trace, slo="ttft_p99:9999", policies="outside_own:Ends", **asked)
