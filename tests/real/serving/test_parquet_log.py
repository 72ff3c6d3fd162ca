"""A log in Parquet says what the JSON lines do, and survives what kills its writer."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("pyarrow", reason="needs pyarrow")

import pyarrow.parquet as pq

from real.serving import parquet_log
from real.serving.log import Log
from real.serving.parquet_log import ParquetLog, fold
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake
from tests.sim.command import run
from traces.errors import InputError


def served(log: Log, number: int, **settings: Any) -> None:
    """A layer answers so many requests and writes them down."""

    async def test(up: Up, fake: Fake) -> None:
        for k in range(0, number, 20):
            asked = (up.ask(f"{'long ' * 80} {i} {3 + i % 9}") for i in range(k, min(number, k + 20)))
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}

    with_fakes(test, log=log, **settings)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def ids(path: Path) -> list[int]:
    return sorted(row["request_id"] for row in rows(path))


@pytest.mark.slow
def test_its_rows_are_those_of_json_lines_and_every_reader_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parquet_log, "ROWS", (60, 60))
    path, kept = tmp_path / "log.parquet", tmp_path / "lines" / "log.jsonl"
    kept.parent.mkdir()
    fold = parquet_log.fold

    def keeping(spool: Path, into: Path) -> int:
        with kept.open("a") as file:
            file.write(spool.read_text())
        return fold(spool, into)

    monkeypatch.setattr(parquet_log, "fold", keeping)
    with ParquetLog(path, texts=True) as log:
        served(log, 220, share=0.5)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lines", "log.parquet"]
    expected = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(expected) == 220 and pq.ParquetFile(path).num_row_groups >= 3
    assert rows(path) == expected
    for command in (
        ["trace", "inspect"],
        ["quality", "report", "--json"],
        ["validate", "--policy", "continuous:max_num_seqs=4", "--json", "--against"],
        ["simulate", "--policy", "continuous", "--json", "--trace"],
        ["pilot", "--json"],
        ["predictor", "train", "--out", str(tmp_path / "p.npz")],
    ):
        assert run(*command, str(path)) == 0, (command, capsys.readouterr().err)
        by_parquet = capsys.readouterr().out
        if "--json" in command:
            assert run(*command, str(kept)) == 0
            assert (
                capsys.readouterr().out.replace(str(kept), str(path)).replace(kept.name, path.name)
                == by_parquet
            )


def row(number: int) -> dict[str, Any]:
    return {"request_id": number, "prompt_tokens": 5, "arrival_s": 1.0, "status": "completed"}


@pytest.mark.parametrize("when", ["spooled", "half a row", "before folding", "after folding"])
def test_a_writer_that_was_killed_loses_no_row_and_doubles_none(when: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with ParquetLog(path) as log:
        for number in range(10):
            log.write(row(number), "")
    assert ids(path) == list(range(10))
    killed = ParquetLog(path)
    for number in range(10, 20):
        killed.write(row(number), "x" * 600)
    killed.file.close()
    assert ids(path) == list(range(10))  # it can be read at any time
    match when:
        case "half a row":
            killed.spool.write_bytes(killed.spool.read_bytes() + b'{"request_id":20,"pro')
        case "before folding":
            killed.spool.replace(killed.full)
            path.with_name("log.parquet.part").write_bytes(b"half of it")
        case "after folding":
            killed.spool.replace(killed.full)
            shutil.copy(killed.full, tmp_path / "kept")
            fold(killed.full, path)
            shutil.copy(tmp_path / "kept", killed.full)
    with ParquetLog(path) as log:
        assert log.next_id == 20
        log.write(row(log.next_id), "")
    assert ids(path) == list(range(21))
    assert not log.spool.exists() and not log.full.exists()


def test_texts_may_be_left_out_later_on(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    for number, texts in enumerate((False, True, False)):
        with ParquetLog(path, texts=texts, prefixes=texts) as log:
            log.write(
                {**row(number), **({"deadline_s": 2.5, "ttft_slo_ms": 300.0} if texts else {})}, "words"
            )
    assert [each["prompt"] for each in rows(path)] == [None, "words", None]
    assert [each["deadline_s"] for each in rows(path)] == [None, 2.5, None]
    assert [each["ttft_slo_ms"] for each in rows(path)] == [None, 300.0, None]


@pytest.mark.parametrize("content", [b"", b"precious", b'{"request_id": 1}\n'])
def test_a_file_that_is_no_log_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"log\.parquet: is no log in Parquet; another file is needed"):
        ParquetLog(path)
    assert path.read_bytes() == content


def test_what_cannot_be_folded_in_stays_and_is_folded_in_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.parquet"
    monkeypatch.setattr(parquet_log, "ROWS", (5, 5))

    def full(spool: Path, into: Path) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(parquet_log, "fold", full)
        with ParquetLog(path) as log:
            for number in range(12):
                log.write(row(number), "")
    assert not path.exists() and log.full.exists() and log.spool.exists()
    assert "cannot be written as Parquet yet: OSError" in capfd.readouterr().err
    with ParquetLog(path) as log:
        assert log.next_id == 12
    assert ids(path) == list(range(12))


def test_two_layers_do_not_write_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_log, "ROWS", (5, 5))
    path = tmp_path / "log.parquet"
    with ParquetLog(path) as log:
        for number in range(12):
            log.write(row(number), "")
            with pytest.raises(InputError, match="another process is writing it"):
                ParquetLog(path)
    assert ids(path) == list(range(12))


def test_a_spool_that_cannot_be_begun_keeps_nobody_from_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parquet_log, "ROWS", (5, 5))
    path = tmp_path / "log.parquet"

    def too_many(*args: Any) -> Any:
        raise OSError(24, "Too many open files")

    with ParquetLog(path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(parquet_log, "opened", too_many)
            for number in range(12):
                log.write(row(number), "")
        assert not path.exists() and capfd.readouterr().err.count("OSError") == 2
        for number in range(12, 20):
            log.write(row(number), "")
    assert ids(path) == list(range(20))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["2026-11-29", "2026-11-29 09:00:00", "12", "true", "null"])
def test_a_prompt_stays_the_text_that_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    for number, prompt in enumerate((text, "words", text)):
        with ParquetLog(path, texts=True) as log:
            log.write(row(number), prompt)
    assert [each["prompt"] for each in rows(path)] == [text, "words", text]


def test_what_was_half_folded_is_removed_and_not_tried_again_at_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parquet_log, "ROWS", (5, 5))
    path, tried = tmp_path / "log.parquet", []

    def full(self: Any, table: Any, *args: Any) -> None:
        tried.append(table.num_rows)
        raise OSError(28, "No space left on device")

    with ParquetLog(path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", full)
            for number in range(19):
                log.write(row(number), "")
                if log.folding is not None:
                    log.folding.result()
        assert tried == [5, 5, 5] and "No space" not in capfd.readouterr().err
        assert not list(tmp_path.glob("*.part"))
    assert ids(path) == list(range(19))
