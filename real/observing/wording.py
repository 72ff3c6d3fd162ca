"""Texts of about as many tokens as a trace says, alike where it says so, for traces without their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from traces.trace import FloatArray, IntArray, Trace

from ..lengths.prompts import random_prompts
from ..lengths.turns import places_of

TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member law "
    "car city name team minute idea body back parent face level office door health person art war "
    "history party result change morning reason girl guy moment air teacher force education foot boy "
    "age policy music market sense road rate red blue green white black small large long short high "
    "low old new good great little own other big early young important public bad same able run see "
    "make know take come think look want give use find tell ask seem feel try leave call move live "
    "hold bring write sit stand lose pay meet set learn lead follow stop speak read grow open walk "
    "win teach offer remember love consider appear buy serve send"
)
WORDS = TEXT.split()
"""Short English words, each a token of its own in most vocabularies."""


class Turn(NamedTuple):
    """What a prompt that goes on from an answer holds before its own text: another text, and the answer to
    the request with this `number`; `otherwise` stands in its place until it has come.
    """

    text: str
    number: int
    otherwise: str


class Prompt(NamedTuple):
    """A text, and the turns before it."""

    text: str
    before: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Wording:
    """Texts of words drawn at random: no two begin alike but those of which a trace says it.

    A text of w words has `tokens_per_word` * w + `extra_tokens` tokens, by what the server counted.
    """

    tokens_per_word: float = 1.0
    extra_tokens: float = 0.0

    def prompts(self, trace: Trace, rng: np.random.Generator) -> list[Prompt]:
        """A prompt for each request, of at least one word; those that hold answers have these as turns.

        What is alike is so in whole words, and in as many tokens as the trace says where the server puts
        nothing of its own behind a prompt.
        """
        counts = np.maximum(1, self._num_words(trace.prompt_tokens))
        blocks = trace.blocks
        if blocks is not None:
            most = np.repeat(counts, np.diff(blocks.offsets))
            blocks = replace(blocks, ends=np.minimum(self._num_words(blocks.ends), most))
        ids = random_prompts(counts.tolist(), np.arange(len(WORDS)), rng, blocks)
        answers: dict[int, list[tuple[int, int, int]]] = {}
        for number, places in ({} if blocks is None else places_of(blocks)).items():
            for row, start, end in places:
                answers.setdefault(row, []).append((start, end, number))
        return [
            _prompt([WORDS[i] for i in prompt], sorted(answers.get(row, ())))
            for row, prompt in enumerate(ids)
        ]

    def _num_words(self, tokens: IntArray) -> IntArray:
        """Words of texts of about so many tokens."""
        words: FloatArray = np.rint((tokens - self.extra_tokens) / self.tokens_per_word)
        return np.maximum(0, words).astype(np.int64)

    @staticmethod
    def words(number: int, rng: np.random.Generator) -> str:
        """A text of so many words."""
        return " ".join([WORDS[i] for i in rng.integers(len(WORDS), size=number)])

    @classmethod
    def counted(cls, words: tuple[int, int], tokens: tuple[int, int]) -> Wording:
        """By what a server counted for two texts of so many words; a token a word where that is no sense."""
        slope = (tokens[1] - tokens[0]) / (words[1] - words[0])
        if not 0.2 < slope < 20:
            return cls()
        return cls(slope, max(0.0, tokens[0] - slope * words[0]))


def _prompt(words: Sequence[str], answers: Sequence[tuple[int, int, int]]) -> Prompt:
    """Words as a prompt whose `answers`, (first word, word behind the last, number), are put in later."""
    turns, at = [], 0
    for start, end, number in answers:
        if start < end:
            turns.append(Turn(_joined(words, at, start), number, _joined(words, start, end)))
            at = end
    return Prompt(_joined(words, at, len(words)), tuple(turns))


def _joined(words: Sequence[str], start: int, end: int) -> str:
    """A part of a text, with the space before it where it does not begin the text."""
    return " " * (0 < start < end) + " ".join(words[start:end])
