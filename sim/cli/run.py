"""`seqsched simulate` and `seqsched compare`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from traces.errors import InputError

from .. import simulation
from ..results.warmup import HELP as WARMUP_HELP
from ..scenario.policies import DEFAULT_POLICY, POLICIES
from . import show
from .options import DEFAULT, Flags
from .serving import NO_SERVER, ServerFlags, read_server, with_server

if TYPE_CHECKING:
    from ..results.result import Result

POLICY_HELP = f"{POLICIES.help('policies')[:-1]}; default: {DEFAULT_POLICY}, or that of --server."
PAPER = "vanilla;sequence:vbs=off,fcr=off;sequence;sequence:vbs=memory"
"""The policies of the paper."""


RATE_MISSED = 0.02
"""By what fraction arrivals miss the rate asked for where it is said."""


def simulate(
    flags: Flags = DEFAULT,
    serving: ServerFlags = NO_SERVER,
    *,
    policy: Annotated[str | None, Parameter(help=POLICY_HELP)] = None,
    leap: bool = True,
    warmup: Annotated[str | None, Parameter(help=WARMUP_HELP)] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    save_result: Path | None = None,
    save_requests: Path | None = None,
    save_replicas: Path | None = None,
    save_decisions: Path | None = None,
    perfetto: Path | None = None,
    perfetto_window: str | None = None,
) -> None:
    """Replay a trace under one policy and print its metrics.

    Parameters
    ----------
    leap
        Run many iterations as one event; --no-leap goes one by one, to the same end.
    json_
        Print the summary alone, as one JSON object.
    save_result
        Write the summary to this JSON file.
    save_requests
        Write the per-request table to this CSV file; ids stand as in the trace (one that begins with = is a
        formula to a spreadsheet: import that column as text).
    save_replicas
        Write the per-replica table to this CSV file.
    save_decisions
        Write the decision log to this JSON Lines file.
    perfetto
        Write a timeline that ui.perfetto.dev opens to this JSON file (.gz: compressed).
    perfetto_window
        START:END, the seconds of the run that the timeline shows; default: all, neighbours merged where it
        would be too much.
    """
    window = _window(perfetto, perfetto_window)
    files = (save_result, save_requests, save_replicas, save_decisions)
    for path in (*files, perfetto):
        show.check_file(path)
    server = read_server(serving)
    if policy is None:
        policy = DEFAULT_POLICY if server is None else server.policy
    with show.bar(policy) as progress:
        result = simulation.simulate(
            flags.trace,
            policy=policy,
            leap=leap,
            warmup=warmup,
            log=save_decisions is not None or perfetto is not None,
            on_progress=progress,
            **with_server(server, flags),
        )
    _save(result, *files)
    if perfetto is not None:
        _write_timeline(result, perfetto, window)
    _note_rate(flags, result.summary)
    if json_:
        print(result.to_json())
        show.note_load(result.summary)
    else:
        show.summary_table(result.summary)
        show.replica_table(result.replicas, result.summary["duration"])


def _note_rate(flags: Flags, summary: Mapping[str, Any]) -> None:
    """Say on stderr where Poisson arrivals miss the rate asked for, as any few do by chance."""
    asked, offered = flags.request_rate, summary["offered_rate"]
    if asked is None or offered is None or flags.burstiness != 1 or math.isinf(asked):
        return
    if abs(offered / asked - 1) > RATE_MISSED:
        why = f"these Poisson arrivals come at {offered:.4g} requests/s, by chance; `vllm bench serve` would "
        why += f"rescale their gaps to {asked:g}"
        if summary.get("sessions"):
            why = f"sessions start at a rate of so many requests; as turns wait, they come at {offered:.4g}/s"
        print(f"seqsched: note: --request-rate {asked:g}: {why}", file=sys.stderr)


def _save(
    result: Result, summary: Path | None, requests: Path | None, replicas: Path | None, decisions: Path | None
) -> None:
    """Write the files that have a name."""
    if summary is not None:
        result.to_json(summary)
    if requests is not None:
        result.save_requests(requests)
    if replicas is not None:
        result.save_replicas(replicas)
    if decisions is not None:
        from traces.files import atomic_write

        with atomic_write(decisions) as file:
            file.writelines(json.dumps(decision) + "\n" for decision in result.decisions)


def _window(path: Path | None, text: str | None) -> tuple[float, float]:
    """The window of the timeline, checked before anything runs."""
    from ..results.perfetto import parse_window

    if text is not None and path is None:
        raise InputError(f"perfetto-window: {text!r} needs --perfetto FILE")
    return parse_window(text or "0:")


def _write_timeline(result: Result, path: Path, window: tuple[float, float]) -> None:
    """The timeline, and on stderr what it does not show."""
    from ..results import perfetto

    about = {
        key: result.summary[key] for key in ("policy", "predictor", "profile", "trace", "seed", "version")
    }
    written = perfetto.write(result.batches, path, window_s=window, about=about, fetches=result.fetches)
    if left_out := written.left_out():
        print(
            f"seqsched: {path}: {left_out}; --perfetto-window START:END shows a part in full", file=sys.stderr
        )


def compare(
    flags: Flags = DEFAULT,
    serving: ServerFlags = NO_SERVER,
    *,
    policies: str | None = None,
    warmup: Annotated[str | None, Parameter(help=WARMUP_HELP)] = None,
    out: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Replay the same requests under several policies and set them side by side.

    Parameters
    ----------
    policies
        Policies (`seqsched list policies`) with semicolons between them; ratios are to the first. Default:
        those of the paper; beside --server its own, and the same with order=shortest-predicted.
    out
        Write summary.json, requests.csv and the figures into this folder.
    json_
        Print the summaries alone, as one JSON object by policy.
    """
    if out is not None:
        show.check_folder(out)
    server = read_server(serving)
    if policies is None:
        policies = PAPER if server is None else f"{server.policy};{server.shortest_first}"
    settings = with_server(server, flags)
    with show.bar("simulating") as progress:
        comparison = simulation.compare(
            flags.trace, policies=policies, warmup=warmup, on_progress=progress, **settings
        )
    _note_rate(flags, next(iter(comparison.summaries.values())))
    if json_:
        print(json.dumps(comparison.summaries, indent=2, allow_nan=False))
        if not comparison.alike:
            print(f"seqsched: note: {show.UNLIKE}", file=sys.stderr)
        for name, summary in comparison.summaries.items():
            show.note_load(summary, f"{name}: ")
    else:
        show.comparison_table(comparison.summaries, comparison.ratios(), alike=comparison.alike)
    if out is not None:
        show.wrote(_write(comparison, show.made_folder(out)))


def _write(comparison: simulation.Comparison, out: Path) -> list[Path]:
    """Everything about a comparison, into one folder."""
    import pandas as pd

    from plots import policies as figures
    from plots.style import save
    from traces.files import atomic_write

    written = [out / "summary.json", out / "requests.csv"]
    with atomic_write(written[0]) as file:
        file.write(json.dumps(comparison.summaries, indent=2, allow_nan=False) + "\n")
    tables = [result.requests.assign(policy=name) for name, result in comparison.results.items()]
    with atomic_write(written[1]) as file:
        pd.concat(tables).to_csv(file, index=False, lineterminator="\n")
    for name, figure in figures.figures(comparison.results).items():
        written.append(out / f"{name}.png")
        save(figure, written[-1])
    return written
