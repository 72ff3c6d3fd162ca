"""Opens a file of rows (CSV, JSON, JSONL or Parquet, packed or not, recognised by content) as a `Table`.

Refuses everything but a clean table: not UTF-8, ragged rows, broken JSON, no rows. Knows nothing of the
meaning of columns.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import benchmark_results, known_files
from .csv_lines import fields_per_line, separator_of
from .errors import InputError
from .json_rows import Rows, rows_of
from .trace import FloatArray
from .unpacking import PARQUET_EXTRA, read_unpacked

LOG = logging.getLogger("traces")

DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*(,\d+)?([eE][+-]?\d+)?\s*")
THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*")
POINTED_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}\.\d{3}\s*")
HEADLESS = re.compile(r"[+-]?[\d.,:eE+-]*|\d{4}-\d\d-\d\d[ T][\d:.,+-]+Z?")
"""What a name in a header may not be, if all of its names are: numbers, dates, nothing."""
ANY_DECIMAL_COMMA = re.compile(rb"[;\t|\n][+-]?\d+,\d+([eE][+-]?\d+)?[;\t|\r\n]")

Wanted = Callable[[str], bool]


class Table(Protocol):
    """Rows of raw values under named columns.

    `text_is_number` says whether text may stand for a number (in CSV everything is text; in JSON "5" is not
    5).
    """

    path: str
    columns: tuple[str, ...]
    num_rows: int
    text_is_number: bool
    notes: tuple[str, ...]
    """What was assumed in opening it."""
    source: str
    """Whose result it was made of, where its columns are not those of the file."""

    def label(self, index: int) -> str:
        """The name of the row with this index (from 0) for people, such as `row 3` or `line 7`."""

    def where(self, index: int) -> str:
        """The file and the row."""

    def called(self, column: str) -> str:
        """What the file calls a column, for people."""

    def numbers(self, column: str) -> FloatArray | None:
        """The column as floats, shape (num_rows,); None if some value is not a number."""

    def raw(self, column: str) -> list[Any]:
        """The column's values as in the file, None where missing."""


class _Rows:
    text_is_number = False
    notes: tuple[str, ...] = ()
    source = ""

    def __init__(self, path: str, columns: tuple[str, ...], num_rows: int) -> None:
        if num_rows == 0:
            raise InputError(f"{path}: has 0 rows, at least 1 is needed")
        self.path = path
        self.columns = columns
        self.num_rows = num_rows

    def label(self, index: int) -> str:
        return f"row {index + 1}"

    def where(self, index: int) -> str:
        return f"{self.path}, {self.label(index)}"

    def called(self, column: str) -> str:
        return column


class Records(_Rows):
    """Objects of a JSON list or of JSON lines; `lines` holds their line numbers, None for a list."""

    def __init__(self, path: str, records: Rows, lines: Sequence[int] | None) -> None:
        keys = dict.fromkeys(records[0]) if records else {}
        self.uniform = all(record.keys() == keys.keys() for record in records)
        if not self.uniform:
            keys = {key: None for record in records for key in record}
        super().__init__(path, tuple(keys), len(records))
        self.records = records
        self.is_one_object = len(records) == 1 and (lines is None or lines == [1])
        self._lines = lines

    def label(self, index: int) -> str:
        """`row n` in a list, `line n` in JSON lines."""
        return f"row {index + 1}" if self._lines is None else f"line {self._lines[index]}"

    def numbers(self, column: str) -> FloatArray | None:
        """The column as floats, None if some value is not a JSON number."""
        return json_numbers(self.raw(column))

    def raw(self, column: str) -> list[Any]:
        """The column's values, None where a record has no such key."""
        return [record.get(column) for record in self.records]


