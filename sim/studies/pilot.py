"""What other policies, slots or machines would have done with the requests of a log, and how sure that is.

The log is that of a layer before a server (`seqsched serve`), which sends as many requests at a time as the
server has slots, or of any server; `slot_log` reads it, and fits what the server takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from traces.errors import InputError
from traces.prompt_blocks import share_found_again
from traces.spec import names_of
from traces.trace import FloatArray, Trace

from ..hardware.profile import Profile
from ..perception.accuracy import ErrorReport, RankReport, error_report, rank_report
from ..results.slo_metrics import attainments
from ..scenario.policies import scheduler_maker
from ..scenario.scenario import Scenario, scenario
from ..scenario.unused import nothing_due
from .slot_log import (
    FIRST,
    SENT,
    SlotLog,
    bare,
    begun_first,
    enough_blocks,
    read,
    server_of,
    slots_used,
    with_slots,
)

POLICIES = (
    "continuous",
    "continuous:order=shortest-predicted",
    "continuous:order=tie",
    "continuous:order=shortest-prompt",
)
OWN, NONE, PERFECT = "as in the log", "none", "perfect"
FIGURES = ("ttft_ms", "e2el_ms")
STATISTICS: Mapping[str, Callable[[FloatArray], float]] = {
    "mean": lambda values: float(values.mean()),
    "p99": lambda values: float(np.percentile(values, 99)),
}
WINDOW = 5
"""Requests one after another that are drawn together: neighbours are alike."""
SHARE = 0.9
"""Of drawn logs, in whose range about a gain it is said to be."""


class Point(NamedTuple):
    """What is replayed: a policy with so many slots, on the server of the log or on a profile, where lengths
    are predicted as in the log or are known.
    """

    policy: str
    slots: int | None
    machine: str
    predictor: str


class Figures(NamedTuple):
    """Of one run: statistics of latencies in ms, and which shares are within bounds of their own, if any."""

    latency_ms: Mapping[str, float]
    slo_attainment: Mapping[str, float] | None


@dataclass(frozen=True)
class Replayed:
    """A replay: mean and p99 of TTFT and E2EL in ms, and the share by which each is below that of what ran,
    with the range about it in which it is in 90 of 100 logs of the same arrivals whose requests are drawn
    from this one. `slo_attainment`: which share of the log's requests, in all and by class, is within bounds
    of its own; None where none states any.
    """

    point: Point
    latency_ms: Mapping[str, float]
    gain: Mapping[str, float]
    between: Mapping[str, tuple[float, float]]
    slo_attainment: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {
            key: {"ms": value, "gain": self.gain[key], "between": list(self.between[key])}
            for key, value in self.latency_ms.items()
        }
        return {**self.point._asdict(), **figures, **_stated(self.slo_attainment)}


@dataclass(frozen=True)
class Pilot:
    """A log replayed. `measured`, `replayed`: of what ran, by figure in ms; `rows`: what else was tried;
    `error`, `order`: how good the predictions in the log were, None without any; `slo_attainment`: of what
    ran, as `measured` and as `replayed`; None where no request states bounds.
    """

    log: str
    requests: int
    slots: int | None
    ran: Point
    measured: Mapping[str, float]
    replayed: Mapping[str, float]
    rows: tuple[Replayed, ...]
    error: ErrorReport | None
    order: RankReport | None
    notes: tuple[str, ...]
    slo_attainment: Mapping[str, Mapping[str, float]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        error = (
            None if self.error is None or self.order is None else self.error._asdict() | self.order._asdict()
        )
        return {
            "log": self.log,
            "requests": self.requests,
            "slots": self.slots,
            "ran": self.ran._asdict(),
            "measured": dict(self.measured),
            "replayed": dict(self.replayed),
            "replay_error": {key: self.replayed[key] / value - 1 for key, value in self.measured.items()},
            **_stated(self.slo_attainment),
            "predictions": error,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def pilot(
    path: str | Path,
    *,
    policies: Sequence[str] | str = POLICIES,
    ran: str = FIRST,
    ran_slots: int | None = None,
    slots: Sequence[int] = (),
    profiles: Sequence[str] = (),
    predictor: str | None = None,
    time_unit: str | None = None,
    replicates: int = 20,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pilot:
    """Replay a log under `policies`, with each number of `slots` (none: as many as were used at most), on the
    server that made it, and on `profiles`.

    `ran`: the policy under which it was made. `ran_slots`: as many requests as the server works on at a time;
    where more were with it, it queued by itself. `predictor`: whose predictions are used; None: those in the
    log. `replicates`: logs that are drawn from this one, to say how sure gains are; a predictor that draws
    does so anew in each. InputError for a log that cannot be replayed.
    """
    names = names_of(policies, "policies")
    given = () if ran_slots is None else (ran_slots,)
    for what, least, values in (
        ("slots", 1, slots),
        ("ran_slots", 1, given),
        ("replicates", 2, (replicates,)),
    ):
        if wrong := [value for value in values if value < least]:
            raise InputError(f"{what}: {wrong[0]} must be at least {least}")
    told = read(path, time_unit)
    told, own, notes = _as_it_ran(told, ran_slots, slots)
    server = server_of(told, path, ran, own)
    trace = bare(told.log.trace)
    who = predictor or ("trace" if trace.predicted_tokens is not None else None)
    num_first = None if told.sent_s is not None else begun_first(told.log, own)
    world = _World(trace, server, who, num_first)
    points = world.points(names, ran, own, slots, profiles)
    # Of the log itself, then of logs that are drawn from it: figures by point.
    drawn: list[list[Figures]] = []
    for number in range(1 + replicates):
        requests = trace if not number else _resampled(trace, np.random.default_rng(number))
        drawn.append([world.figures(requests, point, seed=number) for point in points])
        if on_progress is not None:
            on_progress(number + 1, 1 + replicates)
    measured = statistics_of(told.log.latency)
    met = attainment_of({**told.log.latency, **trace.slo_columns})
    rows = tuple(_compared(point, [figures[k] for figures in drawn], drawn) for k, point in enumerate(points))
    predicted = trace.predicted_tokens
    return Pilot(
        log=Path(path).name,
        requests=len(trace),
        slots=own,
        ran=points[0],
        measured=measured,
        replayed=rows[0].latency_ms,
        rows=rows[1:],
        error=None if predicted is None else error_report(predicted, trace.output_tokens),
        order=None if predicted is None else rank_report(predicted, trace.output_tokens),
        notes=(*told.log.notes, *notes, *_notes(told.log.trace, who, own, slots), *world.notes(names)),
        slo_attainment=None if met is None else {"measured": met, "replayed": rows[0].slo_attainment or {}},
    )


def _as_it_ran(
    told: SlotLog, ran_slots: int | None, slots: Sequence[int]
) -> tuple[SlotLog, int | None, tuple[str, ...]]:
    """The log, as many requests as the server worked on at a time, and notes on that. Where it queued by
    itself, when requests were sent to it says nothing.
    """
    if told.sent_s is None:
        note = f"the log does not say when requests were sent on ({SENT}): the policy that ran is believed"
        return told, ran_slots or (slots[0] if slots else None), (note,)
    used = slots_used(told)
    if ran_slots is None or ran_slots >= used:
        return told, ran_slots or used, ()
    note = f"up to {used} requests were with the server: those beyond {ran_slots} waited there"
    return told._replace(sent_s=None), ran_slots, (note,)


def _resampled(trace: Trace, rng: np.random.Generator) -> Trace:
    """A trace of the same arrivals, whose requests are windows of this one, drawn with replacement."""
    n = len(trace)
    starts = rng.integers(max(1, n - WINDOW + 1), size=-(-n // WINDOW))
    rows = (starts[:, None] + np.arange(min(WINDOW, n))).ravel()[:n]
    drawn = replace(trace, arrival_s=None).select(rows)
    return replace(drawn, request_id=trace.request_id, arrival_s=trace.arrival_s)


class _World:
    """The requests of a log, the server that was fitted to it, and whose predictions are used. `num_first`:
    requests that the server, which queued by itself, began before it knew of more than it had slots for;
    None: a layer before it holds those for which there is no slot.
    """

    def __init__(self, trace: Trace, server: Profile, predictor: str | None, num_first: int | None) -> None:
        self.trace, self.server, self.predictor, self.num_first = trace, server, predictor, num_first
        self.blocks = enough_blocks(trace)

    def points(
        self,
        policies: Sequence[str],
        ran: str,
        own: int | None,
        slots: Sequence[int],
        profiles: Sequence[str],
    ) -> list[Point]:
        """What ran, on the fitted server, then everything that is asked; where a policy goes by predictions,
        with those there are and with perfect ones.
        """
        points = [Point(ran, own, OWN, self._whose(ran)[0])]
        for machine in (OWN, *profiles):
            for count in slots or (own,):
                for policy in policies:
                    points += [Point(policy, count, machine, whose) for whose in self._whose(policy)]
        return list(dict.fromkeys(points))

    def _whose(self, policy: str) -> tuple[str, ...]:
        """With whose predictions a policy is tried."""
        if not self._needs(policy):
            return (NONE,)
        return (PERFECT,) if self.predictor is None else (self.predictor, PERFECT)

    def _needs(self, policy: str) -> set[str]:
        """What the policy needs to be predicted."""
        return set(scheduler_maker(policy)(self._own.limits).needs)

    @cached_property
    def _own(self) -> Scenario:
        return self._scenario(self.trace, OWN, PERFECT, 0)

    def notes(self, policies: Sequence[str]) -> tuple[str, ...]:
        """What there is to say of policies that have nothing to go by."""
        note = nothing_due(self.trace, [scheduler_maker(policy)(self._own.limits) for policy in policies])
        return (note,) if note else ()

    def _as_sent(self, requests: Trace, point: Point) -> tuple[Trace, str]:
        """Requests, and whose predictions are used, so that those go first that find a slot when they come: a
        layer sends them at once, and a server begins with those it knows of. Here, between two iterations,
        the shortest of all that came would.
        """
        known = {PERFECT: requests.output_tokens, "trace": requests.predicted_tokens}.get(point.predictor)
        needs = self._needs(point.policy)
        if known is None or self.num_first == 0 or not needs or not needs <= {"order", "length"}:
            return requests, point.predictor
        assert requests.arrival_s is not None
        predicted, first = known.copy(), point.slots if self.num_first is None else self.num_first
        predicted[np.argsort(requests.arrival_s, kind="stable")[:first]] = 1
        return replace(requests, predicted_tokens=predicted), "trace"

    def _scenario(self, requests: Trace, machine: str, predictor: str, seed: int) -> Scenario:
        return scenario(
            requests,
            profile=self.server if machine == OWN else machine,
            kv_blocks=self.blocks if machine == OWN else None,
            predictor="exact" if predictor in (PERFECT, NONE) else predictor,
            seed=seed,
        )

    def figures(self, requests: Trace, point: Point, seed: int) -> Figures:
        """Of a run."""
        requests, predictor = self._as_sent(requests, point)
        result = self._scenario(requests, point.machine, predictor, seed).run(
            with_slots(point.policy, point.slots)
        )
        if failed := result.summary["failed"]:
            where = "" if point.machine == OWN else f" on {point.machine}"
            raise InputError(
                f"{requests.name}: {failed} of {len(requests)} requests cannot be served under {point.policy}"
                f"{where} ({result.summary['failed_reason']})"
            )
        return Figures(statistics_of(result.columns), attainment_of(result.columns))


def attainment_of(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, float] | None:
    """Which share of completed requests, in all and by class, is within bounds of its own."""
    n = len(columns["e2el_ms"])
    return attainments(columns, np.ones(n, dtype=np.bool_), np.arange(n))


def _stated(slo_attainment: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said of bounds, where requests state any."""
    return {} if slo_attainment is None else {"slo_attainment": dict(slo_attainment)}


