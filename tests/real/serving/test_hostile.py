"""Whatever a client or an upstream sends: an answer that says what is wrong, and every slot back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the extra serve")

from aiohttp import web

from real.serving.keys import Key, Keys, digest
from real.serving.log import Log
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.upstream import Fake, listening

STREAM = "text/event-stream"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of an upstream that answers all posts so."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def saying(*pieces: bytes, content_type: str = STREAM, headers: dict[str, str] | None = None) -> Handler:
    """An upstream that writes these pieces one by one, whatever it is asked."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    return answer


def behind(handler: Handler, test: Callable[[Up], Awaitable[None]], **given: Any) -> None:
    """Run `test(up)` with a layer before such an upstream."""

    async def run() -> None:
        async with serving(handler) as url, layer_before(url, **given) as up:
            await test(up)
            await up.idle()

    asyncio.run(run())


async def raw(up: Up, *pieces: bytes, timeout_s: float = 5.0) -> bytes:
    """What comes back for these bytes, up to the end of the connection."""
    host, port = up.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.writelines(pieces)
        async with asyncio.timeout(timeout_s):
            return await reader.read(-1)
    finally:
        writer.close()


def request(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """A request that asks for its connection to be closed."""
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: x", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", *headers, "", ""]).encode("latin-1") + body


def chat(text: str = "say 3", **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


HALF = "\ud800"
"""Half a character, which JSON can say and UTF-8 cannot."""
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (chat(), ["X-Seqsched-Priority: " + "[" * 20_000], 400),
        (chat(), ["X-Seqsched-Priority: " + "9" * 5000], 400),
        (chat(), ["X-Seqsched-Output-Tokens: " + "9" * 5000], 400),
        (chat(), ["X-Seqsched-Output-Tokens: \xb2"], 400),
        (chat(), ["X-Seqsched-Deadline-S: nan"], 400),
        (chat(), ["X-Other: a\x01b"], 400),
        (chat().decode().encode("utf-16"), [], 400),
        (b"\xff" + chat(), [], 400),
        (b'{"x":' + b"9" * 5000 + b"}", [], 400),
        (b"[" * 100_000, [], 400),
        (chat(HALF, stream=False), [], 200),
        (chat(HALF, stream_options=None), [], 200),
        (chat(model=HALF), [], 200),
        (chat(stream=False, x=float("nan")), [], 200),
        (b'{"stream":true,"stream":false,' + chat()[1:], [], 200),
        (chat(), ["X-Other: \xe9\xff", "Content-Type: application/x-what"], 200),
    ],
)
def test_odd_requests_are_passed_on_or_refused_with_the_reason(
    body: bytes, headers: list[str], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(up: Up) -> None:
        answer = await raw(up, request(body, *headers))
        assert status_of(answer) == status
        assert status == 200 or b'{"error":{"message":"' in answer
        async with up.session.get(f"{up.url}/metrics") as response:
            assert response.status == 200

    behind(saying(WORD, END), test)
    assert "Traceback" not in capfd.readouterr().err


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = "model messages prompt stream stream_options n max_tokens priority user nvext x"
fields = st.sampled_from(FIELDS.split())
bodies = st.dictionaries(fields, json_values, max_size=6).map(lambda body: json.dumps(body).encode())
values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
)
said = st.lists(
    st.tuples(
        st.sampled_from(["Priority", "Output-Tokens", "Deadline-S"]), values | st.integers().map(str)
    ).map(lambda header: f"X-Seqsched-{header[0]}: {header[1].strip()}"),
    max_size=2,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=st.lists(
        st.tuples(bodies | st.binary(max_size=30), said, st.sampled_from(["1.0", "1.1"])),
        min_size=20,
        max_size=30,
    )
)
def test_no_request_makes_the_layer_fail(asked: Sequence[tuple[bytes, list[str], str]]) -> None:
    async def test(up: Up) -> None:
        answers = await asyncio.gather(*(raw(up, request(b, *h, version=v)) for b, h, v in asked))
        assert {status_of(answer) for answer in answers} <= {200, 400, 504}
        async with up.session.get(f"{up.url}/status") as one, up.session.get(f"{up.url}/metrics") as two:
            assert (one.status, two.status) == (200, 200)

    behind(saying(WORD, END), test, share=0.5, guard=True)


def test_two_requests_in_a_row_on_a_connection_are_both_answered() -> None:
    async def test(up: Up, fake: Fake) -> None:
        first, second = request(chat("say 3")).replace(b"close", b"keep-alive"), request(chat("say 4"))
        answer = await raw(up, first, second)
        assert answer.count(b"HTTP/1.1 200 OK") == 2 and fake.order == ["say 3", "say 4"]

    with_fakes(test)


