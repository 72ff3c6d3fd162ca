"""How long answers will be, learnt from those that came: the layer's own traffic.

No prediction is needed to start: the median of what came, by model, until there are enough. Knows nothing of
clocks or connections.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from sim.perception.learned import LearnedPredictor
from sim.work import Prediction
from traces.errors import InputError
from traces.tables import open_table

FIRST_GUESS = 256
"""Tokens that an answer is taken to have before any has come."""
ENOUGH = 64
"""Answers from which on words count."""
WINDOW = 1000
"""Answers that a median, or an error, is taken over."""
MOST_MODELS = 200
"""Models of which medians are kept."""
NUM_FEATURES = 1 << 15
MOST_WORDS = 256
"""Words of a prompt that are looked at: half of them its first, half its last."""
QUANTILES = tuple((k + 0.5) / 16 for k in range(16))
"""Where a distribution is read off."""
USUAL_CHARACTERS = 4.0
"""Characters of a token, before any prompt was counted."""
LEARNT_FROM = ("prompt", "model", "max_tokens", "output_tokens", "status")
"""Columns of the layer's log that it learns from."""
NO_CAP = 4096
"""A cap from here on is as none: the log has one for answers without."""
RATE = 0.5
"""First step of the regression, in logarithms of tokens."""


@dataclass(frozen=True)
class Ask:
    """What a predictor may look at: the model's name, the prompt's text, the cap on the answer."""

    model: str
    text: str
    max_tokens: int | None = None


class LengthPredictor(Protocol):
    """Predicts an answer's tokens, and learns from answers."""

    def predict(self, ask: Ask, upper_quantile: float | None) -> Prediction:
        """The expected tokens, those that it stays below at the quantile, if one is wanted, and lengths that
        are equally probable, for policies that order by a distribution.
        """

    def learn(self, ask: Ask, tokens: int) -> None:
        """An answer has come whole, and had so many tokens."""


class Window:
    """The last numbers, in order: median and quantiles of a few hundred in microseconds."""

    def __init__(self, size: int = WINDOW) -> None:
        self.size = size
        self.recent: deque[float] = deque()
        self.ordered: list[float] = []

    def __len__(self) -> int:
        return len(self.recent)

    def add(self, value: float) -> None:
        """One more; the oldest goes."""
        self.recent.append(value)
        insort(self.ordered, value)
        if len(self.recent) > self.size:
            del self.ordered[bisect_left(self.ordered, self.recent.popleft())]

    def quantile(self, q: float) -> float:
        """The value that a share `q` stays below; there must be any."""
        return self.ordered[min(len(self.ordered) - 1, int(q * len(self.ordered)))]