class _Csv(_Rows):
    text_is_number = True

    def __init__(self, path: str, data: bytes, wanted: Wanted) -> None:
        self.path = path
        self._data = data if data.endswith((b"\n", b"\r")) else data + b"\n"
        self._separator = separator_of(data)
        self._has_decimal_commas = self._separator != "," and ANY_DECIMAL_COMMA.search(data) is not None
        if self._has_decimal_commas:
            self.notes = ("decimal commas read",)
        fields = fields_per_line(path, self._data, self._separator)
        header = tuple(str(name).strip() for name in self._parse(header=None, nrows=1, dtype=str).iloc[0])
        if all(HEADLESS.fullmatch(name) for name in header):
            what = "holds values, where the names of the columns are needed"
            raise InputError(f"{path}: the first line, {','.join(header)[:40]}, {what}")
        super().__init__(path, header, len(fields) - 1)
        ragged = np.flatnonzero(fields != len(header))
        if len(ragged):
            row = int(ragged[0])
            raise InputError(f"{path}, row {row}: has {fields[row]} fields, the header has {len(header)}")
        self._position = {name: i for i, name in enumerate(header) if wanted(name)}
        for name in self._position:
            if header.count(name) > 1:
                raise InputError(f"{path}: column {name} appears {header.count(name)} times, 1 is allowed")
        self._frame: Any = None

    def _parse(self, **options: Any) -> Any:
        import pandas as pd

        # From 3.1 on pandas parses floats to the last bit unasked, and deprecates the option.
        if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
            options["float_precision"] = "round_trip"
        try:
            return pd.read_csv(
                io.BytesIO(self._data),
                encoding="utf-8",
                sep=self._separator,
                na_filter=False,
                low_memory=False,
                index_col=False,
                **options,
            )
        except (ValueError, OverflowError) as error:
            raise InputError(f"{self.path}: not a well-formed CSV ({error})") from error

    def _read(self, names: Sequence[str], **options: Any) -> Any:
        positions = [self._position[name] for name in names]
        frame = self._parse(header=0, names=list(range(len(self.columns))), usecols=positions, **options)
        if len(frame) != self.num_rows:
            raise InputError(
                f"{self.path}: not a well-formed CSV ({len(frame)} rows in {self.num_rows} lines)"
            )
        return frame

    def _column(self, column: str) -> Any:
        if self._frame is None:
            self._frame = self._read(list(self._position))
        return self._frame[self._position[column]]

    def numbers(self, column: str) -> FloatArray | None:
        values = self._column(column)
        if values.dtype.kind in "iuf":
            floats: FloatArray = values.to_numpy(dtype=np.float64)
            if self._separator != "," and values.dtype.kind == "f":
                self._check_points(column)
            return floats
        if not self._has_decimal_commas:
            return None
        texts = self.raw(column)
        try:
            return np.array([float(text) for text in texts]) if all(map(_is_plain, texts)) else None
        except ValueError:
            return None

    def _check_points(self, column: str) -> None:
        """Where commas separate no columns, points may stand between thousands: where others are decimal,
        or where nothing in the file says that they are not.
        """
        pointed = [(index, text) for index, text in enumerate(self.raw(column)) if "." in text]
        if not pointed:
            return
        index, text = pointed[0]
        if self._has_decimal_commas:
            what = f"{text.strip()!r} has a point, where other numbers of the file have decimal commas"
        elif all(POINTED_THOUSANDS.fullmatch(each) for _, each in pointed) and not self._has_decimal_points():
            thousand = text.strip().replace(".", "")
            what = (
                f"{text.strip()!r} may be {thousand} or {float(text):g}, since the file is not separated by "
                f"commas and no other number tells; write {thousand} or {text.strip()}0"
            )
        else:
            return
        raise InputError(f"{self.where(index)}, {column}: {what}")

    def _has_decimal_points(self) -> bool:
        """Whether some number of the file has a point that cannot stand between thousands."""
        columns = [name for name in self._position if self._column(name).dtype.kind == "f"]
        texts = (text for column in columns for text in self.raw(column))
        return any("." in text and not POINTED_THOUSANDS.fullmatch(text) for text in texts)

    def raw(self, column: str) -> list[Any]:
        values = self._column(column)
        if values.dtype.kind != "O":
            # What pandas took for a number may have been 007 or 1e999: read again as it was written.
            values = self._read([column], dtype=str)[self._position[column]]
        texts: list[Any] = [str(value) for value in values.tolist()]
        return _with_points(texts) if self._has_decimal_commas else texts


