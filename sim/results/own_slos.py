"""Bounds that requests state themselves, and those that they are held to. Computes no metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.trace import SLO_COLUMNS, FloatArray

Bound = float | FloatArray
"""On a latency in ms: of all requests, or each one's, of shape (n,)."""


def own_slos(requests: Mapping[str, npt.NDArray[Any]]) -> dict[str, FloatArray]:
    """The bounds that requests state, by latency, each of shape (n,), NaN for none."""
    return {name.removesuffix("_slo_ms"): requests[name] for name in SLO_COLUMNS if name in requests}


def bounds_of(requests: Mapping[str, npt.NDArray[Any]], for_all_ms: Mapping[str, float]) -> dict[str, Bound]:
    """What requests are held to, by latency: a bound that one states takes the place of that for all."""
    bounds: dict[str, Bound] = dict(for_all_ms)
    for key, own in own_slos(requests).items():
        if not np.isnan(own).all():
            bounds[key] = np.where(np.isnan(own), for_all_ms.get(key, np.inf), own)
    return bounds


def states_bounds(requests: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Which requests state a bound, of shape (n,)."""
    stated = [~np.isnan(own) for own in own_slos(requests).values()]
    some: npt.NDArray[np.bool_] = np.asarray(np.logical_or.reduce(stated))
    return some
