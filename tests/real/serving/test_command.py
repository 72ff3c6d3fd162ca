"""`seqsched serve` as a user meets it: refusals in one line, signals, a log that is a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from tests.real.observing.server import Behaviour, serving
from tests.sim.command import run

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--upstream", "localhost:8000"], "upstream: 'localhost:8000' is not the address of a server"),
        (["--upstream", "http://me:secret@h"], "upstream: an address has neither a password"),
        (["--upstream", "me:secret@h:8000"], "upstream: what stands there is not the address of a server"),
        (["--upstream", "http://[::1"], "upstream: 'http://[::1' is not the address of a server"),
        (["--upstream", "http://h:99999"], "upstream: 'http://h:99999' is not the address of a server"),
        (["--upstream", URL, "--max-wait-s", "inf"], "max_wait_s: inf is not above 0, and finite"),
        (["--upstream", URL, "--drain-s", "inf"], "drain_s: inf is below 0, or not finite"),
        (["--upstream", f"{URL},{URL}/v1"], f"upstream: {URL} stands 2 times"),
        (["--upstream", URL, "--slots", "0"], "slots: 0 is below 1"),
        (["--upstream", URL, "--slots", "auto"], f"slots: auto, but {URL} does not say how many"),
        (["--upstream", URL, "--fcr", "on", "--act", "tell"], "fcr: needs --act hold"),
        (["--upstream", URL, "--max-wait-s", "0"], "max_wait_s: 0 is not above 0"),
        (["--upstream", URL, "--port", "70000"], "port: 70000 is above 65535"),
        (["--upstream", URL, "--host", "0.0.0.0"], "host: 0.0.0.0 can be reached from elsewhere; --keys"),
        (["--upstream", URL, "--priority", "chat"], "priority: 'chat' is not MODEL=LEVEL"),
        (["--upstream", URL, "--policy", "continuous:order=x"], "policy continuous: order"),
        (["--upstream", URL, "--predictor", "oracle"], "predictor 'oracle' is not one of online, median"),
        (["--upstream", URL, "--log", "no/such/folder"], "no/such/folder: cannot be written"),
        (["--upstream", URL, "--keys", "keys.txt"], "keys.txt, line 2: 1 words; NAME KEY"),
        (["--upstream", URL, "--keys", "none.txt"], "none.txt: cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("alice sk-alice 1\nsk-secret\n")
    assert run("serve", *arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("seqsched: ") and line in err and err.count("\n") == 1
    assert "secret" not in err


def test_a_key_of_the_upstream_that_no_header_can_hold_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEQSCHED_UPSTREAM_KEY", "sk-secret\nX: y")
    assert run("serve", "--upstream", URL) == 2
    error = capsys.readouterr().err
    assert "SEQSCHED_UPSTREAM_KEY: has characters that no header can hold" in error
    assert error.count("\n") == 1 and "secret" not in error


def test_the_help_names_each_variable_once_and_no_flag_that_means_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("serve", "--help") == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"SEQSCHED_UPSTREAM\b", said)) == 1 and "--empty" not in said
    monkeypatch.setenv("SEQSCHED_UPSTREAM", "nowhere")
    assert run("serve") == 2 and "upstream: 'nowhere' is not the address" in capsys.readouterr().err


@pytest.mark.slow
def test_told_to_end_it_answers_what_is_open_and_its_log_is_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, answers = tmp_path / "log.jsonl", list[str]()
    with serving(Behaviour(first_s=0.6)) as url:
        command = [sys.executable, "-m", "seqsched", "serve", "--upstream", url, "--port", "0"]
        command += ["--log", str(log), "--decisions", str(tmp_path / "decisions.jsonl"), "--slots", "1"]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["sim/facade", "."])},
        )
        try:
            assert process.stderr is not None
            address = process.stderr.readline().split()[1]

            def ask(words: int) -> None:
                body = {"model": "tiny", "prompt": "a " * words, "max_tokens": words}
                asked = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode())
                answers.append(json.load(urllib.request.urlopen(asked, timeout=30))["choices"][0]["text"])

            threads = [Thread(target=ask, args=(words,)) for words in (3, 4)]
            for thread in threads:
                thread.start()
            while b"waiting 1.0" not in urllib.request.urlopen(f"{address}/metrics").read():
                pass
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(30)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert sorted(answers) == [" a" * 3, " a" * 4]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["output_tokens"], row["status"], row["error"]) for row in rows] == [
        (len(text) // 2, "completed", "") for text in answers
    ]
    assert run("trace", "inspect", str(log)) == 0
    capsys.readouterr()
    assert run("simulate", "--trace", str(log), "--policy", "continuous", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total_output_tokens"] == 7
