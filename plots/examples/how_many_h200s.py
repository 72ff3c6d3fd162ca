"""How many H200s does this traffic need, and how many more for growth and for a failure?

    python plots/examples/how_many_h200s.py --trace azure-conv-2023 --request-rate 10x --price H200:3.50

Plans for the traffic as it is, for 1.5 times as much, and for the first with one replica to spare, with the
same seeds. Prints a Markdown table; the last line of stdout is JSON. The price is whatever you pay.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cyclopts import Parameter

from plots.examples.effort import Effort
from sim import Plan, plan
from sim.cli import run_script
from sim.planning.answer import point_text


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked."""

    trace: str = "azure-conv-2023"
    """A file, a dataset or a generator NAME[:key=value,...]."""
    request_rate: str = "10x"
    """Requests per second, or a multiple of the trace's own rate such as 10x."""
    slo: str = "ttft_p99:2000 tpot_p99:100"
    """Bounds with spaces between them."""
    growth: float = 1.5
    """The second plan is for so many times the traffic."""
    profile: str = "h200-vicuna-7b"
    """The machine."""
    policy: str = "continuous"
    """How a replica schedules."""
    price: str = ""
    """USD per hour of a replica, NAME:USD; more than one with spaces between them."""


DEFAULT, EFFORT = Options(), Effort()


def main(options: Options = DEFAULT, *, effort: Effort = EFFORT) -> None:
    """How many H200s for this traffic, for more of it, and with one to spare."""
    today = plan_for(options, effort, options.request_rate)
    rate = today.question.request_rate
    assert rate is not None
    plans = {
        "today": today,
        f"{options.growth:g} times as much": plan_for(options, effort, rate * options.growth),
        "today, one replica failed": plan_for(options, effort, rate, spare=1),
    }
    print("| traffic | requests/s | replicas | USD/hour | gives way first | one replica less |")
    print("|---|---:|---:|---:|---|---|")
    rows = {}
    for name, capacity_plan in plans.items():
        (answer,) = capacity_plan.answers
        cost = "–" if answer.cost_per_hour is None else f"{answer.cost_per_hour:.2f}"
        size = answer.replicas or f"none: {answer.reason}"
        print(
            f"| {name} | {capacity_plan.question.request_rate:.3g} | {size} | {cost} | {answer.binding} "
            f"| {point_text(answer.one_less)} |"
        )
        rows[name] = answer.row()
    print(json.dumps(rows))


def plan_for(options: Options, effort: Effort, rate: float | str, spare: int = 0) -> Plan:
    """The plan for some requests/s, or a multiple of the trace's own rate."""
    return plan(
        options.trace,
        slo=options.slo,
        request_rate=rate,
        spare=spare,
        policies=options.policy,
        profiles=options.profile,
        price=options.price.split(),
        **vars(effort),
    )


if __name__ == "__main__":
    run_script(main)
