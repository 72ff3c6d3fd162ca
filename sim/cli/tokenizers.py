"""Tokens by a Hugging Face tokenizer, which is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from traces.errors import InputError


def encoder(name: str | None) -> Callable[[str], list[int]] | None:
    """A function from a text to the ids of its tokens, by a tokenizer; None for None.

    Raises InputError where it cannot be loaded, or transformers is not installed.
    """
    if name is None:
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(f'--tokenizer {name}: needs transformers: pip install "seqsched[real]"') from None
    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {name}: cannot be loaded ({error})") from None

    def encode(text: str) -> list[int]:
        ids: list[int] = loaded(text, add_special_tokens=False).input_ids
        return ids

    return encode


def counter(name: str | None) -> Callable[[str], int] | None:
    """A function from a text to its number of tokens; None for None. Errors are those of `encoder`."""
    encode = encoder(name)
    return None if encode is None else lambda text: len(encode(text))
