"""The model is asked for lengths, what it says is read, and sim and real act on the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import InputError
from traces.trace import Trace

pytest.importorskip("torch", reason="the real extra is not installed")
pytest.importorskip("peft", reason="the real extra is not installed")

from real import perception as script
from real import validate as validate_script
from real.engines.model import TINY
from real.execution.run import run
from real.lengths import in_advance, prompts
from real.lengths.asker import Asker, ModelPredictor, asks_the_model, model_predictor
from real.lengths.asking import Asking
from real.lengths.byte_tokenizer import UNREADABLE, VOCAB_SIZE, ByteTokenizer
from real.lengths.conversation import PLAIN, VICUNA, conversation_of
from real.lengths.read_length import MOST_TOKENS, Fallback, History, read_length, read_lengths
from real.validation import experiment, validation
from sim.cli import run_script
from sim.perception.accuracy import rank_report
from sim.scenario.scenario import scenario as make

TRACE = "lognormal:prompt_median=6,max_prompt_tokens=12,output_median=8,output_sigma=0.6,max_output_tokens=20"
TOKENIZER = ByteTokenizer()
PAST = History(70, "past answers")


def command(capsys: Any, function: Any, *arguments: Any) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)"""
    status = 0
    try:
        run_script(function, [*map(str, arguments)])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@given(st.text())
def test_any_text_survives_the_byte_tokenizer(text):
    ids = TOKENIZER(text)["input_ids"]
    assert max(ids) < VOCAB_SIZE <= TINY.vocab
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text.encode(errors="replace").decode()
    assert ids[1:] == TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_what_is_no_text_is_seen_to_be_none():
    assert TOKENIZER.decode([TINY.vocab - 1]) == UNREADABLE
    assert TOKENIZER.decode([3 + 0xFF]) == UNREADABLE
    assert TOKENIZER.decode([0, 1, 2]) == "<pad><s></s>"
    assert TOKENIZER(["a", "b"])["input_ids"] == [[1, 100], [1, 101]]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("150", 150), (" 150\n\nThe", 150), ("about 120 tokens", 120), ("~120", 120), ("[75]", 75),
        ("**75**.", 75), ("1,200", 1200), ("1 200 tokens", 1200), ("1.2k", 1200), ("120.5", 121),
        ("１５０", 150), ("100-150", 125), ("between 100 and 151 tokens", 126), ("100–150", 125),
        ("100 to 150", 125), ("one hundred and twenty", 120), ("A hundred tokens", 100),
        ("two thousand", 2000), ("ten tokens", 10), ("It is 3 sentences, 90 tokens", 90),
        ("30-40 words, 60 tokens", 60), ("1. Answer: 80", 80), ("64tokens", 64), ("GPT-4 says 80", 80),
        ("The one number: 33", 33), ("1st 50", 50), ("", None), ("Sure! Here is", None), ("-5", None),
        ("− 5 tokens", None), ("0", None), ("1,200,000", None), ("99999999", None), ("1e9", None),
        ("3 sentences", None), ("50 words", None), ("5 %", None), ("$5", None), ("GPT4", None),
        ("v1.5", None), ("12:30", None), ("3/4", None), ("10^6", None), ("1. First", None), ("one", None),
        (f"{UNREADABLE}7", None), ("7\x01", None), ("2022-01-22", None), ("The answer is: 2022-01-22", None),
    ],
)  # fmt: skip
def test_a_length_is_read_as_people_write_it(text, length):
    assert read_length(text) == length


@given(st.text(), st.booleans())
def test_no_answer_breaks_the_reading(text, is_cut):
    length = read_length(text, is_cut)
    assert length is None or 1 <= length <= MOST_TOKENS


@given(
    st.integers(1, MOST_TOKENS), st.sampled_from(["{}", "{} tokens.", "About {:,} tokens", "My guess:\n{}!"])
)
def test_every_length_is_read_back(length, wording):
    assert read_length(wording.format(length)) == length


