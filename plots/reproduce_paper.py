"""How close does the simulator come to the published table of arXiv 2305.13144, and why not closer?

    python plots/reproduce_paper.py            (a few seconds; needs the paper's length file:
                                               fetched, or taken from the folder SEQSCHED_DATA)

Replays the paper's 1,024 validation requests (its seed, its settings) on both profiles that its vanilla run
sets, and puts published, emulated and correct figures side by side. The published code mixes up two orders
when it recomputes failures: it collects their places in the sorted output, and looks the prompts up by
these places in the order of arrival. So it recomputes other requests than those that failed. `MixedUp` does
the same, here and nowhere else; the product recomputes what failed. The published runs also generated their
answers anew, while the oracle's limits are the largest of the file's samples: `known_elsewhere` is the
other end, limits that know nothing of the answers that are run. Prints a Markdown table; the last line of
stdout is JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.cli import run_script
from sim.scenario.scenario import Scenario, scenario
from sim.schedulers import SequenceScheduler
from sim.work import Limits, PaddedBatch
from traces import load
from traces.trace import Trace

SCALED = "a100-80gb-vicuna-7b-transformers"
ON_KERNELS = "a100-80gb-vicuna-7b-transformers-kernels"
ORACLE = "sequence, oracle, table VBS, FCR"
TUNED = "sequence, tuned perception, table VBS, FCR"
ELSEWHERE = "… the same, limits from the three other samples"
MIXED_UP = "… the same, with the published mix-up"
PUBLISHED: dict[str, dict[str, float]] = {
    "vanilla": {"throughput": 1.39, "length": 370.84, "effective": 0.3391},
    ORACLE: {"throughput": 2.69, "length": 196.34, "effective": 0.6157},
    TUNED: {"throughput": 2.30, "length": 215.06, "effective": 0.4722, "failed": 0.1650},
    "sequence, tuned perception, no VBS, no FCR": {"throughput": 1.64, "length": 297.48, "effective": 0.4217},
}
"""The README of the paper's code at commit 3992f341: samples/s, tokens, fractions."""

POLICIES = {
    "vanilla": ("vanilla", "oracle"),
    ORACLE: ("sequence:vbs=table,fcr=on", "oracle"),
    TUNED: ("sequence:vbs=table,fcr=on", "tuned"),
    "sequence, tuned perception, no VBS, no FCR": ("sequence:vbs=off,fcr=off", "tuned"),
}
KEYS = {
    "throughput": "request_throughput",
    "length": "average_length",
    "effective": "effective_token_ratio",
    "failed": "failure_ratio",
    "all_attempts": "average_length_all_attempts",
}


Figures = dict[str, dict[str, list[float]]]
"""Row of the table -> our name of a figure -> its value in every run."""


class MixedUp(SequenceScheduler):
    """Sequence scheduling with the published mix-up: a failure is answered by recomputing somebody else.

    `lengths`, indexed by request id, is what the executor runs by; from its recomputation on, a failed
    request has the length of the request whose turn it is by mistake.
    """

    def __init__(self, limits: Limits, lengths: list[int]) -> None:
        super().__init__(limits)
        self.lengths, self.own = lengths, list(lengths)
        self.instead_of: dict[int, int] = {}  # request -> whose turn it is by mistake

    def _plan(self) -> None:
        arrived = sorted(request.id for request in self.forming)
        super()._plan()
        in_output = [request.id for batch in self.plan for request in batch.requests]
        self.instead_of |= zip(in_output, arrived, strict=True)

    def _recompute(self) -> PaddedBatch:
        work = super()._recompute()
        for request in work.requests:
            self.lengths[request.id] = self.own[self.instead_of[request.id]]
        return work


def paper_scenario(trace: str | Trace, predictor: str, seed: int, profile: str = SCALED) -> Scenario:
    """The 1,024 requests and the settings of the published runs."""
    return scenario(trace, predictor=predictor, profile=profile, seed=seed, num_prompts=1024, sample_seed=42)


