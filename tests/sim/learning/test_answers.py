"""Prompts and lengths are found in logs of any kind, and what cannot be read is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.learning.answers import LEAST_PROMPTS, Where, read_answers
from sim.learning.counting import Counter, by_words
from traces.errors import InputError

N = 60


def wrote(path: Path, requests: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in requests) + "\n", encoding="utf-8")
    return path


def chat(i: int, **more: Any) -> dict[str, Any]:
    """A request and its response, as gateways log them."""
    usage = {"prompt_tokens": 5 + i, "completion_tokens": 10 + i, "total_tokens": 15 + 2 * i}
    message = {"role": "user", "content": f"question {i}"}
    return {
        "request": {"messages": [{"role": "system", "content": "be kind"}, message], "max_tokens": 500},
        "response": {"usage": usage, "choices": [{"finish_reason": "stop", "message": {"content": "…"}}]},
        **more,
    }


def test_a_trace_with_texts(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "prompt_tokens": 7, "output_tokens": i + 1} for i in range(N)]
    answers = read_answers(wrote(tmp_path / "t.jsonl", rows))
    assert list(answers.texts) == [row["prompt"] for row in rows]
    assert answers.tokens.tolist() == [row["output_tokens"] for row in rows]
    assert answers.prompt_tokens.tolist() == [7] * N
    assert not answers.is_cut.any() and answers.num_prompts == N
    assert answers.columns == {
        "text": "prompt",
        "target": "output_tokens",
        "lengths": "token counts as in the log",
    }


def test_requests_and_responses_of_an_api(tmp_path: Path) -> None:
    answers = read_answers(wrote(tmp_path / "t.jsonl", [chat(i, user=f"u{i % 3}") for i in range(N)]))
    assert answers.texts[4] == "be kind\nquestion 4"
    assert answers.tokens.tolist() == [10 + i for i in range(N)]
    assert answers.prompt_tokens.tolist() == [5 + i for i in range(N)]
    assert answers.user is not None and answers.user.tolist() == [i % 3 for i in range(N)]
    assert answers.caps.tolist() == [500.0] * N


def test_where_nearly_all_are_cut_no_length_is_known(tmp_path: Path) -> None:
    requests = [chat(i) for i in range(N)]
    for request in requests[9:]:
        request["response"]["choices"][0]["finish_reason"] = "length"
    with pytest.raises(InputError, match=f"9 of {N} answers ended before their cap, 20 are needed"):
        read_answers(wrote(tmp_path / "t.jsonl", requests))


@pytest.mark.parametrize("reason", ["length", "max_tokens"])
def test_answers_stopped_at_their_cap(tmp_path: Path, reason: str) -> None:
    requests = [chat(i) for i in range(N)]
    for request in requests[::4]:
        request["response"]["choices"][0]["finish_reason"] = reason
    answers = read_answers(wrote(tmp_path / "t.jsonl", requests))
    assert answers.is_cut.tolist() == [i % 4 == 0 for i in range(N)]
    assert (answers.caps[answers.is_cut] == answers.tokens[answers.is_cut]).all()
    assert "25.0% of the answers were stopped at their cap" in " ".join(answers.told)


def test_a_cap_that_the_log_does_not_say(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "output_tokens": min(40, i + 1)} for i in range(N)]
    path = wrote(tmp_path / "t.jsonl", rows)
    assert "say so with --cap 40" in " ".join(read_answers(path).told)
    answers = read_answers(path, Where(cap=40))
    assert answers.is_cut.sum() == N - 39 and "--cap" not in " ".join(answers.told)
    silent = wrote(tmp_path / "s.jsonl", [{**row, "finish_reason": "stop"} for row in rows])
    assert (read_answers(silent, Where(cap=40)).is_cut == answers.is_cut).all()


def test_without_a_reason_an_answer_of_max_tokens_is_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "output_tokens": i + 1, "max_tokens": 30 + i % 40} for i in range(N)]
    answers = read_answers(wrote(tmp_path / "t.jsonl", rows))
    assert answers.is_cut.tolist() == [i + 1 >= 30 + i % 40 for i in range(N)] and answers.is_cut.any()


def test_texts_are_counted(tmp_path: Path) -> None:
    rows = [{"instruction": f"p {i}", "output": "word " * (3 * i + 3)} for i in range(N)]
    path = wrote(tmp_path / "t.jsonl", rows)
    assert read_answers(path).tokens.tolist() == [4 * i + 4 for i in range(N)]
    letters = read_answers(path, Where("instruction", "output"), Counter(len, "letters"))
    assert letters.tokens.tolist() == [15 * i + 15 for i in range(N)]
    assert "counted by letters" in letters.told[0]


def test_characters_of_scripts_without_spaces_are_words() -> None:
    assert by_words("一二三") == pytest.approx(4) and by_words("one two three") == pytest.approx(4)


def test_several_answers_to_a_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "L_a": i + 1, "L_b": 2 * i + 1, "L_c": None} for i in range(N)]
    path = wrote(tmp_path / "t.jsonl", rows)
    both = read_answers(path, Where(target="L_*"))
    assert len(both) == 2 * N and both.num_prompts == N and set(both.weight) == {0.5}
    assert sorted(both.tokens.tolist()) == sorted([i + 1 for i in range(N)] + [2 * i + 1 for i in range(N)])
    largest = both.largest()
    assert largest.tokens.tolist() == [2 * i + 1 for i in range(N)] and set(largest.weight) == {1.0}
    lists = [{"prompt": f"p {i}", "answers": [i + 1, 2 * i + 1]} for i in range(N)]
    assert read_answers(wrote(tmp_path / "l.jsonl", lists), Where(target="answers")).tokens.tolist() == (
        both.tokens.tolist()
    )


@pytest.mark.parametrize(
    ("role", "who", "what"), [("role", "assistant", "content"), ("from", "gpt", "value")]
)
def test_conversations_hold_prompt_and_answer(tmp_path: Path, role: str, who: str, what: str) -> None:
    rows = [
        {"conversations": [{role: "human", what: f"question {i}"}, {role: who, what: "word " * (3 * i + 3)}]}
        for i in range(N)
    ]
    path = wrote(tmp_path / "t.jsonl", rows)
    answers = read_answers(path, Where("conversations", "conversations"))
    assert answers.texts[7] == "question 7" and answers.tokens.tolist() == [4 * i + 4 for i in range(N)]


def test_prompts_that_differ_in_case_and_spaces_are_one(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i // 2}" + " !" * (i % 2), "output_tokens": i + 1} for i in range(2 * N)]
    assert read_answers(wrote(tmp_path / "t.jsonl", rows)).num_prompts == N


def test_failed_and_empty_requests_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "output_tokens": i, "status": 200} for i in range(N)]
    rows.append({"prompt": "p", "output_tokens": 99, "status": 500})
    answers = read_answers(wrote(tmp_path / "t.jsonl", rows))
    assert answers.tokens.tolist() == list(range(1, N)) and "failed and are left out" in " ".join(
        answers.told
    )
    # The first row has an answer of 0 tokens.
    assert f"1 of {N + 1} rows have no prompt or no answer, and are left out" in answers.told


def test_rows_without_a_prompt_are_said(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}" if i % 3 else None, "output_tokens": 1 + i} for i in range(3 * N)]
    answers = read_answers(wrote(tmp_path / "t.jsonl", rows))
    assert len(answers) == 2 * N
    assert f"{N} of {3 * N} rows have no prompt or no answer, and are left out" in answers.told
    whole = read_answers(wrote(tmp_path / "u.jsonl", rows[1::3] + rows[2::3]))
    assert "left out" not in " ".join(whole.told)


@pytest.mark.parametrize(
    ("rows", "where", "message"),
    [
        ([{"a": "x", "output_tokens": 1}] * N, Where(), "no column of prompts is known in a, output_tokens"),
        ([{"prompt": "x", "b": 1}] * N, Where(), "no column of answers is known in prompt, b"),
        ([{"prompt": "x", "output_tokens": 1}] * N, Where("promt"), "column promt is missing; there are"),
        (
            [{"prompt": "x", "output_tokens": 1}] * N,
            Where(target="out*"),
            "1 different prompts have an answer",
        ),
        ([{"prompt": "x", "output_tokens": 1}] * N, Where(target="z*"), "column z* is missing"),
        ([{"prompt": "x", "output_tokens": 1}] * N, Where(target="prompt"), "cannot be both the prompt and"),
        (
            [{"prompt": f"p {i}", "output_tokens": 1} for i in range(N)],
            Where(user="who"),
            "column who is missing",
        ),
        ([{"prompt": f"p {i}", "output_tokens": 8} for i in range(N)], Where(), "all answers have 8 tokens"),
        (
            [{"prompt": f"p {i}", "output_tokens": i} for i in range(N)],
            Where(cap=1),
            "ended before their cap, 20 are needed",
        ),
        (
            [{"prompt": f"p {i}", "output_tokens": i - 3} for i in range(N)],
            Where(),
            "line 1, output_tokens: -3.0 is no whole number from 0",
        ),
        (
            [{"prompt": f"p {i}", "output_tokens": i if i else "many"} for i in range(N)],
            Where(),
            "line 1, output_tokens: 'many' is no number, as others are",
        ),
        ([{"prompt": None, "output_tokens": 1}] * N, Where(), "prompt: no row has a text"),
        ([{"prompt": "x", "output_tokens": 1}] * N, Where(cap=0), "cap: 0 must be at least 1"),
        (
            [{"prompt": "x", "output_tokens": 1}] * N,
            Where(target="out*,output_tokens"),
            "column output_tokens is named twice in 'out*,output_tokens', 1 is allowed",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], where: Where, message: str
) -> None:
    with pytest.raises(InputError) as error:
        read_answers(wrote(tmp_path / "t.jsonl", rows), where)
    assert message in str(error.value) and "\n" not in str(error.value)


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**9),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 50), st.text(max_size=4), st.none()), max_size=3),
    st.dictionaries(st.sampled_from(["content", "text", "role", "x"]), st.text(max_size=5), max_size=3),
    st.lists(
        st.fixed_dictionaries({"role": st.text(max_size=4), "content": st.text(max_size=9)}), max_size=3
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    odd=st.lists(st.fixed_dictionaries({"prompt": CELLS, "output_tokens": CELLS, "user": CELLS}), max_size=8),
    max_tokens=CELLS,
    finish_reason=CELLS,
)
def test_any_rows_are_read_or_refused_in_a_line(
    tmp_path: Path, odd: list[dict[str, Any]], max_tokens: Any, finish_reason: Any
) -> None:
    whole = [{"prompt": f"p {i}", "output_tokens": i + 1, "user": "u"} for i in range(LEAST_PROMPTS)]
    rows = [{**row, "max_tokens": max_tokens, "finish_reason": finish_reason} for row in whole + odd]
    try:
        answers = read_answers(wrote(tmp_path / "t.jsonl", rows))
    except InputError as error:
        assert "\n" not in str(error)
        return
    n = len(answers)
    assert n >= LEAST_PROMPTS and len(answers.texts) == n
    assert (answers.tokens >= 1).all() and (answers.caps >= answers.tokens).all()
    assert (answers.caps[answers.is_cut] == answers.tokens[answers.is_cut]).all()
    assert ((answers.weight > 0) & (answers.weight <= 1)).all() and (answers.prompt_tokens >= 1).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(lengths=st.lists(st.integers(0, 10**6), min_size=LEAST_PROMPTS, max_size=90, unique=True))
def test_csv_and_json_lines_read_alike(tmp_path: Path, lengths: list[int]) -> None:
    rows = [{"prompt": f"a, {i}", "output_tokens": length} for i, length in enumerate(lengths)]
    (tmp_path / "t.csv").write_text(
        "prompt,output_tokens\n" + "".join(f'"{row["prompt"]}",{row["output_tokens"]}\n' for row in rows)
    )
    if sum(length > 0 for length in lengths) < LEAST_PROMPTS:
        return
    one, other = read_answers(tmp_path / "t.csv"), read_answers(wrote(tmp_path / "t.jsonl", rows))
    assert one.texts == other.texts and (one.tokens == other.tokens).all()