def test_a_number_at_the_cut_may_lack_digits():
    assert read_length("about 12", is_cut=True) is None
    assert read_length("1,", is_cut=True) is None
    assert read_length("100-1", is_cut=True) is None
    assert read_length("about 12 tok", is_cut=True) == 12
    assert read_length("12\n", is_cut=True) == 12


def test_who_states_no_length_gets_the_fallbacks():
    stated = [10, None, 30, 20, 900]
    for rule, instead in (("median", 70), ("max", 512), ("64", 64), ("900", 512)):
        read = read_lengths(stated, 512, Fallback.of(rule), PAST)
        assert read.predicted.tolist() == [10, instead, 30, 20, 512]
        assert read.fell_back.tolist() == [False, True, False, False, False]
        assert read.fallback.tokens == instead
    assert read_lengths([None, None], 64, Fallback(), PAST).predicted.tolist() == [64, 64]
    for bad in ("0", "-1", "mean", "", "1.5", "٣"):
        with pytest.raises(ValueError, match="fallback"):
            Fallback.of(bad)


@pytest.mark.parametrize(
    ("stated", "silent", "instead"),
    [(10, 10, 30), (9, 0, 70), (10, 11, 70), (1, 41, 70), (19, 29, 70), (0, 3, 70)],
)
def test_the_median_of_what_few_stated_stands_for_nobody(stated, silent, instead):
    read = read_lengths([30] * stated + [None] * silent, 512, Fallback(), PAST)
    assert read.fallback.tokens == instead
    if instead == 70:
        few = f"{stated} of {stated + silent} answers stated one"
        assert read.fallback.source == f"the median of past answers, for {few}"


def test_a_constant_has_learnt_no_order():
    truth = np.array([10, 20, 30, 40, 400])
    assert rank_report(np.full(5, 30), truth) == (None, None)
    assert rank_report(truth**2, truth) == pytest.approx((1.0, 1.0))
    assert rank_report(-truth, truth) == pytest.approx((-1.0, -1.0))
    assert rank_report(truth[:1], truth[:1]) == (None, None)
    # One pair of ten stands the wrong way round: (9 - 1) / 10, and 1 - 6 * 2 / (5 * 24).
    assert rank_report(np.array([2, 1, 3, 4, 5]), truth) == pytest.approx((0.9, 0.8))


def test_the_question_stands_before_the_assistants_turn():
    trace = Trace("t", np.arange(1), np.array([1]), np.array([1]), prompt=np.array(["Sing."], dtype=object))
    ordinary, rng = np.arange(3, 512), np.random.default_rng(0)
    trace, (prompt,) = prompts.prompts_of(trace, TOKENIZER, ordinary, rng, VICUNA)
    assert trace.prompt_tokens.tolist() == [len(prompt)]
    turn = prompts.turn_of(TOKENIZER, VICUNA)
    question = TOKENIZER(prompts.QUESTION, add_special_tokens=False)["input_ids"]
    asked = prompts.with_question(prompt, question, len(turn))
    text = TOKENIZER.decode(asked, skip_special_tokens=True)
    assert text == f"{VICUNA.before}Sing.{prompts.QUESTION} ASSISTANT:"
    assert len(asked) == len(prompt) + len(question)
    assert prompts.with_question([1, 2], [9], 0) == [1, 2, 9]


def test_a_tokenizers_own_template_is_taken():
    class Chat:
        chat_template, bos_token = "a template", "<s>"

        def apply_chat_template(self, turns, **options):
            return f"<s>[INST] {turns[0]['content']} [/INST]"

    assert conversation_of(Chat(), "mistral") == type(PLAIN)("<s>[INST] ", " [/INST]", True)
    assert conversation_of(TOKENIZER, "lmsys/vicuna-7b-v1.5") == VICUNA
    assert conversation_of(TOKENIZER, "tiny") == conversation_of(None, "vicuna-7b") == PLAIN


