"""What was offered and how far the fleet kept up, against worlds that are worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from sim import compare, simulate
from sim.results.offered_load import load_texts
from sim.results.result import Result
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

ONE_AT_A_TIME = "vanilla:batch_size=1"


def line_of(n: int, gap_s: float) -> Trace:
    """One token each, a request every so many seconds."""
    return Trace("line", np.arange(n), np.full(n, 10), np.ones(n, dtype=int), arrival_s=np.arange(n) * gap_s)


def run(n: int = 8, gap_s: float = 0.1, step_s: float = 0.5, **settings: Any) -> Result:
    return simulate(line_of(n, gap_s), policy=ONE_AT_A_TIME, profile=flat_machine(step_s), **settings)


def test_a_bounded_client_keeps_both_the_schedule_and_the_sending() -> None:
    """10/s offered, half a second each, one at a time: 0.5, 0.9, ..., 3.3 s from the schedule."""
    bounded, open_loop = run(max_concurrency=1, goodput={"e2el": 1000}), run(goodput={"e2el": 1000})
    assert bounded.summary["mean_e2el_ms"] == pytest.approx(500)
    for result in (bounded, open_loop):
        assert result.summary["mean_e2el_from_schedule_ms"] == pytest.approx(1900)
        assert result.summary["offered_rate"] == pytest.approx(10)
        assert result.summary["request_goodput_from_schedule"] == pytest.approx(2 / 4.0)
    assert bounded.summary["request_goodput"] == pytest.approx(8 / 4.0)
    assert bounded.summary["mean_held_ms"] == pytest.approx(1400) and open_loop.summary["mean_held_ms"] == 0
    assert bounded.columns["due_s"].tolist() == line_of(8, 0.1).arrival_s.tolist()  # type: ignore[union-attr]
    assert bounded.columns["held_ms"].tolist() == pytest.approx([400 * k for k in range(8)])
    (text,) = load_texts(bounded.summary)
    assert text == (
        "The client held requests back by 1.4 s on average: latencies run from sending, mean E2EL from the "
        "schedule is 1.9 s, goodput from it 0.5 requests/s."
    )
    assert not load_texts(open_loop.summary)


@pytest.mark.parametrize("bound", [None, 1])
@pytest.mark.parametrize("n", [100, 1000])
def test_a_queue_that_grows_is_said_to(n: int, bound: int | None) -> None:
    """10/s offered, 2/s done: of every 5 that come 4 stay."""
    summary = run(n, max_concurrency=bound).summary
    assert summary["queue_growth"] == pytest.approx(0.8, abs=0.02)
    assert (
        "(10 requests/s offered, 2 served): latencies grow with the length of the run."
        in load_texts(summary)[-1]
    )


def test_a_queue_that_does_not_grow_is_not() -> None:
    """Nor one that only lasts long, nor where everything comes at once, nor a run of a few requests."""
    assert run(200, gap_s=0.6).summary["queue_growth"] == 0
    assert run(200, gap_s=0.0).summary["queue_growth"] is None
    assert run(99).summary["queue_growth"] is None
    steady = simulate(
        "fixed:prompt_tokens=1000,output_tokens=2000",
        num_prompts=150,
        request_rate=1.0,
        policy="continuous",
        profile="h200-vicuna-7b",
    )
    assert steady.summary["queue_growth"] == 0  # unfinished ones pile up until the first ends; none waits


@pytest.mark.parametrize(("load", "grows"), [(0.5, 0), (0.8, 0), (1.3, 20), (2.0, 20)])
def test_random_arrivals_grow_a_queue_above_the_capacity_alone(load: float, grows: int) -> None:
    growing = 0
    for seed in range(20):
        how: dict[str, Any] = {"request_rate": 2 * load, "seed": seed, "profile": flat_machine(0.5)}
        growing += bool(simulate(line_of(1500, 1.0), policy=ONE_AT_A_TIME, **how).summary["queue_growth"])
    assert growing == grows


@pytest.mark.parametrize("order", ["fcfs", "shortest-predicted", "mlfq"])
def test_a_queue_grows_whatever_the_order(order: str) -> None:
    """Shortest first, what waits are few; where orders preempt, most that wait have begun."""
    policy = f"continuous:order={order},max_num_seqs=64"
    how: dict[str, Any] = {"policy": policy, "profile": "h200-vicuna-7b", "num_prompts": 3000}
    capacity = simulate("alpaca-vicuna", request_rate=math.inf, **how).summary["request_throughput"]
    stable, overloaded = (
        simulate("alpaca-vicuna", request_rate=load * capacity, **how).summary for load in (0.7, 1.15)
    )
    assert stable["queue_growth"] == 0
    assert overloaded["queue_growth"] > 0.02


def test_a_comparison_says_it_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    from sim.cli.show import comparison_table

    comparison = compare(line_of(300, 0.1), policies=f"{ONE_AT_A_TIME};continuous", profile=flat_machine(0.5))
    comparison_table(comparison.summaries, comparison.ratios())
    shown = capsys.readouterr().out
    assert f"{ONE_AT_A_TIME}: The queue grows by 0.8" in shown and "continuous: The queue" not in shown


@pytest.mark.parametrize("command", ["simulate --policy", "compare --policies"])
def test_beside_json_it_is_said_on_stderr(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.cli import main

    load = (
        "--trace fixed:output_tokens=100 --num-prompts 200 --request-rate 200 --profile h200-vicuna-7b --json"
    )
    main([*command.split(), "continuous:max_num_seqs=1", *load.split()])
    shown = capsys.readouterr()
    assert json.loads(shown.out)
    (note,) = [line for line in shown.err.splitlines() if "note" in line]
    assert note.startswith("seqsched: note: ") and note.endswith("latencies grow with the length of the run.")
