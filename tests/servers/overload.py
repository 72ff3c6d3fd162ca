"""Puts a server behind the layer under more requests than it has slots for; knows nothing of how servers are
started.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.studies.log_fit import fit_logs
from sim.studies.server_log import against
from tests.servers.layered import Answer, ask_all, layer
from tests.servers.prompts import body_of, prompts
from tests.servers.server_clock import ServerClock

SHORTEST = "continuous:order=shortest-predicted"
LONGEST_S = 3600
"""The starvation bound where it is not to be felt."""
CLOCKS = ("wall", "server")


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


class Rounds(NamedTuple):
    """How often arms are tried: all of them, and that in which clients tell lengths."""

    all: int
    told: int

    def of(self, arm: str) -> int:
        """In how many rounds an arm runs."""
        return min(self.told, self.all) if arm == "told" else self.all


def overload(case: Case, number: int, num_before: int, rounds: Rounds, out: Path) -> Iterator[str]:
    """Run all arms in turn; yields lines on what is done. Logs are in `out`, by the wall's clock and by the
    server's.
    """
    before = out / f"{case.name}-before.jsonl"
    with layer(case.url, before, "--slots", str(case.slots), "--policy", "continuous", "--log-texts") as url:
        ask_all(url, case.bodies(num_before, number), at_a_time=case.slots)
    yield f"{case.name}: {num_before} requests to learn from"
    bodies, first = case.bodies(number), list[Answer]()
    learnt = ("--predictor", f"online:log={before}", "--max-wait-s", str(LONGEST_S))
    for k in range(rounds.all):
        for arm, flags in (("fcfs", case.fcfs), ("learnt", case.shortest), ("told", case.shortest)):
            if k >= rounds.of(arm):
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


def log_of(case: Case, arm: str, k: int, clock: str, out: Path) -> Path:
    """Where the log of a run is, by the wall's clock or the server's."""
    return out / f"{case.name}-{arm}-{k}{'.server' if clock == 'server' else ''}.jsonl"


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
