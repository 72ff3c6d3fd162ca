"""The layer's log as a Parquet file that whatever kills the layer leaves readable.

A Parquet file cannot be added to. So rows go to a spool beside it first, JSON lines as those of any log, and
are folded into the file from time to time, in a thread: the row groups that it has are copied, the spool's
rows follow as one more, and the new file takes the old one's place. Rows that are not folded in yet are in
the spool; the end of the layer, or else its next start, folds them in.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sim.parallel.locked import close_locked
from traces.errors import InputError
from traces.trace import SLO_COLUMNS
from traces.unpacking import PARQUET_EXTRA

from .complaints import complain
from .log import Log, opened

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
ROWS = (4096, 100_000)
"""Rows that are folded in at a time: a quarter of those that are there, so that copying these stays cheap,
within these bounds.
"""
MOST_ROW_BYTES = 1 << 26
NOT_YET = "what the log has spooled cannot be written as Parquet yet"
FOLDED = b"seqsched.folded"
"""What a file remembers of the spool that was folded in last, lest it be folded in twice."""
TYPES = {
    **dict.fromkeys(("request_id",), "int64"),
    **dict.fromkeys(("arrival_s", "scheduled_s", "finish_s"), "float64"),
    **dict.fromkeys(("prompt_tokens", "output_tokens", "predicted_tokens", "told_tokens"), "int64"),
    **dict.fromkeys(("max_tokens", "priority"), "int64"),
    **dict.fromkeys(("arm", "user", "model", "endpoint"), "string"),
    **dict.fromkeys(("stream", "restarted"), "bool"),
    **dict.fromkeys(("ttft_ms", "tpot_ms", "e2el_ms"), "float64"),
    **dict.fromkeys(("status", "error", "finish_reason", "counted"), "string"),
    **dict.fromkeys(("upstream", "attempts", "continuations"), "int64"),
}
"""Columns of every log, and their types in Parquet."""
AT_TIMES = {
    **dict.fromkeys(("deadline_s", *SLO_COLUMNS), "float64"),
    **dict.fromkeys(("slo_class", "prompt"), "string"),
}
"""Those of some, as are the lists of hashes."""


class ParquetLog(Log):
    """Appends rows to a Parquet file by way of a spool.

    Raises InputError where the file cannot be written or is none of a log, and where pyarrow is not there.
    """

    def __init__(self, path: Path, *, texts: bool = False, prefixes: bool = True) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(f"{path}: writing Parquet needs pyarrow: {PARQUET_EXTRA}") from None
        self.path, self.spool = path, path.with_suffix(".spool.jsonl")
        self.full = path.with_suffix(".folding.jsonl")
        self.worker = ThreadPoolExecutor(1, "seqsched-log")
        self.folding: Future[None] | None = None
        self.num_spooled = 0
        super().__init__(self.spool, texts=texts, prefixes=prefixes)
        try:
            self.num_rows, next_id = _known(path)
        except InputError:
            close_locked(self.file, self.spool)
            raise
        self.next_id = max(self.next_id, next_id)
        if self.full.exists():
            self.next_id = max(self.next_id, _repaired(self.full))
        self._fold_all()

    def write(self, row: dict[str, Any], text: str) -> None:
        """One request that has ended."""
        super().write(row, text)
        self.num_spooled += 1
        least, most = ROWS
        if self.num_spooled >= max(least, min(most, self.num_rows // 4)):
            self._begin_to_fold()

    def _begin_to_fold(self) -> None:
        if self.folding is not None and not self.folding.done():
            return
        self.num_spooled = 0  # where it fails, it is not tried again at each row
        try:
            if not self.full.exists():  # else it could not be folded in before
                self._begin_spool()
        except (OSError, InputError) as error:
            complain(NOT_YET, error)
            return
        self.folding = self.worker.submit(self._fold)

    def _begin_spool(self) -> None:
        """What is spooled waits to be folded in; what follows goes to another file."""
        self.spool.replace(self.full)
        try:
            file = opened(self.spool)
        except (OSError, InputError):
            self.full.replace(self.spool)
            raise
        self.file.close()
        self.file = file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.shutdown()
        self._fold_all()
        try:
            close_locked(self.file, self.spool)
        except OSError as failure:
            complain(NOT_YET, failure)

    def _fold_all(self) -> None:
        """Fold in what waits for it, and what is spooled."""
        if self.full.exists():
            self._fold()
        try:
            if not self.full.exists() and self.spool.stat().st_size:
                self._begin_spool()
                self._fold()
        except (OSError, InputError) as error:
            complain(NOT_YET, error)

    def _fold(self) -> None:
        """Fold what was spooled into the file; where that cannot be done, it stays where it is."""
        try:
            self.num_rows = fold(self.full, self.path)
        except Exception as error:
            complain(NOT_YET, error)


def fold(spool: Path, path: Path) -> int:
    """Put the rows of a spool into a Parquet file and remove the spool; how many rows the file has then."""
    import pyarrow.parquet as pq

    with spool.open("rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest().encode()
    old = pq.ParquetFile(path) if path.exists() else None
    num_rows = 0 if old is None else old.metadata.num_rows
    if spool.stat().st_size and (old is None or (old.metadata.metadata or {}).get(FOLDED) != digest):
        new = _rows(spool)
        schema = _joined(None if old is None else old.schema_arrow, new.schema, digest)
        part = path.with_name(path.name + ".part")
        try:
            with pq.ParquetWriter(part, schema, compression="zstd") as writer:
                if old is not None:
                    for number in range(old.num_row_groups):
                        writer.write_table(_fitted(old.read_row_group(number), schema))
                writer.write_table(_fitted(new, schema))
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)  # a full disk shall have room for the spool
            raise
        num_rows += new.num_rows
    spool.unlink()
    return num_rows


def _rows(spool: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json as pj

    lists = {name: pa.list_(pa.int64()) for name in ("hash_ids", "hash_tokens")}
    types = {name: pa.type_for_alias(alias) for name, alias in {**TYPES, **AT_TIMES}.items()} | lists
    table = pj.read_json(
        spool,
        pj.ReadOptions(block_size=MOST_ROW_BYTES),
        pj.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="infer"),
    )
    empty = [name for name in (*AT_TIMES, *lists) if table.column(name).null_count == table.num_rows]
    return table.drop_columns(empty)


def _joined(old: pa.Schema | None, new: pa.Schema, digest: bytes) -> pa.Schema:
    """The columns of both."""
    import pyarrow as pa

    schema = (
        new if old is None else pa.unify_schemas([old.remove_metadata(), new], promote_options="permissive")
    )
    return schema.with_metadata({FOLDED: digest})


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with these columns, null where they have none."""
    import pyarrow as pa

    columns = [
        table.column(each.name).cast(each.type)
        if each.name in table.column_names
        else pa.nulls(table.num_rows, each.type)
        for each in schema
    ]
    return pa.table(columns, schema=schema)


def _known(path: Path) -> tuple[int, int]:
    """Rows in a file, and the number of the next request; InputError for a file that is no log, which is left
    as it is.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.exists():
        return 0, 0
    try:
        numbers = pq.read_table(path, columns=["request_id"]).column("request_id")
        return len(numbers), 1 + (pc.max(numbers).as_py() or 0)
    except (OSError, KeyError, TypeError, pa.ArrowException):
        raise InputError(f"{path}: is no log in Parquet; another file is needed") from None


def _repaired(spool: Path) -> int:
    """Cut off a row that is half written; the number of the next request."""
    log = Log(spool)
    log.file.close()
    return log.next_id
