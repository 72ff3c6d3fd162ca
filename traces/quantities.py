"""Numbers with units, as people write them: `2s`, `60/min`, `15%`. Knows nothing of what they bound."""

from __future__ import annotations

import re
from collections.abc import Mapping

PER_MS: Mapping[str, float] = {"ns": 1e6, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1.0, "s": 1e-3}
"""How many of a unit make a millisecond."""
LONG_S: Mapping[str, float] = {"min": 60.0, "h": 3600.0}
"""Seconds of the longer units. A single m is none: it may be thought of as minutes or as thousandths."""
DURATION_UNITS = "ns, us, ms, s, min or h"

SPAN_S: Mapping[str, float] = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
RATE_UNITS = "/s, /min or /h"


def milliseconds(text: str) -> float:
    """`2s`, `2000ms`, or a number alone, which is of milliseconds. Raises ValueError for anything else."""
    number, unit = _parts(text)
    if unit in LONG_S:
        return number * LONG_S[unit] * 1e3
    return number / _known(unit or "ms", PER_MS, text)


def seconds(text: str) -> float:
    """`2h`, `500ms`, or a number alone, which is of seconds. Raises ValueError for anything else."""
    number, unit = _parts(text)
    return number if not unit else milliseconds(text) / 1e3


def per_second(text: str) -> float:
    """`60/min`, `5/s`, or a number alone, which is per second. Raises ValueError for anything else."""
    number, slash, unit = text.partition("/")
    return float(number) / _known(unit.strip() if slash else "s", SPAN_S, text)


def percent(text: str) -> float:
    """`15%` or a number alone, which is of percent. Raises ValueError for anything else."""
    return float(text.removesuffix("%"))


def share(text: str) -> float:
    """`99%`, or a number alone, which is of 1. Raises ValueError for anything else."""
    return percent(text) / 100 if text.endswith("%") else float(text)


def _parts(text: str) -> tuple[float, str]:
    """The number and the letters behind it; inf and nan are numbers."""
    match = re.fullmatch(r"\s*([-+]?[\d._]+(?:[eE][-+]?\d+)?)\s*([a-zµμ]+)\s*", text)
    return (float(match[1]), match[2]) if match else (float(text), "")


def _known(unit: str, units: Mapping[str, float], text: str) -> float:
    if unit not in units:
        raise ValueError(f"{text!r} has no unit of {', '.join(units)}")
    return units[unit]
