"""How far a simulation is off a log of one's own server: the same requests replayed, metric by metric.

A log is a table (CSV, JSON lines, Parquet) with the columns request_id, arrival_s, prompt_tokens,
output_tokens, ttft_ms, tpot_ms and e2el_ms; tpot_ms of a request with one output token is not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from traces import checks, formats
from traces.arguments import checked
from traces.errors import InputError
from traces.hints import near_misses
from traces.spec import parse
from traces.tables import Table, open_table
from traces.trace import FloatArray, Trace
from traces.units import PER_SECOND, WORDS, unit_in_name, without_unit

from ..results.backlog import backlog
from ..results.failures import failed_share, share_text
from ..results.metric_kinds import STATISTICS, statistics
from ..results.metrics import LATENCIES
from ..results.result import Result
from ..results.slo_metrics import attainments
from ..scenario.scenario import scenario_of
from ..scenario.settings import Keywords, Settings, WorkloadSettings, read_settings
from .log_checks import check_ends, check_physics, far_off, held_back, oddities, with_our_tpot

COMPARABLE = ("trace", "time_unit", "max_concurrency", "max_new_tokens", "cap", "goodput")
"""Settings of a workload under which the requests of a log stay what they were when they were measured."""
OTHER_LOAD = "the requests of the log were measured side by side, so that a part of them met another load"
OTHER_TIMES = "the requests of the log arrived when it says, and others' latencies were not measured"
OTHER_LENGTHS = "the latencies of the log were measured at its own lengths"
OTHER_BOUNDS = "the server of the log knew the bounds that its requests stated, if any"
OTHER_REQUESTS = "others than those of the log were not measured"
REASONS = {
    "num_prompts": OTHER_LOAD,
    "sample_seed": OTHER_LOAD,
    "request_rate": OTHER_TIMES,
    "burstiness": OTHER_TIMES,
    "time_scale": OTHER_TIMES,
    "prompt_scale": OTHER_LENGTHS,
    "output_scale": OTHER_LENGTHS,
    "slo_classes": OTHER_BOUNDS,
}
"""Why the other settings of a workload are refused."""
LOGGED = tuple(LATENCIES[key].column for key in ("ttft", "tpot", "e2el"))
"""The latencies that a log has, as columns."""
END = "finish_s"
"""When a request ended, by the clock of the arrivals, where a log has it."""
SENDING = ("due_s", "arrival_s")
"""When a request ought to have been sent, and when it was, where a log has both."""
COMPARED = tuple(statistic for statistic in STATISTICS if statistic != "std")


@dataclass(frozen=True)
class Against:
    """Measured and predicted figures by summary key, the simulation that predicted them, whether the server
    of the log was saturated (its backlog grew), and notes on what looks odd in the log. `within`: the shares
    of its requests that were, and that are predicted to be, within bounds of their own, of all and by class;
    empty where none states any.
    """

    measured: Mapping[str, float]
    predicted: Mapping[str, float]
    result: Result
    is_saturated: bool
    notes: tuple[str, ...] = ()
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, float]:
        """Predicted over measured, minus 1, a fraction."""
        return {key: self.predicted[key] / value - 1 for key, value in self.measured.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values: measured, predicted, error as a fraction by figure, and the whole summary; where
        requests state bounds, the shares that are within, and their errors in points.
        """
        within = {
            name: {"measured": measured, "predicted": predicted, "error_points": 100 * (predicted - measured)}
            for name, (measured, predicted) in self.within.items()
        }
        return {
            "measured": dict(self.measured),
            "predicted": dict(self.predicted),
            "error_fraction": self.errors,
            **({"slo_attainment": within} if within else {}),
            "summary": self.result.summary,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Log:
    """The completed requests of a log as a trace, the latencies measured, in ms, each of shape (n,) in its
    order, and notes on what was left out or understood otherwise.
    """

    trace: Trace
    latency: Mapping[str, FloatArray]
    notes: tuple[str, ...]


def read_log(path: str | Path, time_unit: str | None = None, also_used: Collection[str] = ()) -> Log:
    """The log in a file; TPOT by another definition than ours is computed anew.

    Requests that failed, by a column of states or errors or with no output, are left out. `time_unit`: as for
    `traces.load`; `also_used`: columns that the caller reads. Raises InputError naming file, row, column,
    value and bound.
    """
    table = open_table(path, lambda name: latency_of(name) is not None or name in (END, *SENDING))
    columns, notes = _latency_columns(table)
    used = (*columns.values(), END, *SENDING, *also_used)
    trace = formats.read(path, time_unit=time_unit, also_used=used)
    if trace.arrival_s is None:
        why = "; ".join(table.notes) or "column arrival_s is missing"
        raise InputError(f"{path}: {why}; a log has arrival_s, {', '.join(LOGGED)}")
    rows = trace.source_rows
    assert rows is not None
    left_out = np.ones(table.num_rows, dtype=np.bool_)
    left_out[rows] = False
    single = left_out.copy()
    single[rows] = trace.output_tokens == 1
    measured = {}
    for name, column in columns.items():
        per_ms = PER_SECOND[unit_in_name(column) or "ms"] / PER_SECOND["ms"]
        unless = single if name == "tpot_ms" else left_out
        measured[name] = checks.times(table, column, unless=unless) / per_ms
    first, last = measured["ttft_ms"], measured["e2el_ms"]
    checks.refuse(
        table,
        "e2el_ms",
        last < 0.99 * first - 1,  # logs are rounded
        lambda i: f"{last[i]:g} is below ttft_ms, {first[i]:g}; are both from the arrival on, in ms?",
    )
    if not last[rows].any():
        raise InputError(f"{path}, e2el_ms: is 0 in every row, so that there is no duration to compare with")
    latency, redefined = with_our_tpot(trace, {name: values[rows] for name, values in measured.items()})
    notes += redefined
    if END in table.columns:
        check_ends(str(path), trace, latency["e2el_ms"], checks.times(table, END, unless=left_out)[rows])
    if set(SENDING) <= set(table.columns):
        due_s, sent_s = (table.numbers(column) for column in SENDING)
        if due_s is not None and sent_s is not None:
            notes += held_back(due_s[rows], sent_s[rows])
    if share := 1 - len(trace) / table.num_rows:
        failed = f"{100 * share:.2g} % of the requests of the log failed"
        notes = (f"{failed}: neither measured nor simulated, though they loaded the server", *notes)
    return Log(trace, latency, (*notes, *oddities(trace, latency)))


def latency_of(column: str) -> str | None:
    """The latency in ms that a column holds by its name, in any unit: ttft_ms for ttft_s; None for none."""
    if unit_in_name(column) is None:
        return None
    return next((name for name in LOGGED if without_unit(name) == without_unit(column)), None)


def _latency_columns(table: Table) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column of each latency, and a note on those not in ms; InputError where one is missing."""
    found = {latency_of(column): column for column in reversed(table.columns)}
    found |= {name: name for name in LOGGED if name in table.columns}
    for name in LOGGED:
        if name not in found:
            hint = near_misses(table.columns, [name])
            raise InputError(
                f"{table.path}: column {name} is missing{hint}; a log has arrival_s, {', '.join(LOGGED)}"
            )
    columns = {name: found[name] for name in LOGGED}
    others = [f"{column} in {WORDS[unit_in_name(column) or 'ms']}" for column in columns.values()]
    others = [other for other, name in zip(others, columns, strict=True) if columns[name] != name]
    return columns, (f"{', '.join(others)}, by the name",) if others else ()


@checked
def against(path: str | Path, *, policy: str = "continuous", **settings: Unpack[Keywords]) -> Against:
    """Replay the requests of a log under a policy and set the simulated metrics beside the measured ones.

    Under `continuous` iterations are decided one ahead (`async_scheduling=on`), as vLLM's servers do unless
    told otherwise, if the policy does not say otherwise.
    `settings` as for `simulate`. Raises InputError for those that would make the two incomparable, for a bad
    log, and where the simulation does not complete every request.
    """
    log = read_log(path, settings.get("time_unit"))
    trace, latency = log.trace, log.latency
    given = read_settings(trace, settings)
    _check_comparable(path, given, trace)
    scenario = scenario_of(given)
    check_physics(str(path), trace, latency, scenario)
    result = scenario.run(of_a_server(policy))
    summary = result.summary
    if summary["failed"]:
        rejected = result.requests[result.requests.status != "completed"]
        raise InputError(
            f"{path}: {summary['failed']} of {len(trace)} requests ({share_text(failed_share(summary))}) "
            "could not be served in the simulation, such as "
            f"{rejected.request_id.iloc[0]} ({rejected.reason.iloc[0]})"
        )
    assert trace.arrival_s is not None
    duration = float((trace.arrival_s + latency["e2el_ms"] / 1e3).max() - trace.arrival_s.min())
    several = trace.output_tokens > 1
    measured = {
        "request_throughput": len(trace) / duration,
        "output_throughput": float(trace.output_tokens.sum()) / duration,
    }
    for name in LOGGED:
        values = latency[name][several] if name == "tpot_ms" else latency[name]
        if len(values):
            figures = statistics(values)
            measured |= {f"{s}_{name}": value for s in COMPARED if (value := figures[s]) is not None}
    measured = {key: value for key, value in measured.items() if value > 0}
    predicted = {key: summary[key] for key in measured}
    is_saturated = backlog(trace.arrival_s, trace.arrival_s + latency["e2el_ms"] / 1e3).grows
    notes = (*log.notes, *far_off(measured, predicted))
    return Against(measured, predicted, result, is_saturated, notes, _within(trace, latency, result))


def _within(
    trace: Trace, latency: Mapping[str, FloatArray], result: Result
) -> dict[str, tuple[float, float]]:
    """The shares within own bounds, measured and predicted, of all and by class."""
    done, rows = np.ones(len(trace), dtype=np.bool_), np.arange(len(trace))
    measured, predicted = (
        attainments(columns, done, rows) or {}
        for columns in ({**trace.slo_columns, **latency}, result.columns)
    )
    return {name: (share, predicted[name]) for name, share in measured.items()}


def _check_comparable(path: str | Path, given: Settings, trace: Trace) -> None:
    """InputError for a setting under which other requests would be simulated than were measured."""
    for setting in fields(WorkloadSettings):
        name, value = setting.name, getattr(given, setting.name)
        if name not in COMPARABLE and value != setting.default:
            reason = REASONS.get(name, OTHER_REQUESTS)
            raise InputError(f"{name}: {value} would change the workload, which is the log's own: {reason}")
    caps = trace.max_tokens
    if caps is not None and given.cap in ("auto", "column") and (trace.output_tokens > caps).any():
        row = int((trace.output_tokens > caps).argmax())
        raise InputError(
            f"{path}: the answer of request {trace.request_id[row]} has {trace.output_tokens[row]} tokens, "
            f"above {caps[row]}, its max_tokens, which would cut it: {OTHER_LENGTHS} (cap shared "
            "leaves the column out)"
        )
    longest = int(trace.output_tokens.max())
    if given.max_new_tokens is not None and given.max_new_tokens < longest:
        raise InputError(
            f"max_new_tokens: {given.max_new_tokens} is below {longest}, the longest output of {path}: "
            f"{OTHER_LENGTHS}"
        )


def of_a_server(policy: str) -> str:
    """The policy with iterations decided one ahead, where it leaves that open."""
    if policy.partition(":")[0].strip() != "continuous":
        return policy
    _, options = parse(policy, "policy")
    if "async_scheduling" in options:
        return policy
    return f"{policy}{',' if options else '' if ':' in policy else ':'}async_scheduling=on"
