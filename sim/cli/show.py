"""Tables and progress on a terminal; knows nothing of simulations beyond the names of their figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.errors import InputError

from ..results import metrics
from ..results.caps import cap_texts
from ..results.failures import failures_text, worst_of
from ..results.metric_kinds import Metric
from ..results.offered_load import load_texts
from ..results.slo_metrics import is_of_own_bounds

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

PATIENCE_S = 2.0
"""How long a command may take before it shows a bar."""

WIDTH = 150
"""Width of a table that is not printed to a terminal."""

MOST_ROWS = 20
"""Replicas up to which each has a row of its own."""

REPLICA_COLUMNS = ("replica", "profile", "completed", "preemptions", "failures", "down_s")
UNLIKE = "not the same requests completed under each of these, so that their latencies do not compare"

LABELS = ("policy", "predictor", "profile", "provenance", "trace", "seed", "replicas", "router", "version")
"""What a summary has for the title of a table."""

HEADLINES = (
    "request_throughput",
    "output_throughput",
    "average_length",
    "average_length_all_attempts",
    "effective_token_ratio",
    "failure_ratio",
    "mean_ttft_ms",
    "mean_e2el_ms",
    "p99_e2el_ms",
    "kv_peak_fraction",
)
"""What a comparison shows of every run, by key."""

GOODPUT = ("request_goodput", "session_goodput")
"""What is shown of bounds, where there are any, beside the shares that are within their own."""


def console() -> Console:
    """Standard output; tables are not cut to a terminal's width where there is none."""
    from rich.console import Console

    # What users name is text: [brackets] are no markup, and :words: no pictures.
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)


def figure(value: float) -> str:
    """Four digits, and whole numbers from a thousand on: 0.01234, 12.34, 123,456."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def number(value: Any, form: str) -> str:
    """A figure for a table; a dash where it is undefined."""
    return "–" if value is None else form.format(value)


def headlines(*, with_failed: bool = False) -> list[Metric]:
    """The metrics of `HEADLINES`; before them, where some failed, how many requests did."""
    return [metrics.metric(key) for key in (*(["failed"] if with_failed else []), *HEADLINES)]


def summary_table(summary: Mapping[str, Any]) -> None:
    """Print one run."""
    from rich.table import Table

    print(title(summary))  # as a title of the narrow table it would be broken into lines as narrow
    table = Table(show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    skip = (*LABELS, "failed_reason")
    for key, value in summary.items():
        if key in skip:
            continue
        text = "–" if value is None else figure(value) if isinstance(value, float) else f"{value:,}"
        table.add_row(key, text)
    console().print(table)
    note_failures(summary)
    for text in (*load_texts(summary), *warmup_texts(summary), *cap_texts(summary)):
        print(text)


def note_failures(summary: Mapping[str, Any], where: str = "") -> None:
    """Say under a table which requests its latencies leave out, and why; nothing where there are none."""
    if text := failures_text(summary):
        print(f"{where}{': l' if where else 'L'}atencies leave out {text}")


def note_load(summary: Mapping[str, Any], where: str = "") -> None:
    """Say on stderr, beside JSON, what was held back, whether the queue grows, and what caps tell."""
    for text in (*load_texts(summary), *cap_texts(summary)):
        print(f"seqsched: note: {where}{text}", file=sys.stderr)


def warmup_texts(summary: Mapping[str, Any]) -> list[str]:
    """What a warm-up left out, where there could have been one."""
    if "warmup_requests" not in summary:
        return []
    number, seconds = summary["warmup_requests"], summary["warmup_s"]
    if not number:
        return ["No request was left out as a warm-up."]
    return [
        f"The first {number:,} requests, {seconds:.4g} s, are a warm-up: latencies leave them out; ITL, "
        "throughput and goodput are of what ended after it, counts and efficiency of the whole run."
    ]


def note_left_out(frame: pd.DataFrame) -> None:
    """The same, of a table of several runs."""
    if text := worst_of(frame.to_dict("records")):
        print(f"Figures leave out requests {text}.")


def replica_table(replicas: pd.DataFrame, duration_s: float | None) -> None:
    """Print a row per replica; of more than MOST_ROWS the least, median and most; of a single one nothing."""
    from rich.table import Table

    if len(replicas) < 2:
        return
    names = {m.key: m.heading or m.name for m in (*metrics.table().values(), *metrics.PER_REPLICA)}
    columns = {names.get(key, key): replicas[key] for key in REPLICA_COLUMNS if key in replicas}
    busy = replicas.busy_s / duration_s if duration_s else replicas.busy_s * float("nan")
    columns["busy"] = busy.map("{:.1%}".format) if duration_s else busy.map(lambda _: "–")
    columns["KV peak"] = replicas.kv_peak_fraction.map("{:.1%}".format)
    if len(replicas) > MOST_ROWS:
        shares = {"busy": busy, "KV peak": replicas.kv_peak_fraction}
        table = Table(title=f"{len(replicas):,} replicas", title_justify="left")
        for heading in ("", "least", "median", "most"):
            table.add_column(heading, justify="right" if heading else "left")
        for heading, column in columns.items():
            if heading in ("replica", "profile"):
                continue
            values = shares.get(heading, column).quantile([0, 0.5, 1])
            form = "{:.1%}" if heading in shares else "{:,.0f}"
            cells = ["–" if value != value else form.format(value) for value in values]
            table.add_row(heading, *cells)
    else:
        table = Table(title="replicas", title_justify="left")
        for heading, column in columns.items():
            table.add_column(heading, justify="left" if heading == "profile" else "right")
            columns[heading] = column.map(_cell)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
    console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return figure(value) if isinstance(value, float) else f"{value:,}"


def comparison_table(
    summaries: Mapping[str, Mapping[str, Any]], ratios: Mapping[str, float | None], *, alike: bool = True
) -> None:
    """Print several runs side by side, one row each, with throughput as a ratio to the first.

    `alike`: whether the same requests completed in all of them; latencies are marked where not.
    """
    from rich.table import Table

    first = next(iter(summaries.values()))
    any_failed = any(summary["failed"] for summary in summaries.values())
    columns = headlines(with_failed=any_failed)
    table = Table(title=title({**first, "policy": None}, with_completed=not any_failed), title_justify="left")
    table.add_column("policy", overflow="fold", min_width=min(36, max(map(len, summaries))))
    table.add_column("ratio", justify="right")
    for column in columns:
        table.add_column(column.column_heading, justify="right")
    for name, summary in summaries.items():
        marks = ["*" if column.is_latency and not alike else "" for column in columns]
        cells = [c.text(summary[c.key]) + mark for c, mark in zip(columns, marks, strict=True)]
        table.add_row(name, number(ratios[name], "{:.3f}×"), *cells)
    console().print(table)
    bounds_table(["policy"], [([name], summary) for name, summary in summaries.items()])
    if not alike:
        print(f"* {UNLIKE}")
    for name, summary in summaries.items():
        note_failures(summary, name)
        for text in (*load_texts(summary), *warmup_texts(summary)):
            print(f"{name}: {text}")
    for text in (*cap_texts(first), *perception_texts(summaries)):
        print(text)


def bounds_table(headings: Sequence[str], rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    """Print what runs say of bounds on requests, a row each, its cells under `headings` first; nothing where
    none says anything.
    """
    from rich.table import Table

    defined = dict.fromkeys(key for _, row in rows for key, value in row.items() if value is not None)
    shown = [metrics.metric(key) for key in defined if key in GOODPUT or is_of_own_bounds(key)]
    if not shown:
        return
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for metric in shown:
        table.add_column(metric.column_heading, justify="right")
    for cells, row in rows:
        table.add_row(*cells, *(metric.text(row.get(metric.key)) for metric in shown))
    console().print(table)


def perception_texts(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What predictions cost at most, where they cost anything: without that their policy would be faster."""
    shares = {
        name: (s["perception_s"] or 0.0) / (s["duration"] * s.get("replicas", 1))
        for name, s in summaries.items()
        if s["duration"]
    }
    name = max(shares, key=lambda name: shares[name], default="")
    if not name or not shares[name] > 0:
        return []
    asked = f"Asking for lengths (predictor {summaries[name]['predictor']})"
    return [f"{asked} takes up to {shares[name]:.1%} of the accelerators' time, under {name}."]


