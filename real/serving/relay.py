"""Sends a call to an upstream and its answer to the client; tries again only while nothing has gone there.

The upstream is always asked for a stream, so that a client that leaves frees its slot; who did not want a
stream gets the whole answer put together. Where the upstream refuses that, it gets what the client sent.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from .call import Call
from .client import Client, passed_on
from .stream import LONGEST_LINE, BrokenStream, Events, Passing, Seen
from .upstreams import Upstream
from .whole import Whole

STREAM = "text/event-stream"
MOST_ANSWER_BYTES = 1 << 28
LAST_S = 1.0
"""Seconds that a stream may take to end behind its [DONE], lest the connection be closed for nothing."""
REFUSALS = (400, 422, 501)
"""With which a server says that it does not take a request as it is."""
WAYS = (
    *(frozenset(added) for added in (("stream", "usage", "extra"), ("stream", "usage"))),
    *(frozenset(added) for added in (("stream", "extra"), ("stream",), ())),
)
"""What is added to the client's own words, in the order tried with an upstream that refuses it."""
LEARNT = frozenset(("usage", "extra"))
"""What an upstream takes always or never; whether it streams an answer may depend on the request."""


class UpstreamFailed(Exception):
    """No whole answer: the text is for the log and the client, `status` for the client.

    `answer`: the upstream's own, to be passed on if it is the last word. `may_retry`: whether another try may
    help, as far as the client has got nothing.
    """

    def __init__(
        self,
        text: str,
        status: int = 502,
        *,
        answer: tuple[int, bytes, dict[str, str]] | None = None,
        may_retry: bool = True,
    ) -> None:
        super().__init__(text)
        self.status, self.answer, self.may_retry = status, answer, may_retry


@dataclass
class Relayed:
    """What came of it: `seen` in the answer, when the first token came (s, 0: none), the status sent, how
    often it was continued. `is_again`: it was then begun again, uncut. `is_over`: the client has got all of
    a stream.
    """

    seen: Seen = field(default_factory=Seen)
    first_s: float = 0.0
    status: int = 0
    continuations: int = 0
    is_again: bool = False
    is_over: bool = False


def kind_of(error: str) -> str:
    """What went wrong, without the details of the one request: few texts, for metrics and spans."""
    return error.partition(":")[0].partition(" (")[0]


@dataclass(frozen=True)
class Relay:
    """How to reach upstreams: the session, the key that they want, seconds without a byte."""

    session: aiohttp.ClientSession
    key: str | None = None

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """What is sent on of the client's headers; a key of the upstream takes the place of the client's."""
        headers = passed_on(given, ("authorization",) if self.key else ())
        headers["accept-encoding"] = "identity"  # compressed, tokens would come in blocks
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        return headers

    async def send(self, call: Call, upstream: Upstream, client: Client, relayed: Relayed) -> None:
        """One try at one upstream, in as many ways as it refuses; UpstreamFailed where no answer comes."""
        refused: list[frozenset[str]] = []
        for body, added in _bodies(call, upstream).items():
            try:
                is_taken = await self._ask(call, upstream, client, relayed, body)
            except TimeoutError as error:
                text = "the upstream has sent nothing for too long"
                raise UpstreamFailed(text, 504, may_retry=False) from error
            except aiohttp.ClientPayloadError as error:
                raise UpstreamFailed("the stream broke off") from error
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamFailed(f"the upstream does not answer ({type(error).__name__})") from error
            except BrokenStream as error:
                raise UpstreamFailed(f"not the stream of an OpenAI-compatible server: {error}") from error
            if is_taken:
                if relayed.status == 200:
                    upstream.refuses |= {(call.path, what) for what in _at_fault(refused, added)}
                return
            refused.append(added)

    async def _ask(
        self, call: Call, upstream: Upstream, client: Client, relayed: Relayed, body: bytes
    ) -> bool:
        """One request; False where it was refused, and that may be for how it was sent on."""
        async with self.session.post(
            upstream.url + call.path, data=body, headers=self.headers(client.headers), allow_redirects=False
        ) as response:
            if body is not call.raw and response.status in REFUSALS:
                return False
            headers = passed_on(response.headers)
            if response.status != 200:
                await self._not_ok(response, client, relayed, headers)
            elif response.content_type == STREAM and call.is_stream:
                await self._pass(call, response, client, relayed, headers)
            elif response.content_type == STREAM:
                await self._gather(call, response, client, relayed, headers)
            else:
                await self._at_once(response, client, relayed, headers)
        return True

    async def _not_ok(
        self, response: aiohttp.ClientResponse, client: Client, relayed: Relayed, headers: dict[str, str]
    ) -> None:
        """The upstream's own word where it is the client's fault, else a failure."""
        status, body = response.status, await _read(response)
        if status >= 500 or status in (408, 429):
            raise UpstreamFailed(f"the upstream answers {status}", status, answer=(status, body, headers))
        if 300 <= status < 400:
            raise UpstreamFailed(f"the upstream answers {status}, a redirection", may_retry=False)
        relayed.status = status
        await client.answer(status, body, headers.items())

    async def _pass(
        self,
        call: Call,
        response: aiohttp.ClientResponse,
        client: Client,
        relayed: Relayed,
        headers: dict[str, str],
    ) -> None:
        """Lines as they come."""
        seen = relayed.seen
        passing = Passing(seen, hides_usage=not call.wants_usage)
        async for data in _pieces(response.content, seen):
            lines = passing.feed(data)
            if seen.events and not relayed.first_s:
                relayed.first_s = time.monotonic()
            if lines:
                await self._write(lines, client, relayed, headers)
            if passing.broken is not None:
                raise passing.broken
            relayed.is_over = seen.is_done
        rest = passing.close()
        _check_whole(call, seen)
        await self._write(rest, client, relayed, headers)
        await client.end()

    async def _write(self, lines: bytes, client: Client, relayed: Relayed, headers: dict[str, str]) -> None:
        """Lines to the client, and the head before the first; not where they are only an error."""
        if not client.has_begun:
            if relayed.seen.error and not relayed.seen.events:
                raise UpstreamFailed(relayed.seen.error)
            relayed.status = 200
            await client.begin(200, headers.items())
        if lines:
            await client.write(lines)

    async def _gather(
        self,
        call: Call,
        response: aiohttp.ClientResponse,
        client: Client,
        relayed: Relayed,
        headers: dict[str, str],
    ) -> None:
        """The whole answer, when it is there."""
        seen, whole, events, rest, size = relayed.seen, Whole(), Events(), b"", 0
        async for data in _pieces(response.content, seen):
            *lines, rest = (rest + data).split(b"\n")
            size += len(data)
            if len(rest) > LONGEST_LINE or size > MOST_ANSWER_BYTES:
                raise UpstreamFailed("the upstream's answer does not end", may_retry=False)
            for line in lines:
                _gather_line(line, events, seen, whole)
            if seen.events and not relayed.first_s:
                relayed.first_s = time.monotonic()
        _gather_line(rest, events, seen, whole)
        _check_whole(call, seen)
        if seen.error:
            raise UpstreamFailed(seen.error)
        relayed.status = 200
        headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        body = json.dumps(whole.answer(), separators=(",", ":"), ensure_ascii=False).encode(
            errors="surrogatepass"
        )
        await client.answer(200, body, [("content-type", "application/json"), *headers.items()])

    async def _at_once(
        self, response: aiohttp.ClientResponse, client: Client, relayed: Relayed, headers: dict[str, str]
    ) -> None:
        """An answer that is no stream, as it is."""
        body = await _read(response)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise UpstreamFailed("the upstream's answer is not a JSON object")
        relayed.seen.take(content)
        if relayed.seen.error:
            raise UpstreamFailed(relayed.seen.error, answer=(502, body, headers))
        relayed.first_s, relayed.status = time.monotonic(), 200
        await client.answer(200, body, headers.items())


