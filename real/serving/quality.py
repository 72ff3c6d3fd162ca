"""The arms of a traffic by the layer's log: what differed, look by look; and answers that were mirrored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.tables import Table, open_table

from .arms import ARMS
from .comparison import FIRST_LOOK, LEAST_PER_ARM, Difference, Sample, compare
from .log import mirrored_path
from .matching import Match, Pairs, last_look
from .mirror import Mirrored

COLUMNS = ("arm", "status", "output_tokens", "predicted_tokens", "e2el_ms", "finish_reason", "finish_s")


def looks(path: str | Path, alpha: float = 0.05) -> list[Difference]:
    """Comparisons of the policy's arm with the rest, at 200, 400, 800, ... requests of a log of the layer
    (JSON lines, or Parquet with the same columns), in the order in which they ended.

    Raises InputError for a file that is no such log, or has too few answers in an arm.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha: {alpha:g} is not between 0 and 1")
    table = open_table(path, lambda column: column in COLUMNS)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}; not a log of seqsched serve")
    rows = _Rows(table)
    found, end = [], FIRST_LOOK
    while end <= len(rows.order):
        seen = rows.order[:end]
        policy, other = (rows.sample(seen[rows.arm[seen] == arm]) for arm in ARMS)
        difference = compare(policy, other, alpha)
        if difference is not None:
            found.append(difference)
        end *= 2
    if not found:
        counts = ", ".join(f"{int((rows.arm == arm).sum())} requests of arm {arm}" for arm in ARMS)
        raise InputError(
            f"{path}: has {counts}; a comparison needs {FIRST_LOOK} in all and {LEAST_PER_ARM} in each"
        )
    return found


def matches(path: str | Path, alpha: float = 0.05) -> Match | None:
    """The last look at the answers that were mirrored while a log was written; None where none were.

    Raises InputError for rows that are none of such answers.
    """
    beside = mirrored_path(Path(path))
    if not beside.exists() or not beside.stat().st_size:
        return None
    table = open_table(beside, lambda column: column in Mirrored._fields)
    missing = [column for column in Mirrored._fields if column not in table.columns]
    if missing:
        raise InputError(f"{beside}: has no column {missing[0]}; no mirrored answers of seqsched serve")
    rows = [Mirrored(*row) for row in zip(*(table.raw(column) for column in Mirrored._fields), strict=True)]
    odd = next((row.arm for row in rows if row.arm not in ARMS), None)
    if odd is not None:
        raise InputError(f"{beside}: {odd!r} is none of the arms {', '.join(ARMS)}")
    pairs = Pairs()
    for row in rows[: last_look(len(rows))]:
        for who, is_same in row.pairs():
            pairs.add(who, is_same)
    return pairs.look(alpha)


class _Rows:
    """Columns of a log, each of shape (n,), and `order`: the rows as they ended."""

    def __init__(self, table: Table) -> None:
        def texts(name: str) -> np.ndarray[tuple[int], np.dtype[Any]]:
            return np.array([str(value) for value in table.raw(name)], dtype=object)

        def numbers(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            column = table.numbers(name)
            if column is None or not np.isfinite(column).all():
                raise InputError(f"{table.path}: {name} is not a number in every row")
            return np.asarray(column)

        self.arm, self.status, self.reason = texts("arm"), texts("status"), texts("finish_reason")
        self.output, self.predicted = numbers("output_tokens"), numbers("predicted_tokens")
        self.e2el_s = numbers("e2el_ms") / 1e3
        self.order = np.argsort(numbers("finish_s"), kind="stable")

    def sample(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Sample:
        """These rows."""
        whole = rows[self.status[rows] == "completed"]
        return Sample.of(
            self.output[whole],
            self.e2el_s[whole],
            self.predicted[whole],
            Counter(self.reason[whole].tolist()),
            len(rows) - len(whole),
        )