def frame_table(heading: str, frame: pd.DataFrame) -> None:
    """Print the rows of a DataFrame."""
    from rich.table import Table

    table = Table(title=heading, title_justify="left")
    for column in frame.columns:
        text = frame[column].dtype.kind not in "iufb"
        table.add_column(str(column), justify="left" if text else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    console().print(table)


def title(summary: Mapping[str, Any], *, with_completed: bool = True) -> str:
    """Which trace, which machines and how their numbers were got, which seed: what a reader needs to trust a
    figure.
    """
    parts = [f"{summary['policy']}"] if summary.get("policy") else []
    completed = f"{summary['completed']:,} of " if with_completed else ""
    total = summary["completed"] + summary["failed"]
    parts.append(f"{completed}{total:,} requests of {summary['trace']}")
    parts.append(f"{summary['profile']} ({summary['provenance']})")
    if summary.get("replicas", 1) > 1:
        parts.append(f"{summary['replicas']:,} replicas, router {summary['router']}")
    parts.append(f"predictor {summary['predictor']}, seed {summary['seed']}")
    return " · ".join(parts)


@contextmanager
def bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that draws a bar on stderr, where that is a terminal, after PATIENCE_S."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    start = time.monotonic()
    with ExitStack() as stack:
        bars: list[Progress] = []

        def update(done: int, total: int) -> None:
            if not bars and time.monotonic() - start > PATIENCE_S:
                bars.append(stack.enter_context(Progress(console=Console(stderr=True), transient=True)))
                bars[0].add_task(text, total=total)
            if bars:
                bars[0].update(bars[0].task_ids[0], completed=done, total=total)

        yield update


def check_folder(path: Path) -> None:
    """InputError where the path can be no folder, before any work is done; makes nothing."""
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise InputError(f"--out {path}: {place} is a file, a folder is needed")
            return


def check_file(path: Path | None) -> None:
    """InputError where the path can be no file, before any work is done; None is no path."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path}: is a directory, a file is needed")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    written = path if path.exists() else path.parent
    if not os.access(written, os.W_OK):
        raise InputError(f"{path}: cannot be written (no write permission)")


def made_folder(path: Path) -> Path:
    """The folder, made where it is missing; InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be made ({error.strerror})") from None
    return path


def wrote(paths: Iterable[Path]) -> None:
    """Say on stderr what was written."""
    for path in paths:
        print(f"wrote {path}", file=sys.stderr)
