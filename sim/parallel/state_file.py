"""Values by key in a JSON Lines file that grows line by line and survives a kill; knows nothing of values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from traces.errors import InputError

from .locked import close_locked, open_locked

V = TypeVar("V")


class StateFile(Generic[V]):
    """The values in `known`, from the file and since; without a path only since.

    `read`: from the object of a line to its value; what it raises (KeyError, TypeError, ValueError) says that
    the line is none of ours. `writer`: the command that writes such files. A last line that was cut off by
    the end of a process is dropped. The file is locked until it is closed. Raises InputError for another
    file, for one that cannot be written, and for one that another process writes.
    """

    def __init__(self, path: str | Path | None, read: Callable[[Mapping[str, Any]], V], writer: str) -> None:
        self.path = None if path is None else Path(path)
        self.read, self.writer = read, writer
        self.known: dict[str, V] = {}
        self.file: BinaryIO | None = None
        if self.path is not None:
            self.file = open_locked(self.path)
            try:
                self._read_lines(self.path, self.file)
            except BaseException:
                self.close()
                raise

    def append(self, key: str, value: V, fields: Mapping[str, Any]) -> None:
        """Keep a value; `fields`, plain values from which `read` makes it, become its line."""
        self.known[key] = value
        if self.file is None:
            return
        line = json.dumps({"key": key, **fields}) + "\n"
        try:
            self.file.write(line.encode())
            self.file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Close the file; one without lines is removed."""
        if self.file is not None and self.path is not None:
            close_locked(self.file, self.path)

    def _read_lines(self, path: Path, file: BinaryIO) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                fields = json.loads(line)
                self.known[str(fields["key"])] = self.read(fields)
            except (ValueError, TypeError, KeyError, RecursionError):
                raise InputError(f"{path}, line {number}: not a line that `{self.writer}` wrote") from None
        if len(whole) < len(content):
            if not self.known and content[:8] != b'{"key": ':
                raise InputError(f"{path}, line 1: not a line that `{self.writer}` wrote")
            file.truncate(len(whole))
