"""Counts the tokens of a text by its words, where there is no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..perception.learned.features import WORD

TOKENS_PER_WORD = 4 / 3
UNSPACED = re.compile("[\u2e80-\u9fff\uac00-\ud7ff]")


class Counter(NamedTuple):
    """From a text to its tokens, and how that is counted, for people."""

    tokens: Callable[[str], float]
    told: str


def by_words(text: str) -> float:
    """Words × 4/3; each character of a script without spaces is a word."""
    if UNSPACED.search(text) is None:
        return len(text.split()) * TOKENS_PER_WORD
    return len(WORD.findall(text)) * TOKENS_PER_WORD


BY_WORDS = Counter(by_words, "words × 4/3")
