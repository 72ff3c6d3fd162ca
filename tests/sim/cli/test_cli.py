"""The command as a user meets it: JSON alone on stdout, one line for bad input, settings by rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from tests.sim.command import run

TRACE = "request_id,arrival_s,prompt_tokens,output_tokens\n0,0.0,10,5\n1,0.5,12,7\n2,1.0,9,3\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must refuse its input."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run("simulate", "--trace", "trace.csv", "--json", *arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_simulate_prints_one_json_object_and_the_same_bytes_again(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("simulate", "--num-prompts", "50", "--predictor", "tuned", "--json")
    texts = []
    for _ in range(2):
        assert run(*arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["completed"] == 50 and found["policy"] == "sequence" and found["provenance"] == "published"


def test_simulate_saves_result_requests_and_decisions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = summary(
        capsys, "--save-result", "r.json", "--save-requests", "q.csv", "--save-decisions", "d.jsonl"
    )
    assert json.loads((folder / "r.json").read_text()) == found
    assert len((folder / "q.csv").read_text().splitlines()) == 1 + 3
    decisions = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    assert sum(d["iterations"] for d in decisions) == found["iterations"]


def test_a_fleet_has_a_row_for_each_replica_or_a_summary_of_many(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("simulate", "--trace", "trace.csv", "--policy", "continuous", "--router", "round-robin")
    assert run(*few, "--replicas", "3", "--save-replicas", "r.csv") == 0
    out = capsys.readouterr().out
    rows = [line.split("│") for line in out.splitlines() if "a100-80gb-vicuna-7b-transformers" in line][1:]
    assert [(row[1].strip(), row[3].strip()) for row in rows] == [("0", "1"), ("1", "1"), ("2", "1")]
    table = (folder / "r.csv").read_text().splitlines()
    assert table[0].startswith("replica,profile,completed,iterations") and len(table) == 1 + 3
    assert run(*few, "--replicas", "21") == 0
    out = capsys.readouterr().out
    assert "21 replicas" in out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert ["completed", "0", "0", "1"] in cells
    assert run(*few, "--replicas", "1") == 0
    assert "replicas" not in capsys.readouterr().out


def test_a_fleet_that_fails_is_set_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "f.csv").write_text("replica,down_s,up_s\n0,0.05,40\n", encoding="utf-8")
    arguments = ("--policy", "continuous", "--replicas", "2", "--failures", "f.csv", "--startup-s", "2")
    found = summary(capsys, *arguments, "--save-requests", "q.csv", "--save-replicas", "r.csv")
    assert (found["replicas"], found["router"], found["reroutes"]) == (2, "least-requests", 1)
    assert found["completed"] == 3
    assert [line.split(",")[2] for line in (folder / "r.csv").read_text().splitlines()] == [
        "completed",
        "0",
        "3",
    ]
    random = ("--policy", "continuous", "--mtbf-s", "0.3", "--mttr-s", "0.1", "--router", "shared-queue")
    assert summary(capsys, *random) == summary(capsys, *random)
    mixed = ("--fleet", "h200-vicuna-7b*2;a100-80gb-vicuna-7b-transformers", "--policy", "continuous")
    assert summary(capsys, *mixed)["replicas"] == 3


def test_tables_for_people_name_profile_provenance_and_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--trace", "trace.csv", "--seed", "7") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "a100-80gb-vicuna-7b-transformers (published)" in out and "seed 7" in out
    assert run("simulate", "--trace", "trace.csv", "--profile", "h200-vicuna-7b") == 0
    assert "(composed from measured kernels)" in " ".join(capsys.readouterr().out.split())


def test_compare_writes_summaries_requests_and_figures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", "--num-prompts", "40", "--policies", "vanilla; sequence", "--out", "o/p") == 0
    made = {path.name for path in (folder / "o/p").iterdir()}
    assert {
        "summary.json",
        "requests.csv",
        "throughput.png",
        "tokens.png",
        "latency.png",
        "token_grids.png",
    } <= made
    summaries = json.loads((folder / "o/p/summary.json").read_text())
    assert list(summaries) == ["vanilla", "sequence"]
    assert len((folder / "o/p/requests.csv").read_text().splitlines()) == 1 + 2 * 40
    out = capsys.readouterr().out
    assert "1.000×" in out and "vanilla" in out


def test_compare_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--num-prompts", "20", "--policies", "vanilla;sequence", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["completed"] for s in found.values()] == [20, 20]


def test_precedence_is_command_line_environment_file_default(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert summary(capsys)["seed"] == 0
    (folder / "seqsched.toml").write_text("[simulate]\nseed = 3\n", encoding="utf-8")
    assert summary(capsys)["seed"] == 3
    (folder / "other.toml").write_text("[simulate]\nseed = 4\n", encoding="utf-8")
    assert summary(capsys, "--config", "other.toml")["seed"] == 4
    monkeypatch.setenv("SEQSCHED_SEED", "5")
    assert summary(capsys)["seed"] == 5
    assert summary(capsys, "--seed", "6")["seed"] == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[simulat]\nseed = 3", "[simulat] is no command (simulate,"),
        ("seed = 3", "seed stands above all sections"),
        ("[plot.lod]\nseed = 3", "[plot.lod] is no command (sensitivity,"),
        ("[simulate]\nsede = 3", "sede"),
        ("[simulate]\nreplicas = 2.5", "replicas: 2.5 is not a whole number"),
        ("[simulate", "settings.toml: not a TOML file"),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_what_a_settings_file_must_not_hold(
    text: str, said: str, is_named: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "settings.toml" if is_named else "seqsched.toml"
    (folder / name).write_text(text, encoding="utf-8")
    config = ("--config", name) if is_named else ()
    error = refused(capsys, "simulate", *config, "--trace", "trace.csv")
    assert said.replace("settings.toml", name) in error


def test_a_settings_file_may_hold_a_section_for_each_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "seqsched.toml").write_text("[simulate]\nseed = 3.0\n[plot.load]\nnum_prompts = 10\n")
    assert summary(capsys)["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "nonsense"), "nonsense"),
        (("--policy", "sequence:vbs=maybe"), "maybe"),
        (("--policy", "sequence:colour=red"), "colour"),
        (("--policy", "sequence:batch_size=0"), "batch_size: 0"),
        (("--policy", "sequence:margin=-1"), "-1"),
        (("--policy", "sequence:group_size"), "key=value"),
        (("--policy", "vanilla:batch_size=many"), "many"),
        (("--policy", "no_such_module:Class"), "no_such_module"),
        (("--predictor", "psychic"), "psychic"),
        (("--predictor", "noisy"), "sigma"),
        (("--predictor", "noisy:sigma=-1"), "-1"),
        (("--predictor", "constant:tokens=0"), "tokens: 0"),
        (("--predictor", "trace"), "predicted_tokens"),
        (("--predictor", "empirical:file=none.csv"), "none.csv"),
        (("--profile", "nothing"), "nothing"),
        (("--profile", "trace.csv"), "trace.csv"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "."), "directory"),
        (("--request-rate", "-1"), "-1"),
        (("--request-rate", "fast"), "fast"),
        (("--burstiness", "0"), "burstiness: 0"),
        (("--time-scale", "nan"), "nan"),
        (("--num-prompts", "0"), "num_prompts: 0"),
        (("--num-prompts", "4"), "4 is not between 1 and 3"),
        (("--sample-seed", "-1"), "sample_seed: -1"),
        (("--max-concurrency", "0"), "max_concurrency: 0"),
        (("--max-new-tokens", "0"), "max_new_tokens: 0"),
        (("--goodput", "speed:5"), "speed"),
        (("--goodput", "ttft:soon"), "soon"),
        (("--goodput", "ttft:-5"), "-5"),
        (("--goodput", "ttft:1", "ttft:2"), "ttft is given twice (1 and 2 ms)"),
        (("--num-prompts", "2.5"), "num_prompts: 2.5 is not a whole number"),
        (("--seed=1.7",), "seed: 1.7 is not a whole number"),
        (("--kv-blocks", "0"), "0"),
        (("--seed", "-1"), "seed: -1"),
        (("--replicas", "0"), "replicas: 0"),
        (("--replicas", "100001"), "100000"),
        (("--router", "fastest"), "fastest"),
        (("--fleet", "h200-vicuna-7b*many"), "h200-vicuna-7b*many"),
        (("--fleet", "nothing*2"), "nothing"),
        (("--fleet", "h200-vicuna-7b*100000;h200-vicuna-7b"), "more than 100000 replicas"),
        (("--fleet", "h200-vicuna-7b*2;"), "fleet: '' is not NAME*COUNT"),
        (("--fleet", "h200-vicuna-7b*2", "--replicas", "3"), "replicas: 3, but the fleet"),
        (("--mtbf-s", "5"), "mttr_s"),
        (("--mtbf-s=-5", "--mttr-s=1"), "mtbf_s: -5"),
        (("--failures", "none.csv"), "none.csv"),
        (("--failures", "trace.csv"), "replica"),
        (("--startup-s", "-1"), "startup_s: -1"),
        (("--save-replicas", "no/such/folder/r.csv"), "no/such/folder"),
        (("--colour", "red"), "colour"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--save-result", "no/such/folder/r.json"), "no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    trace = () if arguments[0] == "--trace" else ("--trace", "trace.csv")
    assert said in refused(capsys, "simulate", *trace, *arguments, "--json")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("runs", "command", "flags"),
    [
        (
            "sim.simulation.simulate",
            ["simulate"],
            ["--save-result", "--save-requests", "--save-replicas", "--save-decisions", "--perfetto"],
        ),
        (
            "sim.planning.plan.plan",
            ["plan", "--slo", "ttft_p99:2000"],
            ["--save-result", "--report", "--state"],
        ),
        ("sim.sweeps.sweep.sweep", ["sweep", "grid.toml"], ["--out"]),
    ],
)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none/x.csv", "there is no folder none"),
        ("taken", "is a directory"),
        ("trace.csv/x.csv", "no folder"),
    ],
)
def test_where_no_file_can_be_is_refused_before_anything_runs(
    runs: str,
    command: list[str],
    flags: list[str],
    path: str,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "taken").mkdir()
    monkeypatch.setattr(runs, lambda *_, **__: pytest.fail("it ran"))
    for flag in flags:
        assert said in refused(capsys, *command, flag, path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--policies", "vanilla;vanilla"),
        ("compare", "--policies", ";"),
        ("compare", "--policies", "vanilla;nonsense", "--out", "o"),
        ("compare", "--out", "trace.csv"),
        ("profile", "show", "nothing"),
        ("calibrate", "--steps", "trace.csv", "--out", "p.json"),
        ("calibrate", "--steps", "none.csv", "--out", "p.json"),
        ("trace", "inspect", "nowhere.csv"),
        ("trace", "fetch", "nothing"),
        ("trace", "convert", "trace.csv", "t.xlsx"),
        ("trace", "generate", "alpaca-vicuna:colour=red", "--out", "t.csv"),
        ("trace", "generate", "--num-prompts", "0", "--out", "t.csv"),
        ("plot", "variance", "--trace", "trace.csv"),
        ("nonsense",),
    ],
)
def test_other_commands_refuse_in_one_line_too(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, *arguments)
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


def test_trace_commands_round_trip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "generate", "--num-prompts", "30", "--request-rate", "2", "--out", "a.csv") == 0
    assert run("trace", "convert", "a.csv", "b.jsonl") == 0
    assert run("trace", "convert", "b.jsonl", "c.csv") == 0
    assert (folder / "a.csv").read_bytes() == (folder / "c.csv").read_bytes()
    assert run("trace", "inspect", "a.csv", "--out", "a.png", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 30 and found["mean_rate_per_s"] > 0
    assert (folder / "a.png").stat().st_size > 1000


def test_trace_inspect_says_what_was_drawn_rather_than_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "inspect", "alpaca-vicuna", "--num-prompts", "20") == 0
    assert "prompt_tokens are drawn" in " ".join(capsys.readouterr().out.split())


def test_profile_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "list") == 0
    out = capsys.readouterr().out
    assert "published" in out and "composed" in out
    assert run("profile", "show", "h200-vicuna-7b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["provenance"]["kind"] == ("composed from measured kernels")


def test_a_profile_from_steps_needs_kv_blocks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["num_decode,decode_context_tokens,num_prefill,prefill_tokens,prefill_attention,step_ms"]
    rows += [f"{n},{n * c},0,0,0,{5 + 0.1 * n + 0.001 * n * c}" for n in (1, 2, 4, 8) for c in (16, 64, 256)]
    rows += [
        f"{n},{n * 16},1,{t},{t * t / 2},{6 + 0.1 * (n + t)}" for n in (0, 1, 2, 4) for t in (16, 64, 256)
    ]
    (folder / "steps.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert run("calibrate", "--steps", "steps.csv", "--out", "p.json", "--host-ms", "0.5") == 0
    assert (folder / "p.png").is_file()
    capsys.readouterr()
    assert "kv_blocks" in refused(capsys, "simulate", "--trace", "trace.csv", "--profile", "p.json", "--json")
    found = summary(capsys, "--profile", "p.json", "--kv-blocks", "100", "--policy", "vanilla")
    assert found["provenance"] == "measured" and found["profile"] == "p"
    assert json.loads((folder / "p.json").read_text())["async_scheduling"] is True
    assert (
        run(
            "calibrate",
            "--steps",
            "steps.csv",
            "--out",
            "q.json",
            "--host-ms",
            "0.5",
            "--no-async-scheduling",
        )
        == 0
    )
    assert "async_scheduling" not in json.loads((folder / "q.json").read_text())
    capsys.readouterr()

    def served(profile: str, policy: str) -> Any:
        return summary(capsys, "--profile", profile, "--kv-blocks", "100", "--policy", policy)

    told = {"profile": "p", "policy": "continuous"}
    assert served("p.json", "continuous") == served("q.json", "continuous:async_scheduling=on") | told
    told["profile"] = "q"
    assert served("q.json", "continuous") == served("p.json", "continuous:async_scheduling=off") | told


def test_plots_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--num-prompts", "60")
    assert run("plot", "sensitivity", *few, "--num-seeds", "1", "--save-table", "s.csv") == 0
    assert run("plot", "variance", *few) == 0
    assert run("plot", "perception", *few, "--predictor", "tuned") == 0
    assert {"sensitivity.png", "variance.png", "perception.png", "s.csv"} <= {
        p.name for p in folder.iterdir()
    }
    assert '"acc_50"' in capsys.readouterr().out


def test_plots_about_load_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--num-prompts", "60", "--num-seeds", "1")
    assert run("plot", "load", *few, "--rates", "1", "20", "--save-table", "l.csv") == 0
    assert "requests/s" in capsys.readouterr().out
    assert (
        run("plot", "gain", *few, "--loads", "0.5", "1.2", "--sigmas", "0", "1", "--save-table", "g.csv") == 0
    )
    assert run("plot", "starvation", *few, "--agings", "1", "--kv-blocks", "100") == 0
    assert "ageing 1 s" in capsys.readouterr().out
    names = {p.name for p in folder.iterdir()}
    assert {"starvation.png", "load.png", "l.csv", "gain.png", "gain_p99_e2el.png", "g.csv"} <= names
    assert "request-rate: 3" in refused_by_load(capsys, "load", "--request-rate", "3")
    assert "loads: -1" in refused_by_load(capsys, "gain", "--loads", "-1", "--num-prompts", "50")
    assert "'speed'" in refused_by_load(capsys, "gain", "--metrics", "speed")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    "flag",
    ["load --loads", "load --rates", "load --num-seeds", "gain --loads", "starvation --load"]
    + [f"{command} --num-seeds" for command in ("sensitivity", "gain", "starvation")],
)
def test_plots_refuse_what_is_not_above_0(
    flag: str, value: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "plot", *flag.split(), value, "--num-prompts", "20")
    name = flag.split("--")[1]
    assert (name in said or name.replace("-", "_") in said) and value in said
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *(
            (f"{command} --policies {policies}", said)
            for command in ("sensitivity", "load", "gain")
            for policies, said in (
                ("", "policies: at least one"),
                (";", "policies: at least one"),
                ("vanilla;vanilla", "policies: 'vanilla' is given twice"),
                ("nonsense", "policy 'nonsense'"),
            )
        ),
        *((f"gain --sigmas {value}", "sigma") for value in ("-1", "nan", "inf", "11", "1 1")),
        *((f"starvation --sigma {value}", "sigma") for value in ("-1", "nan", "inf")),
        *((f"starvation --agings {value}", "aging") for value in ("-1", "nan", "inf", "1 1", "1 1.00000001")),
        *((f"{command} --jobs {n}", f"jobs: {n}") for command in ("load", "gain") for n in ("0", "-2")),
        *((f"{command} --jobs 0", "jobs: 0") for command in ("sensitivity", "variance", "starvation")),
        ("starvation --trace fixed", "its shortest answer (128 tokens) is as long as its long ones"),
        ("load --loads", "loads: at least one"),
        ("load --loads 1 1", "loads: at least one is needed, and none twice"),
        ("load --rates 1 1", "rates: at least one is needed, and none twice"),
        ("gain --loads", "loads: at least one"),
        ("gain --sigmas", "sigmas: at least one"),
        ("gain --metrics", "metrics: at least one"),
        ("gain --metrics mean_e2el_ms mean_e2el_ms", "metrics: 'mean_e2el_ms' is given twice"),
        ("gain --baseline nonsense", "policy 'nonsense'"),
        ("variance --policy nonsense", "policy 'nonsense'"),
        ("perception --num-prompts 0", "num_prompts: 0"),
    ],
)
def test_plots_refuse_in_one_line_before_they_simulate(
    arguments: str,
    said: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.scenario.scenario.Scenario.run", None)
    assert said in refused(capsys, "plot", *arguments.split(" "))
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


def refused_by_load(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    return refused(capsys, "plot", *arguments)


def test_simulate_writes_a_timeline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "--policy", "continuous", "--perfetto", "t.json")
    slices = [e for e in json.loads((folder / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert sum(e["args"]["iterations"] for e in slices) == found["iterations"]
    assert summary(capsys, "--perfetto", "w.json.gz", "--perfetto-window", "0:0.1")["completed"] == 3
    few = ("simulate", "--trace", "trace.csv", "--perfetto-window")
    assert "'2:1'" in refused(capsys, *few, "2:1", "--perfetto", "x.json")
    assert "needs --perfetto" in refused(capsys, *few, "1:2")
    assert not (folder / "x.json").exists()


def test_no_progress_and_no_colour_where_output_is_no_terminal(folder: Path) -> None:
    command = [sys.executable, "-c", "from sim.cli import main; main()", "compare", "--num-prompts", "30"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert done.stderr == "" and "\x1b" not in done.stdout


def test_help_and_version_load_nothing_heavy(folder: Path) -> None:
    heavy = ("pandas", "matplotlib", "scipy", "numpy", "torch", "simpy")
    code = (
        "import sys\nfrom sim.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "compare" in done.stdout


@pytest.mark.parametrize("arguments", [["validate"], ["calibrate", "--device", "cpu", "--out", "x.json"]])
def test_a_real_model_without_torch_is_one_line(folder: Path, arguments: list[str]) -> None:
    code = f"import sys; sys.modules['torch'] = None; from sim.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == 'seqsched: this needs torch: pip install "seqsched[real]"\n'


@pytest.mark.parametrize("script", ["perception", "quality", "validate", "calibrate", "tune"])
def test_every_script_without_what_it_needs_is_one_line(folder: Path, script: str) -> None:
    absent = (
        "import sys\nfor name in ('torch', 'transformers', 'accelerate', 'peft'): sys.modules[name] = None\n"
    )
    (folder / "sitecustomize.py").write_text(absent, encoding="utf-8")
    out = ["--out", "out.json"] if script in ("calibrate", "tune") else []
    done = subprocess.run(
        [sys.executable, "-m", f"real.{script}", *out],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 2
    needed = "peft" if script == "tune" else "torch"
    assert done.stderr == f'seqsched: this needs {needed}: pip install "seqsched[real]"\n'


def test_profile_estimate_is_marked_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("profile", "estimate", "--gpu", "RTX 4090", "--model", "llama-3.1-8b", "--out", "card.json") == 0
    )
    found = summary(capsys, "--profile", "card.json")
    assert found["profile"] == "card" and found["provenance"] == "roofline estimate"
    assert "TPU" in refused(capsys, "profile", "estimate", "--gpu", "TPU", "--out", "tpu.json")
    assert "efficiency: 3" in refused(
        capsys, "profile", "estimate", "--gpu", "H100", "--efficiency", "3", "--out", "h.json"
    )


def test_set_changes_the_machine_of_any_command_and_the_result_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = "a100-80gb-vicuna-7b-transformers"
    found = summary(capsys, "--set", "gpu=H100", "--set", "weight_bits=8", "memory.utilization=0.95")
    assert found["profile"] == f"{default} +gpu=H100 +weight_bits=8 +memory.utilization=0.95"
    assert found["provenance"] == "roofline estimate"
    assert "unknown key 'colour'; the known keys are" in refused(capsys, "simulate", "--set", "colour=red")
    assert (
        run("compare", "--trace", "trace.csv", "--policies", "vanilla", "--set", "host_ms=1", "--json") == 0
    )
    assert "+step_cost.host_ms=1" in capsys.readouterr().out
    (folder / "seqsched.toml").write_text('[simulate]\nset = ["kv_bits=8", "scale=2"]\n')
    assert summary(capsys)["profile"] == f"{default} +kv_bits=8 +scale=2"
    (folder / "seqsched.toml").unlink()
    monkeypatch.setenv("SEQSCHED_SET", "weight_bits=4 kv_bits=8")
    assert summary(capsys)["profile"] == f"{default} +weight_bits=4 +kv_bits=8"


def test_a_what_if_is_shown_and_written_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ("h200-vicuna-7b", "--set", "tensor_parallel=2", "price_per_hour=3")
    assert run("profile", "show", *changed) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 × H200" in out and "6 an hour, as the user states it" in out and "uncertainty, decode" in out
    assert run("profile", "what-if", *changed, "--out", "two.json") == 0
    capsys.readouterr()
    found = summary(capsys, "--profile", "two.json")
    assert found["profile"] == "h200-vicuna-7b +tensor_parallel=2"
    assert found["provenance"] == "roofline estimate"
    assert "is of 2 GPUs together" in refused(
        capsys, "profile", "show", "two.json", "--set", "gpu=H100", "--json"
    )


def test_longer_outputs_and_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "--output-scale", "2", "--prompt-scale", "3")
    assert (found["total_output_tokens"], found["total_input_tokens"]) == (30, 93)
    assert "output_scale: 0 is not above 0" in refused(capsys, "simulate", "--output-scale", "0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulate", "--set", "kv_bit=8"), "unknown key 'kv_bit'; the known keys are"),
        (("simulate", "--set", "kv_bit=8"), "did you mean kv_bits?"),
        (("simulate", "--profile", "h200-vicuna"), "did you mean h200-vicuna-7b?"),
        (("plan", "--request-rate", "5", "--slo", "ttft_p99:9", "--price", "h200:3"), "did you mean H200?"),
        (("simulate", "--router", "random", "extra"), "'extra' is too much: no flag before it takes"),
        (
            ("compare", "--policies", "vanilla", "continuous"),
            'several --policies or --profiles are one value, "A;B"',
        ),
    ],
)
def test_what_is_misspelt_or_too_much_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize("command", [("simulate",), ("compare", "--policies", "vanilla;continuous")])
def test_poisson_arrivals_that_miss_the_rate_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    def notes(*flags: str) -> list[str]:
        main([*command, "--trace", "fixed:output_tokens=5", *flags, "--json"])
        return [line for line in capsys.readouterr().err.splitlines() if "Poisson" in line]

    (said,) = notes("--num-prompts", "150", "--request-rate", "5")
    assert "--request-rate 5: these Poisson arrivals come at " in said and "`vllm bench serve`" in said
    for flags in (["--request-rate", "5", "--burstiness", "0.5"], ["--request-rate", "inf"], []):
        assert notes("--num-prompts", "150", *flags) == []
