"""`seqsched observe` as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from tests.real.observing.server import Behaviour, serving
from tests.sim.command import run

TRACE = "request_id,arrival_s,prompt_tokens,output_tokens\n0,0.0,10,5\n1,0.01,12,7\n2,0.02,9,3\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    return tmp_path / "trace.csv"


def test_figures_go_to_the_screen_rows_to_a_file_and_detail_to_another(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, result = trace.with_name("log.csv"), trace.with_name("bench.json")
    with serving(Behaviour()) as url:
        assert run("observe", url, "--trace", trace, "--out", log, "--save-result", result) == 0
    out, err = capsys.readouterr()
    assert "3 of 3 requests" in out and "mean_ttft_ms" in out and "words drawn at random" in err
    assert len(log.read_text().splitlines()) == 4
    assert json.loads(result.read_text())["output_lens"] == [5, 7, 3]


def test_figures_of_sessions_are_shown_where_there_are_any(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Behaviour()) as url:
        assert run("observe", url, "--trace", trace) == 0
        assert "session" not in capsys.readouterr().out
        turns = "request_id,arrival_s,prompt_tokens,output_tokens,session_id,waits_for,think_s"
        trace.write_text(f"{turns}\n0,0,10,5,a,,0\n1,0,12,2,a,0,0.01\n2,0,9,3,b,,0\n", encoding="utf-8")
        assert run("observe", url, "--trace", trace) == 0
    out = capsys.readouterr().out
    assert "mean_session_ms" in out and "sessions_completed" in out


def test_json_stands_alone_on_stdout(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour()) as url:
        assert run("observe", url, "--trace", trace, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["completed"] == 3 and figures["total_output_tokens"] == 15


def test_failures_are_said_and_where_nothing_completed_the_status_is_1(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dies_after, status in ((4, 0), (2, 1)):
        with serving(Behaviour(dies_after=dies_after)) as url:
            assert run("observe", url, "--trace", trace) == status
        out, err = capsys.readouterr()
        assert "Latencies leave out" in out and "Traceback" not in err
        assert ("no request completed" in err) == (status == 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_what_cannot_be_written_at_the_end_of_a_run_is_written_elsewhere(
    trace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = tmp_path / "bench.json"
    with serving(Behaviour()) as url:
        assert run("observe", url, "--trace", trace, "--out", "/dev/full", "--save-result", result) == 2
    out, err = capsys.readouterr()
    assert "3 of 3 requests" in out and json.loads(result.read_text())["completed"] == 3
    assert "/dev/full: cannot be written" in err
    elsewhere = Path(err.split("it is in ")[1].strip())
    assert len(elsewhere.read_text().splitlines()) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_named_before_anything_is_sent(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch(0o400)
    does = Behaviour()
    with serving(does) as url:
        assert run("observe", url, "--trace", trace, "--out", tmp_path / "log.csv") == 2
    assert not does.seen


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("localhost:8000",), "url: 'localhost:8000' is not the address of a server"),
        (("http://127.0.0.1:9", "--endpoint", "chats"), "endpoint: 'chats' is not one of"),
        (("http://127.0.0.1:9",), "http://127.0.0.1:9: no answer"),
        (("http://127.0.0.1:9", "--out", "nowhere/log.csv"), "there is no folder nowhere"),
        (("http://127.0.0.1:9", "--trace", "none.csv"), "none.csv"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("observe", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and why in err
