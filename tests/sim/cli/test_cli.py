"""The command as a user meets it: JSON alone on stdout, settings by rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import main
from tests.sim.command import refused, run, summary

pytestmark = pytest.mark.usefixtures("folder")


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


def test_longer_outputs_and_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "--output-scale", "2", "--prompt-scale", "3")
    assert (found["total_output_tokens"], found["total_input_tokens"]) == (30, 93)
    assert "output_scale: 0 is not above 0" in refused(capsys, "simulate", "--output-scale", "0")


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


def test_turns_that_wait_do_not_come_at_the_rate_asked_for_by_chance(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("simulate",), ("compare", "--policies", "continuous;vanilla")):
        main([*command, "--trace", "sessions", "--num-prompts", "60", "--request-rate", "5", "--json"])
        said = capsys.readouterr().err
        assert "chance" not in said
        assert (
            "--request-rate 5: sessions start at a rate of so many requests; as turns wait, they co" in said
        )
