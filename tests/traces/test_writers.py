"""Writing traces, and reading them back unchanged; files that appear whole or not at all."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import InputError, Trace, write
from traces.files import atomic_write
from traces.formats import read

SUFFIXES = (".csv", ".jsonl", ".parquet")


def listing(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def assert_same(left: Trace, right: Trace) -> None:
    assert left.columns() == right.columns()
    for column in left.columns():
        np.testing.assert_array_equal(getattr(left, column), getattr(right, column), column)
    assert left.sample_names == right.sample_names
    if left.samples is not None and right.samples is not None:
        assert left.samples.tolist() == right.samples.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_reads_back(small: Trace, tmp_path: Path, suffix: str) -> None:
    write(small, tmp_path / f"t{suffix}")
    assert_same(read(tmp_path / f"t{suffix}"), small)
    assert listing(tmp_path) == [f"t{suffix}"]


def test_csv_is_plain(small: Trace, tmp_path: Path) -> None:
    bare = Trace("t", small.request_id, small.prompt_tokens, small.output_tokens, arrival_s=small.arrival_s)
    write(bare, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == (
        b"request_id,arrival_s,prompt_tokens,output_tokens\n"
        b"7,0.0,10,5\n3,0.1,20,512\n5,0.30000000000000004,30,7\n4,4.0,40,100\n"
    )


TOKENS = st.integers(1, 10_000_000)
BOUNDS = st.just(math.nan) | st.floats(1e-9, 1e12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 6))

    def column(values: st.SearchStrategy[Any], dtype: Any, optional: bool = True) -> Any:
        if optional and not draw(st.booleans()):
            return None
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    arrival = column(st.floats(0, 1e9), np.float64)
    if arrival is not None:
        arrival = np.sort(arrival)
        arrival[0] = 0.0
    margin = column(st.floats(0, 1e6), np.float64)
    ids: Any = st.integers(-(2**63), 2**63 - 1)
    if draw(st.booleans()):
        ids = TEXTS.filter(str.strip).map(lambda text: "id " + text)
    names = draw(st.lists(st.sampled_from(["t0.0", "t0.7", "a b", 'x,"y', "é"]), unique=True, max_size=3))
    id_values = draw(st.lists(ids, min_size=n, max_size=n, unique=True))
    return Trace(
        name="drawn",
        request_id=np.array(id_values, dtype=np.int64 if isinstance(id_values[0], int) else object),
        prompt_tokens=column(TOKENS, np.int64, optional=False),
        output_tokens=column(TOKENS, np.int64, optional=False),
        arrival_s=arrival,
        predicted_tokens=column(st.integers(0, 10_000_000), np.int64),
        priority=column(st.integers(-1_000_000_000, 1_000_000_000), np.int64),
        prompt=column(TEXTS, object),
        user=column(TEXTS, object),
        deadline_s=margin if arrival is None or margin is None else arrival + margin,
        ttft_slo_ms=column(BOUNDS, np.float64),
        tpot_slo_ms=column(BOUNDS, np.float64),
        samples=column(st.lists(TOKENS, min_size=len(names), max_size=len(names)), np.int64, False)
        if names
        else None,
        sample_names=tuple(names),
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(trace=traces())
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_trace_survives_the_round_trip(tmp_path: Path, suffix: str, trace: Trace) -> None:
    path = tmp_path / f"t{suffix}"
    write(trace, path)
    assert_same(read(path), trace)


@pytest.mark.parametrize("name", ["t.txt", "t", "t.csv.gz", ".csv"])
def test_other_suffixes_are_refused(small: Trace, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"suffix '.*' is not one of \.csv, \.jsonl, \.parquet"):
        write(small, tmp_path / name)
    assert not listing(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_folder_and_directory(small: Trace, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*none"):
        write(small, tmp_path / "none" / f"t{suffix}")
    (tmp_path / f"d{suffix}").mkdir()
    with pytest.raises(InputError, match="is a directory, a file is needed"):
        write(small, tmp_path / f"d{suffix}")


def test_parquet_without_pyarrow_names_the_extra(
    small: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'pip install "seqsched\[parquet\]"'):
        write(small, tmp_path / "t.parquet")


def with_prompt(text: str) -> Trace:
    one = np.array([1])
    return Trace("t", one, one, one, prompt=np.array([text], dtype=object))


def test_text_that_a_format_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt: holds a NUL character, which CSV cannot carry"):
        write(with_prompt("a\0b"), tmp_path / "t.csv")
    for suffix in SUFFIXES:
        with pytest.raises(InputError, match="not valid Unicode"):
            write(with_prompt("\ud800"), tmp_path / f"t{suffix}")
    assert not listing(tmp_path)
    write(with_prompt("a\0b"), tmp_path / "t.jsonl")
    prompt = read(tmp_path / "t.jsonl").prompt
    assert prompt is not None and prompt.tolist() == ["a\0b"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "f"
    if existed:
        path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as stream:
        stream.write("new")
        stream.flush()
        assert len(listing(tmp_path)) == 1 + existed
        raise RuntimeError
    assert listing(tmp_path) == (["f"] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_text_is_utf8_with_plain_line_ends_and_modes_stay(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path) as stream:
        stream.write("é\n")
    assert path.read_bytes() == "é\n".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    with atomic_write(tmp_path / "b", "wb") as stream:
        stream.write(b"\xff")
    assert (tmp_path / "b").read_bytes() == b"\xff"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with atomic_write(tmp_path / "link") as stream:
        stream.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_device_is_written_to_not_replaced() -> None:
    with atomic_write(os.devnull) as stream:
        stream.write("x")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("moment", ["open", "inside", "replace"])
def test_errors_of_the_system_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "f"

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    if moment != "inside":
        monkeypatch.setattr(Path, moment, fail)
    with pytest.raises(InputError) as caught, atomic_write(path):
        if moment == "inside":
            fail()
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert not listing(tmp_path)


def test_a_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda target, mode: False)
    with pytest.raises(InputError, match=r"cannot be written \(no write permission\)"), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_errors_about_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "f"):
        Path("no/such/file").read_text()
    assert not listing(tmp_path)
