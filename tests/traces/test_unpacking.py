"""Packed files are read by their first bytes; what cannot be unpacked is named as what it is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tarfile
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


@pytest.mark.parametrize("library", ["pyarrow", "zstandard"])
def test_either_library_unpacks_zstd(put: Put, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Python has no zstd of its own before 3.14."""
    pytest.importorskip(library)
    packed = zstd(TEXT[:20]) + zstd(TEXT[20:])
    other = {"pyarrow": "zstandard", "zstandard": "pyarrow"}[library]
    monkeypatch.setitem(sys.modules, other, None)
    assert read(put(packed)).prompt_tokens.tolist() == [10, 20]
    for damaged in (packed[:-9], packed[:4], packed + b"abc"):
        with pytest.raises(InputError, match=r": is damaged zstd \(.+\)"):
            read(put(damaged))


def test_zstandard_unpacks_no_more_than_is_allowed(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zstandard")
    path = put(zstd(TEXT + b"1,1,2\n" * 1_000_000) + zstd(b"1,1,2\n"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(read(path)) == 1_000_003
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="unpacks to more than 1,000 bytes"):
        read(path)


def test_a_library_that_is_missing_is_named(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(zstd(TEXT))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"is compressed with zstd; reading it needs pyarrow .*pip install"):
        read(path)


@pytest.mark.parametrize(("outer", "inner"), [("gzip", "gzip"), ("zstd", "gzip"), ("xz", "bzip2")])
def test_what_is_packed_twice_is_named(put: Put, outer: str, inner: str) -> None:
    """A server that packs what is packed already leaves such files."""
    with pytest.raises(InputError, match=f": is {inner} within {outer}, packed twice; unpack it once first"):
        read(put(PACK[outer](PACK[inner](TEXT))))


@pytest.mark.parametrize("packing", ["", ":gz", ":xz"])
def test_a_tar_archive_is_named(tmp_path: Path, packing: str) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT)
    with tarfile.open(tmp_path / "t.tar", "w" + packing) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "t.csv", "t.csv")
    with pytest.raises(InputError, match=r"t\.tar: is a tar archive; unpack it first"):
        read(tmp_path / "t.tar")


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


@pytest.mark.parametrize("spools", [["spool"], ["folding"], ["folding", "spool"]])
def test_a_parquet_file_that_is_not_there_yet_is_spooled(tmp_path: Path, spools: list[str]) -> None:
    for name in spools:
        (tmp_path / f"log.{name}.jsonl").write_bytes(b'{"prompt_tokens": 1, "output_tokens": 2}\n')
    (tmp_path / "other.spool.jsonl").touch()
    beside = " and ".join(str(tmp_path / f"log.{name}.jsonl") for name in spools)
    for name, said in (
        ("log.parquet", f"no such file yet; its rows are still in {beside}, which can be read"),
        ("log.csv", "no such file"),
        ("other.parquet", "no such file"),
    ):
        with pytest.raises(InputError) as error:
            read(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {said}"
    assert read(tmp_path / f"log.{spools[0]}.jsonl").prompt_tokens.tolist() == [1]


def test_a_path_whose_tilde_the_shell_left_is_told() -> None:
    with pytest.raises(InputError, match=r"^~/no/t.csv: no such file; your shell left the ~ as it is"):
        read("~/no/t.csv")