def test_paths_with_a_slash_too_many_lead_nowhere() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for path in ("/v1/models/", "/metrics/", "//elsewhere/", "/v1/chat/completions/"):
            async with up.session.get(up.url + path, allow_redirects=False) as response:
                assert response.status == 404 and "Location" not in response.headers

    with_fakes(test)


def test_headers_of_an_upstream_pass_as_bytes() -> None:
    async def test(up: Up) -> None:
        answer = await raw(up, request(chat()))
        assert status_of(answer) == 200 and "x-said: \u20ac".encode() in answer

    behind(saying(WORD, END, headers={"X-Said": "\u20ac"}), test)


def test_who_asks_what_the_upstream_fails_at_shuts_nobody_out() -> None:
    async def test(up: Up, fake: Fake) -> None:
        fake.fails.extend([500] * 9)
        for _ in range(3):
            assert (await up.ask())[0] == 500  # of three tries each
        assert (await up.ask("say 3"))[0] == 200

    with_fakes(test)


class Failing:
    """A predictor that cannot."""

    def predict(self, ask: object, upper_quantile: float | None) -> Any:
        raise RuntimeError("secret prompt")

    def learn(self, ask: object, tokens: int) -> None:
        raise RuntimeError("secret prompt")


def test_where_the_predictor_fails_the_median_predicts(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(up: Up, fake: Fake) -> None:
        for _ in range(3):
            assert (await up.ask("say 7"))[0] == 200
        assert [each.predicted_tokens for each in up.layer.report.recent] == [256, 7, 7]

    with_fakes(test, predictor=f"{__name__}:Failing")
    error = capfd.readouterr().err
    assert error.count("the predictor failed: RuntimeError in test_hostile.py") == 1
    assert "Traceback" not in error and "secret" not in error


def test_a_failure_of_the_layer_itself_is_told_to_the_client(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("secret prompt")

        monkeypatch.setattr(type(up.layer.relay), "headers", fail)
        status, body = await up.ask()
        assert status == 500 and json.loads(body)["error"]["message"] == "the layer failed"
        assert up.layer.report.recent[-1].error == "the layer failed: RuntimeError"

    with_fakes(test)
    error = capfd.readouterr().err
    assert "a request failed within the layer: RuntimeError" in error
    assert "Traceback" not in error and "secret" not in error


def test_a_key_of_the_layer_stays_with_the_layer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        fake, secret = Fake(), {"Authorization": "Bearer sk-layer"}
        with Log(tmp_path / "log.jsonl") as log:
            async with (
                listening(fake) as url,
                layer_before(url, keys=Keys((Key("a", digest("sk-layer")),)), log=log) as up,
            ):
                assert (await up.ask(headers=secret))[0] == 200
                assert (await up.ask("say 3", headers=secret, fake={"fault": "die", "always": True}))[
                    0
                ] == 502
                for path in ("/v1/models", "/metrics", "/status", "/"):
                    async with up.session.get(up.url + path, headers=secret) as response:
                        assert response.status == 200 and b"sk-layer" not in await response.read()
        assert fake.headers and not [each for each in fake.headers if "sk-layer" in str(each)]

    asyncio.run(run())
    assert "sk-layer" not in (tmp_path / "log.jsonl").read_text() + capfd.readouterr().err


def test_two_layers_in_a_row_answer_as_one() -> None:
    async def run() -> None:
        fake = Fake()
        async with listening(fake) as url, layer_before(url) as inner, layer_before(inner.url) as outer:
            for stream in (True, False):
                one = await outer.ask("say 4", stream=stream, url=inner.url)
                assert one[0] == 200 and await outer.ask("say 4", stream=stream) == one
            fake.fails.extend([500] * 9)
            assert (await outer.ask("say 5"))[0] == 500
            assert (await outer.ask("say 6"))[0] == 200
            await outer.idle()
            await inner.idle()

    asyncio.run(run())


def test_who_is_open_when_the_time_to_drain_is_over_hears_so(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with listening(Fake(scale=30.0)) as url, layer_before(url, slots=2, drain_s=1.0) as up:
            asked = [asyncio.create_task(up.ask("say 99", stream=k < 2)) for k in range(4)]
            while not up.layer.executor.num_running or len(up.layer.executor.waiting) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            up.layer.is_draining = up.server.should_exit = True
            answers = await asyncio.gather(*asked)
            assert all(b"the layer has ended" in body for _, body in answers)
            assert {status for status, _ in answers} == {200, 503}
            await up.idle()
            assert {each.error for each in up.layer.report.recent} == {"cancelled: the layer has ended"}

    asyncio.run(run())
    assert "Traceback" not in capfd.readouterr().err
