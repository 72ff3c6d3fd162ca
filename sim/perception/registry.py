"""The predictors by the names that the command line knows."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from traces.errors import InputError
from traces.registry import Registry

from .learned.predictor import Learned
from .predictors import (
    Cap,
    Constant,
    Empirical,
    Exact,
    FromTrace,
    Noisy,
    Oracle,
    Predictor,
    Tuned,
)
from .progressive import Progressive
from .ranking import Rank

PREDICTORS = Registry(
    "predictor",
    {
        "oracle": Oracle,
        "exact": Exact,
        "constant": Constant,
        "trace": FromTrace,
        "cap": Cap,
        "noisy": Noisy,
        "tuned": Tuned,
        "empirical": Empirical,
        "learned": Learned,
        "progressive": Progressive,
        "rank": Rank,
    },
    fields_are_options=True,
)
"""Called as `Class(**options)`, where the fields of the dataclass are the options."""


def make_predictor(predictor: str | Predictor) -> Predictor:
    """The predictor of `NAME[:key=value,...]` or `some.module:Class[:key=value,...]`; an object is returned.

    Raises InputError for an unknown name, a class that cannot be imported, options it does not take, and for
    what has no method `predict`.
    """
    built = PREDICTORS.resolve(predictor).build() if isinstance(predictor, str) else predictor
    if not callable(getattr(built, "predict", None)):
        what = f"predictor {predictor!r}" if isinstance(predictor, str) else f"predictor {name_of(predictor)}"
        raise InputError(f"{what}: has no method predict(trace, rng)")
    return cast(Predictor, built)


def name_of(predictor: object) -> str:
    """What errors call a predictor: its name and those options that are not the defaults; one from outside by
    its module and class.
    """
    for name, made in PREDICTORS.table.items():
        if type(predictor) is made:
            given = [(f, getattr(predictor, f.name)) for f in fields(cast(Any, predictor))]
            options = ",".join(f"{f.name}={value}" for f, value in given if value != f.default)
            return f"{name}:{options}" if options else name
    return f"{type(predictor).__module__}:{type(predictor).__qualname__}"
