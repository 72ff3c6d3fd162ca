"""Answers that are continued from their token ids are those that would have come uncut, and show none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.token_ids import ASKED, TORN, TokenIds, without_ids
from real.serving.whole import Whole
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.test_collecting import CASES, direct, joined, said, taught
from tests.real.serving.upstream import Fake

ASKED_FOR: dict[str, Any] = {"max_tokens": 300, "chat": False, "temperature": 0}


@pytest.mark.parametrize("takes_stream", [True, False])
def test_an_answer_by_ids_is_the_same_as_uncut(takes_stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)

        async def check(tokens: int, cap: int) -> None:
            asked = {**ASKED_FOR, "max_tokens": cap}
            prompt = f"case {cap} {tokens}"
            whole = said((await up.ask(prompt, url=direct(up), **asked))[1])
            assert said((await up.ask(prompt, **asked))[1]) == whole
            if takes_stream:
                usage = whole.pop("usage")
                options = {"stream": True, "stream_options": {"include_usage": True}}
                assert joined((await up.ask(prompt, **options, **asked))[1]) == {**whole, "usage": usage}

        await asyncio.gather(*(check(*case) for case in CASES))
        by_ids = [body for body in fake.seen if isinstance(body["prompt"], list)]
        assert len(by_ids) > 30 if takes_stream else not by_ids

    given = {"continues": True, "says_ids": True, "takes_stream": takes_stream, "slots": 8, "misreads": 10**6}
    with_fakes(test, given, fcr="on", slots=8)


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_that_would_read_a_text_otherwise_goes_on_from_ids(stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        whole = said((await up.ask("long 90", url=direct(up), **ASKED_FOR))[1])
        fake.seen.clear()
        status, body = await up.ask("long 90", stream=stream, **ASKED_FOR)
        assert status == 200 and b'_ids":[' not in body.replace(b" ", b"")
        assert (joined(body) | {"usage": whole["usage"]} if stream else said(body)) == whole
        assert [body["max_tokens"] for body in fake.seen] == [20, 20, 40, 80]
        assert fake.seen[0]["prompt"] == "long 90"
        assert [len(body["prompt"]) for body in fake.seen[1:]] == [21, 41, 81]
        assert b"seqsched_restarts_total 0.0" in up.layer.expose()
        assert up.layer.report.recent[-1].output_tokens == 90

    with_fakes(test, {"continues": True, "misreads": 60, "says_ids": True}, fcr="on")


@pytest.mark.parametrize(("holds_back", "parts"), [(7, [20, 20, 40, 80]), (10, [20, 1, 300])])
@pytest.mark.parametrize("stream", [True, False])
def test_where_a_text_ends_before_its_tokens_text_is_sent(
    stream: bool, holds_back: int, parts: list[int]
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        whole = said((await up.ask("long 90", url=direct(up), **ASKED_FOR))[1])
        fake.seen.clear()
        body = (await up.ask("long 90", stream=stream, **ASKED_FOR))[1]
        assert (joined(body) | {"usage": whole["usage"]} if stream else said(body)) == whole
        assert [body["max_tokens"] for body in fake.seen] == parts
        assert all(isinstance(body["prompt"], str) == (holds_back == 10) for body in fake.seen[1:])

    with_fakes(test, {"continues": True, "says_ids": True, "holds_back": holds_back}, fcr="on")


def test_ids_of_one_server_are_not_sent_to_another_that_has_others() -> None:
    async def test(up: Up, one: Fake, other: Fake) -> None:
        other.vocabulary.append("one more")
        await taught(up, one)
        for k in range(4):
            assert (await up.ask(f"long {60 + k}", **ASKED_FOR))[0] == 200
        assert len(one.seen) + len(other.seen) > 8
        assert not [body for body in (*one.seen, *other.seen[3:]) if isinstance(body["prompt"], list)][1:]
        assert not any(ASKED in body for body in one.seen)

    given = {"continues": True, "says_ids": True}
    with_fakes(test, given, given, fcr="on")


def test_a_client_that_asks_for_ids_gets_them_uncut() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked = {**ASKED_FOR, ASKED: True}
        whole = (await up.ask("long 90", url=direct(up), **asked))[1]
        assert said((await up.ask("long 90", **asked))[1]) == said(whole) and b"token_ids" in whole
        assert [body["max_tokens"] for body in fake.seen] == [300, 300]

    with_fakes(test, {"continues": True, "says_ids": True}, fcr="on")


def test_a_whole_answer_has_the_ids_of_all_its_events() -> None:
    whole = Whole()
    for ids, text in (([1], "a"), ([2, 3], "b"), ([], ""), (None, "")):
        whole.add({"choices": [{"index": 0, "text": text, "token_ids": ids}]})
    assert whole.answer()["choices"][0]["token_ids"] == [1, 2, 3]


texts = st.text(st.sampled_from("ab\u00e9" + TORN), max_size=2)
events = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=2), texts), max_size=8)


@given(events, st.lists(st.integers(0, 9), max_size=3), st.integers(0, 9))
def test_ids_are_known_where_the_last_text_is_that_of_the_last_token(
    said: list[tuple[list[int], str]], prompt: list[int], answered: int
) -> None:
    ids = TokenIds()
    for number, (numbers, text) in enumerate(said):
        first = {} if number else {"prompt_token_ids": prompt}
        ids.take({"choices": [{"index": 0, "text": text, "token_ids": numbers, **first}]})
    answer = [each for numbers, _ in said for each in numbers]
    last = next((each for each in reversed(said) if each[0] or each[1]), ([], ""))
    is_even = len(last[0]) == 1 and last[1] != "" and not last[1].endswith(TORN)
    is_known = bool(said and prompt and answer) and len(answer) == answered and is_even
    assert ids.all(answered) == ([*prompt, *answer] if is_known else None)


@pytest.mark.parametrize("odd", [None, "1", [1.0], [True], [-1], [None], [[1]], {"0": 1}])
def test_what_is_no_list_of_ids_is_none(odd: Any) -> None:
    ids = TokenIds()
    ids.take({"choices": [{"text": "a", "token_ids": [5], "prompt_token_ids": [4]}]})
    ids.take({"choices": [{"text": "b", "token_ids": odd, "prompt_token_ids": odd}]})
    assert ids.all(1) is None and ids.all(2) is None
    for event in ({}, {"choices": None}, {"choices": [None]}, {"choices": []}):
        ids.take(event)
        assert without_ids(event) == event
