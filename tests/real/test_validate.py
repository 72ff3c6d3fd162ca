from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from traces.errors import InputError

pytest.importorskip("torch", reason="the real extra is not installed")

from real import validate as script
from real.options import ReplayFlags
from real.validation import experiment, figures, judging, report, validation
from sim.cli import run_script

ROOT = Path(__file__).parents[2]
TRACE = "lognormal:prompt_median=6,max_prompt_tokens=12,output_median=8,output_sigma=0.6,max_output_tokens=20"
SMALL = ["--trace", TRACE, "--num-prompts", "8", "--kv-tokens", "1024", "--threads", "1"]
TWICE = ["--repeat", "2"]


def validate(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = 0
    try:
        run_script(script.validate, [*map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code or 0
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def brief(monkeypatch):
    """Calibration on the spot with few visits."""
    monkeypatch.setattr(experiment, "PASSES", 1)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)


def test_the_whole_command_on_a_small_trace(tmp_path, capsys, brief):
    arguments = [*SMALL, *TWICE, "--policies", "vanilla;sequence:vbs=memory,fcr=on,bin_width=8"]
    lax = ["ttft:1000", "tpot:1000", "e2el:1000", "throughput:1000"]
    arguments += ["--predictors", "oracle;noisy:sigma=0.5", "--tolerance", *lax]
    status, out, err = validate(
        capsys, *arguments, "--save-result", tmp_path / "v.json", "--out", tmp_path / "out"
    )
    assert status == 0
    assert "NO GPU HERE" in err
    said, saved = json.loads(out.splitlines()[-1]), json.loads((tmp_path / "v.json").read_text())
    assert said["equal_decisions"] is True
    assert said["clock"].startswith("processor time at an even pace")
    assert saved["ran"] == "transformers-eager on tiny (random weights), float32, cpu"
    assert [(c["policy"][:7], c["predictor"]) for c in saved["cases"]] == [
        ("vanilla", "oracle"),
        ("sequenc", "oracle"),
        ("sequenc", "noisy:sigma=0.5"),
    ]
    for case in saved["cases"]:
        assert case["completed"] == [8, 8]
        assert case["runs_with_equal_decisions"] == 2
        assert set(case["metrics"]) == set(report.COMPARED)
        for key in ("iterations", "average_length", "kv_peak_fraction"):
            assert case["metrics"][key]["error_fraction"] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "errors.csv",
        "errors.png",
        "report.md",
        "requests.png",
        "result.json",
        "timeline.png",
    ]


def test_the_scripts_find_the_project_from_another_folder(tmp_path):
    for name in ("validate", "calibrate"):
        command = [sys.executable, str(ROOT / "real" / f"{name}.py"), "--help"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "--engine" in done.stdout


def test_continuous_batching_and_poisson_arrivals(capsys, tmp_path, brief):
    arguments = [*SMALL, *TWICE, "--engine", "cuda-graphs", "--policies", "continuous:max_num_seqs=8"]
    status, out, _ = validate(
        capsys,
        *arguments,
        "--predictors",
        "oracle",
        "--request-rate",
        "300",
        "--save-result",
        tmp_path / "v.json",
    )
    assert status == 0
    assert json.loads(out.splitlines()[-1])["clock"] == "wall"
    saved = json.loads((tmp_path / "v.json").read_text())
    assert saved["arrivals"] == "over time"
    assert saved["cases"][0]["completed"] == [8, 8]


def test_an_error_beyond_the_tolerance_is_exit_status_1(capsys, tmp_path, make_engine, loaded):
    from real.calibration.calibration import Calibration
    from real.calibration.cells import CellBounds

    calibration = Calibration(
        make_engine("transformers-eager", 1024), loaded, CellBounds(8, 32, 16).cells(1024)
    )
    calibration.measure(len(calibration.cells))
    calibration.fit("slow")[0].with_scale(30.0).save(tmp_path / "slow.json")
    arguments = [*SMALL, "--profile", tmp_path / "slow.json", "--policies", "vanilla", "--tolerance", "5"]
    status, out, err = validate(capsys, *arguments)
    assert status == 1
    verdict = json.loads(out.splitlines()[-1])
    lines = verdict["over_tolerance"]["vanilla (oracle)"]
    assert {line.partition(" ")[0] for line in lines} >= {"mean_e2el_ms", "p99_e2el_ms"}
    assert verdict["worst_throughput_error_fraction"] > 0.3
    assert "validate: vanilla (oracle): mean_e2el_ms errs by +" in err and "| exceeded |" in out


def test_a_calibration_on_the_spot_continues_where_it_was_interrupted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "PASSES", 0)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)
    steps = tmp_path / "steps.csv"
    arguments = [*SMALL, "--repeat", 1, "--policies", "vanilla", "--predictors", "oracle", "--steps", steps]
    assert validate(capsys, *arguments)[0] == 0
    header, *rows = whole = steps.read_text().splitlines(keepends=True)
    steps.write_text("".join([header, *rows[:5]]) + "1,2")  # killed while it wrote
    assert validate(capsys, *arguments)[0] == 0
    again = steps.read_text().splitlines(keepends=True)
    assert again[:6] == whole[:6] and len(again) == len(whole)
    assert validate(capsys, *arguments)[0] == 0  # nothing is left to measure
    assert steps.read_text().splitlines(keepends=True) == again
    status, _, err = validate(capsys, *arguments, "--clock", "wall")
    assert status == 2 and "measured_on" in err.splitlines()[-1]
    status, _, err = validate(capsys, *arguments, "--profile", "a100-80gb-vicuna-7b-transformers")
    assert status == 2 and "nothing is calibrated" in err.splitlines()[-1]


