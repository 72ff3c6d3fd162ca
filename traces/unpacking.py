"""Reads a file whole and unpacks it, whatever it is compressed with; knows nothing of what is in it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

from .errors import InputError

PARQUET_EXTRA = 'pip install "seqsched[parquet]"'
MAX_BYTES = 2**31
"""What a file may unpack to: 2 GiB."""

ARCHIVES = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or save it as CSV, first",
    b"ARROW1": "an Arrow file; write it as Parquet first",
    b"SQLite format 3\x00": "a SQLite database; write the table of requests as CSV first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
}
"""First bytes of what cannot be read as it is -> what it is, and what to do."""


def read_unpacked(path: str) -> bytes:
    """The content of a file, unpacked where it is gzip, zstd, bzip2 or xz, told by its first bytes.

    Raises InputError, naming `path`, for what cannot be read, is damaged, is no regular file or pipe, or
    unpacks to more than MAX_BYTES.
    """
    data = _read_bytes(path)
    for magic, what in ARCHIVES.items():
        if data.startswith(magic):
            raise InputError(f"{path}: is {what}")
    for magic, (name, unpack) in PACKINGS.items():
        if data.startswith(magic):
            return _unpacked(path, name, unpack, data)
    return data


def refuse_device(path: str | Path) -> None:
    """InputError for what has no end to read to; OSError where there is nothing."""
    if stat.S_ISCHR(Path(path).stat().st_mode):
        raise InputError(f"{path}: is a device, a file is needed")


def _read_bytes(path: str) -> bytes:
    try:
        refuse_device(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, a file is needed") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path!r}: is not a path ({error})") from error


def _unpacked(path: str, name: str, unpack: Callable[[bytes], bytes], data: bytes) -> bytes:
    try:
        content = unpack(data)
    except ImportError:
        needs = f"reading it needs pyarrow or zstandard: {PARQUET_EXTRA}"
        raise InputError(f"{path}: is compressed with {name}; {needs}") from None
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise InputError(f"{path}: is damaged {name} ({error})") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: unpacks to more than {MAX_BYTES:,} bytes")
    return content


def _gunzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        return stream.read(MAX_BYTES + 1)


def _bunzip2(data: bytes) -> bytes:
    with bz2.BZ2File(io.BytesIO(data)) as stream:
        return stream.read(MAX_BYTES + 1)


def _unxz(data: bytes) -> bytes:
    with lzma.LZMAFile(io.BytesIO(data)) as stream:
        return stream.read(MAX_BYTES + 1)


def _unzstd(data: bytes) -> bytes:
    """By whichever library is there; ImportError for none."""
    try:
        import pyarrow as pa
    except ImportError:
        from zstandard import ZstdDecompressor

        with ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return bytes(reader.read(MAX_BYTES + 1))
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return bytes(stream.read(MAX_BYTES + 1))


PACKINGS: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", _gunzip),
    b"\x28\xb5\x2f\xfd": ("zstd", _unzstd),
    b"BZh": ("bzip2", _bunzip2),
    b"\xfd7zXZ\x00": ("xz", _unxz),
}
"""First bytes of a packed file -> name of the packing, and what unpacks it."""
