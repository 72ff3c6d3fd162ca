"""A small server that speaks as much of OpenAI's API as a client of it sees, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Behaviour:
    """What the server does; `seen` are the bodies of the requests, `headers` theirs, `most` the most at a
    time.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    has_usage: bool = True
    takes_forced: bool = True
    eos_at: int | None = None
    tokens_per_word: int = 2
    extra_tokens: int = 3
    model: str | None = "tiny"
    dies_after: int | None = None
    breaks_off: bool = False
    says: str | None = None
    content_type: str = "text/event-stream"
    zips: bool = False
    moved: bool = False
    takes_counting: bool = True
    closes: bool = False
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    now: int = 0
    most: int = 0


class _Server:
    """Answers as `does` says."""

    def __init__(self, does: Behaviour) -> None:
        self.does = does

    def app(self) -> web.Application:
        """Its paths."""
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.redirect if self.does.moved else self.answer)
        app.router.add_post("/moved", self.answer)
        app.router.add_post("/v1/chat/completions", self.answer)
        return app

    async def models(self, request: web.Request) -> web.Response:
        """The models by name."""
        return web.json_response({"data": [{"id": self.does.model}] if self.does.model else []})

    async def redirect(self, request: web.Request) -> web.Response:
        """Elsewhere, by the same method."""
        return web.Response(status=307, headers={"Location": "/moved"})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """An answer, or none."""
        does, body = self.does, await request.json()
        does.seen.append(body)
        does.headers.append(dict(request.headers))
        if not does.takes_forced and "ignore_eos" in body:
            return web.json_response({"error": {"message": "Unrecognized argument: ignore_eos"}}, status=400)
        if not does.takes_counting and "stream_options" in body:
            return web.json_response(
                {"error": {"message": "Unrecognized argument: stream_options"}}, status=400
            )
        if does.dies_after is not None and len(does.seen) > does.dies_after:
            return self.hang_up(request)
        does.now += 1
        does.most = max(does.most, does.now)
        try:
            return await self.stream(request, body)
        finally:
            does.now -= 1

    def hang_up(self, request: web.Request) -> web.StreamResponse:
        """The connection is gone."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """A token at a time."""
        does, is_probed = self.does, len(self.does.seen) > 2
        tokens = body["max_tokens"]
        if does.eos_at is not None and not body.get("ignore_eos"):
            tokens = min(tokens, does.eos_at)
        response = web.StreamResponse(headers={"Content-Type": does.content_type})
        if does.zips:
            response.enable_compression(web.ContentCoding.gzip)
        if does.closes:
            response.force_close()
        await response.prepare(request)
        await asyncio.sleep(does.first_s)
        if does.says is not None and is_probed:
            await response.write(does.says.encode())
            return response
        for n in range(tokens):
            if n:
                await asyncio.sleep(does.gap_s)
                if does.breaks_off and is_probed:
                    return self.hang_up(request)
            last = "length" if n + 1 == tokens else None
            piece = {"delta": {"content": " a"}} if "messages" in body else {"text": " a"}
            await _write(response, {"choices": [{**piece, "finish_reason": last}]})
        if does.has_usage and does.takes_counting:
            text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
            prompt = len(text.split()) * does.tokens_per_word + does.extra_tokens
            await _write(
                response,
                {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}},
            )
        await response.write(b"data: [DONE]\n\n")
        return response


def app_of(does: Behaviour) -> web.Application:
    """The server, to be run by whoever asks."""
    return _Server(does).app()


async def _write(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@contextmanager
def serving(does: Behaviour) -> Iterator[str]:
    """The URL of a server that behaves so."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app_of(does))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        address.append(f"http://{host}:{port}")
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
