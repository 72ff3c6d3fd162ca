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
from dataclasses import dataclass

from cyclopts import Parameter

from sim import plan
from sim.cli import run_script
from sim.planning.answer import Answer
from sim.planning.slo import interval
from traces.errors import InputError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked, and how long to simulate for it."""

    trace: str = "alpaca-vicuna"
    """A file, a dataset or a generator NAME[:key=value,...]."""
    slo: str = "e2el_p90:120000"
    """Bounds with spaces between them."""
    policy: str = "sequence:vbs=memory,max_wait_s=10"
    """A policy that uses predictions."""
    profile: str = "a100-80gb-vicuna-7b-transformers"
    """The machine."""
    sigma: float = 0.39
    """Error of the predictor: standard deviation of the logarithm of the length."""
    worse: float = 0.1
    """By what share the other one's error is larger."""
    traffic: float = 100.0
    """Requests per second that the whole fleet serves."""
    price: str = ""
    """USD per hour of a replica, NAME:USD."""
    start_rate: float = 1.0
    """Where the search begins, requests/s."""
    num_requests: int = 4000
    """Requests of a replication; a rate is judged by three of them."""
    pairs: int = 6
    """How often the two are compared, each time on other requests."""
    tolerance: float = 0.01
    """Relative width to which a rate is narrowed down."""
    seed: int = 0
    """First of the seeds."""
    jobs: int = -1
    """Processes; -1: one for every core."""


DEFAULT = Options()


def main(options: Options = DEFAULT) -> None:
    """The highest rate with a predictor and with a worse one, and what the difference costs."""
    if options.pairs < 2:
        raise InputError(f"pairs: {options.pairs} must be at least 2")
    print("| predictor | requests/s of one replica (95 % interval) | replicas | USD/hour |")
    print("|---|---:|---:|---:|")
    rates: list[list[float]] = []
    predictors = []
    for error in (options.sigma, options.sigma * (1 + options.worse)):
        answers = [highest_rate(options, error, options.seed + 100 * k) for k in range(options.pairs)]
        rates.append([answer.rate or 0.0 for answer in answers])
        rate = interval(rates[-1])
        replicas = options.traffic / rate.mean
        price = answers[-1].price_per_hour
        cost = None if price is None else price * replicas
        print(
            f"| σ = {error:.3g} | {rate.mean:.3f} ({rate.low:.3f} to {rate.high:.3f}) | {replicas:.1f} "
            f"| {'–' if cost is None else f'{cost:.2f}'} |"
        )
        predictors.append({"sigma": error, "rates": rates[-1], "replicas": replicas, "usd_per_hour": cost})
    loss = interval([1 - after / before for before, after in zip(*rates, strict=True)])
    print(f"| loss | {loss.mean:.1%} ({loss.low:.1%} to {loss.high:.1%}) | | |")
    bounds = {"loss": loss.mean, "loss_low": loss.low, "loss_high": loss.high}
    print(json.dumps({**bounds, "beyond_noise": loss.low > 0 or loss.high < 0, "predictors": predictors}))


def highest_rate(options: Options, error: float, first_seed: int) -> Answer:
    """The answer for one replica with a predictor of that error; InputError where no rate is one."""
    (answer,) = plan(
        options.trace,
        slo=options.slo,
        request_rate=options.start_rate,
        max_rate=True,
        policies=options.policy,
        profiles=options.profile,
        predictor=f"noisy:sigma={error:.6g},round_to=50",
        price=options.price.split(),
        num_requests=options.num_requests,
        max_requests=options.num_requests,
        max_seeds=3,
        tolerance=options.tolerance,
        seed=first_seed,
        jobs=options.jobs,
    ).answers
    if answer.rate is None:
        raise InputError(f"slo: {options.slo} is out of reach of one replica ({answer.reason})")
    return answer


if __name__ == "__main__":
    run_script(main)
