"""`sweep`: simulate every point of a grid, on all cores or on a cluster, into one table that survives a kill.

Knows nothing of how points are made (`grid`) and simulated (`point`), where they run (`sim.parallel.runner`)
and how rows get on disk (`sim.parallel.row_file`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces.arguments import checked
from traces.errors import InputError
from traces.loading import announce

from ..parallel.row_file import Row, RowFile
from ..parallel.runner import Runner, Where, Workers
from ..parallel.tasks import Task
from .grid import Point, known_settings, read_grid, running_order
from .point import run_point

if TYPE_CHECKING:
    import pandas as pd

KEY, ERROR = "point", "error"
LABELS = ("policy", "trace", "predictor", "profile", "seed", "replicas", "router")
"""Settings that a summary names too."""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """One row per point, in the order of the grid: its key, its settings, its error if any, its summary.

    `axes`: what varied, and over which values. `reused`: how many points the file held already. `path`: the
    file, if there is one.
    """

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    axes: Mapping[str, tuple[Any, ...]]
    reused: int
    path: Path | None

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows of the points that ended with an error."""
        return tuple(row for row in self.rows if row.get(ERROR) is not None)

    def to_frame(self) -> pd.DataFrame:
        """One row per point, one column per setting and figure; None where a figure is undefined."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(self.columns))

    def to_json(self, path: str | Path | None = None) -> str:
        """One JSON object: `axes`, `points`, `failed`, `rows`; also written to `path` where one is given.

        An infinite rate is the text "inf", for JSON has no number for it.
        """
        rows = [{name: _plain(row.get(name)) for name in self.columns} for row in self.rows]
        axes = {name: [_plain(value) for value in values] for name, values in self.axes.items()}
        counts = {"points": len(rows), "failed": len(self.failed)}
        text = json.dumps({"axes": axes, **counts, "rows": rows}, indent=2, allow_nan=False)
        if path is not None:
            from traces.files import atomic_write

            with atomic_write(path) as file:
                file.write(text + "\n")
        return text


@checked
def sweep(
    source: str | Path | Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    jobs: int = -1,
    backend: Where = "joblib",
    address: str | None = None,
    retry_failed: bool = False,
    prune: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SweepResult:
    """Simulate every point of a grid; what `out` holds already is not done again.

    - `source`: a TOML file, or a mapping like one: settings of `simulate`, and under `grid` a list for each
      that varies.
    - `defaults`: settings for what it leaves open, such as those of a `server(…)`.
    - `out`: a .csv or .parquet, which has every point as soon as it ends and at last all of them in the order
      of the grid, the same bytes however often it was interrupted and wherever it ran. A point that fails, or
      whose process dies, is a row with an `error`; `retry_failed` runs those again. `prune` drops rows that
      are no points of this sweep.
    - `jobs`: processes on this machine (-1: one per core; 1: this one). `backend` "dask" runs on the cluster
      whose scheduler is at `address` (tcp://HOST:PORT), a `Place` of one's own wherever that runs tasks.
    - `on_progress(ended, points)` counts what had to be run.

    Raises InputError for a grid that cannot be used (an unknown name or option included, before anything
    runs), and for an `out` that holds anything else.
    """
    workers = Workers(jobs, backend, address)
    grid = read_grid(source, defaults)
    points = grid.points()
    table = None if out is None else RowFile(out, KEY, _text_columns())
    try:
        rows = _rows_at_hand(table, points, prune)
        if retry_failed:
            rows = {key: row for key, row in rows.items() if row.get(ERROR) is None}
        reused = len(rows)
        left = running_order(point for point in points if point.key not in rows)
        if workers.are_elsewhere:
            for trace, unit in dict.fromkeys((p.value("trace"), p.value("time_unit")) for p in left):
                announce(trace, unit)
        with Runner(workers) as runner:
            for row in _new_rows(left, runner):
                rows[row[KEY]] = row
                if table is not None:
                    table.append(row)
                if on_progress is not None:
                    on_progress(len(rows) - reused, len(left))
        ordered = [rows[point.key] for point in points]
        columns = list(dict.fromkeys(name for row in ordered for name in row))
        if table is not None:
            table.finish(ordered, columns)
    finally:
        if table is not None:
            table.close()
    return SweepResult(tuple(ordered), tuple(columns), grid.axes, reused, None if out is None else Path(out))


def _new_rows(points: Sequence[Point], runner: Runner) -> Iterator[Row]:
    """The row of each point, as it ends."""
    by_key = {point.key: point for point in points}
    tasks = [Task(point.key, (point.settings, point.inputs)) for point in points]
    for ended in runner.run(run_point, tasks):
        yield _row(by_key[ended.key], ended.error, ended.value or {})


def _rows_at_hand(table: RowFile | None, points: Sequence[Point], prune: bool) -> dict[str, Row]:
    """The rows of these points that the file holds; InputError where it holds others that may not go."""
    if table is None:
        return {}
    wanted = {point.key: point for point in points}
    others = len(table.rows.keys() - wanted.keys())
    if others and not prune:
        raise InputError(
            f"{table.path}: holds {others} points of another sweep, or of another trace, profile or version; "
            "name another file, or drop them with prune"
        )
    return {key: _row(wanted[key], row.get(ERROR), row) for key, row in table.rows.items() if key in wanted}


def _row(point: Point, error: str | None, figures: Mapping[str, Any]) -> Row:
    """A point's row. Its settings are as the sweep names them; those that it does not name are no columns,
    unless a summary has them.
    """
    given = point.cells
    strange = {KEY, ERROR, *given, *(known_settings().keys() - set(LABELS))}
    return {KEY: point.key, **given, ERROR: error} | {k: v for k, v in figures.items() if k not in strange}


def _text_columns() -> set[str]:
    texts = {name for name, setting in known_settings().items() if not setting.numeric}
    return {KEY, ERROR, "provenance", "version", "router", *texts}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
