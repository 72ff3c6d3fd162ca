"""Where the model ends its answers, its own lengths are what predictors are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the real extra is not installed")

from real.answers import trial
from real.lengths.own_lengths import own_lengths
from real.lengths.progress import silent
from real.lengths.prompts import random_prompts
from real.options import ReplayFlags
from real.validation import experiment, validation


@pytest.mark.parametrize("name", ["transformers-eager", "cuda-graphs"])
def test_each_answer_is_as_long_as_the_model_makes_it_alone(
    name: str, make_engine: Any, alone: Any, prompts: Any
) -> None:
    ends, most = frozenset(range(0, 512, 9)), [3 + 4 * k for k in range(len(prompts))]
    engine = make_engine(name, 300)
    found = own_lengths(engine, prompts, most, ends, silent)
    expected = []
    for prompt, cap in zip(prompts, most, strict=True):
        answer = alone(prompt, cap)
        expected.append(next((k for k, token in enumerate(answer, 1) if token in ends), cap))
    assert found.tolist() == expected
    assert len(set(expected)) > 1 and any(n < cap for n, cap in zip(expected, most, strict=True))
    never = own_lengths(engine, [[5] * 290], [20], ends, silent)  # does not fit
    assert never.tolist() == [20]


@pytest.fixture
def replay(chatty: Any, texts: Any, monkeypatch: Any) -> ReplayFlags:
    monkeypatch.setattr(ReplayFlags, "load", lambda self: chatty)
    return ReplayFlags(
        answers=texts[0], model="tiny", device="cpu", threads=1, kv_tokens=2048, max_new_tokens=24,
        lengths="model", policies="vanilla;sequence:bin_width=4", predictors="oracle",
    )  # fmt: skip


def test_quality_and_validate_send_the_same_prompts_in_the_chat_template(
    replay: ReplayFlags, texts: Any, chatty: Any, monkeypatch: Any
) -> None:
    bench = trial._prepare(replay, replay.pairs(""), silent)
    sent = [chatty.tokenizer.decode(prompt) for prompt in bench.prompts]
    assert sent == [f"<user>{text}<end><assistant>" for text in texts[1]]

    class Prepared(Exception):
        pass

    def measure(self: validation.Validation, *_: Any, **__: Any) -> None:
        assert [list(p) for p in self.prompts] == [list(p) for p in bench.prompts]
        raise Prepared

    monkeypatch.setattr(validation.Validation, "measure", measure)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)
    with pytest.raises(Prepared):
        experiment.experiment(replay, replay.pairs(""), repeat=1, clock=None, say=silent)


def test_the_oracle_knows_the_models_own_lengths(replay: ReplayFlags, monkeypatch: Any) -> None:
    lines: list[str] = []
    bench = trial._prepare(replay, replay.pairs(""), lines.append)
    own = bench.scenarios["oracle"].trace.output_tokens
    assert len(set(own.tolist())) > 1
    assert bench.run(("sequence:bin_width=4", "oracle")).output_tokens == own.tolist()
    assert "a first run finds the model's own lengths" in lines[0]
    monkeypatch.setattr(experiment, "PASSES", 0)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)
    cases, about = experiment.experiment(replay, replay.pairs(""), repeat=1, clock=None, say=silent)
    assert about["lengths"] == "model"
    for case in cases:
        run = case.measured[0]
        assert np.array_equal(run.columns["output_tokens"], own)
        assert case.equal_decisions == 1
    assert np.array_equal(cases[1].measured[0].columns["predicted_tokens"], own)


def test_random_tokens_are_none_of_the_models_special_ones(chatty: Any, loaded: Any) -> None:
    assert loaded.ordinary_tokens.tolist() == list(range(3, 512))
    assert (loaded.end_token, loaded.pad_token) == (2, 0)
    assert (chatty.end_token, chatty.pad_token) == (300, 301)
    special = {0, 1, 2, 300, 301, 302, *range(0, 512, 9)}
    assert special.isdisjoint(chatty.ordinary_tokens.tolist())
    assert len(chatty.ordinary_tokens) == 512 - len(special)
    (prompt,) = random_prompts([5000], chatty.ordinary_tokens, np.random.default_rng(0))
    assert set(prompt) == set(chatty.ordinary_tokens.tolist())