def test_texts_take_the_place_of_a_trace(tmp_path, capsys, texts, brief):
    arguments = ["--answers", texts[0], "--kv-tokens", 2048, "--threads", 1, "--repeat", 1]
    status, out, _ = validate(capsys, *arguments, "--policies", "vanilla", "--predictors", "oracle")
    found = json.loads(out.splitlines()[-1])
    assert (status, found["trace"], found["requests"]) == (0, "texts", len(texts[1]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeat", "0"], "repeat: 0"),
        (["--answers", "a.json"], "and so is trace lognormal"),
        (["--tolerance", "-1"], "tolerance: -1"),
        (["--policies", "nonsense"], "nonsense"),
        (["--policies", ";"], "at least one of each"),
        (["--predictors", "psychic"], "psychic"),
        (["--engine", "vllm"], "vllm"),
        (["--sample-seed", "-1"], "sample_seed: -1"),
        (["--num-prompts", "0"], "num_prompts: 0"),
        (["--threads", "0"], "threads: 0"),
        (["--kv-tokens", "0"], "kv_tokens: 0"),
        (["--kv-tokens", str(10**12)], "do not fit in the memory of cpu"),
        (["--profile", "h200-vicuna-7b"], "its engine is"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, capsys):
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    small = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
    status, out, err = validate(capsys, *small, "--model", "tiny", *arguments)
    assert status == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_vanilla_asks_nobody_and_runs_once():
    replay = ReplayFlags(policies="vanilla; sequence", predictors="oracle;tuned")
    assert replay.pairs(script.POLICIES) == [
        ("vanilla", "oracle"),
        ("sequence", "oracle"),
        ("sequence", "tuned"),
    ]
    with pytest.raises(InputError):
        ReplayFlags(policies="").pairs(script.POLICIES)


def test_an_error_is_judged_by_the_median_and_shown_beside_the_noise():
    assert report.judge(11.0, [8.0, 10.0, 13.0]) == (11.0, 10.0, pytest.approx(0.1), pytest.approx(0.3))
    assert report.judge(None, [1.0]) == (None, 1.0, None, None)
    assert report.judge(1.0, [None]) == (1.0, None, None, None)
    assert report.judge(0.0, [0.0, 0.0]) == (0.0, 0.0, 0.0, None)
    assert report.judge(2.0, [0.0]).error_fraction is None


@pytest.fixture(scope="module")
def cases(make_scenario):
    """Simulations of the same trace on machines of different speed, one posing as the real one."""
    made = []
    for policy in ("vanilla", "sequence:bin_width=8"):
        scenario = make_scenario(60)
        real = [
            replace(scenario, profile=scenario.profile.with_scale(s)).run(policy) for s in (1.25, 1.3, 1.2)
        ]
        made.append(
            report.PolicyCheck(policy, "oracle", scenario.run(policy), tuple(real), ("out of memory once",))
        )
    return made


def test_a_case_knows_how_far_the_simulator_was_off(cases):
    for case in cases:
        judged = case.figures["request_throughput"]
        assert judged.error_fraction == pytest.approx(0.25)
        assert judged.noise_fraction == pytest.approx(1.25 / 1.2 - 1)
        assert case.equal_decisions == 3
        assert case.typical is case.measured[0]
        assert case.figures["iterations"].error_fraction == 0
        assert json.dumps(case.to_json(), allow_nan=False)
    text = report.markdown(cases, {"ran": "a model"})
    assert "- ran: a model" in text
    assert "+25.0 % (±4.2 %)" in text
    assert len(report.table(cases)) == 2 * len(report.COMPARED)


def bounds(percent: float) -> dict[str, float]:
    return dict.fromkeys(("ttft", "tpot", "e2el", "throughput"), percent)


def test_latencies_are_judged_beside_throughput_each_by_its_own_bound(cases):
    # The real machine is 1.25 times as slow, so that latencies are predicted at 0.8 times the measured ones.
    for case in cases:
        judged = {each.figure: each for each in judging.judge_all(cases, bounds(26))[case.name]}
        assert set(judged) == {
            *(f"{s}_{kind}_ms" for s in ("mean", "p99") for kind in ("ttft", "tpot", "e2el")),
            "output_throughput",
        }
        assert all(each.holds for each in judged.values())
        assert judged["mean_e2el_ms"].error == pytest.approx(-0.2)
        strict = judging.judge_all(cases, {**bounds(26), "tpot": 10})[case.name]
        too_far = judging.failures(case, strict)
        assert [line.partition(" errs by -20.0%, more than 10 %")[0] for line in too_far] == [
            "mean_tpot_ms",
            "p99_tpot_ms",
        ]


def test_no_bound_is_narrower_than_runs_of_one_policy_lie_apart(make_scenario):
    scenario = make_scenario(60)
    runs = [
        replace(scenario, profile=scenario.profile.with_scale(s)).run("vanilla") for s in (1.0, 1.25, 1.6)
    ]
    noisy = report.PolicyCheck("vanilla", "oracle", scenario.run("vanilla"), tuple(runs))
    # Its three runs agree by chance, on the same machine.
    quiet = replace(noisy, predictor="tuned", measured=(runs[1],) * 3)
    judged = judging.judge_all([noisy, quiet], bounds(5))
    for case in (noisy, quiet):
        e2el = next(each for each in judged[case.name] if each.figure == "mean_e2el_ms")
        assert e2el.error == pytest.approx(-0.2) and e2el.spread == pytest.approx(0.28)
        assert e2el.holds and e2el.limit == "28 %, by which runs of one policy differ"
        assert judging.failures(case, judged[case.name]) == []
    assert "28 %, by which" in judging.markdown(judged)
    alone = judging.judge_all([quiet], bounds(5))
    assert len(judging.failures(quiet, alone[quiet.name])) == 7


def test_throughput_is_judged_only_of_a_machine_that_could_not_keep_up(make_scenario):
    slack = make_scenario(60, request_rate=0.05)
    busy = make_scenario(60, request_rate=1000.0)
    for scenario, is_judged in ((slack, False), (busy, True)):
        run = scenario.run("vanilla")
        case = report.PolicyCheck("vanilla", "oracle", run, (run,))
        judged = [each.figure for each in judging.judge_all([case], bounds(5))[case.name]]
        assert ("output_throughput" in judged) == is_judged
        assert "mean_ttft_ms" in judged


def test_requests_that_fail_stand_beside_the_latencies_that_leave_them_out(make_scenario):
    scenario = make_scenario(60)
    longest = int(scenario.trace.prompt_tokens.max())
    limits = replace(scenario.limits, kv_tokens=longest + scenario.max_new_tokens - 1)
    fewer = replace(scenario, limits=limits).run("vanilla")
    whole = scenario.run("vanilla")
    assert 0 < fewer.summary["failed"] < 60 and not whole.summary["failed"]
    case = report.PolicyCheck("vanilla", "oracle", whole, (fewer,))
    text = report.markdown([case], {})
    assert f"leave out, measured: {fewer.summary['failed']} of 60 requests" in text
    for draw in (figures.error_figure, figures.request_figure):
        assert f"{fewer.summary['failed']} of 60 requests" in draw([case]).get_suptitle()
        assert not draw([replace(case, measured=(whole,))]).get_suptitle()
    assert "predicted: " not in text
    failures = judging.failures(case, judging.judge_all([case], bounds(1e6))[case.name])
    assert (
        len(failures) == 1
        and f"60 requests complete in the simulation, {60 - fewer.summary['failed']}" in (failures[0])
    )


def test_a_figure_that_one_side_lacks_is_no_match(make_scenario):
    run = make_scenario(60).run("vanilla")
    lacking = replace(run, summary={**run.summary, "p99_tpot_ms": None})
    case = report.PolicyCheck("vanilla", "oracle", lacking, (run,))
    failures = judging.failures(case, judging.judge_all([case], bounds(50))[case.name])
    assert failures == ["p99_tpot_ms is measured or predicted, but not both"]
    neither = report.PolicyCheck("vanilla", "oracle", lacking, (lacking,))
    assert judging.failures(neither, judging.judge_all([neither], bounds(50))[case.name]) == []


def test_the_figures_show_every_case(cases):
    for draw in (figures.error_figure, figures.request_figure, figures.timeline_figure):
        figure = draw(cases)
        assert isinstance(figure, Figure)
    bars = [c for c in figures.error_figure(cases).axes[0].patches if math.isclose(c.get_height(), 0.6)]
    assert [bar.get_width() for bar in bars] == pytest.approx([25.0, 25.0])
