"""Predicted against measured: errors per metric and policy, with the noise of the measurement.

Takes Results; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from sim.results.failures import failed_share, failures_text
from sim.results.metrics import metric, request_latencies
from sim.results.result import Result

from .decisions import Comparison

COMPARED = (
    "request_throughput",
    "output_throughput",
    *(
        latency.metric(statistic).key
        for latency in request_latencies().values()
        for statistic in ("mean", "median", "p90", "p99")
    ),
    "iterations",
    "average_length",
    "kv_peak_fraction",
)
"""Metrics of a validation, by key."""


class MetricError(NamedTuple):
    """One metric: the simulator's value, the median of the real runs, and the errors of both as fractions.

    `error_fraction` is predicted / measured - 1, `noise_fraction` the largest distance of a run from the
    median of the runs. Both are None where the metric is undefined.
    """

    predicted: float | None
    measured: float | None
    error_fraction: float | None
    noise_fraction: float | None


@dataclass(frozen=True)
class PolicyCheck:
    """One policy with one predictor: the simulated run, and the real runs of the same requests."""

    policy: str
    predictor: str
    predicted: Result
    measured: tuple[Result, ...]
    incidents: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    """Of each real run, where the engine scheduled by itself."""

    @property
    def name(self) -> str:
        """For tables and figures."""
        return f"{self.policy} ({self.predictor})"

    @property
    def figures(self) -> dict[str, MetricError]:
        """The errors of all metrics in `COMPARED`."""
        return {
            key: judge(self.predicted.summary[key], [m.summary[key] for m in self.measured])
            for key in COMPARED
        }

    @property
    def equal_decisions(self) -> int:
        """Number of real runs whose decisions equal the simulation's, or those that our scheduler takes of
        the same requests where the engine scheduled by itself.
        """
        if self.comparisons:
            return sum(comparison.first is None for comparison in self.comparisons)
        return sum(m.decisions == self.predicted.decisions for m in self.measured)

    @property
    def typical(self) -> Result:
        """The real run whose throughput is nearest to the median."""
        centre = self.figures["request_throughput"].measured or 0.0
        return min(self.measured, key=lambda m: abs((m.summary["request_throughput"] or 0.0) - centre))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return {
            "policy": self.policy,
            "predictor": self.predictor,
            "runs": len(self.measured),
            "runs_with_equal_decisions": self.equal_decisions,
            **({"decisions": [c.to_json() for c in self.comparisons]} if self.comparisons else {}),
            "completed": [m.summary["completed"] for m in self.measured],
            "failed": [m.summary["failed"] for m in self.measured],
            "incidents": list(self.incidents),
            "metrics": {key: judged._asdict() for key, judged in self.figures.items()},
        }


def judge(predicted: float | None, runs: Sequence[float | None]) -> MetricError:
    """One metric of the simulation against the real runs."""
    values = [value for value in runs if value is not None]
    if predicted is None or not values:
        return MetricError(predicted, median(values) if values else None, None, None)
    centre = median(values)
    if centre == 0:
        return MetricError(predicted, centre, 0.0 if predicted == 0 else None, None)
    return MetricError(
        predicted, centre, predicted / centre - 1, max(abs(value / centre - 1) for value in values)
    )


def table(cases: Sequence[PolicyCheck]) -> list[dict[str, Any]]:
    """One flat row per check and metric, for a CSV file."""
    return [
        {"policy": case.policy, "predictor": case.predictor, "metric": key, **judged._asdict()}
        for case in cases
        for key, judged in case.figures.items()
    ]


def percent(fraction: float | None, signed: bool = True) -> str:
    """A fraction as text; a dash where it is undefined."""
    if fraction is None:
        return "–"
    return f"{100 * fraction:+.1f} %" if signed else f"{100 * fraction:.1f} %"


def markdown(cases: Sequence[PolicyCheck], about: Mapping[str, Any]) -> str:
    """A page for people: the setup, then a table of errors with the noise of the measurement in brackets, and
    which requests it leaves out.
    """
    shown = ("request_throughput", "median_e2el_ms", "p99_e2el_ms", "mean_ttft_ms", "mean_tpot_ms")
    lines = [f"- {key}: {value}" for key, value in about.items()]
    heads = [
        "policy",
        "predictor",
        "requests/s predicted",
        "measured",
        *(metric(k).name for k in shown),
        "decisions",
    ]
    lines += ["", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for case in cases:
        figures = case.figures
        rate = figures["request_throughput"]
        cells = [case.policy, case.predictor, _number(rate.predicted), _number(rate.measured)]
        cells += [
            f"{percent(figures[k].error_fraction)} (±{percent(figures[k].noise_fraction, False)})"
            for k in shown
        ]
        cells.append(f"{case.equal_decisions} of {len(case.measured)} equal")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Errors are predicted / measured - 1; in brackets, the largest distance of a run from the median.",
        *(f"\n{case.name}: {text}" for case in cases for text in (*failure_lines(case), *differing(case))),
    ]
    return "\n".join(lines) + "\n"


def failure_lines(case: PolicyCheck) -> list[str]:
    """Which requests the latencies of a case leave out, simulated and measured; none where all completed."""
    sides = {"predicted": case.predicted.summary, "measured": max(summaries(case), key=failed_share)}
    texts = {side: failures_text(summary) for side, summary in sides.items()}
    return [f"latencies leave out, {side}: {text}" for side, text in texts.items() if text is not None]


def differing(case: PolicyCheck) -> list[str]:
    """Where the decisions of an engine's own scheduler first differ from ours, a line for each run."""
    return [
        f"run {number} decides otherwise from {comparison.first} (the engine's against ours)"
        for number, comparison in enumerate(case.comparisons, start=1)
        if comparison.first is not None
    ]


def summaries(case: PolicyCheck) -> list[dict[str, Any]]:
    """Those of the real runs."""
    return [result.summary for result in case.measured]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
