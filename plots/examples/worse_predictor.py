"""What does a 10 % worse length predictor cost?

    python plots/examples/worse_predictor.py --price A100-80GB:1.80

Sequence scheduling batches requests by predicted length, so its throughput depends on the predictor. Finds
the highest rate of one machine within the SLO with the predictor as it is and with an error (standard
deviation of the log length) that is 10 % larger. Both see the same requests, so that the loss is taken pair
by pair, over several sets of seeds; its interval says whether it is more than noise. Replicas and money for a
given traffic follow. Prints a Markdown table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json

from sim import plan
from sim.cli import run_script
from sim.planning.slo import interval
from traces.errors import InputError


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
    num_requests: int = 4000,
    pairs: int = 6,
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
        Requests of a replication; a rate is judged by three of them.
    pairs
        How often the two are compared, each time on other requests.
    tolerance
        Relative width to which a rate is narrowed down.
    seed
        First of the seeds.
    jobs
        Processes; -1: one for every core.
    """
    if pairs < 2:
        raise InputError(f"pairs: {pairs} must be at least 2")
    usd = None

    def highest(error: float, first_seed: int) -> float:
        nonlocal usd
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
            max_requests=num_requests,
            max_seeds=3,
            tolerance=tolerance,
            seed=first_seed,
            jobs=jobs,
        )
        (answer,) = made.answers
        if answer.rate is None:
            raise InputError(f"slo: {slo} is out of reach of one replica ({answer.reason})")
        usd = answer.price_per_hour
        return answer.rate

    print("| predictor | requests/s of one replica (95 % interval) | replicas | USD/hour |")
    print("|---|---:|---:|---:|")
    errors = (sigma, sigma * (1 + worse))
    rates = [[highest(error, seed + 100 * k) for k in range(pairs)] for error in errors]
    found = []
    for error, of_pairs in zip(errors, rates, strict=True):
        at = interval(of_pairs)
        needed = traffic / at.mean
        cost = None if usd is None else usd * needed
        print(
            f"| σ = {error:.3g} | {at.mean:.3f} ({at.low:.3f} to {at.high:.3f}) | {needed:.1f} "
            f"| {'–' if cost is None else f'{cost:.2f}'} |"
        )
        found.append({"sigma": error, "rates": of_pairs, "replicas": needed, "usd_per_hour": cost})
    loss = interval([1 - after / before for before, after in zip(*rates, strict=True)])
    print(f"| loss | {loss.mean:.1%} ({loss.low:.1%} to {loss.high:.1%}) | | |")
    told = {"loss": loss.mean, "loss_low": loss.low, "loss_high": loss.high}
    print(json.dumps({**told, "beyond_noise": loss.low > 0 or loss.high < 0, "predictors": found}))


if __name__ == "__main__":
    run_script(main)
