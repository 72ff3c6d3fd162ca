"""Predictors of the layer by name."""

from __future__ import annotations

from typing import cast

from traces.errors import InputError
from traces.registry import Registry

from .lengths import LearnedLength, LengthPredictor, MedianLength, OnlineLength

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
