"""One request to an OpenAI-compatible server, and its stream of tokens as they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeAlias

import aiohttp

Endpoint: TypeAlias = Literal["completions", "chat"]
PATHS: dict[str, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
LONGEST_ERROR = 200
"""Characters of a server's own words that are kept of an error."""
MOST_TOKENS = 1 << 31
"""A count of tokens from here on is none."""
CONNECT_S = 30.0
"""Seconds until a server that does not take a connection, or does not name its models, is given up."""
KEEP_ALIVE_S = 3.0
"""Seconds that an idle connection is kept: fewer than the 5 of uvicorn, so that no request meets one that the
server is closing.
"""
BROKEN_ENDS = frozenset({"abort", "error", "cancelled"})
"""Reasons for which a server ends an answer that is not whole."""


@dataclass(frozen=True)
class Target:
    """What is asked: `url` without a path, the endpoint, the name of the model.

    `forces`: whether requests say that the answer ends at their `max_tokens` and not before, as vLLM, SGLang
    and llama.cpp understand it (`ignore_eos`, `min_tokens`). `counts`: whether they ask for the server's own
    count of tokens (`stream_options`).
    """

    url: str
    endpoint: Endpoint
    model: str
    forces: bool = True
    counts: bool = True

    def body(self, text: str, max_tokens: int, said: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """The request for an answer of at most `max_tokens` tokens to a text, and to what was `said` before
        it: texts, each with its answer.
        """
        prompt: dict[str, Any] = {"prompt": "".join(chain(*said, [text]))}
        if self.endpoint == "chat":
            prompt = {"messages": _messages(text, said)}
        forced = {"ignore_eos": True, "min_tokens": max_tokens} if self.forces else {}
        counted = {"stream_options": {"include_usage": True}} if self.counts else {}
        return {
            "model": self.model,
            **prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            **counted,
            **forced,
        }


def _messages(text: str, said: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """The turns of a conversation; answers to several requests, one after another, are one turn."""
    messages: list[dict[str, str]] = []
    for question, answer in said:
        if question or not messages:
            messages += [
                {"role": "user", "content": question.strip()},
                {"role": "assistant", "content": answer},
            ]
        else:
            messages[-1]["content"] += answer
    return [*messages, {"role": "user", "content": text.strip() if said else text}]


@dataclass
class Reply:
    """What came back. Times are those of `time.perf_counter`, in seconds; `gaps_s` lie between chunks.

    `error`: why the answer is not complete, empty where it is. Token counts are the server's own, None where
    it says none; `chunks` carried text, or stood for a token without any, and `texts` are theirs, thoughts
    and calls of tools aside. `blank_s`: the first chunk without
    text, `over_s` that which said that the answer ends, both 0 where there was none.
    """

    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    chunks: int = 0
    texts: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""
    blank_s: float = 0.0
    over_s: float = 0.0

    @property
    def text(self) -> str:
        """The answer, as far as it has come."""
        return "".join(self.texts)

    def token_at(self, now: float) -> None:
        """Note a chunk of tokens."""
        if self.chunks:
            self.gaps_s.append(now - self.last_s)
        else:
            self.first_s = now
        self.last_s = now
        self.chunks += 1

    def settle(self) -> None:
        """Once all has come: tokens that have no text (end tokens, halves of a letter) count with the time of
        their chunk, where the server's own count says that there were any.
        """
        if self.output_tokens is None or self.output_tokens <= self.chunks:
            return
        if not self.chunks and self.blank_s:
            self.token_at(self.blank_s)
        if self.over_s > self.last_s and self.output_tokens > self.chunks:
            self.token_at(self.over_s)


async def ask(
    session: aiohttp.ClientSession,
    target: Target,
    text: str,
    max_tokens: int,
    said: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request and read its answer to the end; whatever goes wrong is in the reply.

    `said`: what comes before its text; `headers`: its own, beside those of the session. It is sent by
    `sent_s`. Cancelled, it hangs up.
    """
    reply = Reply(time.perf_counter())
    try:
        async with session.post(
            target.url + PATHS[target.endpoint],
            json=target.body(text, max_tokens, said),
            headers=headers,
        ) as response:
            if response.status != 200:
                reply.error = f"HTTP {response.status}: {_message(await response.text(errors='replace'))}"
                return reply
            num_events = 0
            async for now, event in _events(response):
                num_events += 1
                _take(reply, event, now)
            if not num_events:
                reply.error = f"the answer is no stream of events but {response.content_type}"
    except aiohttp.ConnectionTimeoutError:
        reply.error = f"no connection after {session.timeout.sock_connect:g} s"
    except TimeoutError:
        reply.error = f"no end after {session.timeout.total:g} s"
    except (aiohttp.ClientError, OSError) as error:
        reply.error = f"{type(error).__name__}: {_short(str(error))}".removesuffix(": ")
    except (ValueError, RecursionError) as error:
        reply.error = f"not the stream of an OpenAI-compatible server: {_short(str(error))}"
    reply.settle()
    if not reply.error and not reply.over_s:
        reply.error = "the stream broke off"
    if not reply.error and not reply.chunks:
        reply.error = "the answer is empty"
    return reply


def _take(reply: Reply, event: dict[str, Any] | None, now: float) -> None:
    """Note what an event of the stream says; None is the one that ends it."""
    if event is None:
        reply.over_s = reply.over_s or now
        return
    if event.get("error"):
        reply.error = _message(json.dumps(event)) or "the server says that it failed"
        return
    if isinstance(usage := event.get("usage"), dict):
        reply.prompt_tokens = _count(usage.get("prompt_tokens")) or reply.prompt_tokens
        reply.output_tokens = _count(usage.get("completion_tokens")) or reply.output_tokens
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            raise ValueError(f"{str(choice)[:50]!r} is no choice")
        _take_choice(reply, choice, now)


def _take_choice(reply: Reply, choice: dict[str, Any], now: float) -> None:
    end = choice.get("finish_reason")
    delta = choice.get("delta") or choice
    if not isinstance(delta, dict):
        raise ValueError(f"{str(delta)[:50]!r} is no delta")
    texts = [delta.get(name) for name in ("text", "content", "reasoning_content", "reasoning", "tool_calls")]
    reply.texts += [text for text in texts[:2] if isinstance(text, str)]
    # A chat's first chunk, which only says who speaks, stands for no token.
    is_blank = "" in texts and not delta.get("role") and end is None
    if any(texts) or (is_blank and reply.chunks):
        reply.token_at(now)
    elif is_blank:
        reply.blank_s = reply.blank_s or now
    if end is not None:
        reply.over_s = now
        reason = end.get("type") if isinstance(end, dict) else end
        if reason in BROKEN_ENDS:
            reply.error = f"the server ended the answer: {reason}"


def _count(value: Any) -> int | None:
    """A number of tokens by a server's word; None for what cannot be one."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < MOST_TOKENS else None


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[float, dict[str, Any] | None]]:
    """When each event of a stream came, and its content; None for [DONE]. ValueError for what is none.

    An event ends at an empty line or where it is whole, for not every server sends the empty line.
    """
    rest, lines_of_event = b"", _Lines()
    async for data in response.content.iter_any():
        now = time.perf_counter()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            for event in lines_of_event.add(line):
                yield now, event
    for line in (rest, b""):
        for event in lines_of_event.add(line):
            yield time.perf_counter(), event


class _Lines:
    """Puts events together from lines; comments, and fields other than data, are nothing."""

    def __init__(self) -> None:
        self.begun = b""

    def add(self, line: bytes) -> Iterator[dict[str, Any] | None]:
        """The event that is whole with this line, if any."""
        line = line.strip()
        if not line:
            begun, self.begun = self.begun, b""
            if begun:
                raise ValueError(f"{begun[:50]!r} is no object")
            return
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.strip()
        if value == b"[DONE]":
            yield None
        elif value:
            text = self.begun + b"\n" + value if self.begun else value
            event = _object(text)
            self.begun = text if event is None else b""
            if event is not None:
                yield event


def _object(text: bytes) -> dict[str, Any] | None:
    """A whole JSON object, or None; what does not end as one is not parsed, for an event may be long."""
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


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
    """On one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 1] + "…"


def client(timeout_s: float, key: str | None) -> aiohttp.ClientSession:
    """A session with as many connections as there are requests at a time; `key` as the API's bearer."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=3600),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, CONNECT_S)),
        # Compressed, tokens would come in blocks.
        headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
        read_bufsize=1 << 20,
    )


async def model_of(session: aiohttp.ClientSession, url: str) -> str | None:
    """The first model that the server names; None where it names none.

    ClientError or TimeoutError where nobody answers.
    """
    limit = aiohttp.ClientTimeout(total=CONNECT_S)
    async with session.get(url + "/v1/models", timeout=limit) as response:
        if response.status != 200:
            return None
        try:
            content = await response.json(content_type=None)
        except ValueError:
            return None
    models = content.get("data") if isinstance(content, dict) else None
    names = [each.get("id") for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    return next((name for name in names if isinstance(name, str)), None)