def test_made_up_texts_tell_sizes_and_replace_no_text():
    trace = make(TRACE, num_prompts=20).trace
    made = prompts.made_up_texts(
        replace(trace, output_tokens=np.arange(40, 640, 30)), np.random.default_rng(0)
    )
    sizes = [str(text).split()[2] for text in made.prompt]
    assert sizes[0] == "tiny"
    assert sizes[-1] == "endless"
    assert len(set(sizes)) == len(prompts.SIZES) + 1
    assert "made up" in made.notes[-1]
    assert prompts.made_up_texts(made, np.random.default_rng(1)) is made


class Held:
    capacity_tokens = 100


def asking(question_tokens: int = 5, answer_tokens: int = 8) -> Asking:
    return Asking([9] * question_tokens, 0, answer_tokens, TOKENIZER, frozenset({2}), None)


@given(st.lists(st.integers(1, 120), max_size=30), st.integers(1, 8))
def test_batches_fit_the_memory_and_leave_out_only_what_never_fits(sizes, batch_size):
    batches = list(asking().batches(Held(), [[7] * n for n in sizes], batch_size))
    assert [i for batch in batches for i in batch] == [i for i, n in enumerate(sizes) if n + 13 <= 100]
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) * (max(sizes[i] for i in batch) + 13) <= 100


@pytest.mark.parametrize(
    ("text", "ended", "found"),
    [
        ("120\nOne two", True, (120, 7)),
        ("\n 120 tokens\n\nOne", False, (120, 4)),
        ("120\n", True, (120, 0)),
        ("120", True, (120, None)),
        ("12", False, (None, None)),
        ("Well.\n120 is my guess", True, (None, 15)),
    ],
)
def test_what_is_stated_in_advance_and_what_follows(text, ended, found):
    row = [*TOKENIZER(text, add_special_tokens=False)["input_ids"], *([2, 7, 7] if ended else [])]
    assert in_advance.split(asking(), row) == found


def test_in_advance_every_row_gets_its_statement_and_its_answer(loaded, make_engine):
    asker = Asker(loaded)
    way = asker.asking(ModelPredictor("pia"))
    assert TOKENIZER.decode(way.question) == prompts.ADVANCE_QUESTION
    given, most = [[5] * n for n in (3, 8, 5, 2)], [4, 9, 1, 6]
    engine = make_engine("transformers-eager", 2048)
    found = in_advance.generate(way, engine, given, most, may_end=False, batch_size=2)
    assert [len(row) for row in found.statements.rows] == [8 + n for n in most]
    assert found.statements.num_batches == 2
    assert found.statements.seconds > 0
    free = in_advance.generate(
        replace(way, eos_tokens=frozenset(range(512))), engine, given, most, may_end=True, batch_size=4
    )
    assert [row[0] for row in free.statements.rows] == [row[0] for row in found.statements.rows]
    assert {len(row) for row in free.statements.rows} == {1}


def test_a_longer_answer_is_asked_for_read_and_charged(loaded, make_engine, monkeypatch):
    lengths = []
    monkeypatch.setattr(Asking, "read", lambda self, row: lengths.append(len(row)) or 5)
    made = make(TRACE, num_prompts=12, kv_blocks=500)
    asker = Asker(loaded)
    trace, ids = asker.prompts_of(made.trace)
    engine = make_engine("transformers-eager", made.limits.kv_tokens)
    name = "model:answer_tokens=20"
    made = asker.with_predictions(replace(made, trace=trace), name, engine, ids)
    assert set(lengths) == {20} and asker.asking_tokens([name, "model"]) == (len(prompts.QUESTION), 20)
    measured = run(made, "sequence", engine, loaded, ids, asking=asker.askings[name])
    predicted = made.run("sequence", log=True)
    assert measured.result.decisions == predicted.decisions
    asked = [next(b for b in r.batches if b.kind == "Perceive") for r in (measured.result, predicted)]
    assert asked[0].kv_tokens == asked[1].kv_tokens
    assert made.limits.perception_tokens == len(prompts.QUESTION) + 20


