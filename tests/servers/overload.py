"""What an overload gains by the order of its requests, beside what `pilot` says of the log before.

Knows nothing of how servers are started.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.studies.log_fit import fit_logs
from sim.studies.pilot import Pilot, pilot
from sim.studies.server_log import against
from tests.servers.layered import Answer, ask_all, layer
from tests.servers.prompts import body_of, prompts
from tests.servers.server_clock import ServerClock

SHORTEST = "continuous:order=shortest-predicted"
MOST_ERROR = 0.10
"""What pilot may be off by, as a share of the gain."""
LONGEST_S = 3600
"""The starvation bound where it is not to be felt."""
CLOSE_S = 0.2
"""Seconds after which a bound must have had its effect."""
CLOCKS = ("wall", "server")
FIGURES = ("mean_e2el_ms", "p99_e2el_ms")


class Case(NamedTuple):
    """A server that works on `slots` requests at a time, and how it is put under load.

    `fcfs`, `shortest`: flags of the layer; `ran_slots`: what pilot is told where the server queues by itself;
    `extra`: fields of requests; `in_pieces`: its streams are cut into the same events each time.
    """

    name: str
    url: str
    pid: int
    model: str
    slots: int
    fcfs: Sequence[str]
    shortest: Sequence[str]
    ran_slots: int | None
    extra: dict[str, Any]
    in_pieces: bool

    def bodies(self, number: int, start: int = 0) -> list[dict[str, Any]]:
        """Requests that do not stream."""
        return [
            body_of(prompt, model=self.model, stream=False, most=cap, extra=self.extra)
            for prompt, cap in prompts(number, start)
        ]


class Gain(NamedTuple):
    """By how much a figure fell, in each round, as a share of that of the fcfs run before, and as pilot said
    of that run's log; `replay`: how far it was off with what ran.
    """

    measured: list[float]
    predicted: list[float]
    replay: list[float]

    @property
    def error(self) -> float:
        """Predicted less measured, in points, of the means."""
        return statistics.fmean(self.predicted) - statistics.fmean(self.measured)

    @property
    def spread(self) -> float:
        """The largest distance of a round from the mean of what was measured, in points."""
        return max(abs(each - statistics.fmean(self.measured)) for each in self.measured)

    @property
    def tenth(self) -> float:
        """A tenth of what was measured, in points."""
        return MOST_ERROR * abs(statistics.fmean(self.measured))

    @property
    def is_missed(self) -> bool:
        """Whether it is off by more than a tenth of the gain, and by more than rounds differ."""
        return abs(self.error) > max(self.tenth, self.spread)

    def __str__(self) -> str:
        return (
            f"{statistics.fmean(self.measured):.1%} (±{100 * self.spread:.1f}), "
            f"pilot {statistics.fmean(self.predicted):.1%}; replay {statistics.fmean(self.replay):+.1%}"
        )

    @property
    def verdict(self) -> str:
        """How far pilot was off, and how far it may be."""
        return (
            f"{100 * self.error:+.1f} points; a tenth is {100 * self.tenth:.1f}, rounds differ by "
            f"{100 * self.spread:.1f}: {'missed' if self.is_missed else 'met'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self._asdict(), "error": self.error, "tenth": self.tenth, "spread": self.spread}


class Bounded(NamedTuple):
    """A run by shortest-predicted under a starvation bound: how many requests went before one that had come
    before them and had waited for longer; p99 of latencies in s, by what ran.
    """

    bound_s: float
    breaches: int
    p99_s: dict[str, float]


def overload(case: Case, number: int, num_before: int, rounds: int, out: Path) -> Iterator[str]:
    """Run all arms in turn, lengths told in the first round alone; yields lines on what is done. Logs are in
    `out`, by the wall's clock and by the server's.
    """
    before = out / f"{case.name}-before.jsonl"
    with layer(case.url, before, "--slots", str(case.slots), "--policy", "continuous", "--log-texts") as url:
        ask_all(url, case.bodies(num_before, number), at_a_time=case.slots)
    yield f"{case.name}: {num_before} requests to learn from"
    bodies, first = case.bodies(number), list[Answer]()
    learnt = ("--predictor", f"online:log={before}", "--max-wait-s", str(LONGEST_S))
    for k in range(rounds):
        for arm, flags in (("fcfs", case.fcfs), ("learnt", case.shortest), ("told", case.shortest)):
            if k >= rounds_of(arm, rounds):
                continue
            log, clock = log_of(case, arm, k, "wall", out), ServerClock(case.pid)
            with layer(case.url, log, *learnt, *flags) as url, clock.running():
                answers = ask_all(url, bodies, [each.tokens for each in first] if arm == "told" else None)
            first = first or answers
            by_server = clock.by_this(log, log_of(case, arm, k, "server", out))
            means = [f"{e2el_s(each).mean():.1f} s" for each in (log, by_server)]
            others = sum(each.text != one.text for each, one in zip(answers, first, strict=True))
            yield (
                f"{case.name}, {arm}: mean latency {means[0]}, {means[1]} of the server's; "
                f"{others} answers are others than in the first run"
            )


def rounds_of(arm: str, rounds: int) -> int:
    """In how many rounds an arm runs."""
    return 1 if arm == "told" else rounds


def log_of(case: Case, arm: str, k: int, clock: str, out: Path) -> Path:
    """Where the log of a run is, by the wall's clock or the server's."""
    return out / f"{case.name}-{arm}-{k}{'.server' if clock == 'server' else ''}.jsonl"


def bounded(case: Case, number: int, out: Path) -> Bounded:
    """Run shortest-predicted with half as long as fcfs took in the mean as the starvation bound."""
    bound_s = round(float(e2el_s(log_of(case, "fcfs", 0, "wall", out)).mean()) / 2, 3)
    log, before = out / f"{case.name}-bounded.jsonl", out / f"{case.name}-before.jsonl"
    flags = ("--predictor", f"online:log={before}", "--max-wait-s", str(bound_s), *case.shortest)
    with layer(case.url, log, *flags) as url:
        ask_all(url, case.bodies(number))
    logs = {arm: log_of(case, arm, 0, "wall", out) for arm in ("fcfs", "learnt")} | {"bounded": log}
    p99_s = {arm: float(np.percentile(e2el_s(each), 99)) for arm, each in logs.items()}
    return Bounded(bound_s, breaches(rows_of(log), bound_s), p99_s)


def slots_found(case: Case, number: int, out: Path) -> float:
    """Requests at a time that the layer has at a server whose slots it finds out itself, in the median over
    the second half of an overload.
    """
    log = out / f"{case.name}-auto.jsonl"
    with layer(case.url, log, "--slots", "auto", "--policy", "continuous") as url:
        ask_all(url, case.bodies(number))
    rows = rows_of(log)
    sent = sorted(row["scheduled_s"] for row in rows)
    instants = np.linspace(sent[len(sent) // 2], sent[-1], 100)
    there = [sum(row["scheduled_s"] <= t < row["finish_s"] for row in rows) for t in instants]
    return float(np.median(there))


def breaches(rows: Sequence[dict[str, Any]], bound_s: float) -> int:
    """Requests that were sent before one that had come earlier and had waited for longer than the bound."""
    return sum(
        any(
            early["arrival_s"] < late["arrival_s"]
            and early["arrival_s"] + bound_s + CLOSE_S < late["scheduled_s"] < early["scheduled_s"]
            for early in rows
        )
        for late in rows
    )


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The rows of a log."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def validated(case: Case, clock: str, out: Path) -> dict[str, float]:
    """How far the mean latencies of the first run by learnt lengths are off as simulated with what was fitted
    to the first log in order of arrival, as `calibrate --log` and `validate --against` do it.
    """
    first, then = (log_of(case, arm, 0, clock, out) for arm in ("fcfs", "learnt"))
    # llama.cpp decides nothing ahead, and vLLM does not on a processor.
    policy = f"continuous:max_num_seqs={case.slots},async_scheduling=off"
    fit = fit_logs([first], name=case.name, policy=policy)
    blocks = len(e2el_s(then)) * 64
    order = f"{policy},order=shortest-predicted"
    found = against(then, policy=order, profile=fit.profile, kv_blocks=blocks, predictor="trace")
    return {figure: found.errors[f"mean_{figure}_ms"] for figure in ("ttft", "tpot", "e2el")}


def e2el_s(log: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Latencies of a log, from the arrival, in seconds."""
    return np.array([row["e2el_ms"] / 1e3 for row in rows_of(log)])


