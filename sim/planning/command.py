"""The command line that asks for a plan again, exactly. Knows nothing of how plans are made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..hardware.overrides import Overrides
from ..hardware.overrides import parse as parse_settings
from ..hardware.profile import Profile
from .slo import Slo


def command_of(
    *,
    trace: str,
    slo: Slo | Iterable[str] | str,
    goodput: Mapping[str, float],
    request_rate: float | str | None,
    replicas: int | None,
    policies: Sequence[str],
    profiles: Sequence[str | Profile],
    changes: Overrides,
    prices: Mapping[str, float],
    others: Mapping[str, Any],
) -> str:
    """`seqsched plan` with what was asked; `replicas` where the highest rate was, `others` by their flags.

    A Profile that was given as such stands there by its name.
    """
    words = ["seqsched", "plan", "--trace", trace, "--slo", *_slo_texts(slo)]
    if goodput:
        words += ["--goodput", *_pairs(goodput)]
    if request_rate is not None:
        words += ["--request-rate", request_rate if isinstance(request_rate, str) else _number(request_rate)]
    if replicas is not None:
        words += ["--max-rate", "--replicas", str(replicas)]
    words += ["--policies", ";".join(policies)]
    words += ["--profiles", ";".join(p.name if isinstance(p, Profile) else str(p) for p in profiles)]
    if changes:
        words += ["--set", *(f"{key}={_json(value)}" for key, value in parse_settings(changes).items())]
    for name, value in others.items():
        words += [f"--{name.replace('_', '-')}", value if isinstance(value, str) else _number(value)]
    if prices:
        words += ["--price", *_pairs(prices)]
    return shlex.join(words)


def _slo_texts(slo: Slo | Iterable[str] | str) -> list[str]:
    if isinstance(slo, Slo):
        return [f"{bound.name}:{_number(bound.limit)}" for bound in slo.bounds]
    return slo.split() if isinstance(slo, str) else [str(text) for text in slo]


def _pairs(given: Mapping[str, float]) -> list[str]:
    return [f"{name}:{_number(value)}" for name, value in given.items()]


def _number(value: float) -> str:
    """Short where that reads back equal."""
    short = f"{value:g}"
    return str(value) if isinstance(value, int) or float(short) != value else short


def _json(value: Any) -> str:
    """As `--set` reads it back."""
    if isinstance(value, str) and parse_settings([f"key={value}"]) == {"key": value}:
        return value
    return json.dumps(value)
