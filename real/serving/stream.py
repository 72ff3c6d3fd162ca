"""The stream of an answer as it passes through: what of it goes on to the client, and what it says.

Lines go on as they came. Knows nothing of connections.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .call import count, printable
from .token_ids import TokenIds

LONGEST_LINE = 1 << 24
"""Bytes of a line; an upstream that sends a longer one sends no events."""
LONGEST_REASON = 100
"""Characters that are kept of a finish reason."""
MOST_LINES = 1000
"""Lines of an event."""
BOM = b"\xef\xbb\xbf"
"""A stream may begin with it; it means nothing."""
TEXTS = ("text", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Fields of a choice, or of its delta, that hold tokens."""


class BrokenStream(ValueError):
    """What came is not the stream of an OpenAI-compatible server."""


@dataclass
class Seen:
    """What an answer has said so far. Token counts are the server's own, None where it says none; `events`
    counts those with tokens. `reasons`: why choices ended, by index. `is_done`: [DONE] has come.
    `said`: the texts, by choice and field, in pieces; `ids`: of tokens; None: they are not kept.
    """

    events: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    is_done: bool = False
    error: str = ""
    said: dict[tuple[int, str], list[str]] | None = None
    ids: TokenIds | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the answer: by the server's count, or else by events."""
        return self.output_tokens or self.events

    @property
    def reason(self) -> str:
        """Why the first choice ended; empty where it has not."""
        return next(iter(self.reasons.values()), "")

    def take(self, event: dict[str, Any]) -> None:
        """Note what an event, or a whole answer, says."""
        if event.get("error"):
            self.error = "the upstream says that it failed"
        if isinstance(usage := event.get("usage"), dict):
            self.prompt_tokens = count(usage.get("prompt_tokens")) or self.prompt_tokens
            self.output_tokens = count(usage.get("completion_tokens")) or self.output_tokens
        choices = event.get("choices")
        has_tokens = False
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise BrokenStream("a choice is no object")
            delta = choice.get("delta") or choice.get("message") or choice
            has_tokens |= isinstance(delta, dict) and any(delta.get(name) for name in TEXTS)
            if (reason := choice.get("finish_reason")) is not None:
                self.reasons[count(choice.get("index")) or 0] = printable(str(reason))[:LONGEST_REASON]
            if self.said is not None:
                self._keep(self.said, choice, delta)
        self.events += has_tokens
        if self.ids is not None:
            self.ids.take(event)

    def _keep(self, said: dict[tuple[int, str], list[str]], choice: dict[str, Any], delta: Any) -> None:
        index = count(choice.get("index")) or 0
        for name in TEXTS if isinstance(delta, dict) else ():
            if text := delta.get(name):
                said.setdefault((index, name), []).append(text if isinstance(text, str) else json.dumps(text))

    def again(self) -> Seen:
        """Nothing so far of another answer, of which as much is kept as of this one."""
        return Seen(said=None if self.said is None else {}, ids=None if self.ids is None else TokenIds())

    def is_whole(self, num_choices: int) -> bool:
        """Whether the answer has come to its end."""
        return self.is_done or len(self.reasons) >= num_choices


class Events:
    """Puts the lines of a stream together to events (server-sent events, as HTML's standard has them).

    `lines`: those of an event that is not whole yet. `was_one_line`: the last whole one. `is_done`: [DONE]
    has come. Beyond the standard, an event is over as soon as it is an object: some servers leave out the
    empty line behind it.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.size = 0
        self.is_done = self.has_begun = self.was_one_line = False

    def take(self, line: bytes) -> dict[str, Any] | None:
        """The event that is whole with this line; None where there is none. BrokenStream for data that is no
        JSON object.
        """
        if not self.has_begun:
            self.has_begun, line = True, line.removeprefix(BOM)
        text = line.strip()
        if not text.startswith(b"data:"):
            if not text and self.lines:
                raise BrokenStream("an event is not JSON")
            return None
        value = text[5:].strip()
        if not self.lines:
            if not value or value == b"[DONE]":
                self.is_done |= bool(value)
                return None
            if not value.startswith(b"{"):
                raise BrokenStream("an event is no JSON object")
        self.lines.append(value)
        self.size += len(value)
        event = self._event() if value.endswith(b"}") else None
        if self.size > LONGEST_LINE or len(self.lines) > MOST_LINES:
            raise BrokenStream("an event does not end")
        return event

    def _event(self) -> dict[str, Any] | None:
        """The object that the lines so far are; None where they are none yet."""
        try:
            event = json.loads(b"\n".join(self.lines))
        except RecursionError:
            raise BrokenStream("an event is nested too deeply") from None
        except ValueError:
            return None
        self.lines, self.size, self.was_one_line = [], 0, len(self.lines) == 1
        if not isinstance(event, dict):
            raise BrokenStream("an event is no JSON object")
        return event


class Passing:
    """Takes a stream apart into lines, lets them pass, and notes what they say.

    `hides_usage`: the event that only counts tokens does not pass, for the client has not asked for it.
    `broken`: a line was none of a stream of events; those of events before it have passed.
    """

    def __init__(self, seen: Seen, *, hides_usage: bool) -> None:
        self.seen, self.hides_usage = seen, hides_usage
        self.events = Events()
        self.rest = self.held = b""
        self.hid_last = False
        self.broken: BrokenStream | None = None

    def feed(self, data: bytes) -> bytes:
        """What of these bytes, and of those before, goes on now."""
        data = self.rest + data if self.rest else data
        end = data.rfind(b"\n") + 1
        self.rest = data[end:]
        passed = []
        try:
            for line in data[:end].splitlines(keepends=True):
                passed.append(self._take(line))
            if len(self.rest) > LONGEST_LINE:
                raise BrokenStream("a line does not end")
        except BrokenStream as error:
            self.broken = error
        return b"".join(passed)

    def close(self) -> bytes:
        """The stream has ended: what is left of it, where that is a whole line but for its end."""
        rest, self.rest = self.rest, b""
        try:
            lines = self._take(rest) if rest else b""
        except BrokenStream:
            return b""
        return lines + b"\n\n" if lines else b""

    def _take(self, line: bytes) -> bytes:
        """What passes with this line: itself, or all lines of an event."""
        was_hidden, self.hid_last = self.hid_last, False
        if was_hidden and not line.strip():
            return b""
        event = self.events.take(line)
        self.held += line
        if self.events.lines:
            return b""
        lines, self.held = self.held, b""
        self.seen.is_done = self.events.is_done
        if event is not None:
            self.seen.take(event)
            self.hid_last = self.hides_usage and not event.get("choices") and bool(event.get("usage"))
        return b"" if self.hid_last else lines
