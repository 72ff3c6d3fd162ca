"""A predictor of answers' lengths that was trained on a log (`sim.learning`): its file, and its predictions.

`load` reads one, `predict_text` takes well under a millisecond, in plain Python; nothing here needs
scikit-learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.checks import MAX_TOKENS
from traces.errors import InputError
from traces.trace import FloatArray, IntArray

from . import archive
from .features import LEXICAL, lexical, same_prompt
from .linear import LEVELS, MEDIAN, LengthPrediction, Linear, design, quantiles_of

FORMAT, VERSION = "seqsched-length-predictor", 1
KINDS = {
    "idf": "f",
    "weights": "f",
    "centre": "f",
    "scale": "f",
    "dense": "f",
    "knots": "f",
    "coefficients": "f",
    "prompt": "u",
    "quantiles": "f",
    "actual": "i",
    "is_cut": "b",
}
"""Arrays in the file, and of which kind each is."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of prompts that were trained on, made without them: arrays of shape (n,), `quantiles`
    (n, levels). `is_cut`: the answer was stopped at its cap, `actual`. `prompt`: hashes, as `hash_of` makes
    them.
    """

    prompt: npt.NDArray[np.uint64]
    quantiles: FloatArray
    actual: IntArray
    is_cut: npt.NDArray[np.bool_]

    @property
    def predicted(self) -> IntArray:
        """The medians, in whole tokens."""
        return np.maximum(1, np.rint(self.quantiles[:, MEDIAN])).astype(np.int64)


def hash_of(text: str) -> int:
    """Tells prompts apart without keeping them: 64 bits of BLAKE2b of the prompt as `same_prompt` has it."""
    digest = hashlib.blake2b(same_prompt(text).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class LearnedPredictor:
    """Predicts the length of an answer from its prompt.

    `score_at`, `words_at`: mean and standard deviation of scores and of logarithms of words; `knots`: scores
    at which quantiles bend; `coefficients`: of the logarithm of each quantile in `design`; `longest`: the
    longest answer that was seen, in tokens, which none is predicted above. `about`: what it was trained on,
    and its report.
    """

    linear: Linear
    score_at: tuple[float, float]
    words_at: tuple[float, float]
    knots: FloatArray
    coefficients: FloatArray
    longest: int
    held_out: HeldOut
    about: Mapping[str, Any]
    _seen: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A prompt with several answers has as many rows, all predicted alike.
        self._seen.update({h: row for row, h in enumerate(self.held_out.prompt.tolist())})

    @staticmethod
    def load(path: str | Path) -> LearnedPredictor:
        """The predictor in a file that `seqsched predictor train` wrote.

        Raises InputError for what is no such file, of another version, or not sound; runs nothing in it.
        """
        about, arrays = archive.read(path, KINDS)
        if about.get("format") != FORMAT:
            raise archive.foreign(path, f"its format is {about.get('format')!r}")
        if about.get("version") != VERSION:
            raise InputError(
                f"{path}: is of version {about.get('version')!r}, {VERSION} is read; train it again"
            )
        try:
            if tuple(about["lexical"]) != LEXICAL or tuple(about["levels"]) != LEVELS:
                raise InputError(f"{path}: looks at other things than this seqsched does; train it again")
            predictor = _read(about, arrays)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise archive.damaged(path, f"{type(error).__name__}: {error}") from None
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise archive.damaged(path, str(error)) from None
        if why := _fault(predictor, arrays):
            raise archive.damaged(path, why)
        return _with_embeddings(path, predictor)

    def save(self, path: str | Path) -> None:
        """Write it to a file: arrays and JSON, no code. The same predictor is the same bytes."""
        linear, held_out = self.linear, self.held_out
        about = {
            "format": FORMAT,
            "version": VERSION,
            "levels": LEVELS,
            "lexical": LEXICAL,
            "terms": list(linear.vocabulary),
            "intercept": linear.intercept,
            "score_at": self.score_at,
            "words_at": self.words_at,
            "longest": self.longest,
            "about": self.about,
        }
        arrays = {
            "idf": np.array(linear.idf),
            "weights": np.array(linear.weights),
            "centre": linear.centre,
            "scale": linear.scale,
            "dense": linear.dense,
            "knots": self.knots,
            "coefficients": self.coefficients,
            "prompt": held_out.prompt,
            "quantiles": held_out.quantiles.astype(np.float32),
            "actual": held_out.actual,
            "is_cut": held_out.is_cut,
        }
        archive.write(path, about, arrays)

    def predict_text(self, text: str) -> LengthPrediction:
        """What is predicted of the answer to a prompt."""
        return self._predicted(text)

    def _predicted(self, text: str, embedding: FloatArray | None = None) -> LengthPrediction:
        counts = lexical(text)
        score = (self.linear.of(text, counts, embedding) - self.score_at[0]) / self.score_at[1]
        words = (counts[0] - self.words_at[0]) / self.words_at[1]
        return LengthPrediction(tuple(self.quantiles_at([score], [words])[0].tolist()))

    def predict_texts(self, texts: Sequence[str]) -> FloatArray:
        """Quantiles of the answers to several prompts, shape (n, levels); of a prompt that was trained on
        those that were predicted without it.
        """
        quantiles = np.empty((len(texts), len(LEVELS)))
        rows = [self._seen.get(hash_of(text)) for text in texts]
        new = [i for i, row in enumerate(rows) if row is None]
        embed = self.linear.embed
        embeddings = embed([texts[i] for i in new]) if embed is not None and new else [None] * len(new)
        for i, embedding in zip(new, embeddings, strict=True):
            quantiles[i] = self._predicted(texts[i], embedding).quantiles
        for i, row in enumerate(rows):
            if row is not None:
                quantiles[i] = self.held_out.quantiles[row]
        return quantiles

    def num_seen(self, texts: Sequence[str]) -> int:
        """How many of these prompts it was trained on."""
        return sum(hash_of(text) in self._seen for text in texts)

    def quantiles_at(self, score: Sequence[float], words: Sequence[float]) -> FloatArray:
        """Quantiles at standardised scores and logarithms of words: shape (n, levels), rising."""
        return quantiles_of(
            design(np.array(score), np.array(words), self.knots), self.coefficients, self.longest
        )


def _read(about: Mapping[str, Any], arrays: archive.Arrays) -> LearnedPredictor:
    vocabulary = {str(term): index for index, term in enumerate(about["terms"])}
    linear = Linear(
        vocabulary,
        tuple(arrays["idf"].tolist()),
        tuple(arrays["weights"].tolist()),
        arrays["centre"],
        arrays["scale"],
        arrays["dense"],
        float(about["intercept"]),
    )
    held_out = HeldOut(
        arrays["prompt"].astype(np.uint64),
        arrays["quantiles"].astype(np.float64),
        arrays["actual"].astype(np.int64),
        arrays["is_cut"],
    )
    at = [tuple(float(value) for value in about[name]) for name in ("score_at", "words_at")]
    (score_mean, score_spread), (words_mean, words_spread) = at
    return LearnedPredictor(
        linear,
        (score_mean, score_spread),
        (words_mean, words_spread),
        arrays["knots"],
        arrays["coefficients"],
        int(about["longest"]),
        held_out,
        dict(about["about"]),
    )


def _fault(predictor: LearnedPredictor, arrays: archive.Arrays) -> str:
    """What is wrong with a predictor; empty where nothing is."""
    linear, held_out = predictor.linear, predictor.held_out
    n, dense = len(held_out.prompt), len(linear.centre)
    shapes = {
        "idf": (len(linear.vocabulary),),
        "weights": (len(linear.vocabulary),),
        "centre": (dense,),
        "scale": (dense,),
        "dense": (dense,),
        "knots": (len(predictor.knots),),
        "coefficients": (len(LEVELS), 3 + len(predictor.knots)),
        "prompt": (n,),
        "quantiles": (n, len(LEVELS)),
        "actual": (n,),
        "is_cut": (n,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"{name} has shape {arrays[name].shape}, not {shape}"
    spreads = (predictor.score_at[1], predictor.words_at[1], *linear.scale.tolist())
    numbers = (*predictor.score_at, *predictor.words_at, linear.intercept)
    if not np.isfinite(numbers).all() or min(spreads) <= 0:
        return "a spread is not above 0"
    if n == 0 or held_out.actual.min() < 1 or held_out.quantiles.min() <= 0 or predictor.longest < 1:
        return "a length is below 1"
    most = max(float(held_out.quantiles.max()), float(held_out.actual.max()), predictor.longest)
    if most > MAX_TOKENS:
        return f"a length is above {MAX_TOKENS}"
    if dense < len(LEXICAL) or (dense > len(LEXICAL)) != bool(predictor.about.get("embeddings")):
        return f"it has {dense} dense columns"
    return ""


def _with_embeddings(path: str | Path, predictor: LearnedPredictor) -> LearnedPredictor:
    """The predictor with the model that makes its embeddings, where it was trained with one."""
    described = predictor.about.get("embeddings")
    if not described:
        return predictor
    from .embedding import embedder

    embed = embedder(described["folder"], described.get("sha256"), str(path))
    return replace(predictor, linear=replace(predictor.linear, embed=embed), _seen={})
