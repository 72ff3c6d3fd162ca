"""The summary: every key there, each figure recomputed from the per-request table and the decision log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import simulate
from sim.hardware.profile import Profile
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger, ReplicaUse
from sim.results.result import Result, make_result
from sim.results.token_gaps import RESOLUTION
from traces.trace import Trace

STATISTICS = [
    f"{s}_{m}_ms"
    for s in ("mean", "median", "std", "p90", "p99")
    for m in ("ttft", "tpot", "itl", "e2el", "wait")
]
KEYS = [
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_concurrent_requests",
    "average_length",
    "average_length_all_attempts",
    "effective_token_ratio",
    "failure_ratio",
    "iterations",
    "gpu_busy_fraction",
    "kv_peak_fraction",
    "preemptions",
    "policy",
    "predictor",
    "profile",
    "trace",
    "seed",
    "replicas",
    "version",
    *STATISTICS,
]

POLICIES = [
    "vanilla",
    "vanilla:batch_size=3",
    "sequence",
    "sequence:vbs=off",
    "sequence:max_wait_s=2",
    "sequence:requeue=on,group_size=40",
]


def trace_of(output: list[int], **columns: Any) -> Trace:
    n = len(output)
    given = {"prompt_tokens": np.full(n, 10), **columns}
    return Trace("made up", np.arange(n), output_tokens=np.array(output), **given)


@pytest.fixture(scope="module", params=POLICIES)
def result(request: pytest.FixtureRequest, profile: Profile) -> Result:
    return simulate(
        "alpaca-vicuna",
        num_prompts=120,
        request_rate=4.0,
        policy=request.param,
        predictor="tuned",
        profile=profile,
        goodput={"ttft": 5000, "tpot": 50},
    )


def gaps_ms(result: Result) -> np.ndarray[Any, Any]:
    """Every inter-token gap of every request, one by one."""
    times: dict[int, list[float]] = {}
    for batch in result.batches:
        if batch.kind == "PaddedBatch":
            steps = [batch.first_step_s + j * batch.step_slope_s for j in range(batch.iterations - 1)]
            seen = batch.prefill_end_s + np.cumsum([0.0, *steps])
            for i, begun in zip(
                batch.request_ids, batch.answered or [0] * len(batch.request_ids), strict=True
            ):
                times[i] = [*times[i][:begun], *seen] if begun else [*seen]
    gaps: list[float] = []
    for i, all_s in times.items():
        n = int(result.columns["output_tokens"][i])
        gaps += np.diff([*all_s[: n - 1], result.columns["finish_s"][i]]).tolist() if n > 1 else []
    return np.array(gaps) * 1e3


def test_every_key_is_there(result: Result) -> None:
    assert set(KEYS) <= set(result.summary)
    assert result.summary["request_goodput"] is not None


def test_counts_and_rates(result: Result) -> None:
    s, t = result.summary, result.requests
    done = t[t.status == "completed"]
    duration = done.finish_s.max() - t.arrival_s.min()
    assert s["duration"] == duration
    assert (s["completed"], s["failed"]) == (len(done), len(t) - len(done))
    assert s["total_input_tokens"] == done.prompt_tokens.sum()
    assert s["total_output_tokens"] == done.output_tokens.sum()
    assert s["request_throughput"] == pytest.approx(len(done) / duration)
    assert s["output_throughput"] == pytest.approx(done.output_tokens.sum() / duration)
    total = done.prompt_tokens.sum() + done.output_tokens.sum()
    assert s["total_token_throughput"] == pytest.approx(total / duration)
    good = done[(done.ttft_ms <= 5000) & ((done.tpot_ms <= 50) | (done.output_tokens == 1))]
    assert s["request_goodput"] == pytest.approx(len(good) / duration)
    events = sorted([(f, -1) for f in done.finish_s] + [(a, 1) for a in done.arrival_s])
    assert s["max_concurrent_requests"] == max(np.cumsum([step for _, step in events]))


def test_latencies(result: Result) -> None:
    s, t = result.summary, result.requests
    assert np.allclose(t.ttft_ms, (t.first_token_s - t.arrival_s) * 1e3)
    assert np.allclose(t.e2el_ms, (t.finish_s - t.arrival_s) * 1e3)
    several = t[t.output_tokens > 1]
    assert np.allclose(several.tpot_ms * (several.output_tokens - 1), several.e2el_ms - several.ttft_ms)
    assert t[t.output_tokens == 1].tpot_ms.isna().all()
    assert np.allclose(t.wait_ms, (t.scheduled_s - t.arrival_s) * 1e3)
    assert (t.wait_ms <= t.ttft_ms).all()
    for name in ("ttft", "tpot", "e2el", "wait"):
        values = t[f"{name}_ms"].dropna()
        assert s[f"mean_{name}_ms"] == pytest.approx(values.mean())
        assert s[f"std_{name}_ms"] == pytest.approx(values.std(ddof=0))
        for key, q in (("median", 50), ("p90", 90), ("p99", 99)):
            assert s[f"{key}_{name}_ms"] == pytest.approx(np.percentile(values, q))


def test_inter_token_latency_against_every_gap(result: Result) -> None:
    s, t, gaps = result.summary, result.requests, gaps_ms(result)
    assert len(gaps) == (t.output_tokens - 1).sum()
    # The gaps of a request add up to what lies between its first token and its end.
    assert gaps.sum() == pytest.approx((t.e2el_ms - t.ttft_ms).sum())
    assert (gaps > 0).all()
    assert s["mean_itl_ms"] == pytest.approx(gaps.mean())
    assert s["std_itl_ms"] == pytest.approx(gaps.std())
    for key, q in (("median", 50), ("p90", 90), ("p99", 99)):
        below, above = (np.percentile(gaps, q, method=m) for m in ("lower", "higher"))
        assert below * (1 - RESOLUTION) <= s[f"{key}_itl_ms"] <= above * (1 + RESOLUTION)


def test_the_papers_figures_from_the_decision_log(result: Result) -> None:
    s, t = result.summary, result.requests
    true = dict(zip(t.index, t.output_tokens, strict=True))
    row_length: dict[int, int] = {}
    failed: set[int] = set()
    wasted = kept = asked = iterations = 0
    for decision in result.decisions:
        iterations += decision["iterations"]
        if decision["kind"] == "Perceive":
            asked += 8 * len(decision["requests"])
        for i in decision["requests"] if decision["kind"] == "PaddedBatch" else ():
            begun = dict(zip(decision["requests"], decision.get("answered", [0] * len(true)), strict=False))
            left = {j: true[j] - answered for j, answered in begun.items()}
            assert decision["iterations"] == min(decision["limit"], max(left.values()))
            if left[i] <= decision["iterations"]:
                row_length[i] = begun[i] + decision["iterations"]
                kept += begun[i]
            else:
                failed.add(i)
                wasted += decision["iterations"]
    assert row_length == dict(zip(t.index, t.row_length, strict=True))
    wasted -= kept
    rows, useful, n = sum(row_length.values()), sum(true.values()), len(true)
    assert s["average_length"] == pytest.approx(rows / n)
    assert s["average_length_all_attempts"] == pytest.approx((rows + wasted) / n)
    assert s["effective_token_ratio"] == pytest.approx(useful / rows)
    assert s["failure_ratio"] == pytest.approx(len(failed) / n)
    assert s["iterations"] == iterations
    assert result.tokens == (useful, rows - useful, wasted, asked)


def test_busy_and_memory(result: Result) -> None:
    s = result.summary
    busy = sum(b.end_s - b.start_s for b in result.batches)
    assert s["gpu_busy_fraction"] == pytest.approx(busy / s["duration"])
    assert s["kv_peak_fraction"] == max(b.kv_tokens for b in result.batches) / 200_000
    asked = sum(b.end_s - b.start_s for b in result.batches if b.kind == "Perceive")
    assert s["perception_s"] == pytest.approx(asked)


def test_work_after_the_last_finish_does_not_count_as_busy(profile: Profile) -> None:
    # The second request's length is asked for, and then its deadline has passed.
    trace = trace_of([20, 20], arrival_s=np.array([0.0, 10.0]), deadline_s=np.array([np.inf, 10.0001]))
    result = simulate(trace, predictor="tuned", profile=profile)
    assert result.requests.status.tolist() == ["completed", "expired"]
    assert result.summary["gpu_busy_fraction"] <= 1


def test_a_good_request_may_be_one_that_did_not_wait_long(profile: Profile) -> None:
    trace = trace_of([50] * 12, arrival_s=np.arange(12) * 0.01)
    settings = {"policy": "continuous:max_num_seqs=2", "profile": profile}
    waits = simulate(trace, **settings).requests.wait_ms
    bound = float(waits.median())
    result = simulate(trace, goodput={"wait": bound}, **settings)
    assert 0 < (waits <= bound).sum() < len(waits)
    assert result.summary["request_goodput"] == (waits <= bound).sum() / result.summary["duration"]


def test_failure_ratio_is_a_share_of_all_requests(profile: Profile) -> None:
    trace = trace_of(
        [60, 20, 20], prompt_tokens=np.array([10, 10, 5000]), predicted_tokens=np.array([50, 50, 50])
    )
    result = simulate(trace, predictor="trace", profile=profile, kv_blocks=100)
    assert result.requests.status.tolist() == ["completed", "completed", "rejected"]
    assert result.summary["failure_ratio"] == pytest.approx(1 / 3)


def test_undefined_is_none(profile: Profile) -> None:
    result = simulate(trace_of([1, 1]), profile=profile)
    nothing = {k for k, v in result.summary.items() if v is None}
    assert nothing == {
        "request_goodput",
        "request_goodput_from_schedule",
        "offered_rate",
        "queue_growth",
        "failed_reason",
        *(k for k in STATISTICS if "tpot" in k or "itl" in k),
    }


def test_a_run_in_which_nothing_completes(profile: Profile) -> None:
    result = simulate(trace_of([5, 5]), profile=profile, kv_blocks=1, goodput={"ttft": 1})
    s = result.summary
    assert (s["completed"], s["failed"], s["iterations"]) == (0, 2, 0)
    assert s["kv_peak_fraction"] == 0
    for key in ("duration", "request_throughput", "request_goodput", "average_length", "failure_ratio"):
        assert s[key] is None or key == "failure_ratio"
    assert all(s[key] is None for key in STATISTICS)
    assert result.requests.reason.str.startswith("rejected: ").all()
    json.loads(result.to_json())


def test_json_is_strict(result: Result, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = result.to_json(tmp_path / "summary.json")
    assert (tmp_path / "summary.json").read_text() == text + "\n"
    assert json.loads(text, parse_constant=refuse) == result.summary


def test_requests_are_saved(result: Result, tmp_path: Path) -> None:
    import pandas as pd

    result.save_requests(tmp_path / "requests.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "requests.csv", keep_default_na=False, na_values={"ttft_ms": [""]})[
            ["ttft_ms"]
        ],
        result.requests[["ttft_ms"]],
    )


def test_golden() -> None:
    """Two rows of one batch: 1 s of prefill, then decode steps of 1, 2 and 3 s."""
    ledger = Ledger(2, [0.0, 0.0], replicas=[ReplicaUse("", 56)])
    ledger.batches.append(BatchRecord("PaddedBatch", (0, 1), 4, 4, 0.0, 1.0, 7.0, 10, 1.0, 1.0, 28))
    ledger.scheduled_s, ledger.first_token_s, ledger.finish_s = [0.0] * 2, [1.0] * 2, [7.0] * 2
    ledger.row_length, ledger.attempts, ledger.final_batch = [4, 4], [1, 1], [0, 0]
    result = make_result(
        ledger,
        request_id=np.arange(2),
        prompt_tokens=np.array([10, 10]),
        output_tokens=np.array([4, 2]),
        priority=None,
        labels={},
    )
    s = result.summary
    assert (s["mean_ttft_ms"], s["mean_e2el_ms"], s["duration"]) == (1000, 7000, 7)
    # Gaps 1, 2, 3 s of the first row; the second row's one gap lasts until the batch returns.
    assert s["mean_itl_ms"] == pytest.approx(3000)
    assert s["mean_tpot_ms"] == pytest.approx((2000 + 6000) / 2)
    assert (s["average_length"], s["effective_token_ratio"], s["failure_ratio"]) == (4, 0.75, 0)
    assert s["kv_peak_fraction"] == 0.5
