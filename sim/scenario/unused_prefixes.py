"""What a trace knows of prompts that begin alike and of sessions, and the settings chosen make no use of or
leave out.
"""

from __future__ import annotations

from collections.abc import Sequence

from traces.prompt_blocks import share_found_again
from traces.trace import Trace

from ..fleet.routers import RouterSpec, router_name
from ..schedulers.base import CompleteScheduler
from ..schedulers.continuous_options import ContinuousOptions

LEAST = 0.005
"""Share of the prompt tokens below which nothing is said of those that could be found again."""


def unused_prefixes(
    trace: Trace, schedulers: Sequence[CompleteScheduler], router: RouterSpec | None
) -> tuple[str, ...]:
    """A note on beginnings of prompts that no policy finds again, on a router that has nothing to go by, and
    on sessions that do not come to their ends.

    `schedulers`: one of each policy; `router`: None where nothing is routed. Nothing is said of
    `prefix_caching=off`, which somebody chose.
    """
    about = (_about_caching(trace, schedulers), _about_routing(trace, router), _about_ends(trace))
    return tuple(text for text in about if text)


def _about_caching(trace: Trace, schedulers: Sequence[CompleteScheduler]) -> str:
    found = [getattr(each, "options", None) for each in schedulers]
    chosen = {each.prefix_caching for each in found if isinstance(each, ContinuousOptions)}
    if trace.blocks is None or chosen != {"own"}:
        return ""
    share = share_found_again(trace.blocks, trace.prompt_tokens)
    if share < LEAST:
        return ""
    return (
        f"{share:.0%} of the prompt tokens of {trace.name} can be found again, and all are computed: "
        "continuous:prefix_caching=on finds what memory still holds of them"
    )


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
