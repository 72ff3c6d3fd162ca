"""Chat templates: how an instruction is put to a model tuned on conversations; knows nothing of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PLACE = "INSTRUCTION"


@dataclass(frozen=True)
class Conversation:
    """The text before an instruction, and the text after it that gives the turn to the assistant."""

    before: str = ""
    after: str = ""
    has_begin_token: bool = False
    """Whether `before` already contains the begin token."""


PLAIN = Conversation()

VICUNA = Conversation(
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: ",
    " ASSISTANT:",
)
"""Vicuna 1.1 and 1.5, whose tokenizer brings no template."""


def conversation_of(tokenizer: Any, model_name: str) -> Conversation:
    """The tokenizer's own template, else Vicuna's for a Vicuna, else none."""
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": _PLACE}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, has_place, after = text.partition(_PLACE)
        if has_place:
            begin = getattr(tokenizer, "bos_token", None)
            return Conversation(before, after, bool(begin) and before.startswith(begin))
    return VICUNA if tokenizer is not None and "vicuna" in model_name.lower() else PLAIN
