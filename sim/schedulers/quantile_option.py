"""Options whose text may be `quantile:Q`."""

from __future__ import annotations


def quantile_of(option: str, text: str) -> float | None:
    """Q of `quantile:Q`, None for another text; ValueError, naming the option, for a Q outside 0 to 1."""
    kind, colon, quantile = text.partition(":")
    if kind != "quantile" or not colon:
        return None
    try:
        value = float(quantile)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1.0:
        raise ValueError(f"{option}: the quantile {quantile!r} must be between 0 and 1")
    return value
