"""The file of a learned predictor: an .npz of plain arrays, and one JSON text. Nothing in it is run."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.errors import InputError
from traces.files import atomic_write
from traces.unpacking import MAX_BYTES

Arrays = Mapping[str, npt.NDArray[Any]]
ABOUT = "about"
"""The array that holds the JSON text, in bytes."""


def write(path: str | Path, about: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays and what JSON can hold: the same bytes for the same content, whole or not at all."""
    text = json.dumps(about, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    content = {ABOUT: np.frombuffer(text, dtype=np.uint8), **arrays}
    with atomic_write(path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in content.items():
            packed = io.BytesIO()
            np.lib.format.write_array(packed, np.ascontiguousarray(array), allow_pickle=False)
            # An entry has a fixed date, so that the same predictor is the same bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), packed.getvalue(), zipfile.ZIP_DEFLATED)


def read(path: str | Path, kinds: Mapping[str, str]) -> tuple[dict[str, Any], Arrays]:
    """What `write` wrote; `kinds`: array -> the kind (numpy's `dtype.kind`) that it must be of.

    Raises InputError, naming the file, for anything else, and for floats that are not finite.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_bytes_of(path))) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            wanted = {name: f"{name}.npy" for name in (ABOUT, *kinds)}
            if missing := [name for name, file in wanted.items() if file not in sizes]:
                raise foreign(path, f"it has no {missing[0]}")
            if sum(sizes.values()) > MAX_BYTES:
                raise InputError(f"{path}: unpacks to more than {MAX_BYTES:,} bytes")
            arrays = {name: _array(archive, file) for name, file in wanted.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise foreign(path, str(error)) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise damaged(path, str(error)) from None
    for name, kind in {ABOUT: "u", **kinds}.items():
        if arrays[name].dtype.kind != kind:
            raise damaged(path, f"{name} holds {arrays[name].dtype}")
        if kind == "f" and not np.isfinite(arrays[name]).all():
            raise damaged(path, f"{name} is not finite everywhere")
    try:
        about = json.loads(arrays.pop(ABOUT).tobytes().decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(about, dict):
        raise damaged(path, "its description is no object")
    return about, arrays


def foreign(path: str | Path, why: str) -> InputError:
    """The error for a file that seqsched did not write."""
    return InputError(f"{path}: is no predictor that seqsched wrote ({why})")


def damaged(path: str | Path, why: str) -> InputError:
    """The error for a file that is not as it was written."""
    return InputError(f"{path}: is damaged ({why})")


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(name) as stream:
        return np.asarray(np.lib.format.read_array(io.BytesIO(stream.read()), allow_pickle=False))


def _bytes_of(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, a predictor's file is needed") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
