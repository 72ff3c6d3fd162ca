"""Should we switch to length-aware scheduling?

    python plots/examples/length_aware.py

Sets policies side by side on the same requests: at which rate does one machine stop keeping the SLO under
each? The predictor is an imperfect one, and asking it costs no time of the accelerator. A difference counts
where the rates shown to be kept by one are above those shown to be broken by the other. Prints a Markdown
table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json

from sim import plan
from sim.cli import run_script
from sim.planning.answer import Answer, rate_text

POLICIES = "continuous:max_num_seqs=64;continuous:max_num_seqs=64,order=shortest-predicted"


def main(
    *,
    trace: str = "lognormal:output_median=200,output_sigma=1",
    slo: str = "ttft_p90:2000",
    policies: str = POLICIES,
    predictor: str = "noisy:sigma=0.4,charge=off",
    profile: str = "h200-vicuna-7b",
    replicas: int = 1,
    start_rate: float = 10.0,
    num_requests: int = 2000,
    max_requests: int = 6000,
    max_seeds: int = 8,
    seed: int = 0,
    jobs: int = -1,
) -> None:
    """The highest rate within an SLO under several policies, and whether they differ.

    Parameters
    ----------
    trace
        A file, a dataset or a generator NAME[:key=value,...].
    slo
        Bounds with spaces between them.
    policies
        Policies with semicolons between them; the first is what runs today.
    predictor
        What the length-aware ones are told.
    profile
        The machine.
    replicas
        How many of it.
    start_rate
        Where the search begins, requests/s.
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
    made = plan(
        trace,
        slo=slo,
        request_rate=start_rate,
        max_rate=True,
        replicas=replicas,
        policies=policies,
        profiles=profile,
        predictor=predictor,
        num_requests=num_requests,
        max_requests=max_requests,
        max_seeds=max_seeds,
        seed=seed,
        jobs=jobs,
    )
    today, *others = made.answers
    print(
        f"| policy | requests/s within {made.question.bounds} | shown to be kept | shown to be broken "
        "| gain |"
    )
    print("|---|---:|---:|---:|---|")
    found = {}
    for answer in made.answers:
        verdict = "" if answer is today else gain(today, answer)
        low, high = (answer.rates.low, answer.rates.high) if answer.rates else (None, None)
        print(
            f"| {answer.policy} | {rate_text(answer.rate, 'none')} | {rate_text(low, '–')} "
            f"| {rate_text(high, '–')} | {verdict} |"
        )
        found[answer.policy] = {**answer.row(), "gain": verdict}
    switch = any(answer.rate and today.rate and is_apart(today, answer) for answer in others)
    print(json.dumps({"switch": switch, "policies": found}))


def is_apart(today: Answer, other: Answer) -> bool:
    """Whether the other keeps a rate that today's policy was shown to break."""
    mine, theirs = today.rates, other.rates
    return bool(mine and theirs and mine.high and theirs.low and theirs.low >= mine.high)


def gain(today: Answer, other: Answer) -> str:
    """How much more the other carries, in words."""
    if not today.rate or not other.rate:
        return "not comparable"
    share = f"{other.rate / today.rate - 1:+.0%}"
    return share if is_apart(today, other) or is_apart(other, today) else f"{share}, not beyond doubt"


if __name__ == "__main__":
    run_script(main)
