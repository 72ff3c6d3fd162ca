"""Whatever an upstream calls a stream: the answer comes whole, or the client hears that it does not."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from aiohttp import web

from tests.real.serving.running import Up
from tests.real.serving.test_hostile import END, WORD, Handler, behind, saying


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [(WORD + END).replace(b"\n", b"\r\n")],
        [b": ping\n\n", WORD, b"event: x\nid: 7\nretry: 5\n", END],
        [bytes([byte]) for byte in WORD + END],
        [WORD.replace(b"}]}", b'}],"usage":null}'), END],
        [WORD, b"data:[DONE]\n\n"],
        [WORD.replace(b',"delta"', b'\n: ping\ndata:,"delta"').replace(b"false", b""), END],
        [WORD, END.split(b"\n")[0]],
        [gzip.compress(WORD + END)],
    ],
)
def test_streams_of_all_kinds_come_whole(pieces: list[bytes], stream: bool) -> None:
    async def test(up: Up) -> None:
        status, body = await up.ask(stream=stream)
        assert status == 200 and b'"content":"a"' in body and b"error" not in body

    headers = {"Content-Encoding": "gzip"} if len(pieces) == 1 and pieces[0][:1] == b"\x1f" else {}
    behind(saying(*pieces, headers=headers), test)


def choices(*texts: str) -> bytes:
    parts = (f'{{"index":0,"delta":{text},"finish_reason":null}}' for text in texts)
    return b"".join(b'data: {"choices":[' + part.encode() + b"]}\n\n" for part in parts)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: 7\n\n", END],
        [b'data: {"choices":[7]}\n\n', END],
        [b'data: {"choices":\xff}\n\n', END],
        [b"data: " + b"[" * 100_000 + b"\n\n", END],
        [b'data: {"x":' + b"9" * 5000 + b"}\n\n", END],
        [b""],
        [b": ping\n\n"],
        [gzip.compress(WORD + END)[:20]],
    ],
)
def test_what_is_no_stream_is_an_error_for_the_client(
    pieces: list[bytes], stream: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(up: Up) -> None:
        status, body = await up.ask(stream=stream)
        assert status == 502 or (stream and status == 200)
        assert b'"error":{"message":' in body and b"[DONE]" not in body

    headers = {"Content-Encoding": "gzip"} if pieces[0][:1] == b"\x1f" else {}
    behind(saying(*pieces, headers=headers), test)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "delta",
    ['{"tool_calls":["ab"]}', '{"tool_calls":[[1]]}', '{"tool_calls":{"a":"b"}}', '{"tool_calls":"ab"}', "7"],
)
def test_odd_tool_calls_end_in_an_answer_or_an_error(delta: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def test(up: Up) -> None:
        status, body = await up.ask()
        assert status in (200, 502) and json.loads(body)

    behind(saying(choices(delta, delta), END), test)
    error = capfd.readouterr().err
    assert "Traceback" not in error and "within the layer" not in error


def test_reasons_that_an_upstream_makes_up_are_counted_together() -> None:
    number = itertools.count()

    async def answer(request: web.Request) -> web.StreamResponse:
        said = END.replace(b"stop", f"{next(number)} ".encode() * 10_000)
        return await saying(WORD, said)(request)

    async def test(up: Up) -> None:
        for _ in range(30):
            assert (await up.ask())[0] == 200
        metrics = up.layer.expose().decode()
        lines = [line for line in metrics.splitlines() if line.startswith("seqsched_request_success_total{")]
        assert len(lines) == 21 and max(map(len, lines)) < 300
        assert lines[-1].endswith('finished_reason="other",model_name="fake"} 10.0')

    behind(answer, test)


def ending(after: asyncio.Event) -> Handler:
    """An upstream whose connection outlasts [DONE]."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await saying(WORD, END[:-1])(request)
        await after.wait()
        await response.write(END[-1:])
        return response

    return answer


def test_who_leaves_once_all_is_said_has_been_answered() -> None:
    async def test(up: Up) -> None:
        body = {"model": "m", "messages": [], "stream": True}
        async with up.session.post(f"{up.url}/v1/chat/completions", json=body) as response:
            async for line in response.content:
                if b"[DONE]" in line:
                    break
            response.close()
        await up.idle()
        ended = up.layer.report.recent[-1]
        assert (ended.error, ended.output_tokens) == ("", 1)

    behind(ending(asyncio.Event()), test)


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_is_over_when_it_says_so(stream: bool) -> None:
    async def test(up: Up) -> None:
        status, body = await up.ask(stream=stream)
        assert status == 200 and b'"content":"a"' in body and b"error" not in body
        assert body.endswith(b"data: [DONE]\n") is stream

    behind(ending(asyncio.Event()), test, idle_timeout_s=20.0)


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_page_is_no_answer(content_type: str) -> None:
    async def test(up: Up) -> None:
        for stream in (True, False):
            status, body = await up.ask(stream=stream)
            assert status == 502 and b"not a JSON object" in body

    behind(saying(b"<html>hello</html>", content_type=content_type), test)


def test_a_stream_for_two_prompts_that_ends_with_the_first_has_broken_off() -> None:
    async def test(up: Up) -> None:
        status, body = await up.ask(["one", "two"], chat=False)  # type: ignore[arg-type]
        assert status == 502 and b"broke off" in body

    behind(saying(b'data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}\n\n'), test)
