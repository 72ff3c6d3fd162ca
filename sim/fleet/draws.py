"""Random numbers for routers that draw lots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def uniform(rng: np.random.Generator, at_a_time: int = 4096) -> Iterator[float]:
    """Uniform numbers in [0, 1) without end; drawing many at a time is what makes them cheap."""
    while True:
        yield from rng.random(at_a_time).tolist()
