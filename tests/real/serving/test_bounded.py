"""Who is slow, on purpose or not, holds neither a connection nor a slot for ever."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving import bounded
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


async def connected(up: Up) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = up.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=1 << 10)


def request(prompt: str, **fields: object) -> bytes:
    body = json.dumps({"model": "fake", "prompt": prompt, **fields}).encode()
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("begins", [b"", b"P", HEAD])
def test_a_head_that_never_ends_is_hung_up_on(begins: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "HEAD_S", 0.2)

    async def test(up: Up, fake: Fake) -> None:
        reader, writer = await connected(up)
        writer.write(begins)
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while True:
                    writer.write(b"X-A: b\r\n" if begins == HEAD else b"")  # never at rest
                    await writer.drain()
                    if reader.at_eof():
                        raise ConnectionError
                    await asyncio.sleep(0.01)
        assert 0.15 < asyncio.get_running_loop().time() - began < 3

    with_fakes(test)


def test_the_second_head_on_a_connection_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "HEAD_S", 0.3)

    async def test(up: Up, fake: Fake) -> None:
        reader, writer = await connected(up)
        writer.write(request("say 3"))
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
        writer.write(HEAD)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                while await reader.read(1 << 10):
                    pass
                raise ConnectionError
        writer.close()

    with_fakes(test)


def test_an_answer_may_take_longer_than_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "HEAD_S", 0.1)

    async def test(up: Up, fake: Fake) -> None:
        for _ in range(2):  # on one connection
            began = asyncio.get_running_loop().time()
            assert (await up.ask("say 60"))[0] == 200
            assert asyncio.get_running_loop().time() - began > 0.15

    with_fakes(test, {"scale": 1.0})


def test_who_reads_nothing_gives_the_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "STALL_S", 0.3)

    async def test(up: Up, fake: Fake) -> None:
        _, writer = await connected(up)
        writer.write(request("say 200000", stream=True, max_tokens=200000))
        async with asyncio.timeout(60):
            while not up.layer.executor.num_running:
                await asyncio.sleep(0.01)
            assert (await up.ask("say 2"))[0] == 200  # the only slot
        assert up.layer.report.recent[0].error == "cancelled: the client has left"
        writer.close()

    with_fakes(test, {"scale": 0.0}, slots=1)
