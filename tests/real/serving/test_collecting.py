"""Answers that are cut and continued are the answers that would have come uncut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving import collecting
from real.serving.call import Call
from real.serving.client import Client
from real.serving.collecting import PROBE, is_plain
from real.serving.lengths import Ask
from real.serving.seam import TORN, Seam
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake

SHORT = [20] * 30
"""Lengths of the answers before: all others run over."""


async def taught(up: Up, fake: Fake, lengths: list[int] = SHORT) -> None:
    """Lengths are known, and so is whether the fake continues."""
    for tokens in lengths:
        up.layer.predictor.learn(Ask("fake", "x"), tokens)
    await up.ask("begin 40", chat=False, max_tokens=100)
    while not all(task.done() for task in up.layer.collector.continues.asked.values()):  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
    fake.seen.clear()


def events_of(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.split(b"\n") if line]
    assert lines.pop() == b"data: [DONE]" and all(line.startswith(b"data: {") for line in lines)
    return [json.loads(line[6:]) for line in lines]


def joined(body: bytes) -> dict[str, Any]:
    """What a stream says, as the answer at once says it; its events are those of one answer."""
    events = events_of(body)
    assert len({event["id"] for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    assert [c["finish_reason"] for c in choices[:-1]] == [None] * (len(choices) - 1)
    answer = {"text": "".join(c["text"] for c in choices), "reason": choices[-1]["finish_reason"]}
    usage = [event["usage"] for event in events if "usage" in event]
    assert len(usage) <= 1 and (not usage or events[-1]["choices"] == [])
    return answer | ({"usage": usage[0]} if usage else {})


def said(body: bytes) -> dict[str, Any]:
    answer = json.loads(body)
    (choice,) = answer["choices"]
    return {"text": choice["text"], "reason": choice["finish_reason"], "usage": answer["usage"]}


CASES = [(tokens, cap) for tokens in (1, 15, 19, 20, 21, 39, 40, 41, 80, 160, 161) for cap in (100, 161, 500)]


def direct(up: Up) -> str:
    return up.layer.pool.upstreams[0].url


@pytest.mark.parametrize("takes_stream", [True, False])
def test_an_answer_is_the_same_as_uncut(takes_stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        caps = []

        async def check(tokens: int, cap: int) -> None:
            asked: dict[str, Any] = {"max_tokens": cap, "chat": False, "temperature": 0}
            prompt = f"case {cap} {tokens}"
            whole = said((await up.ask(prompt, url=direct(up), **asked))[1])
            assert said((await up.ask(prompt, **asked))[1]) == whole
            if takes_stream:
                usage = whole.pop("usage")
                assert joined((await up.ask(prompt, stream=True, **asked))[1]) == whole
                counted = await up.ask(prompt, stream=True, stream_options={"include_usage": True}, **asked)
                assert joined(counted[1]) == {**whole, "usage": usage}
            caps.append(cap)

        await asyncio.gather(*(check(*case) for case in CASES))
        assert len(caps) == len(CASES)
        assert any(body["prompt"].endswith("case 500 161") for body in fake.seen)
        most = max(body["max_tokens"] for body in fake.seen if body["prompt"] == "case 500 161")
        assert most == 500  # the direct one
        text = up.layer.expose().decode()
        count = next(line for line in text.splitlines() if line.startswith("seqsched_continuations_total"))
        assert float(count.split()[1]) > 30

    with_fakes(test, {"continues": True, "takes_stream": takes_stream, "slots": 8}, fcr="on", slots=8)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_read_in_other_tokens_is_begun_again_uncut(stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        asked: dict[str, Any] = {"max_tokens": 300, "chat": False, "temperature": 0}
        for tokens in (45, 90):
            whole = said((await up.ask(f"long {tokens}", url=direct(up), **asked))[1])
            fake.seen.clear()
            status, body = await up.ask(f"long {tokens}", **asked, **options)
            assert status == 200 and (joined(body) if stream else said(body)) == whole
            # The question of one token, then the rest, or all of it.
            misread = [20, 1, 300]
            assert [body["max_tokens"] for body in fake.seen] == (
                [20, 1, 20, 1, 40] if tokens == 45 else misread
            )
        assert [body["prompt"] for body in fake.seen][::2] == ["long 90"] * 2
        ended = up.layer.report.recent[-1]
        assert (ended.output_tokens, ended.error) == (90, "")
        assert b"seqsched_restarts_total 1.0" in up.layer.expose()

    with_fakes(test, {"continues": True, "misreads": 60}, fcr="on")


def test_a_sampled_answer_is_continued_however_it_is_read() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        await up.ask("long 90", chat=False, max_tokens=300)
        assert [body["max_tokens"] for body in fake.seen][:2] == [20, 20]
        assert b"seqsched_restarts_total 0.0" in up.layer.expose()

    with_fakes(test, {"continues": True, "misreads": 60}, fcr="on")


def test_a_stream_that_cannot_be_begun_again_ends_in_an_error() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        fake.drifts = True
        status, body = await up.ask("long 90", chat=False, max_tokens=300, temperature=0, stream=True)
        assert status == 200 and b"answered otherwise than before" in body and b"[DONE]" not in body

    with_fakes(test, {"continues": True, "misreads": 60}, fcr="on")


def test_a_greedy_answer_is_not_cut_where_nobody_counts_its_prompt() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        await up.ask("long 90", chat=False, max_tokens=300, temperature=0)
        assert [body["max_tokens"] for body in fake.seen] == [300]

    with_fakes(test, {"continues": True, "takes_usage": False}, fcr="on")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_of_which_too_many_tokens_are_counted_is_no_shorter(stream: bool, temperature: int) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked: dict[str, Any] = {"max_tokens": 300, "chat": False, "temperature": temperature}
        whole = said((await up.ask("long 90", url=direct(up), **asked))[1])
        status, body = await up.ask("long 90", stream=stream, **asked)
        assert status == 200 and (joined(body) if stream else said(body))["text"] == whole["text"]
        assert up.layer.report.recent[-1].error == "" and b"continuations_total 0.0" not in up.layer.expose()

    with_fakes(test, {"continues": True, "miscounts": 1}, fcr="on")


def test_greedy_answers_are_cut_once_where_no_stream_is_counted() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked: dict[str, Any] = {"max_tokens": 300, "chat": False, "temperature": 0, "stream": True}
        for number in range(3):
            whole = said(
                (await up.ask(f"long {90 + number}", url=direct(up), **{**asked, "stream": False}))[1]
            )
            fake.seen.clear()
            assert joined((await up.ask(f"long {90 + number}", **asked))[1])["text"] == whole["text"]
            assert [body["max_tokens"] for body in fake.seen] == ([300] if number else [20, 1, 300])
        assert (await up.ask("long 95", **{**asked, "temperature": 1}))[0] == 200
        assert len(fake.seen) > 2  # a sampled one is cut

    with_fakes(test, {"continues": True, "counts": False}, fcr="on")


def test_names_that_are_made_up_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MOST_ASKED", 3)

    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked = up.layer.collector.continues.asked  # type: ignore[union-attr]
        for number in range(5):
            for model in ("fake", f"made up {number}", f"made up {number}"):
                await up.ask("long 25", chat=False, max_tokens=300, model=model)
        assert sorted(model for _, model in asked) == ["fake", "made up 3", "made up 4"]

    with_fakes(test, {"continues": True}, fcr="on")


@pytest.mark.parametrize("takes_usage", [True, False])
def test_parts_are_asked_for_by_the_prediction_and_grow(takes_usage: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        await up.ask("long 100", chat=False, max_tokens=300, stream=True)
        parts = [body for body in fake.seen if not (body.get("stream_options") and not takes_usage)]
        assert [body["max_tokens"] for body in parts] == [20, 20, 40, 80]
        assert all(body["prompt"].startswith("long 100") for body in parts)
        log = up.layer.report.recent[-1]
        assert (log.output_tokens, log.error) == (100, "")

    with_fakes(test, {"continues": True, "takes_usage": takes_usage}, fcr="on")


@pytest.mark.parametrize(
    "fields",
    [
        {"chat": True},
        {"logprobs": 1},
        {"echo": True},
        {"n": 2},
        {"best_of": 2},
        {"suffix": "end"},
        {"stop": ["\n"]},
        {"seed": 1},
        {"frequency_penalty": 0.5},
        {"min_tokens": 3},
        {"unknown": {}},
        {"stream_options": {"continuous_usage_stats": True}},
        {"max_tokens": None},
        {"max_tokens": 20},
        {"headers": {"X-Seqsched-Output-Tokens": "17"}},
    ],
)
def test_what_a_cut_could_change_is_not_cut(fields: dict[str, Any]) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked = {"chat": False, "max_tokens": 300, **fields}
        await up.ask("plain 60", **asked)
        assert [body.get("max_tokens") for body in fake.seen] == [asked["max_tokens"]]

    with_fakes(test, {"continues": True}, fcr="on")


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"continues": False}, {"fcr": "on"}),
        ({"continues": True}, {}),
        ({"continues": True}, {"share": 0.0, "fcr": "on"}),
    ],
)
def test_nothing_is_cut_where_nobody_continues_or_nobody_asked_for_it(
    given: dict[str, Any], settings: dict[str, Any]
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        for _ in range(40):
            up.layer.predictor.learn(Ask("fake", "x"), 20)
        for _ in range(3):
            assert (await up.ask("plain 60", chat=False, max_tokens=300))[0] == 200
            await asyncio.sleep(0.1)
        assert [body["max_tokens"] for body in fake.seen if body["prompt"] != PROBE][-3:].count(300) >= 2
        assert all(
            body["prompt"] in ("plain 60", PROBE) or body["prompt"].startswith(PROBE) for body in fake.seen
        )

    with_fakes(test, given, **settings)


@pytest.mark.parametrize("stream", [True, False])
def test_a_continuation_that_fails_before_it_begins_is_sent_again(stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asked: dict[str, Any] = {"chat": False, "max_tokens": 300}
        whole = said((await up.ask("long 90", url=direct(up), **asked))[1])
        fake.seen.clear()
        asking = asyncio.create_task(up.ask("long 90", stream=stream, **asked))
        while len(fake.seen) < 1:
            await asyncio.sleep(0)
        fake.fails.append(500)  # meets the second part
        status, body = await asking
        assert status == 200 and len(fake.seen) == 5
        assert (joined(body) | {"usage": whole["usage"]} if stream else said(body)) == whole

    with_fakes(test, {"continues": True}, fcr="on")


@pytest.mark.parametrize("stream", [True, False])
def test_a_continuation_that_never_comes_is_an_error(stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        asking = asyncio.create_task(up.ask("long 90", chat=False, max_tokens=300, stream=stream))
        while len(fake.seen) < 1:
            await asyncio.sleep(0)
        fake.fails.append(400)
        fake.fails.append(400)
        fake.fails.append(400)
        status, body = await asking
        assert b'"error"' in body and b"[DONE]" not in body and status == (200 if stream else 502)

    with_fakes(test, {"continues": True}, fcr="on", retries=0)


def test_who_leaves_before_the_continuation_leaves_nothing_behind() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        first = asyncio.create_task(up.ask("long 90", chat=False, max_tokens=300))
        other = asyncio.create_task(up.ask("other 400", chat=False, max_tokens=401, stop="x"))
        while not up.layer.metrics.continuations._value.get():
            await asyncio.sleep(0)
        first.cancel()
        await other
        await up.idle()

    with_fakes(test, {"continues": True}, fcr="on", slots=1)


class Taken(Client):
    """A client that keeps what it is sent."""

    def __init__(self) -> None:
        self.data, self.headers, self.has_begun, self.has_ended = b"", {}, False, False

    async def begin(self, status: int, headers: Any) -> None:
        self.has_begun = True

    async def write(self, data: bytes) -> None:
        self.data += data

    async def end(self) -> None:
        self.has_ended = True


def test_a_torn_character_is_asked_for_again() -> None:
    def line(text: str, reason: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "finish_reason": reason}
        return b"data: " + json.dumps({"id": "a", "choices": [choice]}).encode() + b"\n\n"

    async def go() -> None:
        taken = Taken()
        seam = Seam(taken)
        await seam.begin(200, [])
        await seam.write(line("a") + line(f"b{TORN}") + line("c") + line(f"d{TORN}") + line("", "length"))
        await seam.go_on()
        assert seam.text == f"ab{TORN}c" and not seam.has_begun
        await seam.begin(200, [])
        await seam.write(line("de") + line(TORN, "stop") + b"data: [DONE]\n\n")
        await seam.finish(None)
        assert joined(taken.data) == {"text": f"ab{TORN}cde{TORN}", "reason": "stop"} and taken.has_ended

    asyncio.run(go())


def test_values_that_mean_nothing_leave_a_prompt_plain() -> None:
    body = {"prompt": "a", "max_tokens": 9, "n": 1, "stop": None, "echo": False, "presence_penalty": 0.0}
    assert is_plain(Call(0, "/v1/completions", b"", body, {}, 0.0))
    for odd in ({"prompt": [1, 2]}, {"n": 2}, {"echo": True}, {"max_tokens": True}):
        assert not is_plain(Call(0, "/v1/completions", b"", {**body, **odd}, {}, 0.0))
