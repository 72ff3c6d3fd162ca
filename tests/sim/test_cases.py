"""Questions of people who plan servers, with answers by hand, by theory or by another run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sim import plan, simulate
from sim.cli import main
from sim.hardware.roofline import estimate
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

H200 = "h200-vicuna-7b"


def requests(prompt: Any, output: Any, arrival_s: Any = None) -> Trace:
    prompt, output = np.asarray(prompt), np.asarray(output)
    return Trace("cases", np.arange(len(prompt)), prompt, output, arrival_s=arrival_s)


def summary_of(flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The figures of a run, without the name of its trace."""
    main(["simulate", "--policy", "continuous", "--profile", H200, "--json", *flags.split()])
    summary = json.loads(capsys.readouterr().out)
    del summary["trace"]
    return summary


def test_one_traffic_in_two_formats_gives_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(0.0, 374, 44), (4.314, 396, 109), (4.506, 879, 55), (17.25, 91, 16)]
    azure = "".join(f"2023-11-16 18:15:{46.5 + at:09.6f}0,{p},{o}\n" for at, p, o in rows if at < 13)
    azure += "2023-11-16 18:16:03.7500000,91,16\n"
    (tmp_path / "azure.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + azure)
    vidur = "".join(f"{at},{p},{o}\n" for at, p, o in rows)
    (tmp_path / "vidur.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + vidur)
    one, other = (summary_of(f"--trace {tmp_path}/{name}.csv", capsys) for name in ("azure", "vidur"))
    assert one["completed"] == 4 and one == other


def test_a_run_comes_back_from_the_requests_it_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file of requests has no cap, and the engine ends an answer at its cap an iteration sooner than by EOS.
    saved, same = tmp_path / "own.csv", "--max-new-tokens 4096"
    drawn = summary_of(
        f"--trace lognormal --num-prompts 300 --request-rate 5 --seed 4 --save-requests {saved} {same}",
        capsys,
    )
    assert summary_of(f"--trace {saved} --seed 4 {same}", capsys) == drawn


def test_the_first_token_comes_after_all_chunks_of_the_prompt() -> None:
    """5,000 tokens at 2,048 an iteration of 100 ms: three iterations, the last of which makes a token."""
    policy = "continuous:max_num_batched_tokens=2048"
    summary = simulate(requests([5000], [3]), policy=policy, profile=flat_machine(0.1)).summary
    assert (summary["mean_ttft_ms"], summary["mean_e2el_ms"]) == pytest.approx((300, 500))


@pytest.mark.parametrize(
    ("bound", "goodput"),
    [
        ("e2el:500", 5.0),
        ("e2el:499", 4.0),
        ("tpot:99", 1.0),  # an answer of one token has no TPOT
        ("ttft:100", 10.0),
    ],
)
def test_goodput_and_percentiles_of_ten_answers(bound: str, goodput: float) -> None:
    """1 to 10 tokens, all at once, 100 ms each: latencies of 100, 200, ..., 1,000 ms in a run of 1 s."""
    trace = requests([10] * 10, range(1, 11))
    summary = simulate(trace, policy="continuous", profile=flat_machine(0.1), goodput=[bound]).summary
    assert summary["request_goodput"] == pytest.approx(goodput)
    found = [summary[f"{statistic}_e2el_ms"] for statistic in ("median", "p90", "p99")]
    assert found == pytest.approx([550, 910, 991])


def test_throughput_of_a_full_machine_and_of_a_slow_stream() -> None:
    """Four at a time, a second each; and 30 s each, alone with those beside it, 1/s."""
    full = simulate(
        requests([10] * 400, [10] * 400), policy="continuous:max_num_seqs=4", profile=flat_machine(0.1)
    )
    assert full.summary["request_throughput"] == pytest.approx(4.0)
    trace = requests([10] * 100, [300] * 100, np.arange(100.0))
    slow = simulate(trace, policy="continuous", profile=flat_machine(0.1)).summary
    assert slow["request_throughput"] == pytest.approx(100 / 129)
    assert slow["mean_e2el_ms"] == pytest.approx(30_000)


def test_percentiles_of_the_wait_are_those_of_m_m_1() -> None:
    """P(wait > t) = load · exp(-(1 - load) t), where a service lasts a second on average."""
    n, load = 40_000, 0.7
    output = np.random.default_rng(5).geometric(1 / 50, n)
    result = simulate(
        requests([1] * n, output),
        policy="continuous:max_num_seqs=1",
        profile=flat_machine(1 / 50),
        request_rate=load,
        seed=1,
        max_new_tokens=int(output.max()),
    )
    wait_s = (result.columns["scheduled_s"] - result.columns["arrival_s"])[n // 10 :]
    for percentile in (50, 90, 99):
        theory = math.log(load / (1 - percentile / 100)) / (1 - load)
        assert np.percentile(wait_s, percentile) == pytest.approx(theory, rel=0.1)


def test_waits_before_three_servers_are_those_of_erlang() -> None:
    """Load 0.8 before a shared queue: 64.7 % wait, exponentially with mean 1 / (3 - 2.4) s."""
    n, output = 40_000, np.random.default_rng(5).geometric(1 / 50, 40_000)
    result = simulate(
        requests([1] * n, output),
        policy="continuous:max_num_seqs=1",
        profile=flat_machine(1 / 50),
        request_rate=2.4,
        seed=2,
        replicas=3,
        router="shared-queue",
        max_new_tokens=int(output.max()),
    )
    wait_s = (result.columns["scheduled_s"] - result.columns["arrival_s"])[n // 10 :]
    shares = stats.poisson.pmf(range(3), 2.4) / stats.poisson.pmf(3, 2.4)
    waiting = 5 / (5 + float(shares.sum()))
    assert waiting == pytest.approx(0.647, abs=5e-4)
    assert (wait_s > 1e-9).mean() == pytest.approx(waiting, rel=0.05)
    assert wait_s.mean() == pytest.approx(waiting / 0.6, rel=0.1)
    assert np.percentile(wait_s, 99) == pytest.approx(math.log(waiting / 0.01) / 0.6, rel=0.1)


def test_waits_of_bursts_are_those_of_lindleys_recursion() -> None:
    n = 2000
    result = simulate(
        requests([10] * n, [5] * n),
        policy="vanilla:batch_size=1",
        profile=flat_machine(0.1),
        request_rate=1.6,
        burstiness=0.25,
        seed=3,
    )
    arrival = result.columns["arrival_s"]
    wait = np.zeros(n)
    for i in range(1, n):
        wait[i] = max(0.0, wait[i - 1] + 0.5 - (arrival[i] - arrival[i - 1]))
    assert wait.max() > 5
    np.testing.assert_allclose(result.columns["scheduled_s"] - arrival, wait, atol=1e-9)


@pytest.mark.parametrize("prefix_caching", ["on", "off"])
def test_a_storm_of_preemptions_ends_and_loses_no_throughput(prefix_caching: str) -> None:
    """Many more at a time than the memory holds: preempted, but no slower, and no time is counted twice."""
    rng = np.random.default_rng(1)
    trace = requests(rng.integers(500, 1500, 200), rng.integers(400, 1200, 200))
    policy = f"continuous:max_num_seqs=1024,prefix_caching={prefix_caching}"
    done = {}
    for bound in (16, 64, 200):
        result = simulate(
            trace, policy=policy, profile=H200, kv_blocks=2588, max_concurrency=bound, max_new_tokens=1200
        )
        summary, table = result.summary, result.requests
        assert summary["completed"] == 200 and (summary["preemptions"] > 0) == (bound > 16)
        whole = table.ttft_ms + table.tpot_ms * (table.output_tokens - 1)
        np.testing.assert_allclose(whole, table.e2el_ms, rtol=1e-9)
        gaps = summary["mean_itl_ms"] * (table.output_tokens - 1).sum()
        assert gaps == pytest.approx((table.e2el_ms - table.ttft_ms).sum())
        done[bound] = summary["output_throughput"]
    assert done[200] == pytest.approx(done[64], rel=0.05) and done[64] > done[16]


def test_an_estimate_of_the_kv_cache_is_near_what_vllm_had_and_below_it() -> None:
    """On an RTX 4090 with Llama-3.1-8B vLLM 0.19 reports 2,588 blocks of 16 tokens."""
    blocks = estimate("llama-3.1-8b", "RTX 4090").kv_tokens() // 16
    assert 0.88 * 2588 <= blocks <= 2588


def test_the_cost_of_a_million_tokens_at_a_rate_next_to_nothing() -> None:
    """0.001/s of ten tokens are 36 an hour, for 3.50 USD."""
    made = plan(
        "fixed:prompt_tokens=100,output_tokens=10",
        slo="ttft_mean:2s",
        request_rate=0.001,
        profiles=H200,
        price={"H200": 3.5},
        num_requests=60,
        max_requests=120,
        max_seeds=3,
        jobs=1,
    )
    (answer,) = made.answers
    assert answer.replicas == 1
    assert answer.cost_per_million_output_tokens == pytest.approx(3.5 / 36 * 1e6)
