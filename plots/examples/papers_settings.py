"""Do the claims of papers on scheduling hold in their own settings, and not only in that of the arena?

    python plots/examples/papers_settings.py

Where a paper, or the code beside it, says how its load was made and how latency was counted, this does so:
vllm-ltr (arXiv 2408.15792) sends requests for 60 s at rates from far below to far above what the machine
serves, or 2,000 at once, and counts the mean of latency over output tokens; for generated data only the first
tenth of the requests (10,000 there) has to end. TIE (2604.00499) counts likewise, against it. FastServe
(2305.05920) runs at most 16 requests at a time. A_min (2508.14544) has all requests there from the start, and
only memory is short. Their traces and machines are not here: lengths are the trace's, and a rate is a share
of what first come, first served gets done. Prints a Markdown table; the last line of stdout is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter

from plots.examples.better_padded import half
from sim.cli import run_script
from sim.perception.registry import make_predictor
from sim.planning.slo import interval
from sim.results.result import Result
from sim.scenario.scenario import scenario
from sim.studies.capacity import capacity

FCFS = ("continuous", "exact")
LTR = ("continuous:order=ltr", "rank:tau=0.6")
RANKED = ("continuous:order=shortest-predicted", "rank:tau=0.6")
TIE = ("continuous:order=tie", "tuned:charge=off")
SEATS = "max_num_seqs=16"
WIDE = "max_num_seqs=2048"
SECONDS = 60.0
"""For so long vllm-ltr sends requests."""
BURST, GENERATED, KEPT = 2000, 3000, 0.1


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is served, on what, and how often."""

    trace: str = "azure-conv-2023"
    """A file, a dataset or a generator NAME[:key=value,...]; its lengths are used."""
    profile: str = "h100-llama-3.1-8b-vllm"
    """The machine."""
    loads: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Request rates, as shares of what first come, first served gets done."""
    shrink: float = 1.0
    """Run this share of the requests, for a quick look."""
    num_seeds: int = 3
    """Runs of a row; at least 2."""
    seed: int = 0
    """First of the seeds."""


DEFAULT = Options()


class Try(NamedTuple):
    """One policy against another on the same requests, and the latency that is compared."""

    paper: str
    setting: str
    figure: str
    policy: tuple[str, str]
    against: tuple[str, str]
    workload: Mapping[str, Any]


Known = dict[tuple[object, tuple[str, str], int], dict[str, float]]
"""(workload, policy and predictor, seed) -> the figures of that run."""


def per_token(result: Result) -> float:
    """The mean over requests of E2EL / output tokens (s)."""
    tokens: npt.NDArray[np.int64] = result.columns["output_tokens"]
    return float(np.nanmean((result.columns["finish_s"] - result.columns["arrival_s"]) / tokens))


def until_kept(result: Result) -> float:
    """When the first tenth of the requests has ended (s)."""
    ends = np.sort(result.columns["finish_s"])
    return float(ends[max(0, int(KEPT * len(ends)) - 1)])


FIGURES: dict[str, Callable[[Result], float]] = {
    "latency per token": per_token,
    "mean TTFT": lambda result: float(result.summary["mean_ttft_ms"]),
    "mean E2EL": lambda result: float(result.summary["mean_e2el_ms"]),
    "time until a tenth has ended": until_kept,
}


def main(options: Options = DEFAULT) -> None:
    """Each claim in its own setting: how many times lower a figure is than under what it is compared with."""
    print("| paper | setting | figure | policy | against | times lower |\n|---|---|---|---|---|---:|")
    found, known = [], Known()
    for row in tries(options):
        lower = interval(ratios(options, row, known))
        who, whom = (
            " by ".join(pair).removeprefix("continuous:order=") for pair in (row.policy, row.against)
        )
        texts = [row.paper, row.setting, row.figure, f"`{who}`", f"`{whom}`"]
        print(f"| {' | '.join(texts)} | {lower.mean:.2f} ± {half(lower):.2f} |", flush=True)
        found.append({**row._asdict(), "workload": None, **asdict(lower)})
    print(json.dumps(found))


def tries(options: Options) -> Iterator[Try]:
    """What is tried, paper by paper."""
    shared: dict[str, Any] = {"profile": options.profile, "seed": options.seed}
    most = capacity(options.trace, num_prompts=max(2, int(1000 * options.shrink)), **shared)
    for load in options.loads:
        num = max(2, int(SECONDS * load * most * options.shrink))
        workload = {"request_rate": load * most, "num_prompts": num}
        setting = f"{SECONDS:g} s at {100 * load:g} %"
        yield Try("vllm-ltr", setting, "latency per token", LTR, FCFS, workload)
        yield Try("vllm-ltr", setting, "mean E2EL", LTR, FCFS, workload)
        yield Try("TIE", setting, "latency per token", TIE, LTR, workload)
        yield Try("TIE", setting, "latency per token", TIE, RANKED, workload)
    burst = {"request_rate": np.inf, "num_prompts": max(2, int(BURST * options.shrink))}
    yield Try("vllm-ltr", "2,000 at once", "latency per token", LTR, FCFS, burst)
    yield Try("vllm-ltr", "2,000 at once", "mean E2EL", LTR, FCFS, burst)
    yield Try("A_min", "2,000 at once, memory alone", "mean E2EL", *_by_bounds("tuned:charge=off"), burst)
    yield Try("A_min", "2,000 at once, memory alone", "mean E2EL", *_by_bounds("exact"), burst)
    generated = {"request_rate": np.inf, "num_prompts": max(2, int(GENERATED * options.shrink))}
    yield Try("vllm-ltr", "300 of 3,000 at once", "time until a tenth has ended", LTR, FCFS, generated)
    few = capacity(
        options.trace, policy=f"continuous:{SEATS}", num_prompts=max(2, int(300 * options.shrink)), **shared
    )
    for load in (0.8, 1.2):
        workload = {"request_rate": load * few, "num_prompts": max(2, int(500 * options.shrink))}
        mlfq, fcfs = (f"continuous:order=mlfq,{SEATS}", "exact"), (f"continuous:{SEATS}", "exact")
        for figure in ("latency per token", "mean TTFT", "mean E2EL"):
            yield Try("FastServe", f"16 seats, {100 * load:g} %", figure, mlfq, fcfs, workload)


def _by_bounds(predictor: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A_min with this predictor, and who knows every length."""
    hindsight = f"continuous:order=shortest-predicted,admission=predicted,{WIDE}"
    return (f"continuous:order=lower-bound,{WIDE}", predictor), (hindsight, "exact")


def ratios(options: Options, row: Try, known: Known) -> list[float]:
    """How many times lower the figure is, by seed."""
    values = []
    for seed in range(options.seed, options.seed + options.num_seeds):
        mine, theirs = (_figures(options, row, pair, seed, known) for pair in (row.policy, row.against))
        values.append(theirs[row.figure] / mine[row.figure])
    return values


def _figures(options: Options, row: Try, pair: tuple[str, str], seed: int, known: Known) -> dict[str, float]:
    """All figures of one run, which is run once."""
    key = (tuple(row.workload.items()), pair, seed)
    if key not in known:
        policy, predictor = pair
        workload = scenario(options.trace, profile=options.profile, seed=seed, **row.workload)
        result = replace(workload, predictor=make_predictor(predictor)).run(policy)
        known[key] = {name: figure(result) for name, figure in FIGURES.items()}
    return known[key]


if __name__ == "__main__":
    run_script(main)
