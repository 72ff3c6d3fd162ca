"""The worked examples, at small size: they answer, and their last line is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from plots.examples import (
    better_padded,
    cache_and_router,
    how_many_h200s,
    length_aware,
    papers_settings,
    when_fetching_pays,
    where_caches_pay,
    worse_predictor,
)
from sim.cli import run_script
from sim.results.result import Result

SMALL = ["--num-requests", "100", "--max-requests", "200", "--max-seeds", "3", "--jobs", "1"]
ALPACA = ["--trace", "alpaca-vicuna"]
SHORT = ["--trace", "lognormal:output_median=40,output_sigma=1"]


def answer(module: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON that the script ends with; the table above it has a row for each answer."""
    run_script(module.main, arguments)
    *table, last = capsys.readouterr().out.splitlines()
    assert module.__doc__.splitlines()[0].endswith("?")
    assert f"python plots/examples/{module.__name__.rsplit('.', 1)[-1]}.py" in module.__doc__
    assert len(table) >= 4 and all(line.startswith("|") for line in table)
    return json.loads(last)


def test_how_many_h200s(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *SMALL[:2],
        *SMALL[4:],
        *SHORT,
        "--request-rate",
        "60",
        "--slo",
        "tpot_p90:12 ttft_p90:500",
        "--price",
        "H200:3.5",
        "--max-requests",
        "500",
    ]
    found = answer(how_many_h200s, arguments, capsys)
    today, more, failed = found.values()
    assert today["replicas"] <= more["replicas"]
    assert failed["replicas"] == today["replicas"] + 1
    assert all(row["cost_per_hour"] == 3.5 * row["replicas"] for row in found.values())


def test_length_aware(capsys: pytest.CaptureFixture[str]) -> None:
    policies = "continuous:max_num_seqs=8;continuous:max_num_seqs=8,order=shortest-predicted"
    found = answer(length_aware, [*SMALL, *SHORT, "--policies", policies, "--slo", "ttft_mean:500"], capsys)
    assert isinstance(found["switch"], bool) and list(found["policies"]) == policies.split(";")
    assert all(row["rate"] > 0 for row in found["policies"].values())


def test_worse_predictor(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--num-requests", "100", "--pairs", "2", "--jobs", "1", "--tolerance", "0.1"]
    arguments = [*few, "--worse", "1.5", "--price", "A100-80GB:2"]
    found = answer(worse_predictor, arguments, capsys)
    good, bad = found["predictors"]
    assert bad["sigma"] == pytest.approx(2.5 * good["sigma"])
    losses = [1 - after / before for before, after in zip(good["rates"], bad["rates"], strict=True)]
    assert found["loss"] == pytest.approx(sum(losses) / 2)
    assert found["loss_low"] <= found["loss"] <= found["loss_high"]
    assert good["usd_per_hour"] == pytest.approx(2 * good["replicas"])


def test_cache_and_router(capsys: pytest.CaptureFixture[str]) -> None:
    talk = "sessions:turns=6,think_s={},system_tokens=1000,prompt_tokens=300,output_tokens=60"
    few = ["--num-requests", "400", "--max-requests", "1200", "--max-seeds", "3", "--jobs", "1"]
    asked = [*few, "--price", "H100:2", "--routers", "round-robin", "--request-rate", "6"]
    asked += ["--slo", "ttft_p50:1000", "--trace"]
    found = answer(cache_and_router, [*asked, talk.format(2)], capsys)
    assert list(found) == [
        "no cache",
        "a cache",
        "twice as large (8-bit KV)",
        "the cache, router round-robin",
    ]
    assert found["no cache"]["saved"] == 0
    assert found["a cache"]["replicas"] <= found["no cache"]["replicas"]
    assert all(row["usd_per_month"] == 2 * 730 * row["replicas"] for row in found.values())
    open_yet = answer(cache_and_router, [*asked, talk.format(60)], capsys)
    assert all(row["outcome"] == "undecided" and "sessions" in row["reason"] for row in open_yet.values())


def test_where_caches_pay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "map.png"
    small = ["--num-prompts", "150", "--num-seeds", "2", "--jobs", "1", "--out", str(picture)]
    small += ["--baseline-policy", "continuous", "--router", "least-requests"]
    grid = ["--turns", "1", "--turns", "6", "--rates", "4", "--rates", "12"]
    found = answer(where_caches_pay, [*small, *grid], capsys)
    assert found["found_again"][0] < found["found_again"][1]
    assert [len(row) for row in found["gain"]] == [2, 2] and picture.stat().st_size > 1000
    assert all(gain > 1 for gain in found["gain"][1])


def test_better_padded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--num-prompts", "64", "--num-seeds", "2", "--rates", "1", "--rates", "4", "--sample-seed", "1"]
    run_script(better_padded.main, [*size, *ALPACA, "--out", str(tmp_path / "padded.png")])
    *tables, last = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("|") for line in tables) == 2 + len(better_padded.WAYS) + 2 + 4
    found = json.loads(last)
    rates = {
        row["batches"]: row["mean"] for row in found["request_throughput"] if row["predictor"] == "oracle"
    }
    assert rates["vanilla"] < rates[better_padded.PUBLISHED] < rates["continuous"]
    waits = {(row["batches"], row["rate"]): row["mean"] for row in found["mean_e2el_s"]}
    assert waits["vanilla", 1.0] < waits["vanilla", 4.0] and waits["continuous", 4.0] < waits["vanilla", 1.0]
    assert (tmp_path / "padded.png").stat().st_size > 10_000


