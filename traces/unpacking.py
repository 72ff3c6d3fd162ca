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
ZSTD_PIECE = 4096
"""Packed bytes that are unpacked at a time: at most 128 MiB come of them."""

ARCHIVES = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or save it as CSV, first",
    b"ARROW1": "an Arrow file; write it as Parquet first",
    b"SQLite format 3\x00": "a SQLite database; write the table of requests as CSV first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
}
"""First bytes of what cannot be read as it is -> what it is, and what to do."""
SPOOLS = (".folding.jsonl", ".spool.jsonl")
"""Files beside a Parquet file into which rows are written before they are folded into it."""
TAR_AT = 257
"""Where a tar archive says that it is one."""


def read_unpacked(path: str) -> bytes:
    """The content of a file, unpacked where it is gzip, zstd, bzip2 or xz, told by its first bytes.

    Raises InputError, naming `path`, for what cannot be read, is damaged, is no regular file or pipe, or
    unpacks to more than MAX_BYTES.
    """
    data = _read_bytes(path)
    name = _packing(data)
    if name is None:
        return _checked(path, data)
    data = _unpacked(path, name, PACKINGS[name][1], data)
    again = _packing(data)
    if again is not None:
        raise InputError(f"{path}: is {again} within {name}, packed twice; unpack it once first")
    return _checked(path, data)


def _packing(data: bytes) -> str | None:
    """What these bytes are packed with, by the first of them; None for nothing known."""
    return next((name for name, (magic, _) in PACKINGS.items() if data.startswith(magic)), None)


def _checked(path: str, data: bytes) -> bytes:
    """The same; InputError for an archive."""
    for magic, what in ARCHIVES.items():
        if data.startswith(magic):
            raise InputError(f"{path}: is {what}")
    if data[TAR_AT : TAR_AT + 5] == b"ustar":
        raise InputError(f"{path}: is a tar archive; unpack it first")
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
        raise InputError(f"{path}: no such file{_spooled(path)}{_of_home(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, a file is needed") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path!r}: is not a path ({error})") from error


def _of_home(path: str) -> str:
    """A hint where the shell left the ~ of a path as it is, as it does behind `file=`."""
    return "; your shell left the ~ as it is: give the whole path" if path.startswith("~") else ""


def _spooled(path: str) -> str:
    """Where the rows of a Parquet file are that is not there yet: `seqsched serve` spools them beside it."""
    if not path.endswith(".parquet"):
        return ""
    beside = [Path(path).with_suffix(suffix) for suffix in SPOOLS]
    found = [str(each) for each in beside if each.is_file() and each.stat().st_size]
    return f" yet; its rows are still in {' and '.join(found)}, which can be read" if found else ""


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
        return _unzstd_by_frames(data)
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return bytes(stream.read(MAX_BYTES + 1))


def _unzstd_by_frames(data: bytes) -> bytes:
    """By zstandard, in pieces that cannot fill the memory, since its own reader takes half a file for a whole
    one.
    """
    import zstandard

    content, rest, frame = bytearray(), memoryview(data), None
    try:
        while len(rest) and len(content) <= MAX_BYTES:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            piece, rest = rest[:ZSTD_PIECE], rest[ZSTD_PIECE:]
            content += frame.decompress(piece)
            if frame.eof:
                rest = memoryview(data)[len(data) - len(rest) - len(frame.unused_data) :]
                frame = None
    except zstandard.ZstdError as error:
        raise ValueError(error) from error
    if frame is not None and not len(rest):
        raise EOFError("it ends within a frame")
    return bytes(content)


PACKINGS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"\x1f\x8b", _gunzip),
    "zstd": (b"\x28\xb5\x2f\xfd", _unzstd),
    "bzip2": (b"BZh", _bunzip2),
    "xz": (b"\xfd7zXZ\x00", _unxz),
}
"""Name of a packing -> the first bytes of a file that is packed so, and what unpacks it."""
