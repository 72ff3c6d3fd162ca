"""`seqsched observe`: send a trace to a server at its times, and log what was measured."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from traces.errors import InputError

from ..results.failures import failures_text
from ..results.slo_metrics import is_of_own_bounds
from ..scenario.settings import WorkloadSettings
from . import show
from .options import SPAN, flags

if TYPE_CHECKING:
    from real.observing.observation import Observation

    Workload = WorkloadSettings
else:
    Workload = flags(WorkloadSettings)

DEFAULT = Workload()


def observe(
    url: str,
    /,
    workload: Workload = DEFAULT,
    *,
    endpoint: str = "completions",
    model: str | None = None,
    lengths: str = "trace",
    timeout_s: Annotated[float, Parameter(converter=SPAN)] = 3600.0,
    seed: int = 0,
    out: Path | None = None,
    save_result: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Send the requests of a trace to an OpenAI-compatible server at their times, and measure.

    A request that fails has no part in any latency; the exit status is 1 where none completed. A key is taken
    from OPENAI_API_KEY.

    Parameters
    ----------
    url
        The server, such as http://localhost:8000.
    endpoint
        completions, or chat.
    model
        Which model to ask; default: the first that the server names.
    lengths
        How long answers are: trace (as long as the trace says, where the server can be told to ignore its end
        token), or model (where it ends them, at most at the cap).
    timeout_s
        Seconds until an answer is given up.
    seed
        Seed of drawn requests and arrivals.
    out
        Write a row per request to this CSV file, for `seqsched validate --against`.
    save_result
        Write figures, and lists of what each request saw, to this JSON file, as vLLM's benchmark does.
    json_
        Print the figures alone, as one JSON object.
    """
    from real.observing.observe import observe as watch

    for path in (out, save_result):
        show.check_file(path)
    settings = WorkloadSettings(**vars(workload))
    with show.bar("observing") as progress:
        watched = watch(
            url,
            settings,
            endpoint=endpoint,
            model=model,
            lengths=lengths,
            timeout_s=timeout_s,
            seed=seed,
            on_progress=progress,
        )
    lost = [
        *(_saved(watched.save_log, out) if out is not None else ()),
        *(_saved(watched.save_result, save_result) if save_result is not None else ()),
    ]
    if json_:
        print(watched.to_json())
    else:
        _print_table(watched)
    for note in watched.notes:
        print(f"seqsched: note: {note}", file=sys.stderr)
    if lost:
        raise InputError("; ".join(lost))
    if watched.is_interrupted:
        sys.exit(130)
    if not watched.summary["completed"]:
        print(f"seqsched: {url}: no request completed", file=sys.stderr)
        sys.exit(1)


def _saved(save: Callable[[Path], None], path: Path) -> list[str]:
    """Save at `path`, or else among temporary files, for the run may have taken hours; what went wrong."""
    try:
        save(path)
        return []
    except InputError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="seqsched-observe-")) / path.name
        try:
            save(elsewhere)
        except InputError:
            return [str(error)]
        return [f"{error}; it is in {elsewhere}"]


def _print_table(watched: Observation) -> None:
    from rich.table import Table

    from real.observing.observation import SESSIONS, SUMMARY

    summary = watched.summary
    total = summary["completed"] + summary["failed"]
    print(
        f"{summary['model_id']} at {summary['base_url']} · {summary['completed']:,} of {total:,} requests of "
        f"{summary['trace']}"
    )
    table = Table(show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key in (*SUMMARY, *SESSIONS, *filter(is_of_own_bounds, summary)):
        if (value := summary.get(key)) is not None:
            table.add_row(key, show.figure(value) if isinstance(value, float) else f"{value:,}")
    show.console().print(table)
    if text := failures_text(summary):
        print(f"Latencies leave out {text}")
