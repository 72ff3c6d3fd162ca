"""Packed files are read by their first bytes; what cannot be unpacked is named as what it is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError, unpacking
from traces.formats import read

Put = Callable[..., Path]
TEXT = b"prompt_tokens,output_tokens,arrival_s\n10,5,0\n20,6,1.5\n"


def zstd(content: bytes) -> bytes:
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "two gzips": lambda content: gzip.compress(content[:20]) + gzip.compress(content[20:]),
    "zstd": zstd,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_content_decides_what_a_file_is_packed_with(put: Put, name: str, suffix: str) -> None:
    assert read(put(PACK[name](TEXT), f"trace.{suffix}")).prompt_tokens.tolist() == [10, 20]


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_damage_is_named(put: Put, name: str) -> None:
    with pytest.raises(InputError, match=rf": is damaged {name} \(.+\)"):
        read(put(PACK[name](TEXT)[:-9]))


def test_what_unpacks_to_too_much_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    path = put(gzip.compress(TEXT + b"1,1,2\n" * 10_000_000))
    start = time.process_time()
    with pytest.raises(InputError, match="unpacks to more than 1,000 bytes"):
        read(path)
    assert time.process_time() - start < 1


def test_a_library_that_is_missing_is_named(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(zstd(TEXT))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"is compressed with zstd; reading it needs pyarrow .*pip install"):
        read(path)


def test_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", TEXT)
    with pytest.raises(InputError, match=r"t.xlsx: is a zip archive \(or a spreadsheet\); unpack it"):
        read(path)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_refused_before_it_fills_the_memory(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: is a device, a file is needed"):
        read(name)
