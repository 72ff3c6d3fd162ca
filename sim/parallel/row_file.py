"""A table on disk, CSV or Parquet, that grows row by row and survives a kill; knows nothing of rows.

A CSV is its own stream: each row is on disk before the next one is taken. Parquet cannot grow so; its rows
wait in `NAME.parquet.partial.csv` until the end. A last line that was half written when the program was
killed is cut off.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from traces.errors import InputError
from traces.files import atomic_write
from traces.unpacking import PARQUET_EXTRA

from .locked import close_locked, open_locked

Row = dict[str, Any]

SUFFIXES = (".csv", ".parquet")


class RowFile:
    """Rows by the value of their first column, `key`; a later row takes the place of an earlier one.

    `text_columns`: those that stay texts where they look like numbers. A cell is a number, a text of one
    line, or None. Raises InputError, naming the file, for one that is no such table, that cannot be written,
    or that another process writes.
    """

    def __init__(self, path: str | Path, key: str, text_columns: Collection[str]) -> None:
        self.path, self.key, self.text_columns = Path(path), key, frozenset(text_columns)
        suffix = self.path.suffix.lower()
        if suffix not in SUFFIXES:
            raise InputError(f"{path}: suffix {suffix or 'none'!r} is not one of {', '.join(SUFFIXES)}")
        self.parquet = suffix == ".parquet"
        self.stream = self.path.with_name(f"{self.path.name}.partial.csv") if self.parquet else self.path
        self.rows: dict[str, Row] = {}
        self.columns: list[str] = []
        if self.parquet:
            _pyarrow(self.path)
            if self.path.exists():
                self._keep(_read_parquet(self.path), str(self.path))
        self.file: BinaryIO = open_locked(self.stream)
        try:
            self._read_stream()
        except BaseException:
            self.file.close()
            raise

    def append(self, row: Row) -> None:
        """Put a row on disk."""
        self.rows[row[self.key]] = row
        if set(row) <= set(self.columns):
            self._write(_csv([row], self.columns))
            return
        # The first row, or the first with figures after some that failed.
        self.columns += [name for name in row if name not in self.columns]
        with atomic_write(self.stream) as file:
            file.write(_csv(self.rows.values(), self.columns, header=True))
        self.file.close()
        self.file = open_locked(self.stream)

    def finish(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Replace the file by these rows, in this order, and close it."""
        if self.parquet:
            pa, pq = _pyarrow(self.path)
            cells = {name: [row.get(name) for row in rows] for name in columns}
            table = pa.table(
                {
                    name: pa.array(values, pa.string() if name in self.text_columns else None)
                    for name, values in cells.items()
                }
            )
            with atomic_write(self.path, "wb") as file:
                pq.write_table(table, file)
            self.stream.unlink(missing_ok=True)
        else:
            with atomic_write(self.path) as file:
                file.write(_csv(rows, columns, header=True))
        self.file.close()

    def close(self) -> None:
        """Close the file as it is; one without rows is removed."""
        close_locked(self.file, self.stream)

    def _write(self, text: str) -> None:
        try:
            self.file.write(text.encode())
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise InputError(f"{self.stream}: cannot be written ({error.strerror})") from None

    def _read_stream(self) -> None:
        data = self.stream.read_bytes()
        starts = [f"{self.key}{end}".encode() for end in ",\n"]
        if not any(start.startswith(data[: len(start)]) for start in starts):
            raise InputError(
                f"{self.stream}: its first column is not {self.key}; this is no table of a sweep"
            )
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self.file.truncate(whole)
        try:
            lines = list(csv.reader(data[:whole].decode().splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.stream}: not a CSV in UTF-8 ({error})") from None
        rows = []
        self.columns = lines[0] if lines else []
        for number, cells in enumerate(lines[1:], 2):
            if len(cells) != len(self.columns):
                raise InputError(
                    f"{self.stream}, line {number}: {len(cells)} fields, the header has {len(self.columns)}"
                )
            named = zip(self.columns, cells, strict=True)
            rows.append({name: self._value(name, cell) for name, cell in named})
        self._keep(rows, str(self.stream))

    def _keep(self, rows: Iterable[Row], where: str) -> None:
        for row in rows:
            if not isinstance(row.get(self.key), str):
                raise InputError(f"{where}: a row has no {self.key}, so it is no table of a sweep")
            self.rows[row[self.key]] = row

    def _value(self, column: str, cell: str) -> Any:
        if not cell:
            return None
        if column not in self.text_columns:
            for kind in (int, float):
                with suppress(ValueError):
                    return kind(cell)
        return cell


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], header: bool = False) -> str:
    """CSV text; numbers to the last bit, None as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(name) for name in columns])
    return text.getvalue()


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow: {PARQUET_EXTRA}") from error
    return pa, pq


def _read_parquet(path: Path) -> list[Row]:
    pa, pq = _pyarrow(path)
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from None
    return rows