def test_papers_settings(capsys: pytest.CaptureFixture[str]) -> None:
    short = "lognormal:output_median=60,output_sigma=1,prompt_median=20"
    size = ["--trace", short, "--loads", "2", "--shrink", "0.02", "--num-seeds", "2"]
    found = answer(papers_settings, size, capsys)
    assert {row["paper"] for row in found} == {"vllm-ltr", "TIE", "A_min", "FastServe"}
    assert all(0.1 < row["mean"] < 50 for row in found)
    exact = [row for row in found if row["paper"] == "A_min" and row["policy"][1] == "exact"]
    assert exact[0]["mean"] == pytest.approx(1.0, abs=0.05), "with exact bounds it knows what hindsight does"


def test_figures_of_papers_count_what_they_say() -> None:
    columns = {"arrival_s": np.zeros(20), "finish_s": np.arange(1.0, 21.0), "output_tokens": np.full(20, 4)}
    result = cast(Result, SimpleNamespace(columns=columns))
    assert papers_settings.per_token(result) == pytest.approx(10.5 / 4)
    assert papers_settings.until_kept(result) == 2.0


def test_when_fetching_pays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, machine = tmp_path / "tiers.png", "h100-llama-3.1-8b-vllm"
    small = ["--num-prompts", "200", "--num-seeds", "2", "--jobs", "1", "--out", str(picture)]
    small += ["--machines", machine, "--lengths", "512", "--lengths", "16384"]
    small += ["--bandwidths", "1GB/s", "--bandwidths", "50GB/s", "--rates", "5", "--rates", "20"]
    found = answer(when_fetching_pays, [*small, "--kv-tiers", "cpu:64GiB@50GB/s"], capsys)
    (computed,), fetched = found["computed_ms"].values(), found["fetched_ms"][machine]
    assert fetched["50GB/s"][1] < computed[1] < fetched["1GB/s"][1]
    # 16,384 tokens of 131,072 bytes, beside the one that is computed.
    moved_ms = 16384 * 131072 / 50e9 * 1e3
    assert moved_ms < fetched["50GB/s"][1] < moved_ms + computed[0]
    assert [[len(row) for row in rows] for rows in found["gain"].values()] == [[2, 2]]
    assert picture.stat().st_size > 1000
