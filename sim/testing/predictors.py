"""`check_predictor`: what must hold of a predictor of lengths."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np

from traces.arguments import checked
from traces.trace import Trace

from ..perception.predictions import perceive
from ..perception.predictors import Predictor
from ..perception.registry import make_predictor, name_of
from .worlds import random_world, reported, require


@checked
def check_predictor(predictor: str | Predictor, *, num_worlds: int = 30, seed: int = 0) -> None:
    """What must hold of a predictor, on the traces of worlds `seed`, `seed` + 1, ...

    `predictor` is an object, or a text `NAME` or `module:Class`, `[:key=value,...]` behind it. It says one
    finite number >= 0 per request; the same with the same generator, whatever was asked before and whichever
    policy asks; it draws from that generator alone, leaves the trace as it is, and can be pickled for
    parallel runs. Raises AssertionError with one line, which names the world, for the first that fails.
    """
    built = make_predictor(predictor)
    name = predictor if isinstance(predictor, str) else name_of(predictor)
    with reported("check_predictor", name, seed, "any"):
        copy = _pickled(built)
    for k in range(seed, seed + num_worlds):
        trace = random_world(k).trace
        with reported("check_predictor", name, k, f"{len(trace)} requests"):
            _check(built, copy, trace, k)


def _check(built: Predictor, copy: Predictor, trace: Trace, seed: int) -> None:
    before = _columns(trace)
    said, state = _predict(built, trace, seed)
    require(said.shape == (len(trace),), f"predict returned shape {said.shape}, not ({len(trace)},)")
    require(said.dtype.kind in "iuf", f"predict returned {said.dtype}, not numbers")
    require(bool(np.isfinite(said).all()), "predict returned a number that is not finite")
    require(bool((said >= 0).all()), f"predict returned {said.min()}, below 0")
    after = _columns(trace)
    changed = [name for name, values in before.items() if not np.array_equal(values, after[name])]
    require(not changed, f"predict changed the trace: {', '.join(changed)}")
    random.seed(seed)
    np.random.seed(seed + 1)
    for other, what in ((built, "asked again"), (copy, "pickled and loaded again")):
        again, then = _predict(other, trace, seed)
        require(np.array_equal(said, again), f"says something else with the same generator, {what}")
        require(state == then, f"draws another number of random numbers, {what}")
    for quantile in (None, 0.9):
        perceive(built, trace, np.random.default_rng(seed), quantile)


def _predict(predictor: Predictor, trace: Trace, seed: int) -> tuple[np.ndarray[Any, Any], Any]:
    """What it says, and where its generator is then."""
    rng = np.random.default_rng(seed)
    perceive(predictor, trace, rng)  # its errors are one line
    rng = np.random.default_rng(seed)
    return np.asarray(predictor.predict(trace, rng)), rng.bit_generator.state


def _columns(trace: Trace) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {name: getattr(trace, name) for name in trace.__dataclass_fields__}
    return {name: values.copy() for name, values in arrays.items() if isinstance(values, np.ndarray)}


def _pickled(predictor: Predictor) -> Predictor:
    try:
        loaded: Predictor = pickle.loads(pickle.dumps(predictor))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"cannot be pickled for parallel runs: {error}") from error
    return loaded