async def say(client: Client, failure: UpstreamFailed) -> None:
    """Tell the client that no whole answer comes: in the upstream's words where it had any."""
    if failure.answer is not None and not client.has_begun:
        status, body, headers = failure.answer
        await client.answer(status, body, headers.items())
    else:
        retry_s = 1.0 if failure.status == 503 else None
        await client.error(failure.status, str(failure), "upstream_error", retry_after_s=retry_s)


def _gather_line(line: bytes, events: Events, seen: Seen, whole: Whole) -> None:
    event = events.take(line)
    seen.is_done = events.is_done
    if event is None:
        return
    seen.take(event)
    try:
        whole.add(event)
    except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        raise BrokenStream("an event is none of an answer") from error


async def _pieces(content: aiohttp.StreamReader, seen: Seen) -> AsyncIterator[bytes]:
    """A stream as it comes, to its end; what is whole needs none."""
    until_s: float | None = None
    while True:
        if seen.is_done and until_s is None:
            until_s = asyncio.get_running_loop().time() + LAST_S
        try:
            async with asyncio.timeout_at(until_s):
                data = await content.readany()
        except (TimeoutError, aiohttp.ClientError):
            if seen.is_done:
                return
            raise
        if not data:
            return
        yield data


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for data in response.content.iter_any():
        parts.append(data)
        size += len(data)
        if size > MOST_ANSWER_BYTES:
            raise UpstreamFailed("the upstream's answer does not end", may_retry=False)
    return b"".join(parts)


def _check_whole(call: Call, seen: Seen) -> None:
    if not seen.error and not seen.is_whole(call.num_choices):
        raise UpstreamFailed("the stream broke off")


def _bodies(call: Call, upstream: Upstream) -> dict[bytes, frozenset[str]]:
    """What may be sent, in the order tried, and what is added in each; nothing that is known to be refused.
    The last is what the client sent.
    """
    has = {"stream": call.is_stream, "usage": call.wants_usage, "extra": not call.extra}
    bodies: dict[bytes, frozenset[str]] = {}
    for way in WAYS:
        if not any((call.path, what) in upstream.refuses for what in way):
            body = call.sent(stream="stream" in way, usage="usage" in way, extra="extra" in way)
            bodies.setdefault(body, frozenset(what for what in way if not has[what]))
    bodies.pop(call.raw, None)
    return {**bodies, call.raw: frozenset()}


def _at_fault(refused: Sequence[frozenset[str]], taken: frozenset[str]) -> set[str]:
    """For what the upstream refused some bodies, where it took one that differs in this alone."""
    return {
        what
        for each in refused
        if len(each - taken) == 1 and taken <= each
        for what in (each - taken) & LEARNT
    }
