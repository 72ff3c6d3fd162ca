"""The tiny model learns to tell lengths: the loss falls, the adapter loads back, and only asking wakes it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from traces.errors import InputError

torch = pytest.importorskip("torch", reason="the real extra is not installed")
pytest.importorskip("peft", reason="the real extra is not installed")

from real import tune as script  # noqa: E402
from real.engines import model as models  # noqa: E402
from real.execution.run import make_engine, run  # noqa: E402
from real.lengths.adapter import Adapter  # noqa: E402
from real.lengths.asker import Asker, ModelPredictor  # noqa: E402
from real.lengths.byte_tokenizer import ByteTokenizer  # noqa: E402
from real.lengths.prompts import random_prompts  # noqa: E402
from real.lengths.training_data import label, read_answers, sampled_lengths, with_samples  # noqa: E402
from real.lengths.tuning import FOR_TINY, IGNORED, TuneOptions, example, padded, train  # noqa: E402
from sim.cli import run_script  # noqa: E402
from sim.scenario.scenario import scenario  # noqa: E402

TRACE = "lognormal:prompt_median=16,output_median=60,output_sigma=0.9,max_output_tokens=300"
ANSWERS = "alpaca-eval-vicuna-7b.json"


class Tuned(NamedTuple):
    found: dict[str, Any]
    folder: Path
    saved: dict[str, Any]


def tune(*arguments: Any) -> int:
    try:
        run_script(script.tune, [*map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: Any) -> Tuned:
    """The whole command on the tiny model."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("tuned")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = tune(
            "--out", folder / "adapter", "--trace", TRACE, "--num-prompts", 192, "--held-out", 0.125,
            "--epochs", 2, "--save-result", folder / "t.json",
        )  # fmt: skip
    assert status == 0
    return Tuned(
        json.loads(out.getvalue().splitlines()[-1]),
        folder / "adapter",
        json.loads((folder / "t.json").read_text()),
    )


def test_the_loss_falls_and_the_model_says_lengths(tuned):
    losses = tuned.saved["losses"]
    assert len(losses) == tuned.found["steps"] == 2 * 168 // 16 + 1
    assert np.mean(losses[-5:]) < losses[0] / 5
    before, after = tuned.found["before"], tuned.found["after"]
    assert (before["requests"], after["requests"]) == (24, 24)
    assert before["is_nonsense"]
    assert before["fell_back"] == 24
    assert not after["is_nonsense"]
    assert after["fell_back"] <= 1
    assert after["error"] < before["error"]
    assert after["error"] < tuned.found["always_the_median"]["error"]
    assert after["acc_100"] > before["acc_100"]
    assert before["spearman"] is None and after["spearman"] > 0.5 and after["kendall_tau"] > 0.3
    assert before["fallback_tokens"] == tuned.found["always_the_median"]["tokens"]
    assert (
        json.loads((tuned.folder / "seqsched.json").read_text())["median_length"] == before["fallback_tokens"]
    )


def test_the_adapter_loads_back_and_predicts(tuned):
    loaded = models.load("tiny")
    asker = Asker(loaded, tuned.folder)
    assert asker.warnings() == []
    made = scenario(TRACE, num_prompts=24, seed=5)
    trace, prompts = asker.prompts_of(made.trace)
    engine = make_engine("transformers-eager", loaded, 16_384)
    asking = asker.asking("model")
    heard = asking.collect(engine, prompts)
    assert sum(n is not None for n in heard.stated) >= 22
    assert {n % 50 for n in heard.stated if n is not None} == {0}
    stated = np.array([n or 0 for n in heard.stated])
    assert np.corrcoef(stated, trace.perceived_truth)[0, 1] > 0.5
    # In another batch, it says the same.
    assert asking.collect(engine, prompts, batch_size=7).stated == heard.stated
    assert asking.slowdown(engine, prompts[:4]) > 0
    asleep = asker.asking("model:adapter=off")
    assert asleep.slowdown(engine, prompts) == 1.0
    assert set(asleep.collect(engine, prompts[:9]).stated) == {None}


@pytest.mark.parametrize("engine", ["transformers-eager", "cuda-graphs"])
def test_the_adapter_sleeps_while_requests_are_answered(engine, tuned):
    plain, loaded = models.load("tiny"), models.load("tiny")
    asker = Asker(loaded, tuned.folder)
    made = scenario(TRACE, num_prompts=12, kv_blocks=300, max_new_tokens=24)
    trace, prompts = asker.prompts_of(made.trace)
    made = replace(made, trace=trace)
    expected = run(made, "vanilla", make_engine(engine, plain, made.limits.kv_tokens), plain, prompts)
    runs_on = make_engine(engine, loaded, made.limits.kv_tokens)
    made = asker.with_predictions(made, "model", runs_on, prompts)
    measured = run(made, "sequence:fcr=off", runs_on, loaded, prompts, asking=asker.askings["model"])
    assert measured.answers == expected.answers
    assert measured.result.decisions == made.run("sequence:fcr=off", log=True).decisions
    assert not measured.incidents
    assert asker.reports["model"]["fell_back"] < 12
    assert asker.reports["model"]["adapter"] == str(tuned.folder)


def test_the_model_is_afterwards_what_it_was(tmp_path):
    loaded = models.load("tiny")
    asking = Asker(loaded).asking(ModelPredictor())
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = loaded.model(ids).logits
    examples = [example(asking, [5, 6, 7 + k], 50, 2) for k in range(4)]
    options = replace(FOR_TINY, epochs=1, batch_size=4, micro_batch=2)
    learnt = train(loaded, examples, options, tmp_path / "a", say=lambda text: None)
    assert len(learnt.losses) == 1
    assert learnt.num_trained > 1000
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, before)
    with pytest.raises(InputError, match=r"targets: nolayer \("):
        train(loaded, examples, replace(options, targets="nolayer"), tmp_path / "b", say=lambda text: None)


