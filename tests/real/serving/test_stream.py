"""Streams pass in whatever pieces they come; put together they are the answer without a stream."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.call import Call, read_body, told_length
from real.serving.stream import Passing, Seen
from real.serving.whole import Whole

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(**fields: Any) -> dict[str, Any]:
    return {**HEAD, **fields}


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return event(choices=[{"index": index, "delta": fields, "finish_reason": reason}])


def lines(*events: dict[str, Any], end: str = "\n\n") -> bytes:
    return b"".join(f"data: {json.dumps(each)}{end}".encode() for each in events)


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
ANSWER = [delta(role="assistant", content=""), delta(content="é"), delta(content="b"), delta(reason="stop")]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n"])
@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
@given(cuts=st.lists(st.integers(0, 900), max_size=12))
def test_lines_pass_in_whatever_pieces_they_come(
    end: str, indent: int | None, hides: bool, cuts: list[int]
) -> None:
    def lines(*events: dict[str, Any]) -> bytes:
        """Events of one line of data, or of many, with comments in between."""
        texts = [json.dumps(each, indent=indent).split("\n") for each in events]
        line_end = end[: len(end) // 2 or 1] if len(end) > 1 else end
        comment = "" if indent is None else f"{line_end}: ping"
        return "".join(
            f"{comment}{line_end}".join(f"data: {part}" for part in parts) + end for parts in texts
        ).encode()

    done = f": a comment{end}data: [DONE]{end}".encode()
    sent = lines(*ANSWER, USAGE) + done
    seen, passed = Seen(), b""
    passing = Passing(seen, hides_usage=hides)
    bounds = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    for a, b in pairwise(bounds):
        passed += passing.feed(sent[a:b])
    passed += passing.close()
    assert passed == (lines(*ANSWER) + done if hides else sent)
    assert (seen.events, seen.prompt_tokens, seen.output_tokens, seen.reasons) == (2, 3, 2, {0: "stop"})
    assert seen.is_done and passing.broken is None


def test_what_stands_before_a_broken_line_passes() -> None:
    passing = Passing(Seen(), hides_usage=True)
    assert passing.feed(lines(ANSWER[1]) + b"data: {oops}\n\n") == lines(ANSWER[1])
    assert passing.broken is not None


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {oops}\n\n",
        b"data: [1]\n",
        b'data: {"a":\n\n',
        b"data: {\n" * 1001,
        b"data: {" + b"x" * (1 << 24),
    ],
)
def test_what_is_no_event_ends_the_stream(broken: bytes) -> None:
    passing = Passing(Seen(), hides_usage=True)
    assert passing.feed(lines(ANSWER[1]) + broken + b"\n") == lines(ANSWER[1])
    assert passing.broken is not None


def test_a_byte_order_mark_means_nothing() -> None:
    seen = Seen()
    passing = Passing(seen, hides_usage=True)
    assert passing.feed(b"\xef\xbb\xbf" + lines(ANSWER[1])) == b"\xef\xbb\xbf" + lines(ANSWER[1])
    assert seen.events == 1


def put_together(*events: dict[str, Any]) -> dict[str, Any]:
    whole = Whole()
    for each in events:
        whole.add(json.loads(json.dumps(each)))
    return whole.answer()


def test_texts_thoughts_and_choices_are_joined() -> None:
    answer = put_together(
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(reasoning_content="m"),
        delta(content="a"),
        delta(index=1, role="assistant", content="x"),
        delta(content="b", reason="length"),
        delta(index=1, content="y", reason="stop"),
        {**USAGE, "timings": {"n": 1}},
    )
    assert answer == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "reasoning_content": "hmm"},
                "finish_reason": "length",
            },
            {"index": 1, "message": {"role": "assistant", "content": "xy"}, "finish_reason": "stop"},
        ],
        "usage": USAGE["usage"],
        "timings": {"n": 1},
    }


def test_calls_of_tools_are_joined_by_index() -> None:
    def part(index: int, **fields: Any) -> dict[str, Any]:
        return {"index": index, **fields}

    answer = put_together(
        delta(role="assistant", content=None),
        delta(tool_calls=[part(0, id="a", type="function", function={"name": "f", "arguments": ""})]),
        delta(tool_calls=[part(0, function={"arguments": '{"x"'})]),
        delta(tool_calls=[part(1, id="b", type="function", function={"name": "g", "arguments": "{}"})]),
        delta(tool_calls=[part(0, function={"arguments": ": 1}"})]),
        delta(reason="tool_calls"),
    )
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_probabilities_and_texts_of_completions_are_joined() -> None:
    def piece(text: str, tokens: list[str] | None, reason: str | None = None) -> dict[str, Any]:
        probabilities = None if tokens is None else {"tokens": tokens, "top_logprobs": None}
        choice = {"index": 0, "text": text, "logprobs": probabilities, "finish_reason": reason}
        return {"object": "text_completion", "choices": [choice]}

    answer = put_together(piece("a", ["a"]), piece("b", ["b"]), piece("", None, "stop"))
    (choice,) = answer["choices"]
    assert choice["text"] == "ab" and choice["finish_reason"] == "stop"
    assert choice["logprobs"] == {"tokens": ["a", "b"], "top_logprobs": None}


@given(
    body=st.dictionaries(st.sampled_from("abc"), st.none() | st.floats(allow_nan=False) | st.text()),
    stream=st.sampled_from([None, True, False]),
    options=st.sampled_from([None, {}, {"include_usage": False}, {"include_usage": True, "x": 1}]),
    space=st.sampled_from(["", " ", "\n\t"]),
)
def test_what_is_sent_on_says_all_that_the_client_said(
    body: dict[str, Any], stream: bool | None, options: Any, space: str
) -> None:
    said = {**body, **({} if stream is None else {"stream": stream})}
    said |= {} if options is None else {"stream_options": options}
    raw = f"{space}{json.dumps(said)}{space}".encode()
    call = Call(0, "/v1/completions", raw, read_body(raw), {}, 0.0)
    call.extra["priority"] = 3
    sent = json.loads(call.sent(stream=True, usage=True, extra=True))
    assert {**said, "stream": True, "stream_options": sent["stream_options"], "priority": 3} == sent
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert call.sent(stream=False, usage=False, extra=False) == raw


def test_a_client_tells_its_length_by_header_or_hint() -> None:
    hint = {"nvext": {"agent_hints": {"osl": 40}}}
    assert told_length(hint, {}) == 40 and told_length(hint, {"x-seqsched-output-tokens": "7"}) == 7
    for odd in ({}, {"nvext": 3}, {"nvext": {"agent_hints": []}}, {"nvext": {"agent_hints": {"osl": True}}}):
        assert told_length(odd, {}) is None
