"""One answer to the client made of several of the upstream's: the client's side of failure collection."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .client import Client
from .relay import UpstreamFailed
from .stream import Events
from .token_ids import TORN, without_ids

OTHERWISE = "the upstream has answered otherwise than before"


class Seam(Client):
    """Takes the parts of an answer as a client would, and passes them on to the client as one.

    `text`: of all parts so far. `has_begun`: anything of this part has been passed on. `passed_on`: what the
    client has already got of an answer that is begun again, as far as it has not come again. `hides_ids`: the
    client has not asked for the token ids that come with it.
    """

    def __init__(self, client: Client, *, hides_ids: bool = False) -> None:
        self.client, self.headers, self.hides_ids = client, client.headers, hides_ids
        self.has_begun = self.has_ended = self.is_stream = self.is_first_over = False
        self.events = Events()  # of this part
        self.text = self.passed_on = ""
        self.head: dict[str, Any] = {}  # what all events of an answer share
        self.usage: dict[str, Any] | None = None  # of the first part
        self.kept: list[dict[str, Any]] = []  # the end of a part, which may be none of the answer's
        self.answered: tuple[dict[str, Any], list[tuple[str, str]]] | None = None

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """A part comes in pieces."""
        self.has_begun = self.is_stream = True
        if not self.client.has_begun:
            await self.client.begin(status, headers)

    async def write(self, data: bytes) -> None:
        """Lines of a part: what belongs to its end is kept until it is known whose end it is."""
        passed: list[bytes] = []
        for line in data.splitlines():
            event, text = self.events.take(line), line.strip()
            if event is None:
                if text and not text.startswith(b"data:"):
                    passed.append(line + b"\n")
            elif event.get("error"):
                passed.append(self._event(event))
            else:
                self._note(event)
                if self.hides_ids:
                    event = without_ids(event)
                if self.passed_on:
                    event = self._unsaid(event)
                    if not _text(event) and not _is_end(event):
                        continue
                if _is_end(event) or _is_torn(event):
                    self.kept.append(event)
                else:
                    passed += [self._event(each) for each in self.kept]
                    passed.append(self._event(event, None if self.hides_ids else text))
                    self.kept.clear()
        if passed:
            await self.client.write(b"".join(passed))

    async def end(self) -> None:
        """The part has ended; whether the answer has, `finish` and `go_on` say."""

    async def answer(self, status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """A part has come at once."""
        self.has_begun = True
        content = json.loads(body) if status == 200 else None
        if self.is_first_over and (status != 200 or self.is_stream):
            raise UpstreamFailed(f"the upstream answers {status} to a continuation", may_retry=False)
        if not isinstance(content, dict) or _text(content) is None:
            self.has_ended = True
            await self.client.answer(status, body, headers)
            return
        self._note(content)
        self.answered = without_ids(content) if self.hides_ids else content, list(headers)

    async def go_on(self) -> None:
        """The part was not the end: another follows, which says again what was torn."""
        kept, self.kept = [event for event in self.kept if _text(event)], []
        while kept and _is_torn(kept[-1]):
            self.text = self.text[: -len(_text(kept.pop()) or "")]
        if self.answered is not None:
            self.text = self.text.rstrip(TORN)
        for event in kept:
            choice = {**event["choices"][0], "finish_reason": None}
            event = {name: value for name, value in event.items() if name != "usage"}
            await self.client.write(self._event({**event, "choices": [choice]}))
        self.has_begun, self.events = False, Events()
        self.is_first_over = True

    def begin_again(self) -> None:
        """What follows is the answer from its beginning."""
        self.passed_on = self.text if self.is_stream else ""
        self.text, self.usage = "", None

    async def finish(self, output_tokens: int | None) -> None:
        """The part was the end."""
        if self.has_ended or not self.has_begun:
            return
        if self.passed_on:
            raise UpstreamFailed(OTHERWISE, may_retry=False)
        self.has_ended = True
        if self.answered is not None:
            content, headers = self.answered
            choice = {**content["choices"][0], "text": self.text}
            content = self._counted({**content, **self.head, "choices": [choice]}, output_tokens)
            body = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
            await self.client.answer(200, body.encode(errors="surrogatepass"), headers)
            return
        for event in self.kept:
            await self.client.write(self._event(self._counted(event, output_tokens)))
        if self.events.is_done:
            await self.client.write(b"data: [DONE]\n\n")
        await self.client.end()

    def _note(self, event: dict[str, Any]) -> None:
        if not self.head:
            self.head = {name: event[name] for name in ("id", "created") if name in event}
        if self.usage is None and isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        self.text += _text(event) or ""

    def _unsaid(self, event: dict[str, Any]) -> dict[str, Any]:
        """What of an event of the answer that was begun again the client has not got."""
        said, text = self.passed_on, _text(event) or ""
        if not text.startswith(said[: len(text)]):
            raise UpstreamFailed(OTHERWISE, may_retry=False)
        self.passed_on = said[len(text) :]
        return {**event, "choices": [{**each, "text": text[len(said) :]} for each in event["choices"][:1]]}

    def _event(self, event: dict[str, Any], line: bytes | None = None) -> bytes:
        """An event as the client gets it: as it came, in the first part and in one line."""
        if self.is_first_over or line is None or not self.events.was_one_line:
            line = b"data: " + json.dumps({**event, **self.head}, separators=(",", ":")).encode()
        return line + b"\n\n"

    def _counted(self, event: dict[str, Any], output_tokens: int | None) -> dict[str, Any]:
        """With the prompt's tokens as they were first, and those of all parts together."""
        if not isinstance(event.get("usage"), dict) or self.usage is None or not self.is_first_over:
            return event
        first, output_tokens = self.usage.get("prompt_tokens") or 0, output_tokens or 0
        counts = {"completion_tokens": output_tokens, "total_tokens": first + output_tokens}
        return {**event, "usage": {**self.usage, **counts}}


def _is_end(event: dict[str, Any]) -> bool:
    """Whether it belongs to the end of an answer: it says why, or counts tokens."""
    choices = event.get("choices")
    return not isinstance(choices, list) or not choices or choices[0].get("finish_reason") is not None


def _is_torn(event: dict[str, Any]) -> bool:
    return (_text(event) or "").endswith(TORN)


def _text(event: dict[str, Any]) -> str | None:
    """What the first choice says; None where there is none."""
    choices = event.get("choices")
    text = choices[0].get("text") if isinstance(choices, list) and choices else None
    return text if isinstance(text, str) else None
