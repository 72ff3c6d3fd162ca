"""One request of a client: what it asks for, as its body says it, and what is sent on for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.request import Request
from traces.checks import MAX_BOUND_MS
from traces.trace import CLASS_NAME, is_class

from ..observing.slo_headers import CLASS_HEADER, SLO_HEADERS, class_in
from .lengths import Ask

PATHS = ("/v1/chat/completions", "/v1/completions")
MOST_TOKENS = 1 << 31
"""A count of tokens from here on is none."""


class BadRequest(ValueError):
    """The client's request cannot be understood; the text is for the client."""


@dataclass(eq=False)
class Call:
    """A request as it was received: its path, bytes and content, and who sends it.

    `arrival_s` is on the layer's clock. `told_tokens`: how long the client says the answer will be. `arm`:
    whose order it waits in, the policy's or that of arrival. `slo_class`: the kind of request that it is, for
    the log and the status; empty for none. `request` is what schedulers see of it.
    """

    id: int
    path: str
    raw: bytes
    body: dict[str, Any]
    headers: Mapping[str, str]
    arrival_s: float
    key: str | None = None
    told_tokens: int | None = None
    arm: str = "policy"
    slo_class: str = ""
    request: Request = field(init=False)
    ask: Ask = field(init=False)
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that the layer adds for the upstream's scheduler."""

    @property
    def model(self) -> str:
        """The model that is asked for; empty: the server's own."""
        model = self.body.get("model")
        return printable(model) if isinstance(model, str) else ""

    @property
    def is_stream(self) -> bool:
        """Whether the client wants its answer as it comes."""
        return self.body.get("stream") is True

    @property
    def is_greedy(self) -> bool:
        """Whether the same answer is due each time it is asked for."""
        return self.body.get("temperature") == 0 and self.body.get("temperature") is not False

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the event that counts tokens at a stream's end."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that the client allows, if it says."""
        caps = (count(self.body.get(name)) for name in ("max_completion_tokens", "max_tokens"))
        return next((cap for cap in caps if cap is not None), None)

    @property
    def num_choices(self) -> int:
        """Answers asked for: of each prompt, where there are several."""
        prompt = self.body.get("prompt") if "messages" not in self.body else None
        prompts = (
            [part for part in prompt if isinstance(part, str | list)] if isinstance(prompt, list) else []
        )
        return (count(self.body.get("n")) or 1) * max(1, len(prompts))

    @property
    def text(self) -> str:
        """The prompt as one text: the messages of a chat one below the other, or the prompt; images and the
        like are left out.
        """
        if "messages" in self.body:
            return "\n".join(_messages(self.body["messages"]))
        return "\n".join(_texts(self.body.get("prompt")))

    def sent(self, *, stream: bool, usage: bool, extra: bool) -> bytes:
        """The body that is sent on: the client's own bytes, but for what has to be said otherwise.

        `stream`: the answer shall come as a stream. `usage`: with its count of tokens. `extra`: with the
        fields that the layer adds.
        """
        added: dict[str, Any] = dict(self.extra) if extra else {}
        if stream and not self.is_stream:
            added["stream"] = True
        if stream and usage and not self.wants_usage:
            options = self.body.get("stream_options")
            added["stream_options"] = {
                **(options if isinstance(options, dict) else {}),
                "include_usage": True,
            }
        if not added:
            return self.raw
        if not added.keys() & self.body.keys():
            # Whatever the client wrote stays as it wrote it.
            head = self.raw.rstrip()[:-1].rstrip()
            comma = b"," if self.body else b""
            return head + comma + json.dumps(added, separators=(",", ":")).encode()[1:]
        try:
            return json.dumps({**self.body, **added}, separators=(",", ":")).encode()
        except RecursionError:
            raise BadRequest("the body is nested too deeply") from None


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body, which is UTF-8 (RFC 8259); BadRequest where there is none."""
    try:
        body = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    return body


def told_length(body: Mapping[str, Any], headers: Mapping[str, str]) -> int | None:
    """How long the client says its answer will be: by the header X-Seqsched-Output-Tokens, or as Dynamo's
    clients say it (`nvext.agent_hints.osl`); None where it does not.
    """
    header = headers.get("x-seqsched-output-tokens")
    if header is not None:
        if (told := count(whole_number(header))) is None:
            raise BadRequest("X-Seqsched-Output-Tokens is not a whole number above 0")
        return told
    hints = body.get("nvext")
    for name in ("agent_hints", "osl"):
        hints = hints.get(name) if isinstance(hints, dict) else None
    return count(hints)


def told_slos(headers: Mapping[str, str]) -> dict[str, float]:
    """The bounds in ms that the client states on its request's latencies, by column of a trace; 0 states
    none. BadRequest for what is no bound.
    """
    slos = dict[str, float]()
    for column, names in SLO_HEADERS.items():
        name = next((name for name in names if name in headers), None)
        if name is None:
            continue
        try:
            bound = float(headers[name].replace("_", "?"))  # Python's own way to write numbers
        except ValueError:
            bound = -1.0
        if not 0 <= bound <= MAX_BOUND_MS:
            raise BadRequest(f"{name} is not a number of milliseconds from 0 to {MAX_BOUND_MS}")
        if bound:
            slos[column] = bound
    return slos


def told_class(headers: Mapping[str, str]) -> str:
    """The class that the client says its request is of, empty for none; BadRequest for what is no name."""
    name = class_in(headers.get(CLASS_HEADER, ""))
    if name and not is_class(name):
        raise BadRequest(f"{CLASS_HEADER} is not {CLASS_NAME}")
    return name


def whole_number(text: str) -> int | None:
    """The number that a header says in up to ten digits; None for other texts."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else None


def printable(text: str) -> str:
    """The text without halves of characters, which JSON can say and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < MOST_TOKENS else None


def _messages(messages: Any) -> list[str]:
    if not isinstance(messages, list):
        return []
    return [text for each in messages if isinstance(each, dict) for text in _texts(each.get("content"))]


def _texts(content: Any) -> list[str]:
    """The texts in a prompt, or in the content of a message."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]
