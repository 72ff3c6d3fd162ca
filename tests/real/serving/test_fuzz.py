"""Requests that are near to right ones, on every route: answered, or refused as the API refuses.

In place of a fuzzer by an OpenAPI file: unknown fields, wrong types, huge numbers, broken UTF-8, deep
nesting, names that stand twice, bombs of headers, odd methods and framings. Nothing of it is a failure of the
layer, and no secret is in anything that it writes or shows.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.keys import Key, Keys, digest
from real.serving.log import Log
from real.serving.serve import _decisions
from tests.real.serving.running import Up, layer_before
from tests.real.serving.test_hostile import END, WORD, behind, raw, saying, status_of
from tests.real.serving.upstream import Fake, listening

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models")
REFUSED = {400, 401, 404, 405, 408, 413, 422, 429, 431, 504}
WHOLE: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "say 3"}],
    "prompt": "say 3",
    "max_tokens": 5,
    "n": 1,
    "temperature": 0,
    "stream": False,
    "stream_options": {"include_usage": True},
    "priority": 1,
    "user": "u",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "nvext": {"agent_hints": {"osl": 5}},
}
NUMBERS = st.sampled_from(
    ["0", "-1", "1e999", "-0.0", "1E400", "9" * 400, "9" * 4300, "9" * 5000, "0.1e-999", "NaN", "Infinity"]
)
DEEP = st.sampled_from([1, 50, 100_000]).map(lambda n: "[" * n + "]" * n) | st.sampled_from(
    [1, 50, 3000]
).map(lambda n: '{"a":' * n + "1" + "}" * n)
ODD = st.sampled_from(
    ['""', "null", "true", "[]", "{}", "[[]]", '"\\ud800"', '"\\u0000"', "[null]", '{"a":[1]}']
)
VALUES = NUMBERS | DEEP | ODD | st.text(max_size=20).map(json.dumps)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body of which some fields are odd, unknown, absent, or there twice, as bytes that may be broken."""
    names = draw(st.lists(st.sampled_from([*WHOLE, "unknown", "response_format"]), max_size=14))
    texts = []
    for name in names:
        is_right = name in WHOLE and draw(st.booleans())
        texts.append(f"{json.dumps(name)}: {json.dumps(WHOLE[name]) if is_right else draw(VALUES)}")
    data = ("{" + ", ".join(texts) + "}").encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at]
            + draw(st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"}", b""]))
            + data[at:]
        )
    return data[: draw(st.sampled_from([None, None, None, 1, 40]))]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request with an odd head, or an odd body, or both."""
    path = draw(st.sampled_from([*ROUTES, *ROUTES, "/v1/%2e%2e/x", "/v1/models?x=%00", "*"]))
    method = draw(st.sampled_from(["POST"] * 6 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"]))
    body = draw(bodies())
    bombs = [
        "A: " + "b" * 70_000,
        *(["A: b"] * 3000),
        "X" * 200 + ": y",
        "Content-Type: text/plain",
        "Te: \xff",
    ]
    said = [
        "Accept-Encoding: *",
        "Authorization: Bearer sk-secret",
        "X-Seqsched-Priority: 1e9",
        "Range: bytes=9-",
    ]
    headers = draw(st.lists(st.sampled_from([bombs[0], bombs[-3], bombs[-2], bombs[-1], *said]), max_size=3))
    if draw(st.integers(0, 9)) == 0:
        headers += bombs[1:-3]
    framing = draw(st.sampled_from(["length"] * 4 + ["chunked", "two lengths", "wrong length"]))
    match framing:
        case "length":
            headers.append(f"Content-Length: {len(body)}")
        case "chunked":
            headers.append("Transfer-Encoding: chunked")
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n" if body else b"0\r\n\r\n"
        case "two lengths":
            headers += [f"Content-Length: {len(body)}", "Content-Length: 1"]
        case "wrong length":
            headers.append(f"Content-Length: {'9' * 30}")
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


async def answer_to(up: Up, asked: bytes) -> bytes:
    """The answer; nothing where one was cut off that was refused before all of it had come."""
    try:
        return await raw(up, asked, timeout_s=20.0)
    except ConnectionError:
        assert len(asked) > 1 << 14 or b"9" * 30 in asked or not asked.startswith(b"POST /v1/c")
        return b""


def check(answer: bytes, asked: bytes) -> None:
    """An answer, or a refusal as the API's; what is no HTTP is refused by the server itself."""
    status, body = status_of(answer), answer.partition(b"\r\n\r\n")[2]
    assert status in {200, *REFUSED}, asked[:200]
    if status != 200 and b"application/json" in answer and not asked.startswith(b"HEAD"):
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(requests(), min_size=8, max_size=16))
def test_requests_that_are_nearly_right_are_answered_or_refused(asked: list[bytes]) -> None:
    async def test(up: Up) -> None:
        answers = await asyncio.gather(*(answer_to(up, each) for each in asked))
        for answer, each in zip(answers, asked, strict=True):
            if answer:
                check(answer, each)
        for path in ("/status", "/metrics", "/health"):
            async with up.session.get(up.url + path) as response:
                assert response.status == 200 and b"sk-secret" not in await response.read()

    behind(saying(WORD, END), test, share=0.5, guard=True, mirror=0.5)


