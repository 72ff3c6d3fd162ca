"""No summary, table, headline or picture of any command leaves out requests that failed without saying so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import pytest

from sim.cli import COMMANDS, GROUPS, main

TRACE = ["--trace", "trace.csv", "--max-new-tokens", "64"]
SMALL = ["--kv-blocks", "100"]  # 1,600 tokens, where a tenth of the prompts has 5,000
STUDY = [*TRACE, *SMALL, "--num-seeds", "1", "--jobs", "1"]
PLAN = ["plan", *TRACE, *SMALL, "--profiles", "h200-vicuna-7b", "--request-rate", "4", "--jobs", "1"]
PLAN += ["--num-requests", "60", "--max-requests", "120", "--max-seeds", "3"]
PICTURE = ["--out", "picture.svg"]
UNSPLIT = "continuous:chunked=off,max_num_batched_tokens=512"
GAIN = [
    "plot",
    "gain",
    *TRACE,
    "--num-seeds",
    "1",
    "--jobs",
    "1",
    "--policies",
    UNSPLIT,
]  # KV is never so short
REASON = "prompt + max_new_tokens (5064) exceeds "
ONE_POLICY = ["--policies", "continuous"]

CASES: dict[str, list[str]] = {
    "simulate": ["simulate", *TRACE, *SMALL],
    "simulate --json": ["simulate", *TRACE, *SMALL, "--json"],
    "compare": ["compare", *TRACE, *SMALL, "--policies", "continuous;vanilla"],
    "compare --json": ["compare", *TRACE, *SMALL, "--policies", "continuous;vanilla", "--json"],
    "plan": [*PLAN, "--slo", "ttft_mean:60000"],
    "plan of a percentile": [*PLAN, "--slo", "ttft_p50:60000"],
    "plan --json": [*PLAN, "--slo", "ttft_mean:60000", "--json"],
    "plan --report": [*PLAN, "--slo", "ttft_mean:60000", "--report", "report.html"],
    "plan --max-rate": [*PLAN[:-8], "--jobs", "1", "--max-rate", "--slo", "ttft_mean:60000", *PLAN[-6:]],
    "plan of attainment": [*PLAN, "--slo", "attainment:0.7", "--goodput", "e2el:60000"],
    "sweep": ["sweep", "grid.toml", "--jobs", "1"],
    "sweep --json": ["sweep", "grid.toml", "--jobs", "1", "--json"],
    "validate": ["validate", "--against", "log.csv", "--max-new-tokens", "64", *SMALL],
    "plot load": ["plot", "load", *STUDY, "--rates", "2", *ONE_POLICY, *PICTURE],
    "plot gain": [*GAIN, "--loads", "0.5", "--sigmas", "0.2", *PICTURE],
    "plot arena": ["plot", "arena", *GAIN[2:], "--loads", "0.5", *PICTURE],
    "plot starvation": ["plot", "starvation", *STUDY, "--agings", "5", *PICTURE],
    "plot sensitivity": ["plot", "sensitivity", *STUDY, "--policies", "sequence", *PICTURE],
    "plot variance": [
        "plot",
        "variance",
        "--trace",
        "samples.csv",
        *TRACE[2:],
        *SMALL,
        "--jobs",
        "1",
        *PICTURE,
    ],
}
WITHOUT_FIGURES_OF_RUNS = {
    "list",
    "calibrate",
    "observe",
    "pilot",
    "serve",
    "quality report",  # failures have a column of their own
    "plot perception",
    *(f"predictor {name}" for name in GROUPS["predictor"][1]),
    *(f"trace {name}" for name in GROUPS["trace"][1]),
    *(f"profile {name}" for name in GROUPS["profile"][1]),
}
"""Commands that run no simulation, or show none of its figures (tests/real/observing tries `observe`,
tests/real/serving `serve`); `pilot` refuses machines on which a request fails.
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 requests, of which a tenth is too long; a log, a grid, and samples of the same prompts."""
    monkeypatch.chdir(tmp_path)
    sizes = [(5000 if i % 10 == 4 else 40 + i, 5 + i % 17) for i in range(30)]
    rows = [f"{i},{i * 0.25},{prompt},{output}" for i, (prompt, output) in enumerate(sizes)]
    head = "request_id,arrival_s,prompt_tokens,output_tokens"
    Path("trace.csv").write_text("\n".join([head, *rows]) + "\n")
    Path("samples.csv").write_text(
        "\n".join([f"{head},L_t0.0,L_t0.7", *(f"{row},9,11" for row in rows)]) + "\n"
    )
    Path("log.csv").write_text(
        "\n".join([f"{head},ttft_ms,tpot_ms,e2el_ms", *(f"{row},20,5,{20 + 5 * 16}" for row in rows)]) + "\n"
    )
    Path("grid.toml").write_text(
        'trace = "trace.csv"\nkv_blocks = 100\nmax_new_tokens = 64\npolicy = "continuous"\n'
        "[grid]\nseed = [0, 1]\n"
    )
    return tmp_path


def test_every_command_is_tried_or_has_no_figures_of_runs() -> None:
    every = {*COMMANDS, *(f"{group} {name}" for group, (_, names) in GROUPS.items() for name in names)}
    tried = {" ".join(word for word in case[:2] if not word.startswith("-")) for case in CASES.values()}
    tried = {next(name for name in every if case == name or case.startswith(f"{name} ")) for case in tried}
    assert tried | WITHOUT_FIGURES_OF_RUNS == every
    assert not tried & WITHOUT_FIGURES_OF_RUNS


@pytest.mark.parametrize("name", CASES)
def test_the_share_and_the_first_reason_are_said(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = 0
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        try:
            main(CASES[name])
        except SystemExit as ended:
            status = int(ended.code or 0)
    out, err = capsys.readouterr()
    text = " ".join((out + err).split())
    if "--json" in name and not name.startswith("plan"):
        assert '"failed": 3' in text and f'"failed_reason": "rejected: {REASON}' in text
        return
    assert REASON in text
    assert "10 %" in text or name == "plan of attainment"
    if name.startswith("plan") and name != "plan of attainment":
        assert status == 1 and "--max-new-tokens (64 here)" in text and "--kv-blocks" in text
    if name == "plan of attainment":
        assert status == 0 and "% of the requests do not complete" in text
    if name == "plan --json":
        assert not json.loads(out)["reached"]
    for picture in (*folder.glob("*.svg"), *folder.glob("*.html")):
        words = " ".join(re.sub(r"<[^>]*>", " ", picture.read_text()).split())  # a long line is several texts
        assert REASON in words and "10 %" in words


def test_latencies_of_unlike_sets_are_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *TRACE, "--profile", "h200-vicuna-7b", "--policies", f"continuous;{UNSPLIT}"])
    out = capsys.readouterr().out
    assert "* not the same requests completed" in out and "*" in out.splitlines()[5]
    assert f"{UNSPLIT}: latencies leave out" in out and "chunked=off" in out
    main(["compare", *TRACE, *SMALL, "--policies", "continuous;vanilla"])
    assert "*" not in capsys.readouterr().out


def test_a_comparison_in_json_says_that_latencies_do_not_compare(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", *TRACE, "--profile", "h200-vicuna-7b", "--json", "--policies"]
    main([*command, f"continuous;{UNSPLIT}"])
    out, err = capsys.readouterr()
    assert json.loads(out)[UNSPLIT]["failed"] == 3 and "not the same requests completed" in err
    main([*command, "continuous;vanilla"])
    assert "not the same" not in capsys.readouterr().err


def test_a_comparison_says_in_its_pictures_what_they_leave_out(folder: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        from plots.policies import figures
        from plots.style import save
        from sim import compare

        made = compare("trace.csv", policies="continuous;vanilla", kv_blocks=100, max_new_tokens=64)
        for name in ("throughput", "tokens", "latency"):
            save(figures(made.results)[name], folder / f"{name}.svg")
            assert "10 %" in (folder / f"{name}.svg").read_text()
