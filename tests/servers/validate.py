"""How well are real servers predicted at a rate that nobody has watched? `make validate-servers`.

    python -m tests.servers.validate --out out/servers

Starts a llama.cpp server and, where there is an environment with it, a vLLM server, both on the processor;
finds how many requests a second it serves; watches it at four shares of that, in rounds of all four; fits a
profile to the typical runs of three (`calibrate --log`) and predicts the fourth: mean TPOT within 8 %, mean
TTFT within 15 %. The exit status is 0 where all are met, 1 where one is missed by more than its bound and by
more than runs of the same requests differ, and 3 where none is missed, but runs differ by more than a bound:
too noisy to tell. Interrupted, it stops the server, keeps the logs of the runs that are over, and ends with
130. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.cli import run_script
from sim.hardware.profile import Profile
from sim.scenario.settings import WorkloadSettings
from sim.studies.log_fit import fit_logs
from sim.studies.server_log import against, read_log
from tests.servers.saturation import saturated_rates, watched
from tests.servers.started import SLOTS, Server, free_port, interruptible, llama_cpp, running, vllm
from tests.servers.verdicts import RULE, Verdict, status_of
from traces.errors import InputError

TRACE = (
    "lognormal:prompt_median=24,prompt_sigma=0.8,max_prompt_tokens=160,"
    "output_median=10,output_sigma=0.6,max_output_tokens=40"
)
SHARES = (0.25, 0.45, 0.85)
"""Rates that are fitted, as shares of what the server can do."""
LEFT_OUT = 0.65
ROUNDS = 3
"""Odd, so that one run of a rate is the median."""
BOUNDS = {"tpot": 0.08, "ttft": 0.15}
"""The largest errors of means, as fractions."""
FIGURES = ("ttft", "tpot", "e2el")


class Row(NamedTuple):
    """A rate: mean latencies in ms, measured in each round, and predicted for each."""

    server: str
    share: float
    rate: float
    requests: int
    measured: dict[str, list[float]]
    predicted: dict[str, list[float]]

    @property
    def is_left_out(self) -> bool:
        """Whether the fit has not seen it."""
        return self.share == LEFT_OUT

    def error(self, figure: str) -> float:
        """Predicted over measured, minus 1, of the medians of the rounds."""
        return float(np.median(self.predicted[figure]) / np.median(self.measured[figure]) - 1)

    def noise(self, figure: str) -> float:
        """The largest distance of a round from their median, as a share of it."""
        values = np.array(self.measured[figure])
        return float(abs(values / np.median(values) - 1).max())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        errors = {f: {"error": self.error(f), "noise": self.noise(f)} for f in FIGURES}
        return {**self._asdict(), "is_left_out": self.is_left_out, **errors}


def validate(
    *,
    servers_python: Path = Path(".venv-servers/bin/python"),
    vllm_python: Path = Path(".venv-vllm/bin/python"),
    seconds: float = 25.0,
    out: Path = Path("out/servers"),
) -> None:
    """Watch real servers, fit a profile to what was seen at three rates, and predict a fourth.

    Parameters
    ----------
    servers_python
        The interpreter of the environment with llama.cpp; without it, it is left out.
    vllm_python
        The interpreter of the environment with vLLM; without it, it is left out.
    seconds
        How long each run sends requests.
    out
        Folder of logs and profiles.
    """
    out.mkdir(parents=True, exist_ok=True)
    with interruptible():
        try:
            status = _validated(servers_python, vllm_python, seconds, out)
        except KeyboardInterrupt:
            print(f"interrupted: servers are stopped, logs of whole runs are in {out}", file=sys.stderr)
            status = 130
    if status:
        sys.exit(status)


def _validated(servers_python: Path, vllm_python: Path, seconds: float, out: Path) -> int:
    """Watches and judges the servers that are there; the exit status."""
    rows: list[Row] = []
    failed = []
    for name, python in (("llama.cpp", servers_python), ("vLLM", vllm_python)):
        if not python.exists():
            print(f"{name}: skipped, there is no {python}", file=sys.stderr)
            continue
        port = free_port()
        started = llama_cpp(python, port) if name == "llama.cpp" else _vllm(python, port, out)
        try:
            rows += _of_server(started, f"http://127.0.0.1:{port}", seconds, out)
        except (RuntimeError, InputError) as error:  # the other one has its turn
            failed.append(f"{name}: {error}")
    if not rows and not failed:
        raise InputError("no server: neither environment is there")
    print("\n".join(_table(rows)))
    judged = {row.server: verdicts(row, rows) for row in rows if row.is_left_out}
    print(RULE, file=sys.stderr)
    for server, each in ((server, each) for server, those in judged.items() for each in those):
        print(f"{server}, the rate left out: {each}", file=sys.stderr)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    said = {server: [each.to_json() for each in those] for server, those in judged.items()}
    print(json.dumps({"rows": [row.to_json() for row in rows], "verdicts": said, "failed": failed}))
    return 1 if failed else status_of([each.outcome for those in judged.values() for each in those])


def _vllm(python: Path, port: int, out: Path) -> Server:
    """A vLLM server of a random model. It compiles nothing, which took minutes at every start, and has no
    worker process, which would spin while it waits.
    """
    folder = out / "random-135m"
    return vllm(python, port, folder, enforce_eager=True, distributed_executor_backend="uni")


def _of_server(server: Server, url: str, seconds: float, out: Path) -> list[Row]:
    """Watch one server at all rates, fit, predict."""
    with running(server, url, out / f"{server.name}.txt"):
        rates = saturated_rates(url, TRACE, SLOTS)
        capacity = float(np.median(rates))
        each = ", ".join(f"{rate:.2f}" for rate in rates)
        print(
            f"{server.name}: {capacity:.2f} requests/s with all slots taken, the median of {each}",
            file=sys.stderr,
            flush=True,
        )
        logs = _logs(server.name, url, capacity, seconds, out)
    seen = [typical([logs[share, n] for n in range(ROUNDS)]) for share in SHARES]
    print(f"{server.name}: fitting {len(seen)} logs", file=sys.stderr)
    fit = fit_logs(seen, name=server.name, policy=server.policy, engine=server.name)
    fit.profile.save(out / f"{server.name}.json")
    return [
        _row(server, share, [logs[share, n] for n in range(ROUNDS)], fit.profile, capacity)
        for share in sorted((*SHARES, LEFT_OUT))
    ]


def _logs(name: str, url: str, capacity: float, seconds: float, out: Path) -> dict[tuple[float, int], Path]:
    """A log of every rate in every round; in each round all rates, in an order of its own.

    Lengths and arrivals of a rate are the same in all rounds: what differs between them is the machine.
    """
    rng, logs = np.random.default_rng(0), {}
    for number in range(ROUNDS):
        for share in rng.permutation([*SHARES, LEFT_OUT]).tolist():
            rate = share * capacity
            requests = max(30, round(rate * seconds))
            workload = WorkloadSettings(trace=TRACE, num_prompts=requests, request_rate=rate)
            seen = watched(url, workload, seed=round(100 * share))
            path = out / f"{name}-{share:g}-{number}.csv"
            seen.save_log(path)
            figures = seen.summary
            print(
                f"{name}, {rate:.2f}/s: {figures['completed']} of {requests}, mean TTFT "
                f"{figures['mean_ttft_ms']:.1f} ms, TPOT {figures['mean_tpot_ms']:.2f} ms",
                *(f"({note})" for note in seen.notes if "words drawn" not in note),
                file=sys.stderr,
                flush=True,
            )
            logs[share, number] = path
    return logs


def _row(server: Server, share: float, logs: Sequence[Path], profile: Profile, capacity: float) -> Row:
    held = [against(log, policy=server.policy, profile=profile, kv_blocks=100_000) for log in logs]
    sides = [
        {figure: [getattr(each, side)[f"mean_{figure}_ms"] for each in held] for figure in FIGURES}
        for side in ("measured", "predicted")
    ]
    requests = sum(each.result.summary["completed"] for each in held)
    return Row(server.name, share, share * capacity, requests, *sides)


def typical(logs: Sequence[Path]) -> Path:
    """The run whose mean E2EL is the median: one during which the machine was busy with other work moves no
    fit.
    """
    means = [float(np.mean(read_log(log).latency["e2el_ms"])) for log in logs]
    return logs[int(np.argsort(means)[len(means) // 2])]


def verdicts(row: Row, rows: Sequence[Row]) -> list[Verdict]:
    """Each bound on the errors of the rate left out.

    By how much runs differ is the rate's own spread or, since few runs may lie close together by chance, what
    is usual at the server's rates: the median of theirs, which a single run that went astray does not move.
    """
    others = [other for other in rows if other.server == row.server]
    return [
        Verdict(
            f"mean {figure.upper()}",
            row.error(figure),
            bound,
            max(row.noise(figure), float(np.median([other.noise(figure) for other in others]))),
        )
        for figure, bound in BOUNDS.items()
    ]


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows for people: of each rate measured, predicted, error and noise."""
    yield (
        "| server | per s | requests | "
        + " | ".join(f"{f.upper()} ms | predicted | error (noise)" for f in FIGURES)
        + " |"
    )
    yield "|---|---:|---:|" + "---:|---:|---:|" * len(FIGURES)
    for row in rows:
        rate = f"{row.rate:.2f}{', left out' if row.is_left_out else ''}"
        cells = [row.server, rate, f"{row.requests}"]
        for figure in FIGURES:
            cells += [f"{np.median(side[figure]):.1f}" for side in (row.measured, row.predicted)]
            cells.append(f"{row.error(figure):+.1%} (±{row.noise(figure):.1%})")
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    run_script(validate)
