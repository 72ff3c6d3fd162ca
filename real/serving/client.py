"""The client's side of a request: its headers, its body, its answer, and whether it is still there (ASGI)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from .call import BadRequest

HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "content-encoding", "host", "expect", "date"),
        *("server", "accept-encoding"),
    )
)
"""Headers that belong to one connection, or are made anew."""
OURS = "x-seqsched-"
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class TooLarge(ValueError):
    """A body of more bytes than are taken."""


class ClientGone(Exception):
    """The client has left before its request had come whole."""


class Client:
    """One request's connection: read the body once, then answer in one piece or in many."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive, self._send = receive, send
        self.headers = headers_of(scope)
        self.has_begun = self.has_ended = self.has_left = False

    async def read(self, most: int) -> bytes:
        """The body; TooLarge beyond `most` bytes, ClientGone where it never comes whole."""
        if any(CONTROL.search(value) for value in self.headers.values()):
            raise BadRequest("a header has a control character")
        said = self.headers.get("content-length", "0")
        if not said.isdecimal():
            raise BadRequest("content-length is not a number")
        if int(said) > most:
            raise TooLarge
        parts, size = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise TooLarge
            if not message.get("more_body"):
                return b"".join(parts)

    async def gone(self) -> None:
        """Returns when the client has left; to be called once the body is read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.has_left = True

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """The head of an answer that comes in pieces."""
        self.has_begun = True
        raw = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """A piece of it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """No more comes."""
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def answer(self, status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """The whole answer."""
        await self.begin(status, [*headers, ("content-length", str(len(body)))])
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, status: int, text: str, kind: str, *, retry_after_s: float | None = None) -> None:
        """An error as OpenAI's API has them; within a stream that has begun, an event and the end."""
        body = error_body(status, text, kind)
        if self.has_begun:
            await self.write(b"data: " + body + b"\n\n")
            await self.end()
            return
        retry = [] if retry_after_s is None else [("retry-after", str(max(1, round(retry_after_s))))]
        await self.answer(status, body, [("content-type", "application/json"), *retry])


class Unheard(Client):
    """Takes an answer that nobody is waiting for."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)
        self.has_begun = self.has_ended = self.has_left = False

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """It comes in pieces."""
        self.has_begun = True

    async def write(self, data: bytes) -> None:
        """A piece of it."""

    async def end(self) -> None:
        """No more comes."""
        self.has_ended = True

    async def answer(self, status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """It has come at once."""
        self.has_begun = self.has_ended = True


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request, names in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def error_body(status: int, text: str, kind: str) -> bytes:
    """The JSON of an error, as OpenAI's API writes it."""
    error: dict[str, Any] = {"message": text, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def passed_on(headers: Mapping[str, str], without: Iterable[str] = ()) -> dict[str, str]:
    """The headers that go on to the other side: neither a connection's own nor ours."""
    left_out = {*HOP_BY_HOP, *without, *named_in_connection(headers)}
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in left_out and not name.lower().startswith(OURS)
    }


def named_in_connection(headers: Mapping[str, str]) -> set[str]:
    """Headers that the header Connection says are hop by hop."""
    said = next((value for name, value in headers.items() if name.lower() == "connection"), "")
    return {name.strip().lower() for name in said.split(",")}