def gains(case: Case, rounds: int, clock: str, out: Path) -> dict[str, dict[str, Gain]]:
    """By arm and figure, by the seconds of the wall or of the server."""
    first = [log_of(case, "fcfs", k, clock, out) for k in range(rounds)]
    said = [pilot(log, policies=(SHORTEST,), ran_slots=case.ran_slots, replicates=2) for log in first]

    def gain(arm: str, whose: str, figure: str) -> Gain:
        runs = range(rounds_of(arm, rounds))
        return Gain(
            [_fell(first[k], log_of(case, arm, k, clock, out), figure) for k in runs],
            [_said(said[k], whose, figure) for k in runs],
            [said[k].replayed[figure] / said[k].measured[figure] - 1 for k in runs],
        )

    return {
        arm: {figure: gain(arm, whose, figure) for figure in FIGURES}
        for arm, whose in (("learnt", "trace"), ("told", "perfect"))
    }


def _fell(before: Path, after: Path, figure: str) -> float:
    took = (e2el_s(log) for log in (before, after))
    first, then = (each.mean() if figure.startswith("mean") else np.percentile(each, 99) for each in took)
    return float(1 - then / first)


def _said(found: Pilot, whose: str, figure: str) -> float:
    return next(row.gain[figure] for row in found.rows if row.point.predictor == whose)
