"""Puts the events of a stream together to the answer that the same request without a stream would get."""

from __future__ import annotations

from typing import Any

OBJECTS = {"chat.completion.chunk": "chat.completion"}
"""What an event calls itself -> what a whole answer does."""


class Whole:
    """An answer that is put together: add its events, then take its `content`."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}
        self.choices: dict[int, dict[str, Any]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """The next event: its choices are joined by index, of its other fields the last word holds."""
        for name, value in event.items():
            if name == "choices":
                for choice in value or ():
                    self._join(choice)
                self.content.setdefault("choices", [])
            elif value is not None or name not in self.content:
                self.content[name] = value

    def answer(self) -> dict[str, Any]:
        """The whole answer."""
        kind = self.content.get("object")
        content = {**self.content, "choices": [self.choices[i] for i in sorted(self.choices)]}
        for choice in content["choices"]:
            _close(choice.get("message"))
        return {**content, "object": OBJECTS.get(kind, kind)} if isinstance(kind, str) else content

    def _join(self, part: dict[str, Any]) -> None:
        index = part.get("index")
        choice = self.choices.setdefault(index if isinstance(index, int) else 0, {})
        for name, value in part.items():
            if name == "delta":
                message = choice.setdefault("message", {"role": "assistant", "content": None})
                _merge(message, value or {})
            elif name == "text":
                choice["text"] = choice.get("text", "") + (value or "")
            elif name == "token_ids" and isinstance(before := choice.get(name), list):
                choice[name] = before + (value or [])
            elif name == "logprobs":
                choice["logprobs"] = _joined(choice.get("logprobs"), value)
            elif value is not None or name not in choice:
                choice[name] = value


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to a message: texts are continued, lists of calls joined by index."""
    for name, value in delta.items():
        before = into.get(name)
        if name in ("role", "id", "type", "index"):
            into[name] = value if value is not None else before
        elif isinstance(value, str) and isinstance(before, str):
            into[name] = before + value
        elif isinstance(value, dict) and isinstance(before, dict):
            _merge(before, value)
        elif isinstance(value, list) and name == "tool_calls":
            into[name] = _calls(before if isinstance(before, list) else [], value)
        elif isinstance(value, list) and isinstance(before, list):
            into[name] = before + value
        elif value is not None or name not in into:
            into[name] = value


def _calls(before: list[Any], parts: list[Any]) -> list[Any]:
    calls = list(before)
    for part in parts:
        same = next((call for call in calls if call.get("index") == part.get("index")), None)
        if same is None or part.get("index") is None:
            calls.append(dict(part))
        else:
            _merge(same, part)
    return calls


def _close(message: Any) -> None:
    """The index by which parts of a call were joined is none of a whole answer's."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            call.pop("index", None)


def _joined(before: Any, value: Any) -> Any:
    """Log-probabilities of more tokens: lists are continued."""
    if not isinstance(before, dict) or not isinstance(value, dict):
        return before if value is None else value
    return {
        name: [*a, *b]
        if isinstance(a := before.get(name), list) and isinstance(b := value.get(name), list)
        else (value.get(name) if value.get(name) is not None else before.get(name))
        for name in {**before, **value}
    }
