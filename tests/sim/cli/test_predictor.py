"""`seqsched predictor`: learn from a log, judge what was learned, and predict by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.perception.learned import LearnedPredictor
from tests.sim.command import run

from ..learning.conftest import rows, write

pytest.importorskip("sklearn")
FIGURES = ("error", "error_of_median", "acc_50", "acc_100", "kendall", "spearman", "coverage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, a predictor that was trained on it, newer rows, and newer rows of other lengths."""
    folder = tmp_path_factory.mktemp("predictor")
    log = [{**row, "prompt_tokens": 20, "arrival_s": i / 20} for i, row in enumerate(rows(300))]
    write(folder / "log.jsonl", log)
    write(folder / "newer.jsonl", rows(200, seed=5))
    longer = [{**row, "output_tokens": 4 * row["output_tokens"]} for row in rows(200, seed=6)]
    write(folder / "longer.jsonl", longer)
    assert run("predictor", "train", folder / "log.jsonl", "--out", folder / "p", "--by", "prompt") == 0
    return folder


def test_the_report_is_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(
        "predictor", "train", folder / "log.jsonl", "--out", tmp_path / "p", "--by", "prompt", "--json"
    )
    told = json.loads(capsys.readouterr().out)
    assert status == 0 and all(isinstance(told[figure], float) for figure in FIGURES)
    assert told["n"] == 300 and told["folds"] == 5 and told["split_by"] == "prompt"
    assert told["error"] < 0.7 * told["error_of_median"] and 0 < told["coverage"] <= 1
    assert (tmp_path / "p").read_bytes() == (folder / "p").read_bytes()


def test_the_table_says_what_was_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder / "log.jsonl"
    assert run("predictor", "train", log, "--out", tmp_path / "p", "--text", "prompt", "--folds", 3) == 0
    out = capsys.readouterr().out
    assert "300 prompts (prompt) with 300 answers (output_tokens), token counts as in the log" in out
    assert "3 folds, split by time" in out and "always the median" in out and "in the 90% interval" in out


def test_newer_rows_as_good_and_worse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predictor", "check", folder / "p", folder / "newer.jsonl") == 0
    assert "no worse than at training: error" in capsys.readouterr().out
    assert run("predictor", "check", folder / "p", folder / "longer.jsonl") == 1
    assert "\nworse than at training: error" in capsys.readouterr().out
    assert run("predictor", "check", folder / "p", folder / "longer.jsonl", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["is_worse"] and told["error"] > told["at_training"]["error"]


def test_it_predicts_for_a_simulation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By texts, and without them by errors; shortest first then waits less than first come, first served."""
    plain = folder / "plain.csv"
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines = [f"{row['arrival_s']},20,{row['output_tokens']}" for row in log]
    plain.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")
    shortest = ("--policy", "continuous:order=shortest-predicted,max_num_seqs=4")
    waits = {}
    for name, trace, policy in (
        ("fcfs", plain, ("--policy", "continuous:max_num_seqs=4")),
        ("errors", plain, shortest),
        ("texts", folder / "log.jsonl", shortest),
    ):
        predictor = f"learned:file={folder / 'p'}"
        assert run("simulate", "--trace", trace, "--predictor", predictor, *policy, "--json") == 0
        captured = capsys.readouterr()
        waits[name] = json.loads(captured.out)["mean_ttft_ms"]
        if name == "texts":
            assert "was trained on 300 of the 300 prompts" in captured.err
        if name == "errors":
            assert "has no texts: predictions err as they did at training" in captured.err
    assert waits["errors"] < 0.8 * waits["fcfs"] and waits["texts"] < 0.8 * waits["fcfs"]
    assert waits["errors"] == pytest.approx(waits["texts"], rel=0.3)


@pytest.mark.parametrize(
    "policy", ["continuous:order=gittins", "continuous:admission=quantile:0.9", "sequence:margin=0.8"]
)
def test_policies_of_distributions_take_its_quantiles(
    folder: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    predictor = f"learned:file={folder / 'p'}"
    flags = ("--predictor", predictor, "--policy", policy, "--kv-blocks", 400, "--num-prompts", 100)
    assert run("simulate", "--trace", folder / "log.jsonl", *flags, "--json") == 0
    assert json.loads(capsys.readouterr().out)["completed"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.jsonl", "--out", "p"], "none.jsonl: no such file"),
        (["train", "log.jsonl", "--out", "no/p"], "there is no folder no"),
        (["train", "log.jsonl", "--out", "p", "--text", "prmpt"], "column prmpt is missing"),
        (["train", "log.jsonl", "--out", "p", "--folds", "1"], "folds: 1 is not between 2 and 50"),
        (["train", "log.jsonl", "--out", "q", "--seed", "-1"], "seed: -1 must be at least 0"),
        (["train", "log.jsonl", "--out", "q", "--cap", "0"], "cap: 0 must be at least 1"),
        (["train", "log.jsonl", "--out", "q", "--price", "-1"], "price: -1 is not at least 0"),
        (["train", "log.jsonl", "--out", "q", "--price", "nan"], "price: nan is not at least 0"),
        (["train", "log.jsonl", "--out", "q", "--profile", "h20"], "profile: 'h20' is neither a file nor"),
        (["train", "log.jsonl", "--out", "p", "--embeddings", "."], "is no folder of a model"),
        (["check", "log.jsonl", "log.jsonl"], "log.jsonl: is no predictor that seqsched wrote"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run("predictor", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert not (folder / "q").exists()


def test_without_scikit_learn_it_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    assert run("predictor", "train", folder / "log.jsonl", "--out", tmp_path / "p") == 2
    assert 'pip install "seqsched[predict]"' in capsys.readouterr().err
    assert np.isfinite(LearnedPredictor.load(folder / "p").predict_text("story").quantiles).all()