@pytest.mark.parametrize("engine", ["transformers-eager", "cuda-graphs"])
@pytest.mark.parametrize("way", ["po", "pia"])
def test_simulator_and_executor_decide_alike_on_what_the_model_said(
    engine, way, loaded, make_engine, monkeypatch
):
    monkeypatch.setattr(Asking, "read", lambda self, row: 1 + sum(row) % 40 if sum(row) % 5 else None)
    made = make(TRACE, num_prompts=40, kv_blocks=500)
    asker = Asker(loaded)
    trace, ids = asker.prompts_of(made.trace)
    runs_on = make_engine(engine, made.limits.kv_tokens)
    name = f"model:way={way},fallback=7"
    made = asker.with_predictions(replace(made, trace=trace), name, runs_on, ids)
    policy = "sequence:vbs=memory,bin_width=4,group_size=16"
    measured = run(made, policy, runs_on, loaded, ids, asking=asker.askings[name])
    predicted = made.run(policy, log=True)
    assert measured.result.decisions == predicted.decisions
    assert not measured.incidents
    report = asker.reports[name]
    assert 0 < report["fell_back"] < 40
    assert report["fallback_tokens"] == 7
    told = measured.result.columns["predicted_tokens"]
    assert np.array_equal(told, predicted.columns["predicted_tokens"])
    assert len(set(told.tolist())) > 3
    # What is charged is the question as it was tokenised, not the paper's.
    question = len(asker.askings[name].question)
    assert (
        question
        == report["question_tokens"]
        == len(prompts.QUESTION if way == "po" else prompts.ADVANCE_QUESTION)
    )
    asked = [b for b in predicted.batches if b.kind == "Perceive"]
    real = [b for b in measured.result.batches if b.kind == "Perceive"]
    assert [b.prompt_tokens for b in asked] == [b.prompt_tokens for b in real]
    assert [b.kv_tokens for b in asked] == [b.kv_tokens for b in real]
    assert asked[0].prompt_tokens == question + trace.prompt_tokens[list(asked[0].request_ids)].max()


def test_an_answer_that_changes_with_its_batch_is_told(loaded, make_engine, monkeypatch):
    made = make(TRACE, num_prompts=12, kv_blocks=500)
    asker = Asker(loaded)
    trace, ids = asker.prompts_of(made.trace)
    engine = make_engine("transformers-eager", made.limits.kv_tokens)
    made = asker.with_predictions(replace(made, trace=trace), "model", engine, ids)
    monkeypatch.setattr(Asking, "read", lambda self, row: 3)
    measured = run(made, "sequence", engine, loaded, ids, asking=asker.askings["model"])
    assert measured.result.decisions == made.run("sequence", log=True).decisions
    assert "12 of 12 requests: asked in another batch" in measured.incidents[0]


def test_the_predictor_of_the_command_line():
    assert asks_the_model("model")
    assert asks_the_model(" model:way=pia")
    assert not asks_the_model("modelled")
    assert model_predictor("model:way=pia,adapter=off,fallback=9") == ModelPredictor("pia", False, "9")
    assert model_predictor("model:answer_tokens=24").answer_tokens == 24
    for bad in ("model:answer_tokens=0", "model:way=psychic", "model:fallback=0", "model:tokens=3"):
        with pytest.raises(InputError, match="predictor model"):
            model_predictor(bad)


def test_a_shape_without_a_tokenizer_is_asked_in_the_papers_length(loaded):
    nameless = replace(loaded, shape=replace(loaded.shape, name="vicuna-7b"))
    way = Asker(nameless).asking("model")
    assert (len(way.question), way.turn_tokens, way.text([70, 71])) == (36, 0, "")


