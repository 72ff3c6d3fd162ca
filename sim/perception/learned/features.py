"""What a learned predictor looks at in a prompt: its words and pairs of words, and some counts.

Looks at the beginning and the end of a long prompt alone, so that a prediction takes under a millisecond.
Knows nothing of models.
"""

from __future__ import annotations

import math
import re
import unicodedata
from itertools import pairwise

HEAD, TAIL = 1500, 500
"""Characters of a prompt that are looked at, from its beginning and from its end."""
COUNTED = 10_000
"""Characters of which the words are counted one by one."""
_UNSPACED = "\u2e80-\u9fff\uac00-\ud7ff"
"""Characters of scripts that are written without spaces: each counts as a word."""
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
NUMBER = re.compile(r"(?<![\w.])\d{1,4}(?![\w.]?\d)")
CAPITAL = re.compile(r"[A-Z]")
OPENING = re.compile(r"\s*(what|who|whom|when|where|which|is|are|was|were|do|does|did|can|could)\b", re.I)
LEXICAL = (
    "log words",
    "log characters",
    "log lines",
    "question marks",
    "log largest number",
    "has a number",
    "quotation marks",
    "blocks of code",
    "colons",
    "share of capitals",
    "characters per word",
    "begins as a question of fact",
)
"""Names of what `lexical` returns; a file of a predictor that has others is refused."""


def shortened(text: str) -> str:
    """The beginning and the end of a long text; a short one whole."""
    if len(text) <= HEAD + TAIL:
        return text
    return f"{text[:HEAD]} {text[-TAIL:]}"


def terms(text: str) -> list[str]:
    """The words of a text in small letters, and each pair of neighbours; marks and characters of scripts
    without spaces are words.
    """
    words = WORD.findall(shortened(text).lower())
    return words + [f"{one} {other}" for one, other in pairwise(words)]


def lexical(text: str) -> list[float]:
    """The counts that `LEXICAL` names."""
    words, short = _num_words(text), shortened(text)
    numbers = [int(number) for number in NUMBER.findall(short)]
    return [
        math.log1p(words),
        math.log1p(len(text)),
        math.log1p(text.count("\n")),
        float(min(short.count("?"), 5)),
        math.log1p(max(numbers, default=0)),
        float(bool(numbers)),
        float(min(short.count('"'), 10)),
        float(min(short.count("```"), 4)),
        float(min(short.count(":"), 10)),
        len(CAPITAL.findall(short)) / max(len(short), 1),
        min(len(text) / max(words, 1), 20.0),
        float(OPENING.match(short) is not None),
    ]


def _num_words(text: str) -> float:
    """Words between spaces; of a very long text about as many."""
    if len(text) <= COUNTED:
        return len(text.split())
    return len(text[:COUNTED].split()) * len(text) / COUNTED


def same_prompt(text: str) -> str:
    """A text as prompts are told apart: two that differ in case, spaces, width or marks are one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()
