"""How many H200s does this traffic need, and how many more for growth and for a failure?

    python plots/examples/how_many_h200s.py --trace azure-conv-2023 --request-rate 10x --price H200:3.50

Plans for the traffic as it is, for 1.5 times as much, and for the first with one replica to spare, with the
same seeds. Prints a Markdown table; the last line of stdout is JSON. The price is whatever you pay.
"""

from __future__ import annotations

import json

from sim import Plan, plan
from sim.cli import run_script
from sim.planning.answer import point_text


def main(
    *,
    trace: str = "azure-conv-2023",
    request_rate: str = "10x",
    slo: str = "ttft_p99:2000 tpot_p99:100",
    growth: float = 1.5,
    profile: str = "h200-vicuna-7b",
    policy: str = "continuous",
    price: str = "",
    num_requests: int = 1000,
    max_requests: int = 6000,
    max_seeds: int = 8,
    seed: int = 0,
    jobs: int = -1,
) -> None:
    """How many H200s for this traffic, for more of it, and with one to spare.

    Parameters
    ----------
    trace
        A file, a dataset or a generator NAME[:key=value,...].
    request_rate
        Requests per second, or a multiple of the trace's own rate such as 10x.
    slo
        Bounds with spaces between them.
    growth
        The second plan is for so many times the traffic.
    profile
        The machine.
    policy
        How a replica schedules.
    price
        USD per hour of a replica, NAME:USD; more than one with spaces between them.
    num_requests
        Requests of a replication, to begin with.
    max_requests
        Requests of a replication of a point that is hard to decide.
    max_seeds
        Replications of such a point.
    seed
        First of the seeds.
    jobs
        Processes; -1: one for every core.
    """

    def planned(rate: float | str, spare: int) -> Plan:
        return plan(
            trace,
            slo=slo,
            request_rate=rate,
            spare=spare,
            policies=policy,
            profiles=profile,
            prices=price.split(),
            num_requests=num_requests,
            max_requests=max_requests,
            max_seeds=max_seeds,
            seed=seed,
            jobs=jobs,
        )

    today = planned(request_rate, 0)
    rate = today.question.request_rate
    assert rate is not None
    plans = {
        "today": today,
        f"{growth:g} times as much": planned(rate * growth, 0),
        "today, one replica failed": planned(rate, 1),
    }
    print("| traffic | requests/s | replicas | USD/hour | gives way first | one replica less |")
    print("|---|---:|---:|---:|---|---|")
    found = {}
    for name, made in plans.items():
        (answer,) = made.answers
        cost = "–" if answer.cost_per_hour is None else f"{answer.cost_per_hour:.2f}"
        size = answer.replicas or f"none: {answer.reason}"
        print(
            f"| {name} | {made.question.request_rate:.3g} | {size} | {cost} | {answer.binding} "
            f"| {point_text(answer.one_less)} |"
        )
        found[name] = answer.row()
    print(json.dumps(found))


if __name__ == "__main__":
    run_script(main)
