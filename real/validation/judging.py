"""Whether a simulation is near enough to the real runs: the bounds of `sim.studies.tolerance`, each at least
as wide as runs of one policy lie apart on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sim.results.backlog import backlog
from sim.results.result import Result
from sim.studies.tolerance import JUDGED, Judgement

from .report import PolicyCheck, percent


def judge_all(
    cases: Sequence[PolicyCheck], tolerances: Mapping[str, float]
) -> dict[str, tuple[Judgement, ...]]:
    """The judgements of every case, by its name."""
    spreads = spreads_of(cases)
    return {case.name: tuple(judgements(case, tolerances, spreads)) for case in cases}


def spreads_of(cases: Sequence[PolicyCheck]) -> dict[str, float]:
    """By figure, the largest distance of a run from the median of its policy's runs, as a fraction.

    Of all policies, since the noise is the machine's: three runs of one may lie close together by chance.
    """
    noise = {
        key: [case.figures[key].noise_fraction or 0.0 for case in cases]
        for keys in JUDGED.values()
        for key in keys
    }
    return {key: max(values, default=0.0) for key, values in noise.items()}


def judgements(
    case: PolicyCheck, tolerances: Mapping[str, float], spreads: Mapping[str, float]
) -> list[Judgement]:
    """Every figure that a bound in percent is for, in the order of `JUDGED`; throughput only of a machine
    that was saturated. What neither side has (TPOT of answers of one token) is not judged.
    """
    judged = []
    for kind, figures in JUDGED.items():
        if kind == "throughput" and not is_saturated(case.typical):
            continue
        for key in figures:
            figure = case.figures[key]
            if figure.predicted is None and figure.measured is None:
                continue
            error = math.nan if figure.error_fraction is None else figure.error_fraction
            judged.append(Judgement(key, error, tolerances[kind], spreads[key]))
    return judged


def is_saturated(result: Result) -> bool:
    """Whether requests came faster than the machine served them, as where all come at once."""
    order = np.argsort(result.columns["due_s"], kind="stable")
    due_s, finish_s = (result.columns[name][order] for name in ("due_s", "finish_s"))
    return not np.ptp(due_s) > 0 or backlog(due_s, finish_s).grows


def failures(case: PolicyCheck, judged: Sequence[Judgement]) -> list[str]:
    """What is out of bounds, a line each; first, where the sides do not complete as many requests."""
    predicted, measured = case.predicted.summary, case.typical.summary
    lines = [str(each) for each in judged if not each.holds]
    if predicted["completed"] != measured["completed"]:
        lines.insert(
            0,
            f"{predicted['completed']:,} requests complete in the simulation, {measured['completed']:,} in "
            "reality, so that their latencies do not compare",
        )
    return lines


def markdown(judged: Mapping[str, Sequence[Judgement]]) -> str:
    """A table of the errors and what they may be, a row for each figure of each case, by its name."""
    lines = ["| policy | figure | error | at most | |", "|---|---|---:|---:|---|"]
    for name, judgements in judged.items():
        for each in judgements:
            error = percent(None if math.isnan(each.error) else each.error)
            verdict = "" if each.holds else "exceeded"
            lines.append(f"| {name} | {each.figure} | {error} | {each.limit} | {verdict} |")
    return "\n".join(lines) + "\n"