def test_other_weights_than_it_was_trained_on_are_told(tuned):
    assert "trained on other weights" in Adapter(models.load("tiny", seed=1), tuned.folder).warnings[0]


def test_an_adapter_of_another_shape_is_refused(tuned, loaded, monkeypatch):
    wide = replace(models.TINY, hidden=96, heads=6, kv_heads=6)
    monkeypatch.setattr(models, "TINY", wide)
    with pytest.raises(InputError, match="does not fit tiny"):
        Adapter(models.load("tiny"), tuned.folder)


def test_an_example_teaches_the_number_and_its_end_alone():
    asking = Asker(models.load("tiny")).asking("model")
    made = example(asking, [5, 6], 150, 2)
    answer = [*ByteTokenizer()("150", add_special_tokens=False)["input_ids"], 2]
    asked = [5, 6, *asking.question]
    assert made == {"input_ids": asked + answer, "labels": [IGNORED] * len(asked) + answer}
    batch = padded([made, {"input_ids": [7], "labels": [7]}])
    assert batch["attention_mask"].sum(1).tolist() == [len(asked) + 4, 1]
    assert batch["labels"][1].tolist() == [7] + [IGNORED] * (len(asked) + 3)


def test_labels_are_rounded_up_to_fifty():
    assert [label(n) for n in (1, 49, 50, 51, 512)] == [50, 50, 50, 100, 550]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0}, "rank: 0"),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"epochs": 0.0}, "epochs: 0.0"),
        ({"batch_size": 3}, "batch_size: 3 is not a multiple"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        TuneOptions(**options)


def test_lengths_are_sampled_from_the_model(loaded, alone):
    prompts = random_prompts([3, 9, 5, 7], np.arange(3, 512), np.random.default_rng(0))
    # Any of these ends an answer: with random weights a single end token would hardly ever come.
    ends = set(range(0, 512, 9)) | {2}
    ending = replace(loaded, eos_tokens=frozenset(ends))
    lengths, again = (sampled_lengths(ending, prompts, (0.0, 0.5, 2.0), 12, batch_size=3) for _ in range(2))
    greedy = [alone(prompt, 12) for prompt in prompts]
    expected = [next((k for k, t in enumerate(row, 1) if t in ends), 12) for row in greedy]
    assert lengths[:, 0].tolist() == expected
    assert lengths.shape == (4, 3)
    assert np.array_equal(lengths, again)
    assert 1 <= lengths.min() <= lengths.max() <= 12
    assert not np.array_equal(lengths[:, 0], lengths[:, 2])
    trace = with_samples(scenario(TRACE, num_prompts=4).trace, lengths, (0.0, 0.5, 2.0))
    assert trace.sample_names == ("t0", "t0.5", "t2")
    assert trace.perceived_truth.tolist() == lengths.max(axis=1).tolist()


def test_texts_with_answers_become_a_trace(tmp_path):
    path = tmp_path / "answers.json"
    rows = [{"instruction": "Hi?", "output": "Yes."}, {"instruction": "No?", "output": " "}]
    path.write_text(json.dumps(rows))
    trace = read_answers(path, ByteTokenizer())
    assert trace.prompt.tolist() == ["Hi?"]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([4], [5])
    assert "1 rows without an answer" in trace.notes[0]
    path.write_text(json.dumps(rows[1:]))
    with pytest.raises(InputError, match="output: 0 rows have an answer"):
        read_answers(path, ByteTokenizer())
    path.write_text(json.dumps([{"instruction": "Hi?"}]))
    with pytest.raises(InputError, match="column output is missing"):
        read_answers(path, ByteTokenizer())


def test_real_answers_can_be_learnt_from():
    folder = os.environ.get("SEQSCHED_DATA")
    if not folder or not (Path(folder) / ANSWERS).exists():
        pytest.skip(f"SEQSCHED_DATA names no folder with {ANSWERS}")
    trace = read_answers(Path(folder) / ANSWERS, ByteTokenizer(), 4096)
    own = len(json.loads((Path(folder) / ANSWERS).read_text())[0]["output"].encode()) + 1
    assert (len(trace), trace.output_tokens[0]) == (805, own)
    asking = Asker(models.load("tiny")).asking("model")
    prompt = ByteTokenizer()(str(trace.prompt[0]))["input_ids"]
    made = example(asking, prompt, label(int(trace.output_tokens[0])), 2)
    assert len(prompt) == trace.prompt_tokens[0]
    assert ByteTokenizer().decode(made["labels"][len(prompt) + len(asking.question) : -1]) == str(label(own))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--held-out", "1"], "held_out: 1"),
        (["--temperatures", "-1"], "temperatures: -1"),
        (["--rank", "0"], "rank: 0"),
        (["--num-prompts", "1"], "num_prompts: of 1, 1 are held out"),
        (["--out", "no/such/folder"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, capsys, tmp_path):
    given = [*(["--out", tmp_path / "a"] if "--out" not in arguments else []), "--trace", TRACE]
    assert tune(*given, *(["--num-prompts", 2] if "--num-prompts" not in arguments else []), *arguments) == 2
    said = capsys.readouterr()
    assert says in said.err.splitlines()[-1]
    assert not said.out