def test_the_whole_command(tmp_path, capsys):
    arguments = ["--trace", TRACE, "--num-prompts", 12, "--kv-tokens", 4096]
    files = {name: tmp_path / name for name in ("r.json", "pairs.csv", "told.csv", "f.png")}
    status, out, err = command(
        capsys, script.perceive, *arguments, "--fallback", 10, "--save-result", files["r.json"],
        "--save-pairs", files["pairs.csv"], "--save-trace", files["told.csv"], "--figure", files["f.png"],
    )  # fmt: skip
    assert status == 0
    assert "RANDOM WEIGHTS" in err
    assert "--predictor trace:charge=on,question_tokens=145,answer_tokens=8" in err
    found, saved = json.loads(out.splitlines()[-1]), json.loads(files["r.json"].read_text())
    assert found["is_nonsense"] is True
    assert (found["requests"], found["fell_back"], found["fallback_tokens"]) == (12, 12, 10)
    assert found["added_seconds_per_request"] > 0
    actual = [answer["actual"] for answer in saved["answers"]]
    assert found["error"] == pytest.approx(np.abs(np.array(actual) - 10).mean())
    assert files["pairs.csv"].read_text().splitlines()[1:] == [f"10,{n}" for n in actual]
    assert files["f.png"].stat().st_size > 1000
    told = make(str(files["told.csv"]), predictor="trace:charge=on,question_tokens=145,answer_tokens=8")
    assert told.limits.perception_tokens == 153
    asked = [b for b in told.run("sequence", log=True).batches if b.kind == "Perceive"]
    assert asked[0].prompt_tokens == 145 + told.trace.prompt_tokens.max()
    slower = replace(told, predictor=replace(told.predictor, slowdown=2.0))
    twice = [b for b in slower.run("sequence", log=True).batches if b.kind == "Perceive"]
    assert twice[0].end_s == pytest.approx(2 * asked[0].end_s)


def test_in_advance_with_answers_that_the_model_ends(capsys):
    status, out, _ = command(
        capsys, script.perceive, "--trace", TRACE, "--num-prompts", 4, "--way", "pia", "--lengths", "model",
        "--max-new-tokens", 12, "--kv-tokens", 4096,
    )  # fmt: skip
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    assert found["way"] == "pia"
    assert found["own_answers"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fallback", "nothing"], "fallback: 'nothing'"),
        (["--batch-size", "0"], "batch_size: 0"),
        (["--answer-tokens", "0"], "answer_tokens: 0"),
        (["--num-prompts", "0"], "num_prompts: 0"),
        (["--adapter", "nowhere"], "adapter nowhere: no LoRA adapter there"),
        (["--adapter", "nowhere", "--compile-layers"], "adapter: cannot be switched on and off"),
        (["--engine", "vllm"], "vllm"),
        (["--trace", "nosuch.csv"], "nosuch.csv"),
        (["--answers", "nosuch.json"], "nosuch.json"),
        (["--answers", "a.json", "--trace", "b.csv"], "and so is trace b.csv; give one"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, capsys):
    few = () if "--num-prompts" in arguments else ("--num-prompts", 2)
    status, out, err = command(capsys, script.perceive, *few, "--kv-tokens", 1024, *arguments)
    assert status == 2
    assert says in err.splitlines()[-1]
    assert not out


def test_validate_asks_the_model(capsys, monkeypatch):
    monkeypatch.setattr(experiment, "PASSES", 1)
    monkeypatch.setattr(validation, "FIRST_PASSES", 1)
    small = ["--trace", TRACE, "--num-prompts", 8, "--kv-tokens", 2048, "--threads", 1, "--repeat", 1]
    status, out, err = command(
        capsys, validate_script.validate, *small, "--policies", "sequence", "--predictors", "model;oracle"
    )
    assert status == 0
    assert "RANDOM WEIGHTS" in err
    found = json.loads(out.splitlines()[-1])
    assert found["equal_decisions"] is True
    assert found["perception"]["model"]["fell_back"] == 8
    status, _, err = command(capsys, validate_script.validate, *small, "--adapter", "nowhere")
    assert status == 2
    assert "no predictor asks the model" in err
