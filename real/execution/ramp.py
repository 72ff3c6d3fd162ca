"""Measured steps as a straight line; knows nothing of what took the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ramp(seconds: Sequence[float]) -> tuple[float, float]:
    """(first, slope) of the ramp through measured steps: least squares, not falling, the sum kept."""
    steps = np.asarray(seconds, dtype=np.float64)
    count = len(steps)
    if not count:
        return 0.0, 0.0
    place = np.arange(count) - (count - 1) / 2
    slope = max(0.0, float(place @ steps / (place @ place))) if count > 1 else 0.0
    return float(steps.mean()) - slope * (count - 1) / 2, slope
