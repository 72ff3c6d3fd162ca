"""What do a cache of prefixes, a larger one, and a router that keeps sessions together save a month?

    python plots/examples/cache_and_router.py --price H100:2.50

Plans the same conversations, with the same seeds, without a cache; with one; with KV values of half the size,
so that twice as many fit; and with routers that send a turn where its prompt may be cached. Prints a Markdown
table; the last line of stdout is JSON, and what the plans note goes to stderr. A month has 730 hours, and the
price is whatever you pay.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from plots.examples.effort import Effort
from sim import Plan, plan
from sim.cli import run_script
from sim.planning.answer import point_text

HOURS = 730


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked."""

    trace: str = "sessions:turns=10,think_s=3,system_tokens=2000,prompt_tokens=800,output_tokens=150"
    """Conversations: a file or a generator NAME[:key=value,...]."""
    request_rate: str = "20"
    """Requests per second, or a multiple of the trace's own rate such as 10x."""
    slo: str = "ttft_p99:2000 tpot_p99:100"
    """Bounds with spaces between them."""
    profile: str = "h100-llama-3.1-8b-vllm"
    """The machine."""
    policy: str = "continuous"
    """How a replica schedules, without what its cache is."""
    routers: str = "sticky;prefix-aware"
    """Routers that are tried with the cache, with semicolons between them."""
    price: str = ""
    """USD per hour of a replica, NAME:USD; more than one with spaces between them."""


DEFAULT, EFFORT = Options(), Effort()


def main(options: Options = DEFAULT, *, effort: Effort = EFFORT) -> None:
    """Fleets without a cache, with one, with a larger one, and behind routers that know of it."""
    cached = f"{options.policy}{',' if ':' in options.policy else ':'}prefix_caching=on"
    ways: dict[str, dict[str, Any]] = {
        "no cache": {"policies": options.policy},
        "a cache": {"policies": cached},
        "twice as large (8-bit KV)": {"policies": cached, "set": {"kv_bits": 8}},
    }
    for router in filter(None, options.routers.split(";")):
        ways[f"the cache, router {router}"] = {"policies": cached, "router": router}
    print("| fleet | replicas | USD/month | saved | gives way first | one replica less |")
    print("|---|---:|---:|---:|---|---|")
    rows: dict[str, dict[str, Any]] = {}
    notes: dict[str, None] = {}
    for name, how in ways.items():
        made = plan_for(options, effort, **how)
        (answer,) = made.answers
        notes |= dict.fromkeys(made.notes)
        month = None if answer.cost_per_hour is None else answer.cost_per_hour * HOURS
        first = next(iter(rows.values()), {}).get("usd_per_month", month)
        saved = None if month is None or not first else 1 - month / first
        size = (
            answer.replicas
            or f"{'none' if answer.outcome == 'unreachable' else answer.outcome}: {answer.reason}"
        )
        money = "–" if month is None else f"{month:,.0f}"
        share = "–" if saved is None else f"{saved:.0%}"
        less = point_text(answer.one_less)
        print(f"| {name} | {size} | {money} | {share} | {answer.binding} | {less} |")
        rows[name] = {**answer.row(), "usd_per_month": month, "saved": saved}
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(rows))


def plan_for(options: Options, effort: Effort, **how: Any) -> Plan:
    """The plan for one way to serve the conversations."""
    return plan(
        options.trace,
        slo=options.slo,
        request_rate=options.request_rate,
        profiles=options.profile,
        price=options.price.split(),
        **vars(effort),
        **how,
    )


if __name__ == "__main__":
    run_script(main)