class MedianLength:
    """The median of the last answers of the same model."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}

    def predict(self, ask: Ask, upper_quantile: float | None = None) -> Prediction:
        """The same for every prompt."""
        window = self.windows.get(ask.model)
        if window is None:
            return Prediction(FIRST_GUESS, FIRST_GUESS, (FIRST_GUESS,))
        middle = round(window.quantile(0.5))
        lengths = tuple(round(window.quantile(q)) for q in QUANTILES)
        return Prediction(middle, round(window.quantile(upper_quantile or 0.5)), lengths)

    def learn(self, ask: Ask, tokens: int) -> None:
        """One more answer."""
        # Whoever was asked for last is kept: clients may make names up.
        window = self.windows.pop(ask.model) if ask.model in self.windows else Window()
        window.add(tokens)
        self.windows[ask.model] = window
        if len(self.windows) > MOST_MODELS:
            del self.windows[next(iter(self.windows))]


class Watch:
    """Whether a predictor is better than the median, by its errors over the last answers."""

    def __init__(self) -> None:
        self.median = MedianLength()
        self.own_errors, self.median_errors = Window(WINDOW // 4), Window(WINDOW // 4)
        self.ratios = Window(WINDOW // 4)  # actual over predicted
        self.num_seen = 0

    def note(self, ask: Ask, said: float, tokens: int) -> None:
        """An answer has come of which `said` tokens were, or would have been, predicted."""
        self.own_errors.add(abs(said - tokens))
        self.median_errors.add(abs(self.median.predict(ask).tokens - tokens))
        self.ratios.add(tokens / max(1.0, said))
        self.median.learn(ask, tokens)
        self.num_seen += 1

    @property
    def is_better(self) -> bool:
        """Whether its errors were smaller; the errors of too few answers say nothing."""
        return self.num_seen >= ENOUGH and sum(self.own_errors.recent) < sum(self.median_errors.recent)


@dataclass(eq=False)
class OnlineLength:
    """A linear regression on a prompt's words, learnt answer by answer (AdaGrad on the logarithm of tokens).

    Drift is watched: while its errors over the last answers are no smaller than the median's, the median is
    what it says.
    """

    log: str = ""
    """A log of the layer with texts (--log-texts) whose answers it learns from before any come."""

    def __post_init__(self) -> None:
        self.watch = Watch()
        self.weights = np.zeros(NUM_FEATURES)
        self.squares = np.full(NUM_FEATURES, 0.1)
        if self.log:
            for ask, tokens in _logged(self.log):
                self.learn(ask, tokens)

    def predict(self, ask: Ask, upper_quantile: float | None = None) -> Prediction:
        """By the prompt's words where that has proved better, else the median."""
        if not self.watch.is_better:
            return self.watch.median.predict(ask, upper_quantile)
        tokens, ratios = self._tokens(features(ask)), self.watch.ratios
        upper = ratios.quantile(upper_quantile or 0.5)
        lengths = tuple(max(1, round(tokens * ratios.quantile(q))) for q in QUANTILES)
        return Prediction(max(1, round(tokens)), max(1, round(tokens * upper)), lengths)

    def learn(self, ask: Ask, tokens: int) -> None:
        """One step of the regression, on the error of what it would have said."""
        index = features(ask)
        said = self._tokens(index)
        self.watch.note(ask, said, tokens)
        # Squared error in logarithms, so that long answers do not rule; bounded, so that none does.
        error = float(np.clip(np.log(said) - np.log(tokens), -2.0, 2.0))
        scale = 1 / np.sqrt(len(index))
        self.squares[index] += (error * scale) ** 2
        self.weights[index] -= RATE * error * scale / np.sqrt(self.squares[index])

    def _tokens(self, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        log = float(self.weights[index].sum()) / np.sqrt(len(index)) + np.log(FIRST_GUESS)
        return float(np.exp(np.clip(log, 0.0, 12.0)))


@dataclass(eq=False)
class LearnedLength:
    """By a file that `seqsched predictor train` wrote; where the traffic has become another, the median."""

    file: str
    """The file."""

    def __post_init__(self) -> None:
        self.model, self.watch = LearnedPredictor.load(self.file), Watch()

    def predict(self, ask: Ask, upper_quantile: float | None = None) -> Prediction:
        """As it was learnt, unless the last answers were nearer to their median."""
        if self.watch.num_seen >= ENOUGH and not self.watch.is_better:
            return self.watch.median.predict(ask, upper_quantile)
        said = self.model.predict_text(ask.text)
        lengths = tuple(max(1, round(said.quantile(q))) for q in QUANTILES)
        return Prediction(said.tokens, round(said.quantile(upper_quantile or 0.5)), lengths)

    def learn(self, ask: Ask, tokens: int) -> None:
        """The file stays as it is; whether it still fits is watched."""
        self.watch.note(ask, self.model.predict_text(ask.text).tokens, tokens)


def _logged(path: str) -> Iterator[tuple[Ask, int]]:
    """What was asked and how long the answers were, of a log of the layer, in the order in which they ended;
    nothing, of one that has just been begun.

    InputError for a file without texts, or where no answer is whole.
    """
    file, spool = Path(path), Path(path).with_suffix(".spool.jsonl")
    if not file.exists() and spool.exists():  # a log in Parquet that has no rows but those
        file = spool
    if file.is_file() and not file.stat().st_size:
        return
    table = open_table(file, lambda name: name in LEARNT_FROM)
    if missing := [name for name in LEARNT_FROM if name not in table.columns]:
        raise InputError(f"{path}: column {missing[0]} is missing; a log with texts has it (--log-texts)")
    columns = [table.raw(name) for name in LEARNT_FROM]
    rows = [row for row in zip(*columns, strict=True) if row[-1] == "completed"]
    if not rows:
        raise InputError(f"{path}: no request is completed, so that nothing can be learnt")
    for text, model, cap, tokens, _ in rows:
        if not isinstance(text, str):  # texts were off then
            continue
        if not isinstance(tokens, int) or not isinstance(cap, int):
            raise InputError(f"{path}: output_tokens {tokens!r} and max_tokens {cap!r} are no whole numbers")
        if tokens > 0:
            yield Ask(str(model), text, cap), tokens


def features(ask: Ask) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Numbers of what is there: a constant, model, length of the prompt, cap, words and pairs of words."""
    words = ask.text.lower().split()
    if len(words) > MOST_WORDS:
        words = words[: MOST_WORDS // 2] + words[-MOST_WORDS // 2 :]
    most = ask.max_tokens or NO_CAP
    cap = str(most.bit_length()) if most < NO_CAP else "none"
    names = ["", f"\1{ask.model}", f"\2{len(ask.text).bit_length()}", f"\3{cap}"]
    names += words
    names += [f"{a} {b}" for a, b in pairwise(words[:17])]
    hashes = {zlib.crc32(name.encode("utf-8", "surrogatepass")) % NUM_FEATURES for name in names}
    return np.fromiter(hashes, dtype=np.int64, count=len(hashes))


class PromptTokens:
    """Tokens of a prompt by its characters, as the upstream counted those before."""

    def __init__(self) -> None:
        self.per_token = Window(200)

    def count(self, text: str) -> int:
        """Tokens of this text, about; at least 1."""
        each = self.per_token.quantile(0.5) if len(self.per_token) else USUAL_CHARACTERS
        return max(1, round(len(text) / each))

    def learn(self, text: str, tokens: int) -> None:
        """The upstream has counted this text's tokens."""
        if text:
            self.per_token.add(len(text) / tokens)
