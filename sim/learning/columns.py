"""Finds texts, lengths and caps in the rows of anybody's log, by the names of its columns or keys.

A name may go into nested objects: `response.usage.completion_tokens`, `choices.0.message.content`. Knows
nothing of what is learned from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from traces import checks
from traces.errors import InputError
from traces.spec import nearest
from traces.tables import Table

PROMPTS = (
    *("prompt", "messages", "instruction", "question", "input", "text"),
    *("request.messages", "request.prompt", "request.body.messages", "body.messages", "body.prompt"),
    *("request.input", "kwargs.messages", "conversations"),
)
"""Where prompts are in logs, the likeliest first."""
TARGETS = (
    *("output_tokens", "completion_tokens", "usage.completion_tokens", "response.usage.completion_tokens"),
    *("response.body.usage.completion_tokens", "usage.output_tokens", "response.usage.output_tokens"),
    *("num_completion_tokens", "generated_tokens", "output", "response", "answer", "completion"),
)
"""Where the lengths of answers are, or else answers."""
REASONS = (
    *("finish_reason", "stop_reason", "choices.0.finish_reason", "response.choices.0.finish_reason"),
    *("response.body.choices.0.finish_reason", "response.stop_reason", "choices.*.finish_reason"),
)
"""Why answers ended."""
CAPS = (
    *("max_tokens", "max_completion_tokens", "max_new_tokens", "request.max_tokens", "body.max_tokens"),
    *("request.max_completion_tokens", "request.body.max_tokens", "request.body.max_completion_tokens"),
)
"""How long answers might have become."""
USERS = ("user", "user_id", "request.user", "key", "api_key_hash", "client", "tenant", "request.body.user")
STOPPED = ("length", "max_tokens", "max_output_tokens", "incomplete", "length_limit")
"""Reasons that say that an answer was stopped at its cap."""
ROLES = ("system", "developer", "user", "human", "tool", "assistant", "gpt", "function")


class Columns:
    """The columns of a table, and what is within the objects in them."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._raw: dict[str, list[Any]] = {}

    def find(self, names: Sequence[str]) -> str | None:
        """The first of these names that some row has; None for none."""
        return next((name for name in names if self.has(name)), None)

    def has(self, name: str) -> bool:
        """Whether some row has something under this name."""
        if name in self.table.columns:
            return True
        head = name.partition(".")[0]
        return head in self.table.columns and any(value is not None for value in self.values(name))

    def values(self, name: str) -> list[Any]:
        """What is under this name, row by row; None where there is nothing."""
        if name in self.table.columns:
            return self._column(name)
        head, _, rest = name.partition(".")
        return [_within(value, rest.split(".")) for value in self._column(head)]

    def expand(self, name: str) -> list[str]:
        """The columns that a name means: several where it has a * or commas.

        Raises InputError where there is none, and where one is meant twice.
        """
        names: list[str] = []
        for part in filter(None, (part.strip() for part in name.split(","))):
            found = [column for column in self.table.columns if "*" in part and fnmatchcase(column, part)]
            if not found and not self.has(part):
                raise self.missing(part)
            names += found or [part]
        if not names:
            raise InputError(f"{self.table.path}: a column must be named, {name!r} names none")
        if twin := next((each for each in names if names.count(each) > 1), None):
            raise InputError(f"{self.table.path}: column {twin} is named twice in {name!r}, 1 is allowed")
        return names

    def missing(self, name: str) -> InputError:
        """The error for a name that no row has."""
        known = ", ".join(self.table.columns[:12]) + (", …" if len(self.table.columns) > 12 else "")
        similar = nearest(name, self.table.columns)
        return InputError(f"{self.table.path}: column {name} is missing; there are {known}{similar}")

    def _column(self, name: str) -> list[Any]:
        if name not in self._raw:
            self._raw[name] = self.table.raw(name)
        return self._raw[name]


def _within(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and len(key) < 6:
            value = value[int(key)] if int(key) < len(value) else None
        else:
            return None
    return value


def text_of(value: Any) -> str | None:
    """The text of a prompt or an answer: itself, that of all messages of a chat, that of parts that have a
    text; None for what has none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        texts = [text for each in value if (text := text_of(each))]
        return "\n".join(texts) if texts else None
    if isinstance(value, dict):
        for key in ("content", "text", "value", "message"):
            if key in value:
                return text_of(value[key])
    return None


def prompt_of(value: Any) -> str | None:
    """The text of a prompt; of a conversation what was said before its last answer."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        role = value[-1].get("role", value[-1].get("from"))
        if role in ("assistant", "gpt") and len(value) > 1:
            value = value[:-1]
    return text_of(value)


def answer_of(value: Any) -> str | None:
    """The text of the last answer in a conversation; None where that is none, or ends with a question."""
    if not (isinstance(value, list) and len(value) > 1 and all(isinstance(each, dict) for each in value)):
        return None
    role = value[-1].get("role", value[-1].get("from"))
    return text_of(value[-1]) if role in ("assistant", "gpt") else None


def number_of(value: Any, *, text_is_number: bool) -> float | None:
    """A cell as a number; None where it is none. Whether text may stand for one is up to the file."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if text_is_number and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def shown(value: Any) -> str:
    """A cell for an error."""
    return checks.display(value)
