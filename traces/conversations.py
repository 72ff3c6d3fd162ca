"""Reads conversations of texts as sessions: every answer a request, whose prompt is all that was said before.

Knows nothing of tokenizers but that they count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import checks, sessions
from .errors import InputError
from .prompt_blocks import PromptBlocks
from .tables import Table
from .trace import Trace

ANSWERS = "gpt"
"""Who answers; what all others say is part of prompts."""


class Message(NamedTuple):
    """Who says what."""

    speaker: str
    text: str


class _Turns:
    """Requests as they are added, conversation by conversation."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self.count = count
        self.ids, self.session_ids, self.parents = list[str](), list[str](), list[list[int]]()
        self.prompt, self.output, self.answers = list[int](), list[int](), list[int]()
        self.hashes, self.ends, self.offsets = list[int](), list[int](), [0]
        self.numbers: dict[Hashable, int] = {}  # what was said, with all before -> its hash

    def add(self, name: str, messages: Sequence[Message]) -> None:
        """The requests of one conversation; each repeats all that was said, as blocks of one message each."""
        said: list[tuple[int, int]] = []  # (hash, end) of each message
        before, end, last = -1, 0, -1
        for speaker, text in messages:
            tokens = self.count(text) if text else 0
            is_answer = speaker == ANSWERS and end > 0 and tokens > 0
            key: Hashable = (name, len(self.ids)) if is_answer else (before, speaker, text)
            number = self.numbers.setdefault(key, len(self.numbers))
            if is_answer:
                self.ids.append(f"{name}/{len(said)}")
                self.session_ids.append(name)
                self.parents.append([last] if last >= 0 else [])
                self.prompt.append(end)
                self.output.append(tokens)
                self.answers.append(number)
                self.hashes += [one for one, _ in said]
                self.ends += [one for _, one in said]
                self.offsets.append(len(self.hashes))
                last = len(self.ids) - 1
            before, end = number, end + tokens
            said.append((number, end))


def read_turns(
    table: Table, conversations: Sequence[Sequence[Message]], count: Callable[[str], int]
) -> Trace:
    """Every answer of every conversation as a request that waits for the answer before.

    Raises InputError where there is none, and for a prompt or an answer that is too long.
    """
    turns = _Turns(count)
    for row, messages in enumerate(conversations):
        turns.add(str(row), messages)
    if not turns.ids:
        raise InputError(f"{table.path}, conversations: 0 have an answer to anything, at least 1 is needed")
    for lengths in (turns.prompt, turns.output):
        if max(lengths) > checks.MAX_TOKENS:
            raise InputError(f"{table.path}: {max(lengths)} tokens are above {checks.MAX_TOKENS}")
    notes: tuple[str, ...] = (
        "every answer is a request, whose prompt is all that was said before, counted message by message",
        "think times are not stated: a turn comes as the one before ends",
    )
    if silent := len(conversations) - len(set(turns.session_ids)):
        notes += (
            f"{silent} of {len(conversations)} conversations have no answer to anything and are left out",
        )
    blocks = PromptBlocks(*(np.array(v) for v in (turns.hashes, turns.ends, turns.offsets, turns.answers)))
    return Trace(
        name=Path(table.path).stem,
        request_id=np.array(turns.ids, dtype=object),
        prompt_tokens=np.array(turns.prompt),
        output_tokens=np.array(turns.output),
        session_id=np.array(turns.session_ids, dtype=object),
        waits_for=sessions.padded(turns.parents),
        think_s=np.zeros(len(turns.ids)),
        blocks=blocks,
        notes=notes,
    )
