"""Predictors of the layer by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sim.work import Prediction
from traces.errors import InputError
from traces.registry import Registry

from .lengths import Ask, LearnedLength, LengthPredictor, MedianLength, OnlineLength

PREDICTORS = Registry(
    "predictor",
    {"online": OnlineLength, "median": MedianLength, "learned": LearnedLength},
    fields_are_options=True,
)


def make_length_predictor(spec: str) -> LengthPredictor:
    """The predictor of `NAME[:key=value,...]` or `some.module:Class`.

    Raises InputError for an unknown name, and for what cannot predict and learn.
    """
    made = PREDICTORS.resolve(spec).build()
    for method in ("predict", "learn"):
        if not callable(getattr(made, method, None)):
            raise InputError(f"predictor {spec!r}: has no method {method}")
    return cast(LengthPredictor, made)


class SaferLength:
    """A predictor, and the median in its place where it fails; `on_failure` hears of the first failure."""

    def __init__(self, predictor: LengthPredictor, on_failure: Callable[[Exception], None]) -> None:
        self.predictor, self.on_failure = predictor, on_failure
        self.median = MedianLength()
        self.num_failures = 0

    def predict(self, ask: Ask, upper_quantile: float | None) -> Prediction:
        """What the predictor says, where that is a prediction."""
        try:
            said = self.predictor.predict(ask, upper_quantile)
            tokens, upper, lengths = said
            if tokens < 1 or (upper is not None and upper < 0) or min(lengths or (1,)) < 1:
                raise ValueError(f"{said} is no length")
            return said
        except Exception as error:
            self._failed(error)
            return self.median.predict(ask, upper_quantile)

    def learn(self, ask: Ask, tokens: int) -> None:
        """An answer has come."""
        self.median.learn(ask, tokens)
        try:
            self.predictor.learn(ask, tokens)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.num_failures += 1
        if self.num_failures == 1:
            self.on_failure(error)
