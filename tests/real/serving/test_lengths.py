"""Lengths learnt from answers: the median first, words where they are worth more, and drift."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.lengths import (
    ENOUGH,
    FIRST_GUESS,
    MOST_MODELS,
    Ask,
    MedianLength,
    OnlineLength,
    PromptTokens,
    Window,
)
from real.serving.predictor import make_length_predictor
from tests.sim.command import run
from traces.errors import InputError

WORDS = ("list", "name", "explain", "story", "translate")
TOKENS = {"list": 120, "name": 6, "explain": 300, "story": 700, "translate": 25}


def asked(rng: random.Random, model: str = "m") -> tuple[Ask, int]:
    word = rng.choice(WORDS)
    others = [rng.choice("abcdefgh") * rng.randint(1, 5) for _ in range(rng.randint(2, 12))]
    tokens = max(1, round(TOKENS[word] * rng.lognormvariate(0.0, 0.3)))
    return Ask(model, " ".join([word, *others])), tokens


def test_a_window_has_the_quantiles_of_the_last_numbers() -> None:
    rng, window, seen = random.Random(0), Window(50), list[float]()
    for _ in range(300):
        seen.append(rng.choice([1.0, 2.0, rng.random()]))
        window.add(seen[-1])
        assert window.ordered == sorted(seen[-50:]) and len(window) == min(50, len(seen))
    assert window.quantile(0.0) == min(seen[-50:]) and window.quantile(1.0) == max(seen[-50:])


def test_the_median_is_that_of_the_same_model() -> None:
    median = MedianLength()
    assert median.predict(Ask("a", "x")).tokens == FIRST_GUESS
    for tokens in (10, 20, 900):
        median.learn(Ask("a", "x"), tokens)
        median.learn(Ask("b", "x"), 5)
    assert median.predict(Ask("a", "y"), 0.9)[:2] == (20, 900) and median.predict(Ask("b", "y")).tokens == 5


def row(ask: Ask, tokens: int, **others: object) -> str:
    named = {"prompt": ask.text, "model": ask.model, "max_tokens": ask.max_tokens, "output_tokens": tokens}
    return json.dumps({"request_id": 1, **named, "status": "completed", **others}) + "\n"


def test_a_log_with_texts_is_learnt_from_before_answers_come(tmp_path: Path) -> None:
    rng, plain, log = random.Random(3), OnlineLength(), tmp_path / "log.jsonl"
    seen = [asked(rng) for _ in range(300)]
    seen = [(Ask(ask.model, ask.text, cap), tokens) for cap, (ask, tokens) in enumerate(seen, 100)]
    for ask, tokens in seen:
        plain.learn(ask, tokens)
    failed = [row(ask, 0, status="failed") for ask, _ in seen[:50]]
    log.write_text("".join([*failed, *(row(*each) for each in seen)]))
    begun = make_length_predictor(f"online:log={log}")
    for ask, _ in (asked(rng) for _ in range(50)):
        assert begun.predict(ask, 0.9) == plain.predict(ask, 0.9)
    assert plain.watch.is_better


def test_a_log_without_texts_is_refused(tmp_path: Path) -> None:
    (log := tmp_path / "log.jsonl").write_text(row(Ask("m", "x", 8), 4).replace("prompt", "p"))
    with pytest.raises(InputError, match="column prompt is missing; a log with texts has it"):
        make_length_predictor(f"online:log={log}")
    log.write_text(row(Ask("m", "x", 8), 0, status="failed"))
    with pytest.raises(InputError, match="no request is completed"):
        make_length_predictor(f"online:log={log}")


def test_a_log_that_has_just_been_begun_teaches_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "other.spool.jsonl").touch()
    for name in ("log.jsonl", "other.parquet"):
        begun = make_length_predictor(f"online:log={tmp_path / name}")
        assert begun.predict(Ask("m", "x"), 0.9).tokens == 256
    (tmp_path / "other.spool.jsonl").write_text(row(Ask("m", "x", 8), 4))
    assert (
        make_length_predictor(f"online:log={tmp_path / 'other.parquet'}").predict(Ask("m", "x"), 0.9)[0] == 4
    )
    with pytest.raises(InputError, match="no such file"):
        make_length_predictor(f"online:log={tmp_path / 'none.parquet'}")


def test_rows_without_a_text_teach_nothing(tmp_path: Path) -> None:
    plain = row(Ask("m", "x", 8), 4)
    (log := tmp_path / "log.jsonl").write_text(
        plain.replace('"prompt"', '"p"') + plain + plain.replace('"x"', "null")
    )
    begun = make_length_predictor(f"online:log={log}")
    assert isinstance(begun, OnlineLength) and begun.watch.num_seen == 1
    log.write_text(plain + plain.replace("4", '"four"'))
    with pytest.raises(InputError, match="output_tokens 'four' and max_tokens 8 are no whole numbers"):
        make_length_predictor(f"online:log={log}")


def test_names_that_are_made_up_take_no_memory_and_leave_others_theirs() -> None:
    online = OnlineLength()
    for number in range(3 * MOST_MODELS):
        online.learn(Ask("real", "x"), 7)
        online.learn(Ask(f"made up {number}", "x"), 9)
    median = online.watch.median
    assert len(median.windows) == MOST_MODELS and len(median.windows["real"]) == 3 * MOST_MODELS


def test_words_are_worth_more_once_enough_was_seen() -> None:
    rng, online = random.Random(1), OnlineLength()
    for _ in range(ENOUGH - 1):
        online.learn(*asked(rng))
        assert online.predict(asked(rng)[0]) == online.watch.median.predict(asked(rng)[0])
    for _ in range(600):
        online.learn(*asked(rng))
    errors, median_errors, covered = 0.0, 0.0, 0
    for _ in range(300):
        ask, tokens = asked(rng)
        said = online.predict(ask, 0.9)
        errors += abs(said.tokens - tokens)
        median_errors += abs(online.watch.median.predict(ask).tokens - tokens)
        covered += tokens <= (said.upper_tokens or 0)
        assert said.lengths is not None and list(said.lengths) == sorted(said.lengths)
    assert errors < 0.6 * median_errors
    assert 0.8 < covered / 300 < 0.99


def test_drift_makes_it_say_the_median_until_it_has_learnt_again() -> None:
    rng, online = random.Random(2), OnlineLength()
    for _ in range(800):
        online.learn(*asked(rng))
    assert online.watch.is_better
    trusted = []
    for _ in range(600):  # the words mean nothing any more
        ask, _ = asked(rng)
        online.learn(ask, 40 + rng.randint(0, 3))
        trusted.append(online.watch.is_better)
    assert not all(trusted) and online.predict(Ask("m", "story")).tokens in range(35, 50)


def test_a_file_that_was_learnt_from_the_layers_own_log_predicts(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs the extra predict")
    rng = random.Random(3)
    rows = [asked(rng) for _ in range(400)]
    row = {
        "prompt_tokens": 9,
        "status": "completed",
        "error": "",
        "user": "",
        "hash_ids": [],
        "max_tokens": 4096,
    }
    lines = [
        json.dumps({**row, "request_id": k, "arrival_s": k / 10, "output_tokens": tokens, "prompt": ask.text})
        for k, (ask, tokens) in enumerate(rows)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert run("predictor", "train", tmp_path / "log.jsonl", "--out", tmp_path / "learnt") == 0
    learned = make_length_predictor(f"learned:file={tmp_path / 'learnt'}")
    story, name = (learned.predict(Ask("m", f"{word} aa bbb"), 0.9) for word in ("story", "name"))
    assert name.tokens < 30 < 300 < story.tokens <= (story.upper_tokens or 0)
    for _ in range(ENOUGH + 40):  # another traffic
        learned.learn(Ask("m", "story aa"), 50)
    assert learned.predict(Ask("m", "story aa"), None).tokens == 50


def test_a_prediction_takes_less_than_a_millisecond() -> None:
    online, ask = OnlineLength(), Ask("m", "some words of a prompt " * 2000)
    for k in range(300):
        online.learn(Ask("m", f"{'a b' if k % 2 else 'c d'}"), 900 if k % 2 else 3)
    assert online.watch.is_better
    took = []
    for _ in range(50):
        began = time.perf_counter()
        online.predict(ask, 0.9)
        took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 2e-3  # a millisecond on a machine that does nothing else


def test_prompts_are_counted_as_the_upstream_counts_them() -> None:
    prompts = PromptTokens()
    assert prompts.count("x" * 400) == 100 and prompts.count("") == 1
    for _ in range(10):
        prompts.learn("y" * 300, 100)
    assert prompts.count("x" * 300) == 100


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("nonsense", "predictor 'nonsense' is not one of online, median, learned"),
        ("learned", "file"),
        ("learned:file=no.predictor", "no.predictor"),
        ("median:k=1", "options"),
        ("traces.trace:Trace", "predictor"),
    ],
)
def test_a_predictor_that_is_none_is_refused(spec: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        make_length_predictor(spec)
