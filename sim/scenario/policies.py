"""From the text NAME[:key=value,...] to a scheduler, from a profile to what a scheduler may know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

from traces.errors import InputError, raised_outside
from traces.registry import Registry

from ..hardware.profile import Profile
from ..hardware.what_if import BLOCK_SIZE, MAX_BLOCK_SIZE
from ..perception.predictors import ANSWER_TOKENS, QUESTION_TOKENS
from ..schedulers.base import CompleteScheduler, complete
from ..schedulers.registry import SCHEDULERS
from ..work import Limits, Scheduler
from .kv_tiers import ARC, BLOCKING, tiers_of

POLICIES = Registry("policy", SCHEDULERS)
"""Called as `Class(limits, **options)`."""

DEFAULT_POLICY = "sequence"

KNEE_CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
PREFILL_TOKENS = (16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144)
"""Lengths of prompts of which a scheduler may know how long they take."""
MIDDLING = 1024
"""Context tokens of a sequence for which it may know how long an iteration takes."""

NEEDED = ("submit", "next_work")
"""The methods without which nothing runs; `record` is called after work, `drain` where a replica fails."""

Policy: TypeAlias = str | Callable[[Limits], Scheduler]


def make_scheduler(policy: Policy, limits: Limits) -> CompleteScheduler:
    """One scheduler; see `scheduler_maker`."""
    return scheduler_maker(policy)(limits)


def scheduler_maker(policy: Policy) -> Callable[[Limits], CompleteScheduler]:
    """Builds as many schedulers as there are machines, from a spec that is read once.

    A spec is `NAME[:key=value,...]`, where NAME is a known policy or `some.module:Class`.
    Raises InputError for an unknown name, a class that cannot be imported, and options it does not take; when
    called, for what is no scheduler.
    """
    if not isinstance(policy, str):
        return lambda limits: _completed(policy(limits), limits, f"policy {policy_name(policy)}")
    named = POLICIES.resolve(policy)
    return lambda limits: _completed(named.build(limits), limits, named.label)


def _completed(made: object, limits: Limits, label: str) -> CompleteScheduler:
    """The scheduler that a policy made, with all its members; InputError where it leaves tiers unused."""
    try:
        lacking = [name for name in NEEDED if not callable(getattr(made, name, None))]
        if lacking:
            raise InputError(
                f"{label}: {type(made).__name__} is no scheduler, it has no method {', '.join(lacking)}"
            )
        scheduler = complete(cast(Scheduler, made))
        quantile: object = scheduler.upper_quantile
        if limits.tiers and (scheduler.prefix_cache is None or scheduler.prefix_cache.tier_use is None):
            raise InputError(f"kv_tier: {label} keeps no blocks there; continuous:prefix_caching=on does")
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a property may raise anything
        raise raised_outside(label, error) from error
    if quantile is not None and not (isinstance(quantile, (int, float)) and 0 <= quantile <= 1):
        raise InputError(f"{label}: upper_quantile is {quantile!r}; None or a number from 0 to 1 is needed")
    return scheduler


def limits_of(
    profile: Profile,
    kv_blocks: int | None,
    block_size: int | None = None,
    perception_tokens: int = QUESTION_TOKENS + ANSWER_TOKENS,
    kv_tier: str | None = None,
) -> Limits:
    """What a scheduler may know of a machine: its KV capacity, slower memory beside it, and where a larger
    batch stops paying.
    """
    if block_size is None:
        block_size = BLOCK_SIZE
    if not 1 <= block_size <= MAX_BLOCK_SIZE:
        raise InputError(f"block_size: {block_size} is not between 1 and {MAX_BLOCK_SIZE:,}")
    cost = profile.iteration_cost
    tiers, words = tiers_of(profile, kv_tier, block_size)
    return Limits(
        kv_tokens=profile.kv_tokens(kv_blocks, block_size),
        block_size=block_size,
        knee=tuple((context, cost.knee(context)) for context in KNEE_CONTEXTS),
        perception_tokens=perception_tokens,
        async_scheduling=profile.async_scheduling,
        tiers=tiers,
        tiers_overlap=BLOCKING not in words,
        tiers_eviction="arc" if ARC in words else "lru",
        prefill_s=tuple((n, cost.mixed_s(0, 0, 1, n, n * n / 2)) for n in PREFILL_TOKENS),
        iteration_s=cost.decode_s(cost.knee(MIDDLING), cost.knee(MIDDLING) * MIDDLING),
    )


def kv_capacity(scheduler: CompleteScheduler, limits: Limits) -> int:
    """KV tokens that the scheduler can give out on a machine of these limits."""
    capacity = scheduler.kv_capacity_tokens
    return limits.kv_tokens if capacity is None else capacity


def policy_name(policy: Policy) -> str:
    """What a result calls the policy."""
    return policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__)
