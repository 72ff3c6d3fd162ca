"""How an instruction is put to a model that was tuned on conversations; knows nothing of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PLACE = "INSTRUCTION"


@dataclass(frozen=True)
class Conversation:
    """Text around an instruction: what comes before it, and the turn given to the assistant after it."""

    before: str = ""
    after: str = ""
    has_begin_token: bool = False
    """Whether `before` already spells the token that begins a text."""


PLAIN = Conversation()

VICUNA = Conversation(
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: ",
    " ASSISTANT:",
)
"""Vicuna 1.1 and 1.5, whose tokenizer brings no template."""


def conversation_of(tokenizer: Any, model_name: str) -> Conversation:
    """The template that the tokenizer brings, else Vicuna's for a Vicuna, else none."""
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": _PLACE}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, found, after = text.partition(_PLACE)
        if found:
            begin = getattr(tokenizer, "bos_token", None)
            return Conversation(before, after, bool(begin) and before.startswith(begin))
    return VICUNA if tokenizer is not None and "vicuna" in model_name.lower() else PLAIN
