"""Counts tokens by a Hugging Face tokenizer, which is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from traces.errors import InputError


def counter(name: str | None) -> Callable[[str], int] | None:
    """A function from a text to its number of tokens, by a tokenizer; None for None.

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
    return lambda text: len(loaded(text, add_special_tokens=False).input_ids)
