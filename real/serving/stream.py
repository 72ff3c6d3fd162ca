"""The stream of an answer as it passes through: what of it goes on to the client, and what it says.

Lines go on as they came. Knows nothing of connections.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .call import count, printable

LONGEST_LINE = 1 << 24
"""Bytes of a line; an upstream that sends a longer one sends no events."""
TEXTS = ("text", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
"""Fields of a choice, or of its delta, that hold tokens."""


class BrokenStream(ValueError):
    """What came is not the stream of an OpenAI-compatible server."""


@dataclass
class Seen:
    """What an answer has said so far. Token counts are the server's own, None where it says none; `events`
    counts those with tokens. `reasons`: why choices ended, by index. `is_done`: [DONE] has come.
    `said`: the texts, by choice and field, in pieces; None: they are not kept.
    """

    events: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    is_done: bool = False
    error: str = ""
    said: dict[tuple[int, str], list[str]] | None = None

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
                self.reasons[count(choice.get("index")) or 0] = printable(str(reason))
            if self.said is not None:
                self._keep(self.said, choice, delta)
        self.events += has_tokens

    def _keep(self, said: dict[tuple[int, str], list[str]], choice: dict[str, Any], delta: Any) -> None:
        index = count(choice.get("index")) or 0
        for name in TEXTS if isinstance(delta, dict) else ():
            if text := delta.get(name):
                said.setdefault((index, name), []).append(text if isinstance(text, str) else json.dumps(text))

    def again(self) -> Seen:
        """Nothing so far of another answer; whose texts are kept where this one's are."""
        return Seen(said=None if self.said is None else {})

    def is_whole(self, num_choices: int) -> bool:
        """Whether the answer has come to its end."""
        return self.is_done or len(self.reasons) >= num_choices


class Passing:
    """Takes a stream apart into lines, lets them pass, and notes what they say.

    `hides_usage`: the event that only counts tokens does not pass, for the client has not asked for it.
    `broken`: a line was none of a stream of events; those before it have passed.
    """

    def __init__(self, seen: Seen, *, hides_usage: bool) -> None:
        self.seen, self.hides_usage = seen, hides_usage
        self.rest = b""
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
                if self._passes(line):
                    passed.append(line)
            if len(self.rest) > LONGEST_LINE:
                raise BrokenStream("a line does not end")
        except BrokenStream as error:
            self.broken = error
        return b"".join(passed)

    def close(self) -> bytes:
        """The stream has ended: what is left of it, where that is a whole line but for its end."""
        rest, self.rest = self.rest, b""
        try:
            return rest + b"\n\n" if rest and self._passes(rest) else b""
        except BrokenStream:
            return b""

    def _passes(self, line: bytes) -> bool:
        text = line.strip()
        if self.hid_last and not text:
            self.hid_last = False
            return False
        self.hid_last = False
        event = event_of(text)
        if event is None:
            self.seen.is_done |= text.endswith(b"[DONE]") and text.startswith(b"data:")
            return True
        self.seen.take(event)
        self.hid_last = self.hides_usage and not event.get("choices") and bool(event.get("usage"))
        return not self.hid_last


def event_of(line: bytes) -> dict[str, Any] | None:
    """The object in a line of data; None for other lines, and for [DONE]. BrokenStream for other data."""
    if not line.startswith(b"data:"):
        return None
    value = line[5:].strip()
    if not value or value == b"[DONE]":
        return None
    try:
        event = json.loads(value)
    except (ValueError, RecursionError):
        raise BrokenStream("an event is not JSON") from None
    if not isinstance(event, dict):
        raise BrokenStream("an event is no JSON object")
    return event
