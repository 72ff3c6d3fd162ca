"""Writes a trace as CSV, JSON lines or Parquet, in the columns that `formats.read` reads back.

Knows nothing of other people's formats. Name, notes and cap are not columns and are not written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import atomic_write
from .prompt_blocks import block_columns
from .trace import Trace
from .unpacking import PARQUET_EXTRA


def write(trace: Trace, path: str | Path) -> None:
    """Writes `trace` to `path`; the suffix picks the format: .csv, .jsonl or .parquet.

    Reading it back gives equal columns, arrival times to the last bit (ids that all look like integers come
    back as integers). The file is written completely or not at all.
    Raises InputError for another suffix, a path that cannot be written, text that is not valid Unicode, a NUL
    character in a CSV, and where Parquet is asked for without pyarrow.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"{path}: suffix {suffix or 'none'!r} is not one of {', '.join(_WRITERS)}")
    _WRITERS[suffix](trace, str(path))


def _columns(trace: Trace, path: str) -> dict[str, list[Any]]:
    columns = {name: trace.cells(name).tolist() for name in trace.columns()}
    for name in (*trace.slos, *(["deadline_s"] if "deadline_s" in columns else [])):
        # A cell without a bound is empty.
        columns[name] = [bound if math.isfinite(bound) else None for bound in columns[name]]
    if trace.samples is not None:
        columns |= {f"L_{name}": trace.samples[:, k].tolist() for k, name in enumerate(trace.sample_names)}
    if trace.blocks is not None:
        columns |= block_columns(trace.blocks)
    for name, values in columns.items():
        try:
            "".join(value for value in values if isinstance(value, str)).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}, {name}: holds {error.object[error.start]!a}, which is not valid Unicode"
            ) from None
    return columns


def _csv(trace: Trace, path: str) -> None:
    columns = _columns(trace, path)
    for name, values in columns.items():
        if any(isinstance(value, str) and "\0" in value for value in values):
            raise InputError(
                f"{path}, {name}: holds a NUL character, which CSV cannot carry (JSONL and Parquet can)"
            )
    cells = [[_cell(value) for value in values] for values in columns.values()]
    with atomic_write(path) as stream:
        stream.write(",".join(map(_header_cell, columns)) + "\n")
        stream.writelines(",".join(row) + "\n" for row in zip(*cells, strict=True))


def _cell(value: object) -> str:
    """Text and lists are always quoted, so that no comma, quote or line end can break a row; numbers never
    are. None is an empty cell.
    """
    if value is None:
        return ""
    if isinstance(value, list):
        value = json.dumps(value)
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else repr(value)


def _header_cell(name: str) -> str:
    return name if name.replace("_", "").replace(".", "").isalnum() else _cell(name)


def _jsonl(trace: Trace, path: str) -> None:
    columns = _columns(trace, path)
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    with atomic_write(path) as stream:
        for row in zip(*columns.values(), strict=True):
            stream.write(encode(dict(zip(columns, row, strict=True))) + "\n")


def _parquet(trace: Trace, path: str) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path}: writing Parquet needs pyarrow: {PARQUET_EXTRA}") from error
    table = pa.table(_columns(trace, path))
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream)


_WRITERS: dict[str, Callable[[Trace, str], None]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
