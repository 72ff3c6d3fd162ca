"""What generators of traces share: options with bounds, and random streams. Knows no distribution of lengths
but the lognormal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from .errors import InputError
from .trace import IntArray

MAX_NUM_PROMPTS = 10_000_000
MAX_TOKENS = 1_000_000


class Bounded:
    """Base of the generators: fields are options, `BOUNDS` holds what each may be, ends included."""

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {}
    NAME: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for option, (low, high) in self.BOUNDS.items():
            value = getattr(self, option)
            # Written so that NaN fails as well.
            if not low <= value <= high:
                raise InputError(f"{self.NAME}: {option} {value:g} is not between {low:g} and {high:g}")

    def num_requests(self, seed: int) -> int | None:
        """How many requests there are; None where as many as are asked for."""
        return None


def stream(seed: int, purpose: str) -> np.random.Generator:
    """One stream per purpose; named, so that no other numbering of streams of the same seed can meet it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),)))


def lognormal_tokens(rng: np.random.Generator, n: int, median: float, sigma: float, most: int) -> IntArray:
    """Lognormal lengths, shape (n,), rounded to whole tokens and clipped to 1 and `most`."""
    # The clip in log space keeps exp from overflowing; the bound below is the one that counts.
    log_length = math.log(median) + sigma * rng.standard_normal(n)
    drawn = np.round(np.exp(np.minimum(log_length, math.log(2 * MAX_TOKENS))))
    return np.clip(drawn, 1, most).astype(np.int64)
