"""From the text of a policy to a scheduler over slots: the same classes, with limits that slots have."""

from __future__ import annotations

from collections.abc import Callable

from sim.scenario.policies import POLICIES, scheduler_maker
from sim.schedulers.base import CompleteScheduler
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.order import BY_DEADLINE
from sim.work import Limits
from traces.errors import InputError
from traces.spec import parse

from ..observing.slo_headers import DEADLINE_HEADER, SLO_HEADERS

PLENTY = 1 << 50
"""KV tokens: the upstream counts its memory itself."""
WHOLE = 1 << 31
"""Tokens of an iteration: prompts are not split."""


def slot_scheduler_maker(policy: str, slots: int) -> tuple[Callable[[], CompleteScheduler], bool]:
    """Builds schedulers of a policy for so many slots; and whether each level of priority needs its own, for
    the policy's order does not know levels.

    What slots do not have is set where the policy leaves it open: `max_num_seqs` is their number, batches are
    no larger, nothing is cut (`fcr=off`) or decided ahead. Raises InputError as `scheduler_maker` does.
    """
    limits = Limits(kv_tokens=PLENTY, knee=((0, slots),))
    is_by_level = False
    if not POLICIES.is_outside(policy):
        name, given = parse(policy, "policy")
        options = {**_options(name, slots), **given}
        if name == "continuous" and options.get("waits", "discard") != "discard":
            raise InputError(
                f"waits: {options['waits']} is about the upstream's memory, which is not ours to keep"
            )
        is_by_level = name == "continuous" and options.get("order", "fcfs") not in ("priority", "fair")
        policy = ":".join((name, ",".join(f"{key}={value}" for key, value in options.items()))).rstrip(":")
    make = scheduler_maker(policy)
    if "again" in make(limits).needs:  # made now, so that what it refuses is said now
        raise InputError(f"policy {policy}: asks for lengths while answers grow, which nobody predicts here")
    return lambda: make(limits), is_by_level


def note_on(policy: str) -> str:
    """What is to be said of a policy before any request has come; empty for nothing."""
    options = getattr(slot_scheduler_maker(policy, 1)[0](), "options", None)
    if not isinstance(options, ContinuousOptions) or options.order not in BY_DEADLINE:
        return ""
    headers = ", ".join((*(SLO_HEADERS[name][0] for name in ("ttft_slo_ms", "e2el_slo_ms")), DEADLINE_HEADER))
    return (
        f"order={options.order} goes by the bounds that clients state ({headers}); requests without any go "
        "last, first come, first served"
    )


def _options(name: str, slots: int) -> dict[str, str]:
    if name == "continuous":
        return {
            "max_num_seqs": str(slots),
            "max_num_batched_tokens": str(WHOLE),
            "async_scheduling": "off",
            "prefix_caching": "off",
        }
    if name == "sequence":
        return {"fcr": "off", "vbs": "memory", "batch_size": str(slots)}
    return {"batch_size": str(slots)} if name == "vanilla" else {}
