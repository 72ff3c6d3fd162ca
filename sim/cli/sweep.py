"""`seqsched sweep`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from traces.errors import InputError

from ..results.caps import cap_texts
from ..results.failures import worst_of
from ..sweeps import sweep as sweeping
from ..sweeps.grid import read_grid
from . import show
from .running import Running
from .serving import NO_SERVER, ServerFlags, profile_of, read_server

DEFAULT = Running()
MOST_ROWS = 40
"""Rows of the table that is printed; the file has them all."""
MOST_ERROR_CHARACTERS = 90
"""Of an error in a cell of that table."""


def sweep(
    file: Path,
    /,
    *,
    out: Path | None = None,
    running: Running = DEFAULT,
    serving: ServerFlags = NO_SERVER,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    prune: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Simulate every point of a grid into one table; interrupt it, start it again, and it goes on.

    Exit status 1 where a point failed; the others are done all the same.

    Parameters
    ----------
    file
        TOML: settings by the names of `simulate`'s flags; under [grid] a list for each that varies.
    out
        The table, .csv or .parquet; default: the name of FILE as .csv, in this folder.
    retry_failed
        Run the points again that the table has with an error.
    prune
        Drop what the table has of points that are not in this sweep.
    json_
        Print the rows as one JSON object.
    """
    path = Path(f"{file.stem}.csv") if out is None else out
    show.check_file(path)
    server = read_server(serving)
    if server is not None:
        given = read_grid(file).given
        if not given & {"profile", "fleet"}:
            profile_of(server)
        is_alone = "block_size" in given and "kv_blocks" not in given
        if is_alone and server.engine != "vllm" and server.kv_blocks is not None:
            raise InputError(
                f"{file}: block_size needs kv_blocks beside it: the server says how many tokens its memory "
                "holds, which are not as many blocks of another size"
            )
    try:
        with show.bar(file.name) as progress:
            result = sweeping.sweep(
                file,
                defaults=None if server is None else server.settings,
                out=path,
                retry_failed=retry_failed,
                prune=prune,
                on_progress=progress,
                **vars(running),
            )
    except KeyboardInterrupt:
        print("seqsched: what has ended is kept; the same command goes on from there", file=sys.stderr)
        raise
    if json_:
        print(result.to_json())
    else:
        _print(result)
    show.wrote([path])
    failed = len(result.failed)
    if failed:
        first = result.failed[0][sweeping.ERROR]
        print(
            f"seqsched: {failed} of {len(result.rows)} points failed, the first with: {first} "
            "(--retry-failed runs them again)",
            file=sys.stderr,
        )
        sys.exit(1)


def _print(result: sweeping.SweepResult) -> None:
    """A table of what varied and the headlines, as many rows as are good to read."""
    from rich.table import Table

    more = len(result.rows) - MOST_ROWS
    title = f"{len(result.rows)} points, {result.reused} of them at hand before"
    table = Table(title=title, title_justify="left", caption=f"and {more} more" if more > 0 else None)
    for name in result.axes:
        table.add_column(name, overflow="fold")
    any_failed = any(row.get("failed") for row in result.rows)
    headlines = show.headlines(with_failed=any_failed)
    for headline in headlines:
        table.add_column(headline.column_heading, justify="right")
    if result.failed:
        table.add_column("error", overflow="fold")
    for row in result.rows[:MOST_ROWS]:
        cells = [headline.text(row.get(headline.key)) for headline in headlines]
        cells += [_shortened(row.get(sweeping.ERROR))] if result.failed else []
        table.add_row(*(f"{row[name]}" for name in result.axes), *cells)
    show.console().print(table)
    shown = result.rows[:MOST_ROWS]
    show.bounds_table([*result.axes], [([f"{row[name]}" for name in result.axes], row) for row in shown])
    for text in _texts(result):
        print(text)


def _shortened(error: str | None) -> str:
    """An error for a cell; stderr has the first in full, the file all."""
    return textwrap.shorten(error or "", MOST_ERROR_CHARACTERS, placeholder=" …")


def _texts(result: sweeping.SweepResult) -> list[str]:
    """What stands below the table: which requests figures leave out, whose queue grows, what caps tell."""
    texts = [f"Latencies leave out requests {text}."] if (text := worst_of(result.rows)) else []
    growing = sum((row.get("queue_growth") or 0) > 0 for row in result.rows)
    if growing:
        texts.append(
            f"In {growing} of the runs the queue grows: latencies there grow with the length of the run."
        )
    return texts + list(dict.fromkeys(text for row in result.rows for text in cap_texts(row)))
