"""The predictor `learned`: what was learned from a log, of a trace with texts, or else how far it was off."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from traces.trace import FloatArray, IntArray, Trace

from ..resampling import resampled
from .linear import LEVELS, MEDIAN
from .model import LearnedPredictor

LOG = logging.getLogger("traces")
"""Told in one line how the file is used."""


@dataclass(frozen=True)
class Learned:
    """A predictor that was trained on a log (`seqsched predictor train`): by the trace's texts, each prompt
    that it was trained on predicted without it; where the trace has none, predictions resampled from the
    pairs held out at training.
    """

    file: str
    """What `seqsched predictor train` wrote."""
    neighbours: int = 20
    """Without texts: from how many of the pairs with the nearest lengths one is drawn."""
    charge: bool = False
    """Charge the accelerator for asking."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours: {self.neighbours} must be at least 1")

    @cached_property
    def model(self) -> LearnedPredictor:
        """What is in the file; InputError where it is no sound predictor."""
        return LearnedPredictor.load(self.file)

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """Medians in tokens."""
        predicted: IntArray = np.rint(self._quantiles(trace, rng)[:, MEDIAN]).astype(np.int64)
        return np.maximum(1, predicted)

    def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> IntArray:
        """Quantiles of each length at `levels`, shape (n, levels), in whole tokens; without texts those of
        the held-out prediction nearest to `predicted`.
        """
        if trace.prompt is not None:
            known = self.model.predict_texts(trace.prompt.tolist())
        else:
            held_out = self.model.held_out
            order = np.argsort(held_out.predicted, kind="stable")
            at = np.searchsorted(held_out.predicted[order], predicted).clip(0, len(order) - 1)
            known = held_out.quantiles[order[at]]
        at_levels = np.array([np.exp(np.interp(levels, LEVELS, row)) for row in np.log(known)])
        whole: IntArray = np.ceil(at_levels.reshape(len(trace), len(levels))).astype(np.int64)
        return np.maximum(1, whole)

    def _quantiles(self, trace: Trace, rng: np.random.Generator) -> FloatArray:
        model = self.model
        if trace.prompt is None:
            LOG.info("%s: %s has no texts: predictions err as they did at training", self.file, trace.name)
            held_out = model.held_out
            pairs = resampled(held_out.predicted, held_out.actual, trace.output_tokens, self.neighbours, rng)
            return held_out.quantiles[pairs]
        texts = trace.prompt.tolist()
        if seen := model.num_seen(texts):
            LOG.info(
                "%s: was trained on %s of the %s prompts of %s, which are predicted as if it had not been",
                self.file,
                f"{seen:,}",
                f"{len(texts):,}",
                trace.name,
            )
        return model.predict_texts(texts)
