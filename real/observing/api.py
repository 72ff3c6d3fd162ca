"""One request to an OpenAI-compatible server, and its stream of tokens as they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import aiohttp

Endpoint: TypeAlias = Literal["completions", "chat"]
PATHS: dict[str, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
LONGEST_ERROR = 200
"""Characters of a server's own words that are kept of an error."""


@dataclass(frozen=True)
class Target:
    """What is asked: `url` without a path, the endpoint, the name of the model.

    `forces`: whether requests say that the answer ends at their `max_tokens` and not before, as vLLM, SGLang
    and llama.cpp understand it (`ignore_eos`, `min_tokens`).
    """

    url: str
    endpoint: Endpoint
    model: str
    forces: bool = True

    def body(self, text: str, max_tokens: int) -> dict[str, Any]:
        """The request for an answer of at most `max_tokens` tokens."""
        prompt: dict[str, Any] = {"prompt": text}
        if self.endpoint == "chat":
            prompt = {"messages": [{"role": "user", "content": text}]}
        forced = {"ignore_eos": True, "min_tokens": max_tokens} if self.forces else {}
        return {
            "model": self.model,
            **prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **forced,
        }


@dataclass
class Reply:
    """What came back. Times are those of `time.perf_counter`, in seconds; `gaps_s` lie between chunks.

    `error`: why the answer is not complete, empty where it is. Token counts are the server's own, None where
    it says none; `chunks` carried text.
    """

    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    chunks: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""


async def ask(session: aiohttp.ClientSession, target: Target, text: str, max_tokens: int) -> Reply:
    """Send one request and read its answer to the end; whatever goes wrong is in the reply.

    It is sent by `sent_s`. Cancelled, it hangs up.
    """
    reply, is_over = Reply(time.perf_counter()), False
    try:
        async with session.post(
            target.url + PATHS[target.endpoint], json=target.body(text, max_tokens)
        ) as response:
            if response.status != 200:
                reply.error = f"HTTP {response.status}: {_message(await response.text())}"
                return reply
            async for now, event in _events(response):
                is_over = _take(reply, event, now) or is_over
    except TimeoutError:
        reply.error = f"no end after {session.timeout.total:g} s"
    except (aiohttp.ClientError, OSError) as error:
        reply.error = f"{type(error).__name__}: {_short(str(error))}".removesuffix(": ")
    except ValueError as error:
        reply.error = f"not the stream of an OpenAI-compatible server: {_short(str(error))}"
    if not reply.error and not is_over:
        reply.error = "the stream broke off"
    if not reply.error and not reply.chunks:
        reply.error = "the answer is empty"
    return reply


def _take(reply: Reply, event: dict[str, Any], now: float) -> bool:
    """Note what an event of the stream says; whether the answer is over with it."""
    if "error" in event:
        reply.error = _message(json.dumps(event))
        return True
    usage = event.get("usage")
    if usage:
        reply.prompt_tokens = usage.get("prompt_tokens")
        reply.output_tokens = usage.get("completion_tokens")
    is_over = False
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or choice
        if delta.get("text") or delta.get("content") or delta.get("reasoning_content"):
            if reply.chunks:
                reply.gaps_s.append(now - reply.last_s)
            else:
                reply.first_s = now
            reply.last_s = now
            reply.chunks += 1
        is_over = is_over or choice.get("finish_reason") is not None
    return is_over


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """When each event of a stream came, and its content. ValueError for what is none."""
    rest = b""
    async for data in response.content.iter_any():
        now = time.perf_counter()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            name, _, value = line.strip().partition(b":")
            if name != b"data" or value.strip() == b"[DONE]":
                continue
            event = json.loads(value)
            if not isinstance(event, dict):
                raise ValueError(f"{value[:50]!r} is no object")
            yield now, event


def _message(text: str) -> str:
    """The server's own words in the text of an error."""
    try:
        content = json.loads(text)
    except ValueError:
        return _short(text)
    while isinstance(content, dict):
        content = (
            content.get("error") or content.get("message") or content.get("detail") or json.dumps(content)
        )
    return _short(str(content))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 1] + "…"


def client(timeout_s: float, key: str | None) -> aiohttp.ClientSession:
    """A session with as many connections as there are requests at a time; `key` as the API's bearer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 30.0)),
        headers=headers,
        read_bufsize=1 << 20,
    )


async def model_of(session: aiohttp.ClientSession, url: str) -> str | None:
    """The first model that the server names; None where it names none. ClientError where nobody answers."""
    async with session.get(url + "/v1/models") as response:
        if response.status != 200:
            return None
        try:
            content = await response.json(content_type=None)
        except ValueError:
            return None
    models = content.get("data") if isinstance(content, dict) else None
    names = [each.get("id") for each in models or () if isinstance(each, dict)]
    return next((name for name in names if isinstance(name, str)), None)
