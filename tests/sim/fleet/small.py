"""Small fleets: requests, outages and what a run of them wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.hardware.profile import Profile
from sim.results.result import Result
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of
from sim.scenario.scenario import Scenario, scenario
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace

COLUMNS = ("scheduled_s", "first_token_s", "finish_s")
ONE_AT_A_TIME = "continuous:max_num_seqs=1"


def made(output: Sequence[int], arrival: Sequence[float] | None = None, **columns: Any) -> Trace:
    n = len(output)
    blocks = columns.pop("blocks", None)
    columns = {k: np.array(v) for k, v in columns.items()}
    prompt = columns.pop("prompt", np.full(n, 10))
    arrival_s = np.zeros(n) if arrival is None else np.array(arrival, dtype=float)
    lengths = prompt, np.array(output)
    return Trace("made up", np.arange(n), *lengths, arrival_s=arrival_s, blocks=blocks, **columns)


def outages(folder: Path, *rows: tuple[int, float, float]) -> Path:
    path = folder / "failures.csv"
    lines = ["replica,down_s,up_s", *(f"{k},{down!r},{up!r}" for k, down, up in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(trace: Trace, policy: str = "continuous", **how: Any) -> Result:
    return scenario(trace, **{"profile": flat_machine(), **how}).run(policy, log=True)


def with_machines(shared: Scenario, machines: Sequence[Profile]) -> Scenario:
    """The scenario on these machines."""
    return replace(shared, fleet=tuple(Accelerator(m, limits_of(m, None)) for m in machines))


def column(result: Result, name: str) -> list[Any]:
    found: list[Any] = result.columns[name].tolist()
    return found


def log(result: Result) -> list[tuple[int, tuple[int, ...], int, float, float]]:
    """Replica, request ids, iterations, from, until; in the order in which they ended."""
    return [(b.replica, b.request_ids, b.iterations, b.start_s, b.end_s) for b in result.batches]


def decided(result: Result, replica: int = 0) -> list[tuple[Any, ...]]:
    """What a replica decided, and after how many of its iterations; who was turned away aside."""
    tick, found = 0, []
    for b in result.batches:
        if b.replica == replica and b.is_busy:
            if b.request_ids or b.evicted:
                found.append((tick, b.kind, b.evicted, b.request_ids, b.chunks))
            tick += b.iterations
    return [*found, (tick, "end")]
