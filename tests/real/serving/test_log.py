"""The log survives what killed its writer, and harms no file that is another's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.log import TAIL, Log
from real.serving.serve import _decisions
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake
from traces.errors import InputError


def row(number: int) -> dict[str, Any]:
    return {"request_id": number, "prompt_tokens": 5}


@pytest.mark.parametrize("size", [10, TAIL + 10, 5 * TAIL])
@pytest.mark.parametrize("lost", [0, 1, 5])
def test_a_row_of_any_length_that_was_half_written_is_cut_off_whole(
    size: int, lost: int, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    with Log(path, texts=True) as log:
        for number in range(3):
            log.write(row(number), "x" * size)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - lost])
    with Log(path) as log:
        assert log.next_id == (2 if lost else 3)
        log.write(row(log.next_id), "")
    numbers = [json.loads(line)["request_id"] for line in path.read_text().splitlines()]
    assert numbers == list(range(3 if lost else 4))


@pytest.mark.parametrize("text", ["a,b\n1,2", "a,b\n1,2\n", "a line", '{"x": 1}\n', "[1]\n{"])
def test_a_file_that_is_no_log_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "precious.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="its last line is no row of a log"):
        Log(path)
    assert path.read_text() == text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_keeps_nobody_from_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(up: Up, fake: Fake) -> None:
        assert [(await up.ask())[0] for _ in range(3)] == [200] * 3
        assert b"seqsched_log_rows_lost_total 3.0" in up.layer.expose()

    with Log(Path("/dev/full")) as log:
        with_fakes(test, log=log)
    error = capfd.readouterr().err
    assert error.count("the log cannot be written") == 1 and "Traceback" not in error


def test_a_disk_that_is_full_again_is_told_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def test(up: Up, fake: Fake) -> None:
        for is_full in (True, True, False, True):
            with monkeypatch.context() as patch:
                if is_full:
                    patch.setattr(Log, "_append", full)
                assert (await up.ask())[0] == 200
                await up.idle()

    with Log(path) as log:
        with_fakes(test, log=log)
    assert capfd.readouterr().err.count("the log cannot be written (No space left on device)") == 2
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == [2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_decisions_that_cannot_be_written_change_none(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(up: Up, fake: Fake) -> None:
        assert {(await up.ask())[0] for _ in range(150)} == {200}
        assert not [driver for driver in up.layer.executor.drivers.values() if driver.is_broken]

    with _decisions(Path("/dev/full")) as note:
        with_fakes(test, on_decision=note)
    error = capfd.readouterr().err
    assert error.count("the decisions cannot be written") == 1 and "scheduler failed" not in error


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_row_that_a_full_disk_cuts_off_is_left_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = """
import resource, sys
from pathlib import Path
from real.serving.log import Log
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with Log(Path(sys.argv[1]), texts=True) as log:
    for number, limit in enumerate((hard, 30_000, hard, 30_000)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            log.write({"request_id": number, "prompt_tokens": 5}, "x" * 20_000)
        except OSError:
            print(number)
"""
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "3"]
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == [0, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
def test_two_layers_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Log(path) as log:
        log.write(row(0), "")
        with pytest.raises(InputError, match=r"log\.jsonl: another process is writing it"):
            Log(path)
        log.write(row(1), "")
    with Log(path) as log:
        assert log.next_id == 2
