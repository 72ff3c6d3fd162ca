"""From the text NAME[:key=value,...] to a scheduler, from a profile to what a scheduler may know of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, TypeAlias, cast

from traces.errors import InputError
from traces.spec import build, coerce, parse

from ..hardware.profile import Profile
from ..perception.predictors import ANSWER_TOKENS, QUESTION_TOKENS
from ..schedulers import SCHEDULERS
from ..work import Limits, Scheduler

DEFAULT_POLICY = "sequence"

KNEE_CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)

Policy: TypeAlias = "str | Callable[[Limits], Scheduler]"


def make_scheduler(policy: Policy, limits: Limits) -> Scheduler:
    """One scheduler; see `scheduler_maker`."""
    return scheduler_maker(policy)(limits)


def scheduler_maker(policy: Policy) -> Callable[[Limits], Scheduler]:
    """Builds as many schedulers as there are machines, from a spec that is read once.

    A spec is `NAME[:key=value,...]`, where NAME is a known policy or `some.module:Class`. A class from
    outside is built as `Class(limits, **options)`; with an `Options` dataclass its texts are read by that.
    Raises InputError for an unknown name, a class that cannot be imported, and options it does not take.
    """
    if not isinstance(policy, str):
        return policy
    cls, texts, what = _scheduler_class(policy)
    options = getattr(cls, "Options", None)
    values: dict[str, Any] = dict(texts)
    if is_dataclass(options):
        values = coerce(cast(type, options), texts, what)
        build(cast(type, options), texts, what)

    def make(limits: Limits) -> Scheduler:
        try:
            return cast(Scheduler, cls(limits, **values))
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: {error}") from None

    return make


def _scheduler_class(spec: str) -> tuple[Callable[..., Any], dict[str, str], str]:
    module, _, rest = spec.partition(":")
    if module not in SCHEDULERS and rest.partition(":")[0].isidentifier():
        name, texts = parse(rest, "policy")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # a module from outside may raise anything while it is imported
            raise InputError(f"policy {spec!r}: {error or type(error).__name__}") from None
        if not callable(found):
            raise InputError(f"policy {spec!r}: {name} is not a class")
        return found, texts, f"policy {module}:{name}"
    name, texts = parse(spec, "policy")
    if name not in SCHEDULERS:
        raise InputError(f"policy {name!r} is not one of {', '.join(SCHEDULERS)}, nor some.module:Class")
    return SCHEDULERS[name], texts, f"policy {name}"


def limits_of(
    profile: Profile,
    kv_blocks: int | None,
    block_size: int = 16,
    perception_tokens: int = QUESTION_TOKENS + ANSWER_TOKENS,
) -> Limits:
    """What a scheduler may know of a machine: its KV capacity and where a larger batch stops paying."""
    cost = profile.step_cost
    return Limits(
        kv_tokens=profile.kv_tokens(kv_blocks, block_size),
        block_size=block_size,
        knee=tuple((context, cost.knee(context)) for context in KNEE_CONTEXTS),
        perception_tokens=perception_tokens,
        async_scheduling=profile.async_scheduling,
    )


def policy_name(policy: Policy) -> str:
    """What a result calls the policy."""
    return policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__)
