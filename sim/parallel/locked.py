"""Files that grow and that one process at a time may write."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from traces.errors import InputError


def open_locked(path: Path) -> BinaryIO:
    """The file, opened for appending and locked until it is closed; made where it is missing.

    Raises InputError where it cannot be written, where another process holds it, and for a device or a pipe,
    which has no end to read to and must not be removed.
    """
    while True:
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise InputError(f"{path}: is a device or a pipe, a file is needed")
            file = path.open("ab")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise InputError(f"{path}: another process is writing it") from None
        # Whoever held it may have removed or replaced it between our two steps.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def close_locked(file: BinaryIO, path: Path) -> None:
    """Close the file; an empty one is removed first, while it is still ours."""
    if not file.closed:
        if not path.stat().st_size:
            path.unlink()
        file.close()