SECRETS = ("sk-client", "sk-upstream", "sk-wrong", "hidden words")
"""The keys of a client, of the upstream, and one that is none; a prompt."""


def test_no_secret_is_in_anything_that_is_written_or_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown: list[bytes] = []
    heard: list[bytes] = []

    async def run() -> None:
        fake, keys = Fake(), Keys((Key("alice", digest("sk-client")),))
        with (
            Log(tmp_path / "log.jsonl") as log,
            Log(tmp_path / "log.mirrored.jsonl", prefixes=False) as mirrored,
            _decisions(tmp_path / "decisions.jsonl") as note,
        ):
            async with (
                listening(fake) as url,
                layer_before(
                    *(url, "http://127.0.0.1:9"),
                    keys=keys,
                    log=log,
                    mirrored_log=mirrored,
                    on_decision=note,
                    upstream_key="sk-upstream",
                    mirror=1.0,
                ) as up,
            ):
                right = {"Authorization": "Bearer sk-client"}
                for fault in ("", "die", "half", "garbage", "error"):
                    fields = {"fake": {"fault": fault, "always": True}, "temperature": 0}
                    for stream in (True, False):
                        asked = up.ask("hidden words 9", headers=right, stream=stream, **fields)
                        answer = (await asked)[1]
                        shown.append(answer if fault else b"")
                for headers, body in (
                    ({"Authorization": "Bearer sk-wrong"}, b"{}"),
                    ({**right, "X-Seqsched-Priority": "sk-wrong"}, b"{}"),
                    ({**right, "X-Seqsched-Deadline-S": "sk-wrong"}, b"{}"),
                    (right, b'{"prompt": "hidden words'),
                    (right, b'{"prompt": "hidden words", "n": {"hidden words": 1}, "user": "hidden words"}'),
                ):
                    async with up.session.post(
                        f"{up.url}/v1/completions", data=body, headers=headers
                    ) as response:
                        shown.append(await response.read() if response.status != 200 else b"")
                fake.fails.extend([500] * 9)
                shown.append((await up.ask("hidden words 3", headers=right))[1])
                assert up.layer.mirror is not None
                while up.layer.mirror.running:
                    await asyncio.sleep(0.01)
                for path in ("/", "/status", "/metrics", "/health", "/v1/models", "/sk-wrong"):
                    async with up.session.get(up.url + path, headers=right) as response:
                        shown.append(await response.read())
                        shown.append(str(dict(response.headers)).encode())
            heard.extend(str(headers).encode() for headers in fake.headers)

    asyncio.run(run())
    written = [each.read_bytes() for each in tmp_path.iterdir()]
    assert len(written) == 3 and min(map(len, written)) > 100 and len(shown) > 20
    everything = b"\n".join([*shown, *written, "".join(capfd.readouterr()).encode()])
    assert not [secret for secret in SECRETS if secret.encode() in everything]
    assert all(b"sk-upstream" in each and b"sk-client" not in each for each in heard) and heard
