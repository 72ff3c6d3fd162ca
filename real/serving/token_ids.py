"""The numbers of a prompt's tokens and of its answer's, as some servers say them where they are asked to
(vLLM: `return_token_ids`). With them an answer is continued from the very tokens that it has.
"""

from __future__ import annotations

from typing import Any

ASKED = "return_token_ids"
TORN = "\ufffd"
"""Stands for bytes that are no character yet."""
SAID = ("token_ids", "prompt_token_ids")
"""Fields of a choice that only stand there because they were asked for."""


class TokenIds:
    """Collects them from the events of one answer with one choice."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.answer: list[int] = []
        self.is_even = True

    def take(self, event: dict[str, Any]) -> None:
        """The next event."""
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        ids, text = _numbers(choice.get("token_ids")), choice.get("text")
        self.prompt = self.prompt or _numbers(choice.get("prompt_token_ids"))
        self.answer += ids
        if ids or text:
            self.is_even = len(ids) == 1 and isinstance(text, str) and text != "" and not text.endswith(TORN)

    def all(self, num_answered: int) -> list[int] | None:
        """Those of the prompt and of so many tokens of an answer; None where they are not known, or where the
        text that has come does not end where the last of them does: a character may need several tokens, and
        a server may keep a text back.
        """
        is_known = self.is_even and bool(self.prompt) and len(self.answer) == num_answered > 0
        return [*self.prompt, *self.answer] if is_known else None


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    """An event, or a whole answer, as it is where nobody asks for token ids."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return answer
    return {**answer, "choices": [_without(each) if isinstance(each, dict) else each for each in choices]}


def _without(choice: dict[str, Any]) -> dict[str, Any]:
    return {name: None if name in SAID else value for name, value in choice.items()}


def _numbers(value: Any) -> list[int]:
    """A list of token ids; empty for what is none."""
    is_list = isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
    return value if is_list else []
