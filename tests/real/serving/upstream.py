"""A deterministic inference API for tests: batches in the simulator's step times, and faults on order.

An answer's words follow from the prompt alone; its length is the field `fake.tokens`, or the prompt's last
word. `fake.fault` says what goes wrong, once or, with `fake.always`, each time.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sim.hardware.catalogue import load

PROFILE = "h200-vicuna-7b"
WORDS = ("alpha", "beta", "gamma", "d\u00e9l,ta", 'ep"silon', "\u03b6", "eta", "theta\n")


def answer_of(prompt: str, tokens: int) -> list[str]:
    """The words that the model answers."""
    seed = zlib.crc32(prompt.encode())
    return [f"{WORDS[(seed >> (k % 24)) % len(WORDS)]} " for k in range(tokens)]


@dataclass(eq=False)
class Running:
    """A request in the engine: how many tokens are left, and where they go."""

    left: int
    context: int
    priority: int = 0
    steps: asyncio.Queue[int] = field(default_factory=asyncio.Queue)


@dataclass
class Fake:
    """How it behaves and what it has seen.

    `scale` multiplies the step times. `fails`: statuses to answer with, one a request. `seen`: the bodies,
    `order`: the prompts, as they came. `says`: the server in whose way it says how many it runs at a time.
    `continues`: a prompt that ends with the beginning of an answer gets the rest of it. `misreads`: but where
    an answer is longer than so many words, it reads its beginning in other tokens than it wrote it in, and
    goes on otherwise. `drifts`: words that it says otherwise each time, from the second on. `counts`: whether
    it says tokens at a stream's end where it is asked to; `miscounts`: by how many it says too many there.
    `says_ids`: it says token ids where it is asked to, and takes them as a prompt; `holds_back`: the text of
    each so manieth token of an answer comes with that of the next.
    """

    slots: int = 4
    scale: float = 0.05
    takes_usage: bool = True
    takes_stream: bool = True
    takes_priority: bool = True
    says: str = ""
    continues: bool = False
    misreads: int = 1 << 30
    drifts: bool = False
    counts: bool = True
    miscounts: int = 0
    says_ids: bool = False
    holds_back: int = 0
    fails: deque[int] = field(default_factory=deque)
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    most: int = 0
    answered: int = 0
    open: int = 0
    faulty: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cost = load(PROFILE).iteration_cost
        self.vocabulary: list[str] = []
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self.news = asyncio.Event()

    async def engine(self) -> None:
        """Iterations of all that run, for ever."""
        while True:
            self.waiting.sort(key=lambda each: each.priority)
            while self.waiting and len(self.running) < self.slots:
                self.running.append(self.waiting.pop(0))
            if not self.running:
                self.news.clear()
                await self.news.wait()
                continue
            self.most = max(self.most, len(self.running))
            context = sum(each.context for each in self.running)
            await asyncio.sleep(self.scale * self.cost.decode_s(len(self.running), context))
            for each in self.running:
                each.left -= 1
                each.context += 1
                each.steps.put_nowait(each.left)
            self.running = [each for each in self.running if each.left > 0]

    def app(self) -> web.Application:
        """Its paths."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self.models)
        for path in ("/props", "/server_info", "/metrics"):
            app.router.add_get(path, self.state)
        app.router.add_post("/v1/completions", self.answer)
        app.router.add_post("/v1/chat/completions", self.answer)
        return app

    async def models(self, request: web.Request) -> web.Response:
        """The models by name."""
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    async def state(self, request: web.Request) -> web.Response:
        """What the server that it imitates says of its slots."""
        match self.says, request.path:
            case "llama.cpp", "/props":
                return web.json_response({"total_slots": self.slots, "model_path": "fake.gguf"})
            case "sglang", "/server_info":
                state = {"effective_max_running_requests_per_dp": self.slots // 2}
                return web.json_response({"dp_size": 2, "internal_states": [state, state]})
            case "vllm" | "vllm, stated", "/metrics":
                labels = '{engine="0",model_name="fake"}'
                lines = [
                    f"vllm:num_requests_running{labels} {len(self.running)}.0",
                    f"vllm:num_requests_waiting{labels} {len(self.waiting)}.0",
                ]
                if self.says == "vllm, stated":
                    lines.append(f'vllm:scheduler_config_info{{max_num_seqs="{self.slots}"}} 1.0')
                return web.Response(text="\n".join(lines) + "\n")
            case "garbage", _:
                return web.Response(text="{none of it")
        return web.Response(status=404)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """An answer, or what goes wrong with it."""
        body = await request.json()
        self.seen.append(body)
        self.headers.append({name.title(): value for name, value in request.headers.items()})
        if self.fails:
            return refusal(self.fails.popleft(), "as ordered")
        if body.get("stream") and not self.takes_stream:
            return refusal(400, "no streams here")
        if "stream_options" in body and not self.takes_usage:
            return refusal(400, "Unrecognized argument: stream_options")
        if "priority" in body and not self.takes_priority:
            return refusal(400, "Got priority but scheduling is fcfs")
        is_ids = isinstance(body.get("prompt"), list)
        text = "".join(self.vocabulary[each] for each in body["prompt"]) if is_ids else prompt_of(body)
        if text == "refuse":
            return refusal(400, "I'd rather not")
        self.order.append(text)
        self.open += 1
        tokens = tokens_of(body, text)
        if self.continues:
            rest = len(self.rest(text, is_exact=is_ids)[1])
            tokens = min(rest, body.get("max_tokens") or rest)
        each = Running(tokens, len(text.split()), body.get("priority", 0))
        try:
            return await self.speak(request, body, text, each)
        except ConnectionResetError:  # nobody listens any more
            return web.Response()
        finally:
            self.open -= 1
            self.waiting = [other for other in self.waiting if other is not each]
            self.running = [other for other in self.running if other is not each]

    async def speak(
        self, request: web.Request, body: dict[str, Any], text: str, each: Running
    ) -> web.StreamResponse:
        """Token by token, or all at once."""
        fault = self.fault(body, text)
        if fault == "silent":
            return hang_up(request)
        if fault == "stall":
            await asyncio.sleep(3600)
        words, reason, name = answer_of(text, each.left), "stop", "f"
        is_ids = isinstance(body.get("prompt"), list)
        if self.continues:
            words = self.rest(text, is_exact=is_ids)[1][: each.left]
            reason = "length" if body.get("max_tokens") == len(words) else "stop"
            name = f"f{len(self.seen)}"
        if words:
            self.waiting.append(each)
            self.news.set()
        is_chat = "messages" in body
        if self.drifts:
            words = [f"{len(self.seen)} ", *words[1:]]
        read = self.rest(text, is_exact=is_ids)[0] if self.continues else len(text.split())
        ids = self.said_ids(body, text, words)
        words = self.held_back(words, is_whole=reason == "stop")
        usage = {"prompt_tokens": read, "completion_tokens": len(words)}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": name, "created": 1, "model": "fake", "x_unknown": {"kept": [1, 2.5]}}
        if not body.get("stream"):
            for _ in range(usage["completion_tokens"]):
                await each.steps.get()
            self.answered += 1
            at_once = whole(body, words, reason)
            at_once["choices"][0] |= ids(None)
            return web.json_response({**head, **at_once, "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Upstream": "fake"})
        await response.prepare(request)
        kind = {"object": "chat.completion.chunk" if is_chat else "text_completion"}
        if is_chat:
            role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            await write(response, {**head, **kind, "choices": [role]})
        for number, word in enumerate(words):
            await each.steps.get()
            if number == len(words) // 2 and fault:
                return await self.fail(request, response, fault)
            piece = {"delta": {"content": word}} if is_chat else {"text": word, "logprobs": None}
            choice = {"index": 0, **piece, "finish_reason": None, **ids(number)}
            await write(response, {**head, **kind, "choices": [choice]})
        last = {"index": 0, **({"delta": {}} if is_chat else {"text": ""}), "finish_reason": reason}
        await write(response, {**head, **kind, "choices": [last]})
        if (body.get("stream_options") or {}).get("include_usage") and self.counts:
            usage["completion_tokens"] += self.miscounts
            await write(response, {**head, **kind, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        self.answered += 1
        return response

    def said_ids(
        self, body: dict[str, Any], text: str, words: list[str]
    ) -> Callable[[int | None], dict[str, Any]]:
        """What events say of token ids, by the number of their word; None: what a whole answer says."""
        if not self.says_ids or "messages" in body:
            return lambda number: {}
        if not body.get("return_token_ids"):
            return lambda number: {"token_ids": None, "prompt_token_ids": None}
        prompt = body["prompt"] if isinstance(body["prompt"], list) else [self.id_of(text)]
        numbers = [self.id_of(word) for word in words]
        return lambda number: {
            "token_ids": numbers if number is None else numbers[number : number + 1],
            "prompt_token_ids": None if number else prompt,
        }

    def id_of(self, text: str) -> int:
        """The number of a text that is one token, and of a prompt, which is one, too."""
        if text not in self.vocabulary:
            self.vocabulary.append(text)
        return self.vocabulary.index(text)

    def held_back(self, words: list[str], *, is_whole: bool) -> list[str]:
        """Words as they are said: some with the one behind them, or never where an answer is cut there."""
        said, held = list[str](), ""
        for number, word in enumerate(words, 1):
            held += word
            is_held = self.holds_back and number % self.holds_back == 0
            is_held = is_held and not (is_whole and number == len(words))
            said.append("" if is_held else held)
            held = held if is_held else ""
        return said

    def rest(self, text: str, *, is_exact: bool = False) -> tuple[int, list[str]]:
        """The tokens that it reads a prompt in, and the words that follow. `is_exact`: it was token ids."""
        head, said, words = rest_of(text)
        if said > 0 and not is_exact and self.misreads < said + len(words):
            return len(head.split()) + said - 1, ["otherwise " for _ in words]
        return len(head.split()) + said, words

    def fault(self, body: dict[str, Any], text: str) -> str:
        """What goes wrong with this one, if anything."""
        fault = (body.get("fake") or {}).get("fault", "")
        if fault and text in self.faulty and not body["fake"].get("always"):
            return ""
        self.faulty.add(text)
        return str(fault)

    async def fail(
        self, request: web.Request, response: web.StreamResponse, fault: str
    ) -> web.StreamResponse:
        """In the middle of an answer."""
        match fault:
            case "half":
                await response.write(b'data: {"choices": [{"index": 0, "delta": {"con')
            case "garbage":
                await response.write(b"data: {not json}\n\n")
            case "error":
                await write(response, {"error": {"message": "out of memory", "code": 500}})
            case "hang":
                await asyncio.sleep(3600)
            case "die":
                return hang_up(request)
        return response


def rest_of(text: str) -> tuple[str, int, list[str]]:
    """A prompt, how many words of its answer stand behind it, and those that follow: the prompt's last word
    says how many there are.
    """
    for number in re.finditer(r"\d+", text):
        head, said = text[: number.end()], text[number.end() :]
        words = answer_of(head, int(number[0]))
        for k in range(len(words) + 1):
            if "".join(words[:k]) == said:
                return head, k, words[k:]
    return text, 0, answer_of(text, 5)


def whole(body: dict[str, Any], words: list[str], reason: str) -> dict[str, Any]:
    """The answer at once."""
    text = "".join(words)
    if "messages" in body:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return {"object": "chat.completion", "choices": [choice]}
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    return {"object": "text_completion", "choices": [choice]}


def prompt_of(body: dict[str, Any]) -> str:
    """The last thing that was said."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def tokens_of(body: dict[str, Any], text: str) -> int:
    """How long the answer is."""
    last = text.split()[-1] if text.split() else ""
    own = int(last) if last.isdecimal() else 5
    tokens = (body.get("fake") or {}).get("tokens", own)
    return max(1, min(tokens, body.get("max_tokens") or tokens))


def refusal(status: int, text: str) -> web.Response:
    """An error as OpenAI's API has them."""
    return web.json_response({"error": {"message": text}}, status=status, headers={"X-Upstream": "fake"})


def hang_up(request: web.Request) -> web.StreamResponse:
    """The connection is gone."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def write(response: web.StreamResponse, event: dict[str, Any]) -> None:
    """One event."""
    await response.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")


@asynccontextmanager
async def listening(fake: Fake, port: int = 0) -> AsyncIterator[str]:
    """The URL of a fake upstream."""
    runner = web.AppRunner(fake.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    engine = asyncio.create_task(fake.engine())
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        engine.cancel()
        await runner.cleanup()
