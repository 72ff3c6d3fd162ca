"""Should we switch to length-aware scheduling?

    python plots/examples/length_aware.py

Sets policies side by side on the same requests: at which rate does one machine stop keeping the SLO under
each? The predictor is an imperfect one, and asking it costs no time of the accelerator. A difference counts
where the rates shown to be kept by one are above those shown to be broken by the other. Prints a Markdown
table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cyclopts import Parameter

from plots.examples.effort import Effort
from sim import plan
from sim.cli import run_script
from sim.planning.answer import Answer, rate_text

POLICIES = "continuous:max_num_seqs=64;continuous:max_num_seqs=64,order=shortest-predicted"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked."""

    trace: str = "lognormal:output_median=200,output_sigma=1"
    """A file, a dataset or a generator NAME[:key=value,...]."""
    slo: str = "ttft_p90:2000"
    """Bounds with spaces between them."""
    policies: str = POLICIES
    """Policies with semicolons between them; the first is what runs today."""
    predictor: str = "noisy:sigma=0.4,charge=off"
    """What the length-aware policies know of the lengths."""
    profile: str = "h200-vicuna-7b"
    """The machine."""
    replicas: int = 1
    """How many of it."""
    start_rate: float = 10.0
    """Where the search begins, requests/s."""


DEFAULT, EFFORT = Options(), Effort(num_requests=2000)


def main(options: Options = DEFAULT, *, effort: Effort = EFFORT) -> None:
    """The highest rate within an SLO under several policies, and whether they differ."""
    comparison = plan(
        options.trace,
        slo=options.slo,
        request_rate=options.start_rate,
        max_rate=True,
        replicas=options.replicas,
        policies=options.policies,
        profiles=options.profile,
        predictor=options.predictor,
        **vars(effort),
    )
    today, *others = comparison.answers
    print(
        f"| policy | requests/s within {comparison.question.bounds} | shown to be kept | shown to be broken "
        "| gain |"
    )
    print("|---|---:|---:|---:|---|")
    rows = {}
    for answer in comparison.answers:
        verdict = "" if answer is today else gain(today, answer)
        low, high = (answer.rates.low, answer.rates.high) if answer.rates else (None, None)
        print(
            f"| {answer.policy} | {rate_text(answer.rate, 'none')} | {rate_text(low, '–')} "
            f"| {rate_text(high, '–')} | {verdict} |"
        )
        rows[answer.policy] = {**answer.row(), "gain": verdict}
    switch = any(answer.rate and today.rate and is_apart(today, answer) for answer in others)
    print(json.dumps({"switch": switch, "policies": rows}))


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
