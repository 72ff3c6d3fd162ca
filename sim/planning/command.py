"""The command line that asks for a plan again, exactly. Knows nothing of how plans are made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..hardware.overrides import parse as parse_overrides
from ..scenario.machines import fleet_text
from ..scenario.settings import PlanKeywords, Settings
from .slo import Slo

OWN_FORM = ("fleet", "set", "goodput")
"""Settings whose flags are not just their values."""
OF_THE_QUESTION = ("spare", "burstiness")
"""Arguments of `plan` that stand before the settings; those about the effort stand behind them."""


def command_of(
    *,
    trace: str,
    slo: Slo | Iterable[str] | str,
    goodput: Mapping[str, float],
    request_rate: float | str | None,
    replicas: int | None,
    policies: Sequence[str],
    profiles: Sequence[str],
    settings: Settings,
    prices: Mapping[str, float],
    others: Mapping[str, Any],
) -> str:
    """`seqsched plan` with what was asked; `replicas` where the highest rate was, `others` by their flags.

    `profiles`: as they were named. What was given as an object stands there by its name.
    """
    words = ["seqsched", "plan", "--trace", trace, "--slo", *_slo_texts(slo)]
    if goodput:
        words += ["--goodput", *_pairs(goodput)]
    if request_rate is not None:
        words += ["--request-rate", request_rate if isinstance(request_rate, str) else _number(request_rate)]
    if replicas is not None:
        words += ["--max-rate", "--replicas", str(replicas)]
    words += ["--policies", ";".join(policies)]
    if settings.fleet is None:
        words += ["--profiles", ";".join(profiles)]
    else:
        words += ["--fleet", fleet_text(settings.fleet)]
    if changes := parse_overrides(settings.set):
        words += ["--set", *(f"{key}={_json(value)}" for key, value in changes.items())]
    question = {name: others[name] for name in OF_THE_QUESTION if name in others}
    for name, value in {**question, **_not_default(settings), **others}.items():
        words += [
            f"--{name.replace('_', '-')}",
            _number(value) if isinstance(value, int | float) else str(value),
        ]
    if prices:
        words += ["--price", *_pairs(prices)]
    return shlex.join(words)


def _not_default(settings: Settings) -> dict[str, Any]:
    """The settings of a plan that differ from their defaults, but for those of `OWN_FORM`."""
    default = Settings()
    given = {name: getattr(settings, name) for name in PlanKeywords.__annotations__ if name not in OWN_FORM}
    return {name: value for name, value in given.items() if value != getattr(default, name)}


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
    if isinstance(value, str) and parse_overrides([f"key={value}"]) == {"key": value}:
        return value
    return json.dumps(value)
