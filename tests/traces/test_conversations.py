"""Conversations of texts as sessions: what each prompt repeats, and who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError, load
from traces.prompt_blocks import share_found_again

Put = Callable[..., Path]


def words(text: str) -> int:
    return len(text.split())


def talk(*texts: str, system: str = "") -> dict[str, object]:
    """Turns of a human and the model in turn."""
    said = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    return {"conversations": [*([{"from": "system", "value": system}] if system else []), *said]}


def test_every_answer_is_a_request_that_repeats_what_was_said(put: Put) -> None:
    talks = [talk("a b c", "d e", "f", "g h i j", system="be kind"), talk("a b c", "k", system="be kind")]
    path = put(json.dumps(talks), "t.json")
    trace = load(f"ShareGPT:file={path},turns=all", tokenizer=words)
    assert trace.prompt_tokens.tolist() == [5, 8, 5] and trace.output_tokens.tolist() == [2, 4, 1]
    assert trace.session_id is not None and trace.session_id.tolist() == ["0", "0", "1"]
    assert trace.waits_for is not None and trace.waits_for.tolist() == [[-1], [0], [-1]]
    assert trace.blocks is not None and trace.blocks.answers is not None
    first, second, other = (trace.blocks.of(row) for row in range(3))
    assert first == other and first[1] == [2, 5] and second[1] == [2, 5, 7, 8]
    assert second[0][:3] == [*first[0], trace.blocks.answers[0]]
    assert share_found_again(trace.blocks, trace.prompt_tokens) == pytest.approx(10 / 18)
    assert len(load(path, tokenizer=words)) == 2  # as it is, the first exchange of each
    assert not any("left out" in note for note in trace.notes)


def test_conversations_without_an_answer_are_said(put: Put) -> None:
    path = put(json.dumps([talk("only a question"), talk("a b", "c"), talk()]), "t.json")
    trace = load(f"ShareGPT:file={path},turns=all", tokenizer=words)
    assert len(trace) == 1
    assert "2 of 3 conversations have no answer to anything and are left out" in trace.notes


def test_what_answers_nothing_or_nothing_at_all_is_part_of_later_prompts(put: Put) -> None:
    said = [
        {"from": "gpt", "value": "hi you"},
        {"from": "human", "value": "yes"},
        {"from": "gpt", "value": ""},
    ]
    path = put(json.dumps([{"conversations": [*said, {"from": "gpt", "value": "so what"}]}]), "t.json")
    trace = load(f"ShareGPT:file={path},turns=all", tokenizer=words)
    assert trace.prompt_tokens.tolist() == [3] and trace.output_tokens.tolist() == [2]


@pytest.mark.parametrize(
    ("talks", "said"),
    [
        ([talk("only a question")], "conversations: 0 have an answer to anything"),
        ([{"conversations": [{"from": "gpt"}]}], "row 1, conversations: .* is not a turn with text"),
        ([{"conversations": "text"}], "row 1, conversations: 'text' is not a list of turns"),
    ],
)
def test_what_is_no_conversation_is_named(put: Put, talks: list[object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(f"ShareGPT:file={put(json.dumps(talks), 't.json')},turns=all", tokenizer=words)