def statistics_of(latency: Mapping[str, FloatArray]) -> dict[str, float]:
    """Statistics of latencies in ms, by name such as mean_e2el_ms."""
    return {
        f"{name}_{key}": statistic(latency[key]) for key in FIGURES for name, statistic in STATISTICS.items()
    }


def _compared(point: Point, ours: Sequence[Figures], all_points: Sequence[Sequence[Figures]]) -> Replayed:
    """A replay beside what ran, the first of all points: of the log, and of all that were drawn from it."""
    gains = {
        key: [
            1 - mine.latency_ms[key] / points[0].latency_ms[key]
            for mine, points in zip(ours, all_points, strict=True)
        ]
        for key in ours[0].latency_ms
    }
    return Replayed(
        point,
        ours[0].latency_ms,
        {key: values[0] for key, values in gains.items()},
        {key: range_about(values[0], values[1:]) for key, values in gains.items()},
        ours[0].slo_attainment,
    )


def range_about(gain: float, drawn: Sequence[float]) -> tuple[float, float]:
    """The range about a gain in which `SHARE` of those drawn are: of the nearest to it.

    Between two percentiles of those drawn it need not be itself: whom the log's own requests met is one case
    among many, and may be an odd one. The fewer requests there are, and the more of them failed, the more it
    counts.
    """
    values = np.array(drawn)
    nearest = values[np.argsort(abs(values - gain), kind="stable")[: math.ceil(SHARE * len(values))]]
    return min(gain, float(nearest.min())), max(gain, float(nearest.max()))


def _notes(trace: Trace, predictor: str | None, own: int | None, slots: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if predictor is None:
        notes.append("no predictions in the log (predicted_tokens): only perfect ones are tried")
    if own is not None and any(count > own for count in slots):
        notes.append(f"more slots than the {own} of the log: what a token takes there is extrapolated")
    if (trace.output_tokens < 2).all():
        notes.append("all answers have one token")
    if count := int(trace.is_waiting.sum()):
        notes.append(
            f"{count} requests wait for others (waits_for): they come at the times of the log, though an "
            "answer that ends sooner would bring the next request sooner"
        )
    if trace.deadline_s is not None:
        notes.append("the log has deadlines, which are not replayed")
    share = 0.0 if trace.blocks is None else share_found_again(trace.blocks, trace.prompt_tokens)
    if share >= 0.005:
        notes.append(
            f"the log has shared prefixes ({share:.0%} of the prompt tokens can be found again), which are "
            "not replayed here: simulate --policy continuous:prefix_caching=on does that"
        )
    return tuple(notes)
