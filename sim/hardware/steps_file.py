"""Reads a file of measured iterations and refuses impossible ones; knows nothing of fitting."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from traces.csv_lines import separator_of
from traces.errors import InputError
from traces.hints import near_misses
from traces.unpacking import refuse_device

from .datasheets import Gpu
from .model_shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("traces")

COUNTS = (
    "num_decode",
    "decode_context_tokens",
    "num_prefill",
    "prefill_tokens",
    "prefill_attention",
)
COLUMNS = (*COUNTS, "step_ms")
"""The columns of a steps file; others are not used, which is logged, but for `LONGEST`."""
LONGEST = "decode_context_max"
"""The longest context among the decoding sequences; all are equal where the file does not have it."""
ROUNDING = 0.95
"""Share of one reading of the weights that an iteration may take: datasheets are rounded."""
SLOWEST = 100.0
"""How many readings of the weights the shortest iteration may take, if that is more than `LONG_MS`."""
LONG_MS = 1000.0
SHORT_MS = 0.05
"""No GPU runs an iteration of a language model in less."""


def read_steps(path: str | Path, *, in_part: bool = False) -> pd.DataFrame:
    """The iterations in a CSV file, one row each, as floats in the columns `COLUMNS` and `LONGEST`.

    `prefill_attention` is Q = sum of chunk * (history + chunk / 2); `step_ms` is in milliseconds and above 0.
    in_part: other files have more of the same measurement, so that this one may lack a regime.
    Raises `InputError` with one line naming file, row (the header not counted), column, value and bound.
    """
    import pandas as pd

    file = str(path)
    rows = _rows(path, file)
    header = [name.strip() for name in rows[0]]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        hint = near_misses(header, missing[:1])
        raise InputError(
            f"{file}: the column {missing[0]} is missing{hint}; a steps file has {', '.join(COLUMNS)}"
        )
    names = (*COLUMNS, LONGEST) if LONGEST in header else COLUMNS
    repeated = [name for name in names if header.count(name) > 1]
    if repeated:
        raise InputError(f"{file}: the column {repeated[0]} appears {header.count(repeated[0])} times")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise InputError(f"{file}, row {number}: {len(row)} values for {len(header)} columns")
    if len(rows) == 1:
        raise InputError(f"{file}: has 0 rows, at least 1 is needed")
    places = {name: header.index(name) for name in names}
    columns = {name: _column(rows[1:], places[name], name, file) for name in names}
    _check_rows(columns, file)
    if not in_part:
        _check_regimes(columns, file)
    if unused := [name for name in header if name not in names]:
        LOG.info("%s: steps; columns not used: %s", file, ", ".join(unused))
    return with_longest(pd.DataFrame(columns))


def with_longest(steps: pd.DataFrame) -> pd.DataFrame:
    """The iterations with the column `LONGEST`; the contexts of those that lack it are equal."""
    mean = steps["decode_context_tokens"] / steps["num_decode"].clip(lower=1)
    return steps.assign(**{LONGEST: steps[LONGEST].fillna(mean) if LONGEST in steps else mean})


def check_hardware(steps: pd.DataFrame, file: str, model: ModelShape | None, gpu: Gpu | None) -> None:
    """InputError where the iterations that `read_steps` gave cannot have run on this GPU.

    None may be shorter than reading the model's weights once, nor all of them a hundred times as long. Where
    the model or the GPU is not known, only what no GPU reaches is refused.
    """
    row, shortest = int(steps["step_ms"].argmin()) + 1, float(steps["step_ms"].min())
    least, what = SHORT_MS, "which no GPU reaches"
    if model is not None and gpu is not None:
        least = 1e3 * model.read_bytes / gpu.bandwidth_bytes_per_s
        what = f"what reading the weights of {model.name} once takes on {gpu.name}"
    if shortest < ROUNDING * least:
        in_seconds = 1e3 * shortest >= ROUNDING * least
        guess = "steps in seconds? ms are needed" if in_seconds else "is step_ms in another unit?"
        if 10 * shortest > least and gpu is not None:
            guess = "were the weights quantised, or split among GPUs? leave out --gpu and --model then"
        raise InputError(f"{file}, row {row}, step_ms: {shortest:.4g} is below {least:.4g}, {what}: {guess}")
    if gpu is not None and shortest > max(SLOWEST * least, LONG_MS):
        raise InputError(
            f"{file}, row {row}, step_ms: {shortest:,.4g}, the shortest, is more than {SLOWEST:g} times "
            f"{least:.4g}, {what}: steps in microseconds? ms are needed"
        )


def _rows(path: str | Path, file: str) -> list[list[str]]:
    try:
        refuse_device(path)
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{file}: it is a directory, not a CSV file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None
    try:
        rows = [row for row in _reader(text) if row]
    except csv.Error as error:
        raise InputError(f"{file}: not CSV ({error})") from None
    if not rows:
        raise InputError(f"{file}: it is empty")
    return rows


def _reader(text: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text.encode()), strict=True)


def _column(rows: list[list[str]], place: int, name: str, file: str) -> npt.NDArray[np.float64]:
    values = np.empty(len(rows))
    for i, row in enumerate(rows):
        cell = row[place].strip()
        try:
            value = float(cell)
        except ValueError:
            what = f"{cell[:40]!r} is not a number" if cell else "empty"
            needed = "a decimal point is needed" if re.fullmatch(r"\d*,\d+", cell) else "a number is needed"
            raise InputError(f"{file}, row {i + 1}, {name}: {what} ({needed})") from None
        if not math.isfinite(value):
            raise InputError(f"{file}, row {i + 1}, {name}: {cell} is not finite")
        if value < 0:
            raise InputError(f"{file}, row {i + 1}, {name}: {cell} is below 0")
        values[i] = value
    return values


def _check_rows(columns: dict[str, npt.NDArray[np.float64]], file: str) -> None:
    """Check the columns of a row against each other."""

    def refuse(bad: npt.NDArray[np.bool_], column: str, bound: str) -> None:
        if bad.any():
            i = int(bad.argmax())
            raise InputError(f"{file}, row {i + 1}, {column}: {columns[column][i]:g} {bound}")

    decode, prefill = columns["num_decode"], columns["num_prefill"]
    for name in ("num_decode", "num_prefill"):
        refuse(columns[name] != np.floor(columns[name]), name, "is not a whole number")
    refuse(columns["step_ms"] <= 0, "step_ms", "is not above 0")
    refuse((decode == 0) & (prefill == 0), "num_decode", "is below 1 in a row without prefill")
    refuse(
        (decode == 0) & (columns["decode_context_tokens"] > 0),
        "decode_context_tokens",
        "is above 0 in a row without decoding sequences",
    )
    refuse(columns["prefill_tokens"] < prefill, "prefill_tokens", "is below num_prefill")
    for name in ("prefill_tokens", "prefill_attention"):
        refuse((prefill == 0) & (columns[name] > 0), name, "is above 0 in a row without prefill")
    if LONGEST in columns:
        context, longest = columns["decode_context_tokens"], columns[LONGEST]
        refuse(longest > context, LONGEST, "is above decode_context_tokens, the sum of all contexts")
        refuse(
            longest * decode < (1 - 1e-6) * context,
            LONGEST,
            "is below decode_context_tokens / num_decode, the mean context",
        )


def _check_regimes(columns: dict[str, npt.NDArray[np.float64]], file: str) -> None:
    prefill = columns["num_prefill"]
    if not (prefill == 0).any():
        raise InputError(f"{file}: no decode-only rows (num_prefill 0); both regimes must be measured")
    if not (prefill > 0).any():
        raise InputError(f"{file}: no rows with prefill (num_prefill above 0); both regimes must be measured")
