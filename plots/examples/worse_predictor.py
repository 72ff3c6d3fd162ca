"""What does a 10 % worse length predictor cost?

    python plots/examples/worse_predictor.py --price A100-80GB:1.80

Sequence scheduling batches requests by predicted length, so its throughput depends on the predictor. Finds
the highest rate of one machine within the SLO with the predictor as it is and with an error (standard
deviation of the log length) that is 10 % larger, on the same requests; the replicas and the money for a given
traffic follow. Prints a Markdown table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json

from sim import plan
from sim.cli import run_script
from sim.plan_result import shown_rate


def main(
    *,
    trace: str = "alpaca-vicuna",
    slo: str = "e2el_p90:120000",
    policy: str = "sequence:vbs=memory,max_wait_s=10",
    profile: str = "a100-80gb-vicuna-7b-transformers",
    sigma: float = 0.39,
    worse: float = 0.1,
    traffic: float = 100.0,
    price: str = "",
    start_rate: float = 1.0,
    num_requests: int = 1000,
    max_requests: int = 4000,
    max_seeds: int = 8,
    tolerance: float = 0.01,
    seed: int = 0,
    jobs: int = -1,
) -> None:
    """The highest rate with a predictor and with a worse one, and what the difference costs.

    Parameters
    ----------
    trace
        A file, a dataset or a generator NAME[:key=value,...].
    slo
        Bounds with spaces between them.
    policy
        A policy that uses predictions.
    profile
        The machine.
    sigma
        Error of the predictor: standard deviation of the logarithm of the length.
    worse
        By what share the other one's error is larger.
    traffic
        Requests per second that the whole fleet serves.
    price
        USD per hour of a replica, NAME:USD.
    start_rate
        Where the search begins, requests/s.
    num_requests
        Requests of a replication, to begin with.
    max_requests
        Requests of a replication of a point that is hard to decide.
    max_seeds
        Replications of such a point.
    tolerance
        Relative width to which a rate is narrowed down.
    seed
        First of the seeds.
    jobs
        Processes; -1: one for every core.
    """
    print(
        "| predictor | requests/s of one replica | shown to be kept | shown to be broken | replicas "
        "| USD/hour |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    found = []
    for error in (sigma, sigma * (1 + worse)):
        made = plan(
            trace,
            slo=slo,
            request_rate=start_rate,
            max_rate=True,
            policies=policy,
            profiles=profile,
            predictor=f"noisy:sigma={error:.6g},round_to=50",
            prices=price.split(),
            num_requests=num_requests,
            max_requests=max_requests,
            max_seeds=max_seeds,
            tolerance=tolerance,
            seed=seed,
            jobs=jobs,
        )
        (answer,) = made.answers
        rates, hourly = answer.rates, answer.price_per_hour
        needed = traffic / answer.rate if answer.rate else None
        cost = None if hourly is None or needed is None else hourly * needed
        print(
            f"| σ = {error:.3g} | {shown_rate(answer.rate, 'none')} | {shown_rate(rates and rates.low, '–')} "
            f"| {shown_rate(rates and rates.high, '–')} | {'–' if needed is None else f'{needed:.1f}'} "
            f"| {'–' if cost is None else f'{cost:.2f}'} |"
        )
        found.append({**answer.row(), "sigma": error, "replicas_for_traffic": needed, "usd_per_hour": cost})
    before, after = (row["rate"] for row in found)
    loss = None if not before or not after else 1 - after / before
    print(json.dumps({"loss_of_rate": loss, "predictors": found}))


if __name__ == "__main__":
    run_script(main)
