"""Runs one point of a sweep. A worker keeps the last traces and scenarios that it set up, so that points that
share them set up nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from traces.loading import file_of
from traces.trace import Trace

from ..scenario.inputs import check_unchanged
from ..scenario.policies import DEFAULT_POLICY
from ..scenario.scenario import Scenario, scenario
from .grid import known_settings


def run_point(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """The summary of one simulation.

    `inputs`: digests of what the settings refer to, as `inputs_of` gives them. Raises InputError where a file
    is not the one that is meant.
    """
    given = dict(settings)
    policy, warmup = given.pop("policy", DEFAULT_POLICY), given.pop("warmup", None)
    return _scenario(_Frozen(given), _Frozen(inputs)).run(policy, warmup=warmup).summary


class _Frozen(dict[str, Any]):
    """A dict of settings that can be the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))


@lru_cache(maxsize=2)
def _scenario(given: _Frozen, inputs: _Frozen) -> Scenario:
    """All of a point but its policy, set up; InputError where a file is not the one that is meant."""
    named = ((key.partition(" "), digest) for key, digest in inputs.items())
    check_unchanged(((name, text, digest) for (name, _, text), digest in named), "sweep")
    settings = {name: setting.default for name, setting in known_settings().items()} | given
    source = settings["trace"]
    # What scales lengths comes before the cap, so that the cap must wait for it.
    cap = settings["max_new_tokens"] if settings.get("output_scale", 1) == 1 else None
    digest = inputs.get(f"trace {source}", "")
    unit = settings["time_unit"]
    trace = _load(source, digest, settings["seed"], cap, settings["num_prompts"], unit)
    return scenario(trace, **{name: value for name, value in given.items() if name != "trace"})


def _load(
    source: str, digest: str, seed: int, cap: int | None, num_prompts: int | None, unit: str | None
) -> Trace:
    """A trace, loaded once for all points that share it; its notes say whether the seed has a part in it."""
    if file_of(source) is None:
        return _load_once(source, digest, seed, cap, num_prompts, unit)
    trace = _load_once(source, digest, 0, cap, None, unit)
    return _load_once(source, digest, seed, cap, None, unit) if trace.notes else trace


@lru_cache(maxsize=4)
def _load_once(
    source: str, digest: str, seed: int, cap: int | None, num_prompts: int | None, unit: str | None
) -> Trace:
    import traces

    return traces.load(source, seed=seed, max_new_tokens=cap, num_prompts=num_prompts, time_unit=unit)
