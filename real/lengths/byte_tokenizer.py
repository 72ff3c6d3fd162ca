"""A tokenizer of bytes, for the tiny model, which has none of its own.

Text is encoded as its UTF-8 bytes, without loss. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

PAD, BEGIN, END = 0, 1, 2
"""As in the vocabularies of LLaMA."""

FIRST_BYTE = 3
VOCAB_SIZE = FIRST_BYTE + 256

UNREADABLE = "�"
"""Stands for bytes that are not UTF-8, and for tokens that are not bytes."""


class ByteTokenizer:
    """The part of a Hugging Face tokenizer's interface that the project uses."""

    pad_token_id, bos_token_id, eos_token_id = PAD, BEGIN, END
    vocab_size = VOCAB_SIZE
    name_or_path = "bytes"
    chat_template = None

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """`input_ids` of a text, or a list of them for several texts; by default with a begin token."""
        if not isinstance(text, str):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        # A lone surrogate has no UTF-8; it must not end a run.
        ids = [FIRST_BYTE + byte for byte in text.encode("utf-8", errors="replace")]
        return {"input_ids": [BEGIN, *ids] if add_special_tokens else ids}

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of these tokens; the special ones as `<pad>`, `<s>`, `</s>`, or skipped."""
        parts: list[bytes] = []
        for token in ids:
            if token < FIRST_BYTE:
                parts.append(b"" if skip_special_tokens else (b"<pad>", b"<s>", b"</s>")[token])
            elif token < VOCAB_SIZE:
                parts.append(bytes([token - FIRST_BYTE]))
            else:
                parts.append(UNREADABLE.encode())
        return b"".join(parts).decode("utf-8", errors="replace")
