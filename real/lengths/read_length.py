"""Reads the length that a model states in its answer; knows nothing of models.

Numbers as people write them: `150`, `about 120 tokens`, `1,200`, `1.2k`, `100-150` (its middle, as the
paper's code takes it), `one hundred and twenty`. Ignored are negative numbers, counts of other things
(`3 sentences`), numbers inside words (`GPT4`), list marks (`1. First`), and answers with unreadable
characters. Of several numbers the one followed by `tokens` counts, else the first.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from traces.trace import IntArray

MOST_TOKENS = 100_000
"""A larger number is not taken for a length."""

_NUMBER = r"(?>\d{1,3}(?:[,'_ \u2019]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s?[kK]\b)?"
_LENGTH = re.compile(
    rf"(?<![\w.,$€£#])(?<!\w-)(?<!\d[:/^])(?P<minus>-\s?)?(?P<low>{_NUMBER})"
    rf"(?:\s*(?:-|to|and|or)\s*(?P<high>{_NUMBER}))?"
    r"(?![:/^-]\d)(?!(?!tok)[a-z])(?P<cut>,?\Z)?(?P<after>\s*%|[\s-]*[a-z]+)?",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^\s*\d{1,2}[.)]\s+(?=[^\W\d])", re.MULTILINE)
_OTHER_THINGS = re.compile(
    r"[\s-]*(?:%|(?:word|character|char|letter|sentence|line|paragraph|page|point|item|step|bullet|byte|"
    r"percent|second|minute|hour|day|year)s?\b)",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"[\s-]*tok", re.IGNORECASE)

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 100, "thousand": 1000}
_WORD = "|".join(sorted((*_WORDS, *_SCALES), key=len, reverse=True))
_IN_WORDS = re.compile(
    rf"\b(?:an?\s+(?=hundred|thousand))?(?:{_WORD})(?:[\s-]+(?:and\s+)?(?:{_WORD}))*\b(?P<tokens>\s+tok)?",
    re.IGNORECASE,
)
_ALONE_FROM = 20
"""A smaller number in words counts only if `tokens` follows: `one` is seldom a length."""


def read_length(text: str, is_cut: bool = False) -> int | None:
    """The length that an answer states, in tokens from 1 to `MOST_TOKENS`; None where it states none.

    `is_cut`: the answer was cut off, so a number at its very end may lack digits.
    """
    text = unicodedata.normalize("NFKC", text)
    if any(unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") and char not in "\n\r\t" for char in text):
        return None
    if "\N{REPLACEMENT CHARACTER}" in text:
        return None
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)
    text = _in_digits(_LIST_MARK.sub("", text))
    matches = [match for match in _LENGTH.finditer(text) if not (is_cut and match["cut"] is not None)]
    matches = [m for m in matches if m["minus"] is None and not _OTHER_THINGS.match(m["after"] or "")]
    matches.sort(key=lambda match: _TOKENS.match(match["after"] or "") is None)
    for match in matches:
        low = _value(match["low"])
        length = low if match["high"] is None else (low + _value(match["high"])) / 2
        if 1 <= length <= MOST_TOKENS:
            return math.ceil(length)
    return None


def _value(number: str) -> float:
    is_thousands = number[-1] in "kK"
    digits = re.sub(r"[,'_ \u2019kK\s]", "", number)
    return float(digits) * (1000 if is_thousands else 1)


def _in_digits(text: str) -> str:
    """The text with English number words as digits."""

    def digits(match: re.Match[str]) -> str:
        whole = part = 0
        for word in re.findall(_WORD, match[0].lower()):
            if word == "hundred":
                part = max(1, part) * 100
            elif word == "thousand":
                whole, part = whole + max(1, part) * 1000, 0
            else:
                part += _WORDS[word]
        number = whole + part
        counts = number >= _ALONE_FROM or match["tokens"]
        return f"{number}{match['tokens'] or ''}" if counts else match[0]

    return _IN_WORDS.sub(digits, text)


LEAST_STATED = 10
LEAST_SHARE = 0.5
"""The median of the lengths that were read counts where so many were, and so large a share of all answers."""


class History(NamedTuple):
    """The median length of past answers, and whose: the stand-in where too few answers state a length."""

    tokens: int
    whose: str


class StandIn(NamedTuple):
    """The prediction where an answer states no length, and where the number comes from."""

    tokens: int
    source: str


@dataclass(frozen=True)
class Fallback:
    """How to predict where an answer states no length."""

    rule: Literal["median", "max"] | int = "median"
    """The median of the lengths that were read (of the history where too few were), the most tokens that an
    answer may have, or a number of tokens.
    """

    def __post_init__(self) -> None:
        if isinstance(self.rule, int) and not 1 <= self.rule <= MOST_TOKENS:
            raise ValueError(f"fallback: {self.rule} must be between 1 and {MOST_TOKENS}")

    @classmethod
    def of(cls, text: str) -> Fallback:
        """From `median`, `max` or a number; ValueError for anything else."""
        if text in ("median", "max"):
            return cls("median" if text == "median" else "max")
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"fallback: {text!r} is not median, max or a number of tokens")
        return cls(int(text))

    def stand_in(
        self, lengths: Sequence[int], num_answers: int, max_new_tokens: int, history: History
    ) -> StandIn:
        """The fallback, given the lengths that were read of `num_answers` answers."""
        if isinstance(self.rule, int):
            return StandIn(min(self.rule, max_new_tokens), "the number given")
        if self.rule == "max":
            return StandIn(max_new_tokens, "the most new tokens")
        if len(lengths) >= max(LEAST_STATED, LEAST_SHARE * num_answers):
            return StandIn(median_high(lengths), f"the median of the {len(lengths)} lengths stated")
        few = f"{len(lengths)} of {num_answers} answers stated one"
        return StandIn(min(history.tokens, max_new_tokens), f"the median of {history.whose}, for {few}")


class ReadLengths(NamedTuple):
    """Predicted lengths, shape (n,), which of them are the fallback, and the fallback itself."""

    predicted: IntArray
    fell_back: npt.NDArray[np.bool_]
    fallback: StandIn


def read_lengths(
    stated: list[int | None], max_new_tokens: int, fallback: Fallback, history: History
) -> ReadLengths:
    """A length per answer: as stated, at most `max_new_tokens`; else the fallback."""
    lengths = [min(length, max_new_tokens) for length in stated if length is not None]
    instead = fallback.stand_in(lengths, len(stated), max_new_tokens, history)
    predicted = [instead.tokens if length is None else min(length, max_new_tokens) for length in stated]
    return ReadLengths(
        np.array(predicted, dtype=np.int64), np.array([length is None for length in stated]), instead
    )
