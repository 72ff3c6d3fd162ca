"""Writes files so that a reader sees the old content or the new, never half; knows nothing of content."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from .errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """An open file that becomes `path` when the block succeeds, and leaves nothing behind when it fails.

    It is a temporary file in the same folder, moved over `path` at the end. Text is UTF-8, with LF line ends.
    What is not a regular file (a pipe, /dev/null) is written directly.
    Raises InputError, naming `path`, where the folder is missing or the file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise InputError(f"{path}: is a directory, a file is needed")
        if not target.parent.is_dir():
            raise InputError(f"{path}: there is no folder {Path(path).parent}")
        existed = target.exists()
        if existed and not os.access(target, os.W_OK):
            raise InputError(f"{path}: cannot be written (no write permission)")
        if existed and not target.is_file():
            with _open(target, mode) as stream:
                yield stream
            return
        # A name of its own length, for the target's may already be the longest that the file system takes.
        temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
        try:
            with _open(temporary, mode) as stream:
                yield stream
            if existed:
                shutil.copymode(target, temporary)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        # Errors that name another file come from inside the block and are not about this one.
        if error.filename is not None and Path(str(error.filename)).parent != target.parent:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _open(path: Path, mode: str) -> IO[Any]:
    if mode == "wb":
        return path.open("wb")
    return path.open("w", encoding="utf-8", newline="\n")
