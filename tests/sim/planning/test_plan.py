"""`plan` on the simulator itself: queueing theory, determinism, resumption, and the command."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import Plan, plan
from sim.cli import main
from sim.hardware.catalogue import load as load_profile
from sim.hardware.kv_memory import KvMemory
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from sim.planning.runs import Runs
from sim.planning.search import Effort, fewest_replicas
from sim.planning.slo import observe, parse_slo
from sim.planning.verdict import Run
from sim.planning.world import World
from sim.scenario.settings import Settings
from tests.sim.planning.test_search import between, carry_out
from traces.errors import InputError
from traces.trace import Trace

ONE_AT_A_TIME = "continuous:max_num_seqs=1,max_num_batched_tokens=100000"
TOKENS = 100
SHARED_QUEUE = Settings(router="shared-queue")
QUICK: dict[str, Any] = {"num_requests": 100, "max_requests": 200, "max_seeds": 3, "jobs": 1}


def machine(step_s: float) -> Profile:
    """Every iteration takes as long as any other."""
    flat = PiecewiseLinear((1.0,), (step_s,))
    memory = KvMemory(10**9, 1.0, 0, 0, 1)
    made_up = Provenance("measured", "2026-01-01", "made up for tests")
    return Profile("flat", None, None, "made up", StepCost(flat, 0.0, flat, 0.0, 0.0), memory, made_up)


def geometric(n: int) -> Trace:
    """Answers that may end after any token, so that service is all but exponential."""
    lengths = np.random.default_rng(5).geometric(1 / TOKENS, n)
    return Trace("geometric", np.arange(n), np.ones(n, dtype=np.int64), lengths)


TRACE = geometric(40_000)


@pytest.mark.parametrize(
    ("servers", "rate", "service_s"),
    [
        (1, 0.5, 1.0),
        (1, 3.0, 0.1),
        (2, 0.9, 1.0),
        (2, 30.0, 0.05),
        (3, 2.0, 1.0),
        (3, 0.4, 5.0),
        (4, 3.1, 1.0),
        (5, 0.35, 10.0),
        (6, 45.0, 0.1),
        (7, 5.3, 1.0),
    ],
)
def test_simulated_replicas_with_a_shared_queue_are_as_many_as_erlang_c_says(
    servers: int, rate: float, service_s: float
) -> None:
    world = World(TRACE, ONE_AT_A_TIME, (machine(service_s / TOKENS),), SHARED_QUEUE, 1.0)
    slo = parse_slo(f"wait_mean:{between(servers, rate, service_s)}")
    search = fewest_replicas(slo, rate, Effort(num_requests=800, max_requests=2400))
    found = carry_out(search, slo, lambda run: dict(world.run(run).columns))
    assert found.replicas == servers and not found.undecided


@settings(max_examples=15)
@given(
    rate=st.floats(0.5, 8.0),
    replicas=st.integers(1, 4),
    limit=st.floats(200, 8000),
    seed=st.integers(0, 99),
)
def test_more_replicas_never_lower_goodput_with_a_shared_queue(
    rate: float, replicas: int, limit: float, seed: int
) -> None:
    world = World(TRACE, ONE_AT_A_TIME, (machine(1 / TOKENS),), SHARED_QUEUE, 1.0)
    slo = parse_slo("attainment:0.9", {"e2el": limit})
    shares = [
        observe(slo, result.columns, result.summary).values[0]
        for result in (world.run(Run(k, rate, seed, 120)) for k in (replicas, replicas + 1))
    ]
    assert shares[1] >= shares[0]


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    """A question with an answer above one replica."""
    return {
        "trace": TRACE,
        "slo": "wait_p90:1500 e2el_mean:4000",
        "request_rate": 3.0,
        "policies": f"{ONE_AT_A_TIME};continuous:max_num_seqs=2",
        "profiles": machine(1 / TOKENS),
        "price": {"flat": 2.0},
        **QUICK,
    }


@pytest.fixture(scope="module")
def made(asked: dict[str, Any]) -> Plan:
    return plan(**asked, curves=True, sensitivity=True, spare=1)


def test_a_plan_names_size_cost_headroom_and_the_neighbours(made: Plan) -> None:
    first, second = made.answers
    assert made.best is second  # two at a time need half as many
    for answer in made.answers:
        assert answer.replicas and answer.point and answer.one_more and answer.normal and answer.rates
        assert answer.point.replicas == answer.replicas - 1 and answer.point.verdict == "meets"
        assert answer.normal.replicas == answer.replicas
        assert answer.cost_per_hour == 2.0 * answer.replicas
        hourly = 3.0 * 3600 * answer.point.output_tokens
        assert answer.cost_per_million_output_tokens == pytest.approx(answer.cost_per_hour / hourly * 1e6)
        assert 0 <= (answer.headroom or -1) < 1 and (answer.headroom_rate or -1) >= 0
        less = answer.one_less
        assert less is None or less.verdict != "meets"
    assert first.replicas > second.replicas
    assert first.binding in ("wait_p90", "e2el_mean", "throughput")
    assert made.headline.startswith(f"{second.replicas} × flat (measured), of which 1 spare, under")
    frame = made.to_frame()
    assert frame["replicas"].tolist() == [first.replicas, second.replicas]
    assert frame["one_less"].isin(["fails", "unstable", "undecided"]).all()


def test_longer_answers_and_slower_steps_lower_the_highest_rate(made: Plan) -> None:
    found = made.sensitivity
    assert found is not None
    swings = {s.what: s for s in found.swings}
    for name in ("Output length", "Step time"):
        low, high = swings[name].low, swings[name].high
        assert low is not None and high is not None and high < found.rate < low
    assert "KV capacity" in found.without_effect
    assert [s.width for s in found.swings] == sorted((s.width for s in found.swings), reverse=True)


def test_the_json_is_the_same_to_the_byte_and_names_no_infinity(asked: dict[str, Any]) -> None:
    asked = {**asked, "policies": ONE_AT_A_TIME}
    one, two = (plan(**{**asked, "jobs": jobs}).to_json() for jobs in (1, 2))
    assert one == two
    data = json.loads(one, parse_constant=lambda text: pytest.fail(text))
    assert data["reached"] and data["answers"][data["best"]]["replicas"] >= 1
    assert plan(**{**asked, "seed": 1}).to_json() != one


def test_a_plan_that_was_killed_goes_on_and_says_the_same(asked: dict[str, Any], tmp_path: Path) -> None:
    asked, state = {**asked, "policies": ONE_AT_A_TIME}, tmp_path / "plan.jsonl"
    whole = plan(**asked).to_json()

    def killed(number: int) -> None:
        if number == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan(**asked, state=state, on_run=killed)
    assert len(state.read_text().splitlines()) == 17
    runs: list[int] = []
    assert plan(**asked, state=state, on_run=runs.append).to_json() == whole
    lines = state.read_text().splitlines()
    assert len(lines) == 17 + len(runs) == len({json.loads(line)["key"] for line in lines})


def test_the_highest_rate_lies_where_the_queue_says(asked: dict[str, Any]) -> None:
    settings_ = {**asked, "slo": "wait_mean:1000", "policies": ONE_AT_A_TIME, "request_rate": None}
    settings_ |= {"num_requests": 1000, "max_requests": 2000}
    made = plan(**settings_, max_rate=True, tolerance=0.05)
    (answer,) = made.answers
    assert answer.rate == pytest.approx(0.5, rel=0.15)  # W = ρ / (1 - ρ) of a service of 1 s
    assert answer.rates is not None and answer.rates.low <= answer.rate <= answer.rates.high
    assert "requests/s within" in made.headline and made.question.request_rate is None


def test_a_highest_rate_is_said_to_be_of_the_fleet_without_its_spares(asked: dict[str, Any]) -> None:
    asked = {**asked, "slo": "wait_mean:1000", "policies": ONE_AT_A_TIME}
    bare, spared = (plan(**asked, max_rate=True, replicas=2, spare=spare) for spare in (0, 1))
    (answer,), (alone,) = spared.answers, bare.answers
    assert (answer.rate, answer.replicas, alone.replicas) == (alone.rate, 3, 2)
    assert bare.headline.startswith("2 × flat (measured) under")
    assert spared.headline.startswith(
        f"3 × flat (measured), of which 1 spare, under {ONE_AT_A_TIME} can carry {answer.rate:.3g} "
        "requests/s with the other 2 within"
    )


def test_a_trace_with_times_is_scaled_to_multiples_of_its_own_rate() -> None:
    times = np.cumsum(np.random.default_rng(1).exponential(2.0, 400))
    timed = replace(geometric(400), arrival_s=times - times[0])
    made = plan(
        timed,
        slo="e2el_mean:9000",
        request_rate="4x",
        profiles=machine(1 / TOKENS),
        policies=ONE_AT_A_TIME,
        **QUICK,
    )
    assert made.question.request_rate == pytest.approx(4 * 399 / (times[-1] - times[0]))
    assert made.question.arrivals.startswith("the trace's own gaps")
    assert any("busiest tenth" in a.value for a in made.assumptions)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slo": "ttft:1"}, "slo: 'ttft:1'"),
        ({"policies": "vanilla;vanilla"}, "none twice"),
        ({"policies": "nonesuch"}, "policy 'nonesuch'"),
        ({"profiles": "nonesuch"}, "nonesuch"),
        ({"predictor": "nonesuch"}, "predictor"),
        ({"set": "nonesuch=1"}, "unknown key 'nonesuch'"),
        ({"router": "nonesuch"}, "router 'nonesuch'"),
        ({"request_rate": "10x"}, "no arrival times"),
        ({"request_rate": "fast"}, "'fast' is neither"),
        ({"request_rate": -1}, "not above 0"),
        ({"spare": -1}, "spare: -1"),
        ({"replicas": 4}, "replicas: 4 needs max_rate"),
        ({"replicas": 0, "max_rate": True}, "replicas: 0 must be at least 1"),
        ({"price": ["H200"]}, "'H200' is not NAME:USD"),
        ({"price": ["H200:dear"]}, "H200:dear is not a number"),
        ({"price": ["H200:3", "H200:4"]}, "price: H200 is given twice [(]3 and 4 USD per hour"),
        ({"price": ["H20:3.5"]}, "price: 'H20' is no profile or GPU known here"),
        ({"burstiness": 0.0}, "burstiness: 0"),
        ({"tolerance": 0.0}, "tolerance: 0"),
        ({"num_seeds": 1}, "num_seeds: 1"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_what_cannot_be_planned_with_is_refused(
    change: dict[str, Any], says: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=says):
        plan(**{**asked, **change})


COMMAND = ["plan", "--num-requests", "100", "--max-requests", "200", "--max-seeds", "3", "--jobs", "1"]
COMMAND += ["--profiles", "h200-vicuna-7b", "--trace", "lognormal:output_median=40"]


def test_the_command_says_when_runs_are_too_short_for_outages(capsys: pytest.CaptureFixture[str]) -> None:
    fails = ["--request-rate", "30", "--slo", "ttft_p90:800", "--mttr-s", "1", "--mtbf-s"]
    with contextlib.suppress(SystemExit):
        main([*COMMAND, *fails, "600"])
    assert "once in 600 s hardly shows; give more --num-requests" in capsys.readouterr().err
    with contextlib.suppress(SystemExit):
        main([*COMMAND, *fails, "2"])
    assert "hardly shows" not in capsys.readouterr().err


def test_the_command_says_the_answer_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    command = [*COMMAND, "--slo", "ttft_p90:800", "--request-rate", "30", "--price", "H200:3.5"]
    main([*command, "--save-result", str(saved)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "1 × h200-vicuna-7b (composed from measured kernels) under continuous carries 30 requests/s"
    )
    data = json.loads(saved.read_text())
    assert data["answer"] == said[0] and data["answers"][0]["cost_per_hour"] == 3.5
    main([*command, "--json"])
    assert capsys.readouterr().out == saved.read_text()
    again = data["question"]["command"].split()
    assert again[:2] == ["seqsched", "plan"]
    main([*again[1:], "--jobs", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["answers"] == data["answers"]


def test_the_command_of_a_plan_gives_the_same_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = tmp_path / "my machine.json"
    own.write_text(json.dumps(load_profile("h200-vicuna-7b").to_json()))
    rows = [f"{0.123456789 * k},{20 + k % 7},{5 + k % 30}" for k in range(300)]
    trace = tmp_path / "my trace.csv"
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    made = plan(
        str(trace),
        slo=["attainment:0.87654321", "ttft_p90:1234.5678901"],
        goodput={"ttft": 2000.000001, "tpot": 100},
        request_rate=12.3456789012,
        profiles=str(own),
        set={"scale": 1.0000001, "name": "mine", "gpu": "H100"},
        price={"H100": 3.1234567},
        predictor="noisy:sigma=0.4",
        kv_blocks=10_000_000,
        confidence=0.9123456789,
        spare=1,
        **QUICK,
    )
    command = shlex.split(made.question.command)
    assert command[:2] == ["seqsched", "plan"] and str(own) in command and str(trace) in command
    main([*command[1:], "--json"])
    assert capsys.readouterr().out.rstrip("\n") == made.to_json()


@pytest.mark.parametrize("rate", [None, 3, 0.1 + 0.2, "30"])
def test_the_command_of_a_highest_rate_gives_the_same_plan(
    rate: float | str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = parse_slo("ttft_p90:812.3456789")
    asked = {
        **QUICK,
        "profiles": load_profile("h200-vicuna-7b"),
        "request_rate": rate,
        "tolerance": 0.1234567,
    }
    made = plan("lognormal:output_median=40", slo=wanted, max_rate=True, replicas=2, **asked)
    main([*shlex.split(made.question.command)[1:], "--json"])
    assert capsys.readouterr().out.rstrip("\n") == made.to_json()


def test_an_slo_out_of_reach_ends_in_status_one_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--slo", "tpot_median:1", "--request-rate", "5"])
    assert ended.value.code == 1
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("Unreachable: no fleet meets tpot_p50 ≤ 1 ms.")
    assert "one request alone on an idle replica" in said and "at 5 requests/s" in said


def test_runs_that_are_too_short_end_in_status_one_and_say_how_long_would_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--slo", "ttft_p99.9:9000", "--request-rate", "5", "--spare", "1"])
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines() == [
        "Undecided: whether a fleet meets ttft_p99.9 ≤ 9000 ms stayed open. h200-vicuna-7b: at 5 requests/s "
        "runs of 200 requests are too short to settle; --max-requests 6000 would do; the smallest fleet that "
        "may do has 2 replicas, 1 of them spare."
    ]


def test_a_second_plan_on_one_state_file_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = tmp_path / "runs.jsonl"
    command = [*COMMAND, "--slo", "ttft_p90:800", "--request-rate", "30", "--state", str(state)]
    with Runs(parse_slo("ttft_p90:800"), state), pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"seqsched: {state}: another process is writing it\n"
    main(command)
    kept, first = state.read_bytes(), capsys.readouterr().out
    main(command)
    assert state.read_bytes() == kept and capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("flags", "error"), [("--jobs 0", "jobs: 0 must be"), ("--backend dask", "dask needs one")]
)
def test_where_a_plan_cannot_run(flags: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND[:-6], *flags.split(), "--slo", "ttft_p90:800", "--request-rate", "30"])
    assert ended.value.code == 2 and error in capsys.readouterr().err


def test_bad_input_ends_in_status_two_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--slo", "ttft_p90"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_what_if_is_planned_with_and_marked(asked: dict[str, Any]) -> None:
    asked = {**asked, "policies": ONE_AT_A_TIME, "price": {}}
    slower = plan(**asked, set={"scale": 2.0, "price_per_hour": 5.0})
    (answer,), (before,) = slower.answers, plan(**asked).answers
    assert answer.replicas > before.replicas and before.cost_per_hour is None
    assert answer.cost_per_hour == 5.0 * answer.replicas
    assert answer.provenance == "what-if" and "what-if" in {a.kind for a in slower.assumptions}
    assert "--set scale=2.0 price_per_hour=5.0" in slower.question.command


def test_no_request_that_fits_is_no_plan(asked: dict[str, Any]) -> None:
    made = plan(**{**asked, "slo": "ttft_p90:800", "kv_blocks": 1, "policies": "continuous"})
    assert not made.reached and made.answers[0].replicas is None
    assert math.isinf(made.answers[0].points[0].measured[0].mean)
    json.loads(made.to_json())
