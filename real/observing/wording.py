"""Texts of about as many tokens as a trace says, for traces without texts of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class Wording:
    """Texts of words drawn at random, so that no two begin alike.

    A text of w words has `tokens_per_word` * w + `extra_tokens` tokens, by what the server counted.
    """

    tokens_per_word: float = 1.0
    extra_tokens: float = 0.0

    def text(self, tokens: int, rng: np.random.Generator) -> str:
        """A text of about so many tokens, at least one word."""
        words = max(1, round((tokens - self.extra_tokens) / self.tokens_per_word))
        return self.words(words, rng)

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
