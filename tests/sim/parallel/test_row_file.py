"""A table that grows on disk: whatever was appended is there, whatever was cut short is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.parallel.row_file import Row, RowFile
from traces.errors import InputError

TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)


def keep(path: Path, rows: list[Row]) -> dict[str, Row]:
    file = RowFile(path, "point", {"point", "word"})
    for row in rows:
        file.append(row)
    file.close()
    return again(path)


def again(path: Path) -> dict[str, Row]:
    file = RowFile(path, "point", {"point", "word"})
    file.close()
    return file.rows


def row(key: int, **figures: Any) -> Row:
    return {"point": f"k{key}", **figures}


@settings(max_examples=25)
@given(cells=st.lists(st.tuples(TEXTS | st.none(), NUMBERS | st.none()), min_size=1, max_size=6))
def test_rows_come_back_to_the_last_bit(
    cells: list[tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [row(i, word=word, figure=figure) for i, (word, figure) in enumerate(cells)]
    for name in ("a.csv", "a.parquet"):
        found = list(keep(folder / name, rows).values())
        assert found == rows
        assert [type(r["figure"]) for r in found] == [type(r["figure"]) for r in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_half_written_last_line_is_cut_wherever_it_breaks(name: str, tmp_path: Path) -> None:
    rows = [row(i, word=f'say "{i}", é', figure=i / 3) for i in range(2)]
    stream = tmp_path / (name if name.endswith("csv") else f"{name}.partial.csv")
    keep(tmp_path / name, rows)
    whole = stream.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 2):
        stream.write_bytes(whole[:cut])
        found = again(tmp_path / name)
        assert list(found.values()) == rows[: max(0, sum(end <= cut for end in ends) - 1)]
        missing = rows[len(found) :]
        assert list(keep(tmp_path / name, missing).values()) == rows


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_finishing_leaves_one_file_in_the_order_asked_for(name: str, tmp_path: Path) -> None:
    file = RowFile(tmp_path / name, "point", {"point"})
    for i in (2, 0, 1):
        file.append(row(i, figure=i))
    rows = [row(i, figure=i) for i in range(3)]
    file.finish(rows, ["point", "figure"])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list(again(tmp_path / name).values()) == rows


def test_figures_may_come_after_a_row_that_has_none(tmp_path: Path) -> None:
    rows = [row(0, error="bad"), row(1, error=None, figure=1.5), row(2, error="bad")]
    found = keep(tmp_path / "a.csv", rows)
    assert [r.get("figure") for r in found.values()] == [None, 1.5, None]
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "point,error,figure"


def test_a_later_row_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    assert keep(tmp_path / "a.csv", [row(0, figure=1), row(0, figure=2)]) == {"k0": row(0, figure=2)}


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="files are locked on POSIX systems only")
    first = RowFile(tmp_path / "a.csv", "point", ())
    first.append(row(0))
    with pytest.raises(InputError, match=r"a\.csv: another process is writing it"):
        RowFile(tmp_path / "a.csv", "point", ())
    first.close()
    assert list(again(tmp_path / "a.csv")) == ["k0"]


@pytest.mark.parametrize("text", ["name,size\na,1\n", "hello", "point,x\nk0,1,2\n", "\x00\xff"])
def test_a_file_of_someone_else_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv"):
        RowFile(path, "point", ())
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["a.xlsx", "a", "no/such/a.csv", "no/such/a.parquet"])
def test_what_cannot_be_written_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        RowFile(tmp_path / name, "point", ())
    assert not list(tmp_path.iterdir())


def test_a_parquet_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a Parquet file"):
        RowFile(tmp_path / "a.parquet", "point", ())


def test_an_empty_table_leaves_no_file(tmp_path: Path) -> None:
    RowFile(tmp_path / "a.csv", "point", ()).close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RowFile(tmp_path / "rows.csv", "point", {"point"})

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file.append(row(1, figure=2))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"rows\.csv.*: cannot be written \(No space left on device\)"):
        file.append(row(2, figure=3))
    file.close()