def emulated(trace: str, seed: int, profile: str = SCALED) -> dict[str, Any]:
    """The summary of the tuned run with the published mix-up."""
    shared = paper_scenario(trace, "tuned", seed, profile)
    lengths = shared.trace.output_tokens.tolist()
    return shared.run(lambda limits: MixedUp(limits, lengths), "published mix-up", lengths).summary


def known_elsewhere(trace: str, profile: str = SCALED) -> dict[str, Any]:
    """The summary of the oracle run where its limits are of the samples that are not the answer."""
    whole = load(trace, seed=0)
    if whole.samples is not None:
        whole = replace(whole, samples=whole.samples[:, 1:], sample_names=whole.sample_names[1:])
    return paper_scenario(whole, "oracle", 0, profile).run(POLICIES[ORACLE][0]).summary


def simulated_runs(trace: str, profile: str, seeds: range) -> Figures:
    """Every row of the table on this profile."""
    found: Figures = {}
    for name, (policy, predictor) in POLICIES.items():
        runs = seeds if predictor == "tuned" else range(1)
        found[name] = figures(
            [paper_scenario(trace, predictor, s, profile).run(policy).summary for s in runs]
        )
        if name == ORACLE:
            found[ELSEWHERE] = figures([known_elsewhere(trace, profile)])
        if name == TUNED:
            found[MIXED_UP] = figures([emulated(trace, s, profile) for s in seeds])
    return found


def figures(summaries: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Our name of each figure -> its value in every run."""
    return {name: [s[key] for s in summaries] for name, key in KEYS.items()}


def main(trace: str = "alpaca-vicuna-val", *, num_seeds: int = 20, out: Path | None = None) -> None:
    """Replay the published runs and print published, simulated and emulated figures side by side.

    Parameters
    ----------
    trace
        The paper's validation file, or a dataset's name.
    num_seeds
        Runs of what is random (tuned perception); their mean and standard deviation are shown.
    out
        Write the figures as JSON to this file.
    """
    simulated = {p: simulated_runs(trace, p, range(num_seeds)) for p in (SCALED, ON_KERNELS)}
    print(table(simulated[SCALED], simulated[ON_KERNELS]))
    means = {
        profile: {
            row: {name: float(np.mean(values)) for name, values in found.items()}
            for row, found in rows.items()
        }
        for profile, rows in simulated.items()
    }
    text = json.dumps({"published": PUBLISHED, "simulated": means, "num_seeds": num_seeds})
    if out is not None:
        from traces.files import atomic_write

        with atomic_write(out) as file:
            file.write(text + "\n")
    print(text)


def table(scaled: Figures, on_kernels: Figures) -> str:
    """Markdown: simulated figures, the published ones in brackets, ± one standard deviation over seeds.

    Batches are formed without looking at times, so that all but the throughput is the same on both profiles.
    """
    heads = [
        "run",
        "requests/s",
        "ratio to vanilla",
        "on kernels, requests/s",
        "ratio",
        "average length",
        "effective tokens",
        "failed at first",
        "all attempts",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row, values in scaled.items():
        published = PUBLISHED[{ELSEWHERE: ORACLE, MIXED_UP: TUNED}.get(row, row)]
        cells = []
        for found in (scaled, on_kernels):
            vanilla = float(np.mean(found["vanilla"]["throughput"]))
            ratio = [v / vanilla for v in found[row]["throughput"]]
            cells += [
                cell(found[row]["throughput"], "{:.2f}", published["throughput"]),
                cell(ratio, "{:.2f}", published["throughput"] / PUBLISHED["vanilla"]["throughput"]),
            ]
        cells += [
            cell(values["length"], "{:.1f}", published["length"]),
            cell(values["effective"], "{:.1%}", published["effective"]),
            cell(values["failed"], "{:.1%}", published.get("failed")),
            cell(values["all_attempts"], "{:.1f}", None),
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: list[float], form: str, published: float | None) -> str:
    """`mean ± deviation (published)`."""
    text = form.format(np.mean(values))
    if len(values) > 1:
        text += " ± " + form.format(np.std(values))
    return text if published is None else f"{text} ({form.format(published)})"


if __name__ == "__main__":
    run_script(main)
