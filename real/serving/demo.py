"""A server to try the layer with, where none is at hand: answers of made-up words, in simulated step times.

How long an answer is depends on the prompt's words and on some chance, the same for the same prompt, so that
there is something to learn. It knows nothing else: for trying, and for nothing else.
"""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sim.hardware.catalogue import load

DEMO = "demo"
"""What stands for this server where an address is asked for."""
PROFILE = "h200-vicuna-7b"
WORDS = ("and ", "so ", "the ", "next ", "word ", "is ", "said ", "here. ")
MIDDLE, SPREAD, CHANCE = 4.2, 2.5, 0.35
"""Of the logarithm of an answer's length: at its middle, by the words, by chance."""
LONGEST = 2000


@dataclass(eq=False)
class Answer:
    """An answer in the engine: tokens yet to come, tokens in memory, and where the former are counted."""

    left: int
    context: int
    steps: asyncio.Queue[None] = field(default_factory=asyncio.Queue)


class Demo:
    """So many answers at a time, in the order in which they are asked for."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cost = load(PROFILE).iteration_cost
        self.waiting: list[Answer] = []
        self.running: list[Answer] = []
        self.news = asyncio.Event()

    async def run(self) -> None:
        """Iterations, for ever."""
        while True:
            while self.waiting and len(self.running) < self.slots:
                self.running.append(self.waiting.pop(0))
            if not self.running:
                self.news.clear()
                await self.news.wait()
                continue
            context = sum(answer.context for answer in self.running)
            await asyncio.sleep(self.cost.decode_s(len(self.running), context))
            for answer in self.running:
                answer.left, answer.context = answer.left - 1, answer.context + 1
                answer.steps.put_nowait(None)
            self.running = [answer for answer in self.running if answer.left > 0]

    def app(self) -> web.Application:
        """Its paths."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/props", self._props)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": DEMO, "object": "model"}]})

    async def _props(self, request: web.Request) -> web.Response:
        return web.json_response({"total_slots": self.slots})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = prompt_of(body)
        words = [WORDS[zlib.crc32(f"{text}{i}".encode()) % len(WORDS)] for i in range(tokens_of(body, text))]
        answer = Answer(len(words), len(text.split()))
        self.waiting.append(answer)
        self.news.set()
        try:
            return await self._speak(request, body, words, answer)
        except ConnectionResetError:  # nobody listens any more
            return web.Response()
        finally:
            self.waiting = [each for each in self.waiting if each is not answer]
            self.running = [each for each in self.running if each is not answer]

    async def _speak(
        self, request: web.Request, body: dict[str, Any], words: list[str], answer: Answer
    ) -> web.StreamResponse:
        is_chat = "messages" in body
        prompt_tokens = max(1, answer.context)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(words)}
        usage["total_tokens"] = prompt_tokens + len(words)
        kind = "chat.completion" if is_chat else "text_completion"
        reason = "length" if len(words) == body.get("max_tokens") else "stop"
        head = {"id": "demo-1", "created": 0, "model": DEMO}
        if not body.get("stream"):
            for _ in words:
                await answer.steps.get()
            said = "".join(words)
            content = {"message": {"role": "assistant", "content": said}} if is_chat else {"text": said}
            choice = {"index": 0, **content, "finish_reason": reason}
            return web.json_response({**head, "object": kind, "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head["object"] = f"{kind}.chunk" if is_chat else kind
        for word in words:
            await answer.steps.get()
            piece = {"delta": {"content": word}} if is_chat else {"text": word}
            await _event(response, {**head, "choices": [{"index": 0, **piece, "finish_reason": None}]})
        end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
        await _event(response, {**head, "choices": [{"index": 0, **end, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await _event(response, {**head, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


def prompt_of(body: dict[str, Any]) -> str:
    """The last message, or the prompt."""
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", ""))


def tokens_of(body: dict[str, Any], text: str) -> int:
    """How long the answer is: by the prompt, within `min_tokens` and `max_tokens`."""
    words = text.lower().split() or [""]
    by_words = sum(_chance(word) for word in words) / math.sqrt(len(words))
    tokens = math.ceil(math.exp(MIDDLE + SPREAD * by_words + CHANCE * 4 * _chance(text + "?")))
    cap = body.get("max_tokens") or LONGEST
    return int(max(1, min(max(tokens, body.get("min_tokens") or 1), cap, LONGEST)))


def _chance(text: str) -> float:
    """A number from -0.5 to 0.5 that depends on the text alone."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32 - 0.5


async def _event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")


@asynccontextmanager
async def demo_server(slots: int) -> AsyncIterator[str]:
    """The URL of such a server on this machine, which lasts as long as the block."""
    demo = Demo(slots)
    runner = web.AppRunner(demo.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    engine = asyncio.create_task(demo.run())
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        engine.cancel()
        await runner.cleanup()
