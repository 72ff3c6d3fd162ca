"""What is learned from a log is as good as the log allows, and says so honestly."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.learning.answers import Answers, Where, read_answers
from sim.learning.training import Trained, check, train
from sim.perception.learned import LEVELS, LearnedPredictor
from traces.errors import InputError

from .conftest import TOPICS, rows, write

pytest.importorskip("sklearn")


def answers_of(tmp_path: Path, n: int, seed: int = 0, **columns: object) -> Answers:
    return read_answers(write(tmp_path / f"{n}-{seed}.jsonl", rows(n, seed, **columns)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(answers_of(tmp_path_factory.mktemp("trained"), 600))


def test_words_that_tell_are_learned(trained: Trained) -> None:
    report = trained.report
    assert report.error < 0.55 * report.error_of_median
    assert report.error_of_prompt_length > 0.9 * report.error_of_median
    assert report.spearman is not None and report.spearman > 0.85
    assert report.kendall is not None and report.kendall > 0.65
    for topic, median in TOPICS.items():
        found = trained.predictor.predict_text(f"{topic} please now again about thing 77?")
        assert found.tokens == pytest.approx(median, rel=0.5)


def test_intervals_hold_what_they_are_meant_to(trained: Trained) -> None:
    report = trained.report
    assert abs(report.coverage - report.nominal_coverage) <= 0.03
    assert abs(report.coverage_80 - 0.8) <= 0.03
    for level, share in report.calibration.items():
        assert abs(share - float(level)) <= 0.05


def test_nothing_is_learned_where_there_is_nothing(tmp_path: Path) -> None:
    log = rows(400)
    lengths = np.random.default_rng(1).permutation([row["output_tokens"] for row in log]).tolist()
    log = [{**row, "output_tokens": length} for row, length in zip(log, lengths, strict=True)]
    report = train(read_answers(write(tmp_path / "t.jsonl", log))).report
    assert report.error >= 0.97 * report.error_of_median
    assert report.spearman is None or abs(report.spearman) < 0.15
    assert abs(report.coverage - 0.9) <= 0.03


def test_a_prompt_that_comes_again_is_no_help(tmp_path: Path) -> None:
    """Lengths that only the very same prompt tells: with leaking folds the error would be near 0."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 100)
    log = [
        {"prompt": f"word{i % 100} number{i % 100}", "output_tokens": int(lengths[i % 100])}
        for i in range(400)
    ]
    report = train(read_answers(write(tmp_path / "t.jsonl", log))).report
    assert report.prompts == 100 and report.error > 0.9 * report.error_of_median


def test_cut_answers_are_taken_for_longer_ones(tmp_path: Path) -> None:
    log = rows(900, noise=0.3)
    cap = 300
    cut = [
        {
            **row,
            "output_tokens": min(cap, row["output_tokens"]),
            "finish_reason": "length" if row["output_tokens"] > cap else "stop",
        }
        for row in log
    ]
    shorter = [{key: value for key, value in row.items() if key != "finish_reason"} for row in cut]
    story = "story please now again about thing 77?"
    truth, seen, blind = (
        train(read_answers(write(tmp_path / "t.jsonl", each))).predictor.predict_text(story)
        for each in (log, cut, shorter)
    )
    low = 0.2  # of stories, 400 long in the median, this is below the cap
    assert seen.quantile(low) == pytest.approx(truth.quantile(low), rel=0.1)
    assert seen.quantile(0.1) > 0.95 * blind.quantile(0.1)
    report = train(read_answers(write(tmp_path / "t.jsonl", cut))).report
    assert 0.05 < report.stopped < 0.3 and abs(report.coverage - 0.9) <= 0.05


def test_several_answers_are_their_distribution_or_the_largest(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    log = []
    for row in rows(400, noise=0):
        lengths = np.maximum(1, np.rint(row["output_tokens"] * np.exp(0.5 * rng.normal(size=4)))).astype(int)
        log.append({"prompt": row["prompt"], **{f"L_{k}": int(length) for k, length in enumerate(lengths)}})
    answers = read_answers(write(tmp_path / "t.jsonl", log), Where(target="L_*"))
    all_of_them, largest = train(answers), train(answers.largest())
    assert all_of_them.report.n == 1600 and largest.report.n == 400
    prompt = "prove please now again about thing 77?"
    of_all = all_of_them.predictor.predict_text(prompt)
    assert of_all.tokens == pytest.approx(250, rel=0.45)
    spread = (
        of_all.quantile(0.9) / of_all.tokens
    )  # of one prompt it is exp(0.5 * 1.28), and not every topic is told
    assert 1.5 < spread < 3.5
    assert largest.predictor.predict_text(prompt).tokens > 1.3 * of_all.tokens
    assert abs(all_of_them.report.coverage - 0.9) <= 0.03


def test_by_time_all_rows_have_a_held_out_prediction(tmp_path: Path) -> None:
    log = [{**row, "arrival_s": float(i)} for i, row in enumerate(rows(300))]
    trained = train(read_answers(write(tmp_path / "t.jsonl", log)))
    assert trained.split_by.startswith("time") and trained.report.n < 300
    assert len(trained.predictor.held_out.actual) == 300


def test_the_same_log_makes_the_same_file(log: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(read_answers(log)).predictor.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_drift_is_seen_and_chance_is_not(trained: Trained, tmp_path: Path) -> None:
    same = check(trained.predictor, answers_of(tmp_path, 400, seed=9))
    assert not same.is_worse and same.verdict.startswith("no worse than at training")
    newer = answers_of(tmp_path, 400, seed=10)
    longer = replace(newer, tokens=newer.tokens * 3)
    drift = check(trained.predictor, longer)
    assert drift.is_worse and drift.verdict.startswith("worse than at training: error ")
    assert drift.now.coverage < 0.8


def test_a_prompt_of_the_training_is_predicted_without_it(trained: Trained, tmp_path: Path) -> None:
    answers = answers_of(tmp_path, 600)
    predicted = trained.predictor.predict_texts(answers.texts)
    assert np.allclose(predicted, trained.held_out, rtol=1e-5)
    path = tmp_path / "p"
    trained.predictor.save(path)
    assert np.allclose(LearnedPredictor.load(path).predict_texts(answers.texts), trained.held_out, rtol=1e-5)
    assert json.loads(json.dumps(trained.report.to_json()))["n"] == 600


def test_prompts_without_words_are_refused(tmp_path: Path) -> None:
    log = [{"prompt": " " * (i + 1), "output_tokens": i + 1} for i in range(60)]
    with pytest.raises(InputError, match="1 different prompts"):
        read_answers(write(tmp_path / "t.jsonl", log))


def test_levels_are_those_of_the_report(trained: Trained) -> None:
    assert [float(level) for level in trained.report.calibration] == list(LEVELS)


EVAL = Path(os.environ.get("SEQSCHED_DATA", "/nowhere")) / "alpaca-eval-vicuna-7b.json"


@pytest.mark.slow
@pytest.mark.skipif(not EVAL.exists(), reason=f"SEQSCHED_DATA names no folder with {EVAL.name}")
def test_answers_of_vicuna_to_alpaca_eval() -> None:
    """At least as good as the best of plain methods: an error of 113 tokens by words, a Spearman of 0.42."""
    report = train(read_answers(EVAL, Where("instruction", "output"))).report
    assert report.error < 113 and report.error <= 0.92 * report.error_of_median
    assert report.spearman is not None and report.spearman >= 0.42
    assert abs(report.coverage - 0.9) <= 0.03 and abs(report.coverage_80 - 0.8) <= 0.03
