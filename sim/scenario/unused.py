"""What a trace knows and the settings do not use, or leave out, and what they go by and it does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from traces.prompt_blocks import share_found_again
from traces.trace import Trace

from ..fleet.routers import RouterSpec, router_name
from ..perception.waits import true_waits
from ..schedulers.base import CompleteScheduler
from ..schedulers.continuous_options import ContinuousOptions
from ..schedulers.order import BY_DEADLINE

LEAST = 0.005
"""Share of the prompt tokens below which nothing is said of those that could be found again."""
GOES_BY = {"priority": "priority", "fair": "user", "vtc": "user"}
"""Orders that tell requests apart by a column of the trace."""


def unused(
    trace: Trace, schedulers: Sequence[CompleteScheduler], router: RouterSpec | None
) -> tuple[str, ...]:
    """Notes on beginnings of prompts that no policy finds again, on an order or a router that has nothing to
    go by, on sessions that do not come to their ends, and on memory that is kept for no turn.

    `schedulers`: one of each policy; `router`: None where nothing is routed. Nothing is said of
    `prefix_caching=off`, which somebody chose.
    """
    about = (
        _about_caching(trace, schedulers),
        nothing_due(trace, schedulers),
        *_about_columns(trace, schedulers),
        _about_waits(trace, schedulers),
        _about_routing(trace, router),
        _about_ends(trace),
    )
    return tuple(text for text in about if text)


def _about_caching(trace: Trace, schedulers: Sequence[CompleteScheduler]) -> str:
    chosen = {each.prefix_caching for each in _continuous(schedulers)}
    if trace.blocks is None or chosen != {"own"}:
        return ""
    share = share_found_again(trace.blocks, trace.prompt_tokens)
    if share < LEAST:
        return ""
    return (
        f"{share:.0%} of the prompt tokens of {trace.name} can be found again, and all are computed: "
        "continuous:prefix_caching=on finds what memory still holds of them"
    )


def nothing_due(trace: Trace, schedulers: Sequence[CompleteScheduler]) -> str:
    """A note on orders by deadlines where no request says when it is due; empty for none."""
    orders = dict.fromkeys(each.order for each in _continuous(schedulers) if each.order in BY_DEADLINE)
    dues = (trace.ttft_slo_ms, trace.e2el_slo_ms, trace.deadline_s)
    if not orders or any(due is not None and np.isfinite(due).any() for due in dues):
        return ""
    return (
        f"order={' and '.join(orders)}: no request of {trace.name} states a bound on TTFT or E2EL, or a "
        "deadline (ttft_slo_ms, e2el_slo_ms, deadline_s), so that all go first come, first served"
    )


def _about_columns(trace: Trace, schedulers: Sequence[CompleteScheduler]) -> Iterator[str]:
    """Notes on orders by a column that the trace does not have."""
    for order in dict.fromkeys(each.order for each in _continuous(schedulers)):
        if (column := GOES_BY.get(order)) and getattr(trace, column) is None:
            yield f"order={order}: {trace.name} has no column {column}, so that the first to come goes first"


def _continuous(schedulers: Sequence[CompleteScheduler]) -> list[ContinuousOptions]:
    """The options of those that batch continuously."""
    found = [getattr(each, "options", None) for each in schedulers]
    return [each for each in found if isinstance(each, ContinuousOptions)]


def _about_waits(trace: Trace, schedulers: Sequence[CompleteScheduler]) -> str:
    chosen = {each.waits for each in _continuous(schedulers)} - {"discard"}
    if not chosen or (trace.blocks is not None and not np.isnan(true_waits(trace)).all()):
        return ""
    if not trace.is_waiting.any():
        lack = "has no turns that wait for others of their session (session_id, waits_for)"
    elif trace.blocks is None:
        lack = "does not say which prompts begin alike (hash_ids, prefix_id)"
    else:
        lack = "has no turn whose prompt goes on from that of the one that it waits for"
    return f"waits={', '.join(sorted(chosen))}: {trace.name} {lack}, so that no memory is kept between turns"


def _about_routing(trace: Trace, router: RouterSpec | None) -> str:
    name = "" if router is None else router_name(router).partition(":")[0]
    if name == "prefix-aware" and trace.blocks is None:
        return (
            f"router {name}: {trace.name} does not say which prompts begin alike (hash_ids, prefix_id), so "
            "that load alone decides"
        )
    if name == "sticky" and trace.sessions is None and trace.user is None:
        return (
            f"router {name}: {trace.name} does not say which requests belong together (session_id, user), so "
            "that the fewest requests decide"
        )
    return ""


def _about_ends(trace: Trace) -> str:
    if not trace.num_cut:
        return ""
    return (
        f"the first {len(trace):,} requests of {trace.name} end in the midst of sessions: {trace.num_cut:,} "
        "that go on from these are left out"
    )
