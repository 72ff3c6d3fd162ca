"""Is nobody overtaken for longer than the starvation bound says?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.servers.layered import ask_all, layer
from tests.servers.overload import LONGEST_S, Case, e2el_s, log_of, rows_of
from tests.servers.prompts import TASKS

CLOSE_S = 0.2
"""Seconds after which a bound must have had its effect."""
AT_ONCE_S = 0.02
"""First tokens of one iteration are seen so many seconds apart at most."""


class Bounded(NamedTuple):
    """A run by shortest-predicted under a starvation bound: how many requests went before one that had come
    before them and had waited for longer; p99 of latencies in s, by what ran.
    """

    bound_s: float
    breaches: int
    p99_s: dict[str, float]

    def __str__(self) -> str:
        p99 = ", ".join(f"{arm} {seconds:.1f} s" for arm, seconds in self.p99_s.items())
        return f"a bound of {self.bound_s:.1f} s is broken by {self.breaches}; p99: {p99}"


class Told(NamedTuple):
    """Runs of an upstream that is told an order, under a starvation bound and under none, with the same
    arrivals. Of two requests of which the later was begun first, it came later by `furthest_s` at most;
    `breaches`: requests that overtook so one that had come more than the bound before. `longest_s`: the
    longest wait until a first token.
    """

    bound_s: float
    breaches: int
    furthest_s: dict[str, float]
    longest_s: dict[str, float]

    def __str__(self) -> str:
        said = [
            f"{arm}: overtaken by who came up to {self.furthest_s[arm]:.1f} s later, longest wait "
            f"{longest:.1f} s"
            for arm, longest in self.longest_s.items()
        ]
        return f"a bound of {self.bound_s:.1f} s, told, is broken by {self.breaches}; {'; '.join(said)}"


def bounded(case: Case, number: int, out: Path) -> Bounded:
    """Run shortest-predicted with half as long as fcfs took in the mean as the starvation bound."""
    bound_s = _half_of_fcfs(case, out)
    log = out / f"{case.name}-bounded.jsonl"
    with layer(case.url, log, *_learnt(case, bound_s, out)) as url:
        ask_all(url, case.bodies(number))
    logs = {arm: log_of(case, arm, 0, "wall", out) for arm in ("fcfs", "learnt")} | {"bounded": log}
    p99_s = {arm: float(np.percentile(e2el_s(each), 99)) for arm, each in logs.items()}
    return Bounded(bound_s, breaches(rows_of(log), bound_s), p99_s)


def told(case: Case, number: int, out: Path) -> Told:
    """The same where requests come one after the other, within half the time in which they can be answered.
    Of those that come at once none is late.
    """
    bound_s, furthest_s, longest_s = _half_of_fcfs(case, out), dict[str, float](), dict[str, float]()
    over_s = float(e2el_s(log_of(case, "fcfs", 0, "wall", out)).max()) / 2
    for arm, most_s in (("bounded", bound_s), ("unbounded", LONGEST_S)):
        log = out / f"{case.name}-{arm}.jsonl"
        flags = (*_learnt(case, most_s, out), "--max-new-tokens", str(max(TASKS.values())))
        with layer(case.url, log, *flags) as url:
            ask_all(url, case.bodies(number), over_s=over_s)
        rows = rows_of(log)
        furthest_s[arm] = max(overtaken_s(rows), default=0.0)
        longest_s[arm] = max(row["ttft_ms"] for row in rows) / 1e3
    late = [each > bound_s + CLOSE_S for each in overtaken_s(rows_of(out / f"{case.name}-bounded.jsonl"))]
    return Told(bound_s, sum(late), furthest_s, longest_s)


def _half_of_fcfs(case: Case, out: Path) -> float:
    return round(float(e2el_s(log_of(case, "fcfs", 0, "wall", out)).mean()) / 2, 3)


def _learnt(case: Case, bound_s: float, out: Path) -> tuple[str, ...]:
    before = out / f"{case.name}-before.jsonl"
    return ("--predictor", f"online:log={before}", "--max-wait-s", str(bound_s), *case.shortest)


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


def overtaken_s(rows: Sequence[dict[str, Any]]) -> list[float]:
    """By how many seconds each request came later than the earliest that it overtook: that came before it and
    had its first token after it.
    """
    began_s = [row["arrival_s"] + row["ttft_ms"] / 1e3 for row in rows]
    found = []
    for late, late_began_s in zip(rows, began_s, strict=True):
        overtaken = [
            early["arrival_s"]
            for early, early_began_s in zip(rows, began_s, strict=True)
            if early["arrival_s"] < late["arrival_s"] and early_began_s > late_began_s + AT_ONCE_S
        ]
        if overtaken:
            found.append(late["arrival_s"] - min(overtaken))
    return found
