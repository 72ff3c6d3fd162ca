"""Requests that meet a fleet which is still filling up, and what is left of the latencies without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim import compare, simulate
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.step_cost import StepCost
from sim.results.warmup import num_warmup
from tests.sim.flat_machine import flat_machine
from traces.errors import InputError
from traces.trace import Trace

N = 320


def uneven_machine(step_s: float) -> Profile:
    """An iteration takes `step_s`, and a hundredth of it per token in memory."""
    curve = PiecewiseLinear((1,), (step_s,))
    cost = StepCost(curve, 0.01 * step_s, curve, 0.0, 0.0)
    return replace(flat_machine(step_s), step_cost=cost)


def closed_loop(**settings: Any) -> Any:
    """64 at a time: the first 64 arrive at once, and their prompts wait for each other."""
    lengths = np.random.default_rng(0).integers(50, 150, N)
    trace = Trace("closed", np.arange(N), np.full(N, 1000), lengths)
    how: dict[str, Any] = {"policy": "continuous", "profile": "h200-vicuna-7b", "max_concurrency": 64}
    return simulate(trace, **how, **settings)


def test_latencies_are_those_of_the_requests_that_are_left() -> None:
    whole, steady = closed_loop(), closed_loop(warmup=80)
    left = whole.requests.sort_values("arrival_s", kind="stable").iloc[80:]
    for key in ("ttft", "tpot", "e2el", "wait"):
        assert steady.summary[f"mean_{key}_ms"] == pytest.approx(left[f"{key}_ms"].mean())
        assert steady.summary[f"p99_{key}_ms"] == pytest.approx(np.percentile(left[f"{key}_ms"], 99))
    assert steady.summary["p99_ttft_ms"] < whole.summary["p99_ttft_ms"] / 3
    assert steady.summary["mean_held_ms"] == pytest.approx(left["held_ms"].mean())
    unmoved = ("completed", "failed", "duration", "total_output_tokens", "queue_growth", "gpu_busy_fraction")
    assert all(steady.summary[key] == whole.summary[key] for key in unmoved)
    assert steady.summary["warmup_requests"] == 80 and "warmup_requests" not in whole.summary


def test_rates_are_of_what_ends_from_the_first_request_that_is_left_on() -> None:
    goodput = {"ttft": 300.0, "e2el": 3000.0}
    whole, steady = (closed_loop(warmup=warmup, goodput=goodput) for warmup in (None, 80))
    requests = steady.requests.sort_values("arrival_s", kind="stable")
    since = requests.arrival_s.iloc[80]
    ended = requests[requests.finish_s >= since]
    window = requests.finish_s.max() - since
    good = (ended.ttft_ms <= 300) & (ended.e2el_ms <= 3000)
    assert 0 < good.sum() < len(ended) < N
    said = steady.summary
    assert said["warmup_s"] == pytest.approx(since - requests.arrival_s.min())
    assert said["request_throughput"] == pytest.approx(len(ended) / window)
    assert said["request_goodput"] == pytest.approx(good.sum() / window)
    assert said["output_throughput"] == pytest.approx(ended.output_tokens.sum() / window)
    tokens = ended.output_tokens.sum() + ended.prompt_tokens.sum()
    assert said["total_token_throughput"] == pytest.approx(tokens / window)
    assert said["request_throughput"] > 1.05 * whole.summary["request_throughput"]


def test_where_nobody_completes_after_the_warm_up_nothing_is_said_of_it() -> None:
    """The second comes too late for its deadline, as the first has the only place."""
    trace = Trace(
        "late", np.arange(2), np.full(2, 9), np.full(2, 40), arrival_s=np.zeros(2), deadline_s=np.full(2, 0.5)
    )
    policy = "continuous:max_num_seqs=1"
    said = simulate(trace, policy=policy, profile=uneven_machine(0.1), warmup=1).summary
    assert (said["completed"], said["warmup_requests"]) == (1, 1)
    assert said["mean_e2el_ms"] is said["mean_e2el_from_schedule_ms"] is said["mean_held_ms"] is None
    assert not [name for name, value in said.items() if value != value]


def test_in_a_steady_run_the_throughput_is_the_rate_offered() -> None:
    """What is under way as a warm-up ends makes up for what is under way as requests cease to come."""
    how: dict[str, Any] = {"policy": "continuous", "profile": "h200-vicuna-7b", "request_rate": 8.0}
    how["burstiness"] = 1e5  # evenly
    lengths = np.full(600, 300)
    trace = Trace("alike", np.arange(600), np.full(600, 100), lengths)
    whole, steady = (simulate(trace, **how, warmup=warmup).summary for warmup in (None, 300))
    assert steady["request_throughput"] == pytest.approx(steady["offered_rate"], rel=0.005)
    assert whole["request_throughput"] < 0.99 * whole["offered_rate"]


@pytest.mark.parametrize("step_s", [0.007, 0.011, 0.1, 1 / 64])
@pytest.mark.parametrize("warmup", [1, 2, 3, 5])
def test_last_gaps_before_the_first_request_that_is_left_end_with_its_arrival(
    step_s: float, warmup: int
) -> None:
    """One at a time, each comes with the last token of the one before: that ends at its arrival, not before,
    and counts, however the time was summed up.
    """
    trace = Trace("closed", np.arange(8), np.full(8, 10), np.full(8, 40))
    how: dict[str, Any] = {"policy": "continuous", "profile": uneven_machine(step_s), "max_concurrency": 1}
    for leap in (True, False):
        said = simulate(trace, **how, warmup=warmup, leap=leap).summary
        gaps_s = (8 - warmup) * sum(step_s * (1 + 0.01 * (9 + k)) for k in range(1, 40))
        last_s = step_s * (1 + 0.01 * (9 + 39))
        expected = (gaps_s + last_s) / ((8 - warmup) * 39 + 1)
        assert said["mean_itl_ms"] == pytest.approx(1e3 * expected, rel=1e-9), leap


@pytest.mark.parametrize(
    "policy", ["continuous", "continuous:chunked=on,max_num_batched_tokens=512", "sequence"]
)
def test_gaps_between_tokens_are_of_the_same_time_by_leaps_and_by_single_steps(policy: str) -> None:
    rng = np.random.default_rng(2)
    trace = Trace("mixed", np.arange(120), rng.integers(1, 2000, 120), rng.integers(1, 300, 120))
    how: dict[str, Any] = {"policy": policy, "profile": "h200-vicuna-7b", "request_rate": 20.0}
    whole = simulate(trace, **how).summary
    leap, step = (simulate(trace, **how, warmup=40, leap=leap).summary for leap in (True, False))
    for statistic in ("mean", "std"):
        assert leap[f"{statistic}_itl_ms"] == pytest.approx(step[f"{statistic}_itl_ms"], rel=1e-6)
    assert leap["mean_itl_ms"] != pytest.approx(whole["mean_itl_ms"], rel=1e-3)
    none = simulate(trace, **how, warmup=0).summary
    assert {key: none[key] for key in whole} == whole


def test_all_gaps_of_a_run_that_is_folded_keep_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = closed_loop(warmup=80).summary
    for module in ("sim.results.token_gaps", "sim.execution.iterations"):
        monkeypatch.setattr(f"{module}.FOLD_AT", 50)
    folded = closed_loop(warmup=80).summary
    for statistic in ("mean", "median", "std", "p90", "p99"):
        assert folded[f"{statistic}_itl_ms"] == pytest.approx(whole[f"{statistic}_itl_ms"], rel=1e-9)


def test_seconds_count_from_the_first_arrival() -> None:
    columns = {"arrival_s": np.array([7.0, 5.0, 6.0, 9.0])}
    assert [num_warmup(text, columns) for text in ("0s", "1s", "1.5 s", "2s", "4s")] == [0, 1, 2, 2, 3]
    assert [num_warmup(text, columns) for text in ("1500ms", "0.05 min", "0.05min")] == [2, 3, 3]


def test_auto_finds_the_end_of_a_transient_and_nothing_where_there_is_none() -> None:
    rng = np.random.default_rng(1)
    arrival = np.arange(1000.0)
    noise = rng.exponential(1.0, 1000)
    transient = np.where(np.arange(1000) < 150, 20.0, 0.0)
    ends = {"arrival_s": arrival, "first_token_s": arrival, "finish_s": arrival + noise + transient}
    found = num_warmup("auto", ends)
    assert 150 <= found <= 250
    assert num_warmup("auto", {**ends, "finish_s": arrival + 1 + 0 * noise}) == 0
    assert num_warmup("auto", {name: values[:9] for name, values in ends.items()}) == 0


def test_auto_finds_a_first_wave_that_waits_among_answers_of_any_length() -> None:
    """Where answers differ much in length, E2EL does not show it; TTFT does."""
    lengths = np.random.default_rng(0).geometric(1 / 200, 640).clip(1, 2000)
    trace = Trace("closed", np.arange(640), np.full(640, 1000), lengths)
    how: dict[str, Any] = {"policy": "continuous", "profile": "h200-vicuna-7b", "max_concurrency": 64}
    whole, steady = (simulate(trace, **how, warmup=warmup).summary for warmup in (None, "auto"))
    assert 60 <= steady["warmup_requests"] <= 200
    assert steady["p99_ttft_ms"] < whole["p99_ttft_ms"] / 5


@pytest.mark.parametrize("text", ["x", "", "-3", "1.5", "5 m", "5 days", "inf", "nan", "1e3"])
def test_another_text_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(
        InputError, match="is not a number of requests, of seconds such as 60s or 2min, nor auto"
    ):
        closed_loop(warmup=text)


@pytest.mark.parametrize("warmup", [N, 10**9, "999999999s"])
def test_a_warm_up_leaves_something(warmup: str | int) -> None:
    with pytest.raises(InputError, match=rf"warmup: {warmup} leaves none of {N} requests"):
        closed_loop(warmup=warmup)


def test_all_policies_of_a_comparison_warm_up() -> None:
    runs = compare(policies="continuous;vanilla", num_prompts=40, request_rate=2.0, warmup=10).summaries
    assert [summary["warmup_requests"] for summary in runs.values()] == [10, 10]
