"""Who is within bounds, by class and by session, and where that is shown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim import compare, plan, simulate
from sim.cli import main
from sim.planning.slo import Observation, observe, parse_slo
from sim.results import metrics
from sim.results.slo_metrics import attainments, is_of_own_bounds, metric_of_class
from tests.sim.execution.test_sessions import TICK_S, made
from tests.sim.flat_machine import flat_machine
from tests.sim.results.test_own_slos import line, run
from traces.trace import Trace

NAN = math.nan
CLASSES = "chat:share=0.6,ttft=400,tpot=30;batch:share=0.3,e2el=4s"


def classed(names: list[str], **columns: Any) -> Trace:
    return replace(line(**columns), slo_class=np.array(names, dtype=object))


def test_shares_are_of_each_class_and_of_all() -> None:
    """First tokens at 0.5, 1.5, 2.5, 3.5 s; the last states no bound and counts nowhere."""
    summary = run(classed(["a", "b", "a", "b"], ttft_slo_ms=[600, 1000, 2000, NAN])).summary
    assert summary["slo_attainment"] == pytest.approx(1 / 3)
    assert summary["slo_attainment_a"] == 0.5 and summary["slo_attainment_b"] == 0.0
    assert list(summary).index("slo_attainment_a") == list(summary).index("slo_attainment") + 1


def test_a_class_that_states_no_bound_has_no_share() -> None:
    summary = run(classed(["a", "free", "a", ""], ttft_slo_ms=[600, NAN, 2000, 9000])).summary
    assert summary["slo_attainment"] == pytest.approx(2 / 3) and summary["slo_attainment_a"] == 0.5
    assert summary["slo_attainment_free"] is None and "slo_attainment_" not in summary


def test_a_bound_on_the_whole_answer_counts() -> None:
    """They end at 1, 2, 3, 4 s."""
    trace = replace(line(), e2el_slo_ms=np.array([1000.0, 1900.0, NAN, 4100.0]))
    summary = run(trace, goodput={"e2el": 2500}).summary
    assert summary["slo_attainment"] == pytest.approx(2 / 3)
    assert summary["request_goodput"] == pytest.approx(2 / 4.0)  # the third is held to that for all


def test_a_class_is_a_metric() -> None:
    metric = metrics.metric("slo_attainment_chat")
    assert metric == replace(metric_of_class("chat"), compute=metric.compute)
    assert (metric.text(0.961), metric.better) == ("96.1%", "more")
    assert "| `slo_attainment_{CLASS}` |" in metrics.markdown()


def test_a_session_is_good_where_all_of_its_turns_are() -> None:
    """One at a time, in iterations: session 0 runs 0 to 4 and, after a think time of 2, waits from 6 to 9 and
    ends at 12; the other, which came at 1, runs from 4 to 9.
    """
    trace = made([[], [0], []], [0, 2, 0], [4, 3, 5], [0, 1, 1])
    how: dict[str, Any] = {"policy": "continuous:max_num_seqs=1", "profile": flat_machine(TICK_S)}

    def ticks(*bounds: float) -> Trace:
        return replace(trace, e2el_slo_ms=np.array(bounds) * TICK_S * 1e3)

    e2el = (4.5, 6.5, 8.5)  # just enough
    for bounds, share, good in (
        (e2el, 1.0, 2),
        ((4.5, 5.5, 8.5), 0.5, 1),
        ((4.5, 5.5, NAN), 0.0, 1),  # the other states none
        ((3.5, NAN, 7.5), 0.0, 0),
    ):
        summary = simulate(ticks(*bounds), **how).summary
        assert summary["session_slo_attainment"] == share
        assert summary["session_goodput"] == pytest.approx(good / (12 * TICK_S))
    without = simulate(trace, goodput={"e2el": 5.5 * TICK_S * 1e3}, **how).summary
    assert "session_slo_attainment" not in without and without["session_goodput"] == 0
    assert "session_goodput" not in simulate(trace, **how).summary


def test_sessions_of_which_nothing_is_served_have_no_rate() -> None:
    trace = replace(made([[], [0]], [0, 2], [4, 3], [0, 0]), prompt_tokens=np.full(2, 10**7))
    summary = simulate(
        trace, policy="continuous", profile=flat_machine(TICK_S), goodput={"e2el": 1e9}
    ).summary
    assert (summary["sessions"], summary["sessions_completed"]) == (1, 0)
    assert summary["session_goodput"] is None and summary["session_throughput"] is None


def test_there_are_no_shares_where_nobody_states_a_bound() -> None:
    done, rows = np.ones(2, dtype=bool), np.arange(2)
    for requests in ({}, {"ttft_slo_ms": np.array([NAN, NAN]), "ttft_ms": np.array([1.0, 2.0])}):
        assert attainments(requests, done, rows) is None


def test_shares_within_own_bounds_are_known_by_their_keys() -> None:
    assert list(filter(is_of_own_bounds, metrics.table())) == ["slo_attainment", "session_slo_attainment"]
    assert is_of_own_bounds("slo_attainment_chat")


def test_classes_are_drawn_for_every_policy_alike_and_by_seed() -> None:
    how: dict[str, Any] = {"num_prompts": 300, "request_rate": 20.0, "slo_classes": CLASSES}
    how |= {"profile": "h200-vicuna-7b", "policies": "continuous;vanilla"}
    one, other = (compare("lognormal", **how, seed=seed) for seed in (1, 2))
    first, second = (result.columns["slo_class"].tolist() for result in one.results.values())
    assert first == second != next(iter(other.results.values())).columns["slo_class"].tolist()
    assert {"slo_attainment", "slo_attainment_chat", "slo_attainment_batch"} <= set(one.summaries["vanilla"])


def test_a_comparison_and_a_sweep_show_them(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workload = [
        "--trace",
        "lognormal",
        "--num-prompts",
        "80",
        "--request-rate",
        "8",
        "--profile",
        "h200-vicuna-7b",
    ]
    main(["compare", *workload, "--policies", "continuous;vanilla", "--slo-classes", CLASSES])
    shown = " ".join(capsys.readouterr().out.split())
    for heading in ("goodput", "within", "chat", "batch"):
        assert heading in shown
    main(["compare", *workload, "--policies", "continuous;vanilla"])
    assert "within" not in capsys.readouterr().out
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'trace = "lognormal"\nnum_prompts = 60\nprofile = "h200-vicuna-7b"\nslo_classes = "{CLASSES}"\n'
        "[grid]\nrequest_rate = [4, 8]\n"
    )
    main(["sweep", str(grid), "--out", str(tmp_path / "rows.csv"), "--jobs", "1"])
    assert "within" in capsys.readouterr().out
    assert "slo_attainment_chat" in (tmp_path / "rows.csv").read_text().splitlines()[0]


def test_a_plan_says_which_share_is_within_its_own_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    how: dict[str, Any] = {"slo": "e2el_p90:60000", "request_rate": 8.0, "profiles": "h200-vicuna-7b"}
    how |= {"num_requests": 200, "max_requests": 400, "num_seeds": 3, "max_seeds": 3, "jobs": 1}
    (answer,) = plan("lognormal", slo_classes=CLASSES, **how).answers
    assert answer.point is not None and answer.point.slo_attainment is not None
    assert list(answer.point.slo_attainment) == ["all", "batch", "chat"]
    data = json.loads(plan("lognormal", slo_classes=CLASSES, **how).to_json())
    assert data["answers"][0]["point"]["slo_attainment"] == answer.point.slo_attainment
    assert "slo_attainment" not in plan("lognormal", **how).to_json()
    words = [str(word) for pair in how.items() for word in (f"--{pair[0].replace('_', '-')}", pair[1])]
    main(["plan", "--trace", "lognormal", "--slo-classes", CLASSES, *words])
    share = answer.point.slo_attainment["all"]
    assert f"within their own bounds: {share:.1%} (batch " in capsys.readouterr().out


def test_an_observation_keeps_the_shares() -> None:
    n = 100
    columns = {
        "arrival_s": np.arange(n) * 1.0,
        "finish_s": np.arange(n) + 1.0,
        "ttft_ms": np.full(n, 100.0),
        "ttft_slo_ms": np.where(np.arange(n) < 55, 99.0, 101.0),
        "slo_class": np.array(["a", "b"] * 50, dtype=object),
        "output_tokens": np.full(n, 7),
    }
    seen = observe(parse_slo("ttft_mean:1s"), columns, {})  # of 20 to 89
    assert seen.slo_attainment == pytest.approx({"all": 35 / 70, "a": 17 / 35, "b": 18 / 35})
    assert Observation.from_json(seen.to_json()) == seen
    bare = {name: values for name, values in columns.items() if not name.startswith(("ttft_slo", "slo"))}
    assert observe(parse_slo("ttft_mean:1s"), bare, {}).slo_attainment is None
