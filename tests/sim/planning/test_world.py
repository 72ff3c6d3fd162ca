"""Every setting of a plan acts on its runs, and what is tried is what `simulate` would run."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import plan, simulate
from sim.cli import main
from sim.hardware.catalogue import load as load_profile
from sim.planning.question import rate_of, workload_of
from sim.planning.search import Effort, idle_point
from sim.planning.slo import parse_slo
from sim.planning.units import units_of
from sim.planning.verdict import Run
from sim.planning.world import World
from sim.scenario.settings import PlanKeywords, Settings
from traces.errors import InputError
from traces.trace import Trace

H200, A100 = "h200-vicuna-7b", "a100-80gb-vicuna-7b-transformers"
RUN = Run(3, 8.0, 0, 120)
QUICK: dict[str, Any] = {"num_requests": 60, "max_requests": 120, "max_seeds": 3, "jobs": 1}


def timed(n: int = 300) -> Trace:
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.exponential(0.5, n))
    return Trace(
        name="made up",
        request_id=np.arange(n),
        prompt_tokens=rng.integers(1, 600, n),
        output_tokens=rng.integers(1, 200, n),
        arrival_s=times - times[0],
        max_new_tokens=200,
    )


def world(source: Trace | str | None = None, fleet: str = H200, **settings: Any) -> World:
    """Of a trace, as a plan sets it up."""
    given = Settings(**settings)
    trace = timed() if source is None else source
    workload = workload_of(trace, given, RUN.num_requests, None)
    (unit,) = units_of(None, replace(given, fleet=fleet))
    policy = "continuous:order=shortest-predicted,max_num_seqs=16"
    return World(workload.source, policy, unit.machines, given, workload.burstiness)


@pytest.fixture
def failures(tmp_path: Path) -> Path:
    """One machine is down for most of a run."""
    path = tmp_path / "failures.csv"
    path.write_text("replica,down_s,up_s\n1,2,9\n7,1,4\n")
    return path


ACTING: dict[str, dict[str, Any]] = {
    "predictor": {"predictor": "noisy:sigma=1"},
    "router": {"router": "round-robin"},
    "kv_blocks": {"kv_blocks": 60},
    "block_size": {"kv_blocks": 40, "block_size": 64},
    "mtbf_s": {"mtbf_s": 5.0, "mttr_s": 2.0},
    "mttr_s": {"mtbf_s": 5.0, "mttr_s": 2.0},
    "startup_s": {"mtbf_s": 5.0, "mttr_s": 2.0, "startup_s": 3.0},
    "failures": {"failures": "FAILURES"},
    "num_prompts": {"num_prompts": 40},
    "sample_seed": {"sample_seed": 7},
    "prompt_scale": {"prompt_scale": 3.0},
    "output_scale": {"output_scale": 3.0},
    "max_concurrency": {"max_concurrency": 2},
    "max_new_tokens": {"max_new_tokens": 20},
    "cap": {"predictor": "cap", "kv_blocks": 60, "cap": "own"},
    "slo_classes": {"router": "predicted-latency:pick=best", "slo_classes": "a:share=0.5,ttft=900;b:e2el=9s"},
}


SHARED = ("startup_s", "cap", "slo_classes", "block_size")
"""Settings that act beside others alone."""


@pytest.mark.parametrize("source", [None, "lognormal:output_median=60"])
@pytest.mark.parametrize("name", ACTING)
def test_every_setting_acts_on_a_run(name: str, source: str | None, failures: Path) -> None:
    changed = {key: failures if value == "FAILURES" else value for key, value in ACTING[name].items()}
    without = {key: value for key, value in changed.items() if key != name and name in SHARED}
    one, other = world(source, **without).run(RUN), world(source, **changed).run(RUN)
    assert not np.array_equal(one.columns["finish_s"], other.columns["finish_s"])


def test_no_setting_of_a_plan_is_left_untried() -> None:
    of_the_plan = {"set", "fleet", "goodput", "seed", "time_scale", "time_unit"}  # below, and in test_plan
    of_the_plan |= {"kv_tier"}  # below
    assert {*ACTING} | of_the_plan == set(PlanKeywords.__annotations__)


def test_sessions_are_run_to_their_ends_and_start_at_the_rate_of_their_requests() -> None:
    """However long they last: of 50 turns with 10 s between, as many come a second as were asked for."""
    source = "sessions:turns=50,think_s=10,think_law=fixed,system_tokens=8,prompt_tokens=8,output_tokens=8"
    run = Run(1, 20.0, 0, 5000)
    columns = world(source).run(run).columns
    sizes = np.unique(columns["session_id"], return_counts=True)[1]
    assert sizes.tolist() == [50] * 100
    starts = np.sort(columns["arrival_s"][~columns["is_waiting"]])
    assert len(starts) == 100 and len(starts) / starts[-1] == pytest.approx(20 / 50, rel=0.25)


def test_slower_memory_acts_on_a_run() -> None:
    """Where prompts are shared, and memory holds few of them."""
    source, policy = "sessions:users=30,turns=4,think_s=5", "continuous:prefix_caching=on"
    without = replace(world(source, kv_blocks=400), policy=policy).run(RUN)
    with_tiers = replace(world(source, kv_blocks=400, kv_tier="cpu:64GiB@50GB/s"), policy=policy).run(RUN)
    assert with_tiers.summary["fetched_tokens"] > 0
    assert not np.array_equal(with_tiers.columns["finish_s"], without.columns["finish_s"])


def test_a_run_is_that_of_simulate() -> None:
    settings: dict[str, Any] = {"router": "least-tokens", "mtbf_s": 20.0, "mttr_s": 3.0, "startup_s": 1.0}
    made = world("fixed:output_tokens=50", f"{H200}*2;{A100}", prompt_scale=2.0, **settings).run(RUN)
    same = simulate(
        "fixed:output_tokens=50",
        policy="continuous:order=shortest-predicted,max_num_seqs=16",
        num_prompts=RUN.num_requests,
        request_rate=RUN.rate,
        fleet=";".join([f"{H200}*2;{A100}"] * RUN.replicas),
        prompt_scale=2.0,
        **settings,
    )
    assert (made.columns["finish_s"] == same.columns["finish_s"]).all()
    assert len(made.replicas) == 9 and set(made.replicas["profile"]) == {H200, A100}


def test_rows_of_replicas_that_the_fleet_does_not_have_are_left_out(failures: Path) -> None:
    one = world(failures=failures).run(RUN)
    alone_path = failures.with_name("one.csv")
    alone_path.write_text("replica,down_s,up_s\n1,2,9\n")
    assert (one.columns["finish_s"] == world(failures=alone_path).run(RUN).columns["finish_s"]).all()
    unharmed, none = (
        world(failures=failures).run(RUN._replace(replicas=1)),
        world().run(RUN._replace(replicas=1)),
    )
    assert (unharmed.columns["finish_s"] == none.columns["finish_s"]).all()
    with pytest.raises(InputError, match="7 is not below 3"):
        simulate(timed(), profile=H200, replicas=3, failures=failures)


def test_a_machine_fails_at_the_same_times_in_fleets_of_every_size() -> None:
    failing = world(mtbf_s=5.0, mttr_s=2.0)
    small, large = (failing.run(RUN._replace(replicas=k)).replicas["down_s"] for k in (3, 4))
    assert (small > 0).all() and small.tolist()[:2] == pytest.approx(large.tolist()[:2], rel=0.5)


def test_one_request_alone_is_tried_on_a_replica_that_never_fails() -> None:
    search = idle_point(parse_slo("e2el_mean:1000"), 1.0, Effort())
    assert not any(run.outages for run in next(search))
    unharmed = world(mtbf_s=5.0, mttr_s=2.0).run(RUN._replace(outages=False))
    assert (unharmed.columns["finish_s"] == world().run(RUN).columns["finish_s"]).all()


def test_waiting_in_front_of_a_bounded_fleet_counts() -> None:
    free, bounded = world(max_concurrency=10_000).run(RUN), world(max_concurrency=1).run(RUN)
    assert (free.columns["e2el_ms"] == world().run(RUN).columns["e2el_ms"]).all()
    assert (bounded.columns["arrival_s"] == free.columns["arrival_s"]).all()
    late = bounded.columns["finish_s"] - bounded.columns["arrival_s"]
    assert bounded.columns["e2el_ms"] == pytest.approx(late * 1e3)
    assert bounded.columns["ttft_ms"].mean() > 2 * free.columns["ttft_ms"].mean()
    throttled: dict[str, Any] = {"profiles": H200, "max_concurrency": 2, "max_replicas": 4, **QUICK}
    made = plan("fixed:output_tokens=50", slo="ttft_p90:5000", request_rate=30, **throttled)
    assert not made.reached and "backlog" in made.headline


def test_the_time_unit_is_that_of_the_files_times(tmp_path: Path) -> None:
    rows = "\n".join(f"{1.5 * i},40,20" for i in range(120))
    path = tmp_path / "log.csv"
    path.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n", encoding="utf-8")
    in_seconds, in_ms = (
        workload_of(str(path), Settings(time_unit=unit), 60, None).own_rate for unit in ("s", "ms")
    )
    assert in_seconds == pytest.approx(1 / 1.5) and in_ms == pytest.approx(1000 / 1.5)


def test_the_time_scale_changes_the_traces_own_rate() -> None:
    own = workload_of(timed(), Settings(), 60, None)
    fast = workload_of(timed(), Settings(time_scale=0.5), 60, None)
    assert rate_of(None, fast) == pytest.approx(2 * rate_of("1x", own))
    made = plan(timed(), slo="ttft_p90:5000", request_rate="2x", time_scale=0.5, profiles=H200, **QUICK)
    assert made.question.request_rate == pytest.approx(4 * rate_of(None, own))
    for changed in ({"request_rate": 3.0}, {"max_rate": True}):
        with pytest.raises(
            InputError, match=r"time_scale: 0.5 scales the trace's own rate, which .* replaces"
        ):
            plan(timed(), slo="ttft_p90:5000", time_scale=0.5, profiles=H200, **changed, **QUICK)  # type: ignore[arg-type]


def test_a_mixed_fleet_is_counted_in_copies_and_costs_the_sum_of_its_prices() -> None:
    question: dict[str, Any] = {
        "trace": "fixed:output_tokens=100",
        "slo": "e2el_mean:9000",
        "request_rate": 30,
    }
    question |= {**QUICK, "policies": "continuous:max_num_seqs=8", "num_requests": 200, "max_requests": 400}
    prices = ["H200:3.5", f"{A100}:1.5"]
    fleet = f"{H200}*1;{A100}*2"
    made = plan(fleet=fleet, price=prices, **question)
    (answer,) = made.answers
    assert answer.replicas and answer.replicas > 1 and answer.cost_per_hour == 6.5 * answer.replicas
    assert answer.profile == made.question.profiles[0] == fleet
    assert f"{answer.replicas} × ({fleet})" in made.headline
    assert any(fleet in assumption.value for assumption in made.assumptions if assumption.what == "Routing")
    (of_one_kind,) = plan(profiles=A100, **question).answers
    assert of_one_kind.replicas != answer.replicas
    objects = plan(fleet=[load_profile(name) for name in (H200, A100, A100)], **question)
    assert objects.answers[0].point == answer.point and objects.answers[0].cost_per_hour is None
    with pytest.raises(InputError, match="beside the fleet"):
        plan(fleet=fleet, profiles=H200, **question)


def test_the_sensitivity_of_a_mixed_fleet_changes_every_machine() -> None:
    made = plan("fixed:output_tokens=100", fleet=f"{H200};{A100}", slo="ttft_p90:800", request_rate=10,
                sensitivity=True, **QUICK)  # fmt: skip
    assert made.sensitivity is not None and made.sensitivity.profile == f"{H200}*1;{A100}*1"
    assert "Step time" in [swing.what for swing in made.sensitivity.swings]


def test_the_command_repeats_every_setting(
    tmp_path: Path, failures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "fleet": f"{H200};{A100}", "failures": failures, "startup_s": 0.25, "num_prompts": 200,
        "prompt_scale": 1.5, "output_scale": 0.75, "max_concurrency": 64, "max_new_tokens": 150, "cap": "own",
        "slo_classes": "a:share=0.5,ttft=2s;b:e2el=30s",
        "kv_blocks": 900, "sample_seed": 4, "predictor": "exact", "router": "least-tokens", "seed": 3,
        "set": {"scale": 1.25}, "goodput": {"ttft": 2000.5},
    }  # fmt: skip
    made = plan("alpaca-vicuna", slo="attainment:0.5", request_rate=4, **settings, **QUICK)
    main([*shlex.split(made.question.command)[1:], "--jobs", "1", "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again == json.loads(made.to_json())
    plan("lognormal", slo="e2el_p90:60000", request_rate=4, mtbf_s=50.0, mttr_s=5.0, profiles=H200, **QUICK)
    with pytest.raises(InputError, match="mtbf_s: 50 needs mttr_s as well"):
        plan("lognormal", slo="e2el_p90:60000", request_rate=4, mtbf_s=50.0, profiles=H200, **QUICK)


def test_a_plan_of_a_failing_fleet_needs_more_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "plan",
        "--trace",
        "fixed:prompt_tokens=100,output_tokens=20",
        "--request-rate",
        "2",
        "--profiles",
    ]
    command += [
        H200,
        "--slo",
        "wait_p90:100",
        "--time-scale",
        "1",
        "--num-requests",
        "300",
        "--max-requests",
        "600",
    ]
    command += ["--max-seeds", "4", "--jobs", "1", "--json"]
    main(command)
    sound = json.loads(capsys.readouterr().out)
    main([*command, "--mtbf-s", "60", "--mttr-s", "20"])
    failing = json.loads(capsys.readouterr().out)
    assert failing["answers"][0]["replicas"] > sound["answers"][0]["replicas"] == 1
    assert "each machine fails after 60 s" in json.dumps(failing["assumptions"])
    assert "Outages" not in json.dumps(sound["assumptions"])