def _with_points(texts: list[Any]) -> list[Any]:
    """Numbers with decimal commas, written with points; all else, and what may be thousands, as it is."""
    commas = [text for text in texts if "," in text]
    is_decimal = all(map(DECIMAL_COMMA.fullmatch, texts)) and not all(map(THOUSANDS.fullmatch, commas))
    return [text.replace(",", ".") for text in texts] if commas and is_decimal else texts


def _is_plain(text: str) -> bool:
    return text.isascii() and "_" not in text


class _Parquet(_Rows):
    def __init__(self, path: str, data: bytes) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InputError(f"{path}: reading Parquet needs pyarrow: {PARQUET_EXTRA}") from error
        try:
            self._table = pq.read_table(io.BytesIO(data))
            self._table.validate(full=True)
            names, num_rows = tuple(self._table.column_names), self._table.num_rows
        except Exception as error:  # pyarrow raises errors of many kinds on damaged files
            raise InputError(f"{path}: not a readable Parquet file ({error})") from error
        super().__init__(path, names, num_rows)
        if len(set(self.columns)) != len(self.columns):
            raise InputError(f"{path}: two columns have the same name, 1 of each is allowed")

    def numbers(self, column: str) -> FloatArray | None:
        from pyarrow import types

        values = self._table.column(column)
        if not (types.is_integer(values.type) or types.is_floating(values.type)):
            return None
        floats: FloatArray = values.to_numpy().astype(np.float64)
        return floats

    def raw(self, column: str) -> list[Any]:
        from pyarrow import types

        try:
            values: list[Any] = self._table.column(column).to_pylist()
            if types.is_timestamp(self._table.column(column).type):
                return [value if value is None else value.isoformat(sep=" ") for value in values]
        except Exception as error:  # pyarrow finds some damage only when it decodes a value
            raise InputError(f"{self.path}, {column}: not readable ({error})") from error
        return values


def log_unused(table: Table, kind: str, used: Sequence[str]) -> None:
    """Log which columns of a table nobody looks at, where there are any; `kind` says what the table is."""
    if unused := [column for column in table.columns if column not in used]:
        LOG.info("%s: %s; columns not used: %s", table.path, kind, ", ".join(unused))


def json_numbers(values: Sequence[Any]) -> FloatArray | None:
    """JSON values as floats, None if some value is not a number."""
    if not set(map(type, values)) <= {int, float}:
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return None


def open_table(path: str | Path, wanted: Wanted) -> Table:
    """The rows of a file. `wanted(column)` says which columns may be asked for (others are not parsed).

    Raises InputError, naming `path` as given, where the file cannot be read or is no clean table of at least
    one row.
    """
    name = str(path)
    data = read_unpacked(name)
    if data.startswith(b"PAR1"):
        return _Parquet(name, data)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: is UTF-16 text, not UTF-8: PowerShell writes such files; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise InputError(f"{name}, line {line}: {byte} is not UTF-8 text") from None
    if "\0" in text:
        raise InputError(
            f"{name}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: byte 0x00 is not text"
        )
    start = text.lstrip()[:1]
    if not start:
        raise InputError(f"{name}: is empty, at least 1 row is needed")
    if start in "[{":
        return _json(name, text)
    known_files.check_text(name, text)
    return _Csv(name, data, wanted)


def _json(path: str, text: str) -> Records:
    """The rows of a JSON text; those of a known result are rows of a log."""
    rows, lines = rows_of(path, text)
    unfolded = benchmark_results.unfold(path, rows)
    if unfolded is None:
        if rows:
            known_files.check_object(path, rows[0])
        return Records(path, rows, lines)
    kept = range(len(rows)) if unfolded.kept is None else unfolded.kept
    if lines is not None:
        lines = [lines[i] for i in kept] if len(unfolded.rows) == len(kept) else None
    table = Records(path, unfolded.rows, lines)
    table.source, table.notes = unfolded.source, unfolded.notes
    return table
