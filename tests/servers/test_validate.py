"""Rates, rows and bounds of `make validate-servers`, on a server whose behaviour is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from tests.real.observing.server import Behaviour, serving
from tests.servers import validate
from tests.servers.started import Server, free_port, running
from tests.servers.verdicts import RULE, status_of

STEADY = Server("steady", [], {}, "continuous:max_num_seqs=64")


def row(ttft: list[float], predicted: float, share: float = validate.LEFT_OUT) -> validate.Row:
    """A rate whose TPOT and E2EL are predicted as measured."""
    even = {"tpot": [5.0] * 3, "e2el": [50.0] * 3}
    measured, said = {"ttft": ttft, **even}, {"ttft": [predicted] * 3, **even}
    return validate.Row("steady", share, 2.0, 60, measured, said)


def ttft(left_out: validate.Row, *others: validate.Row) -> str:
    """How mean TTFT is judged, beside a TPOT that is met."""
    tpot, ttft = validate.verdicts(left_out, [left_out, *others])
    assert tpot.figure == "mean TPOT" and tpot.outcome == "met"
    return ttft.outcome


def test_errors_are_of_medians_and_noise_is_the_distance_from_them() -> None:
    one = row([90.0, 100.0, 130.0], 120.0)
    assert one.error("ttft") == pytest.approx(0.2) and one.noise("ttft") == pytest.approx(0.3)


def test_an_error_is_judged_by_its_bound_and_the_spread_of_the_runs() -> None:
    steady, uneven = [99.0, 100.0, 101.0], [80.0, 100.0, 125.0]
    quiet = row(steady, 100.0, 0.25), row(steady, 100.0, 0.45)
    assert ttft(row(steady, 114.0), *quiet) == "met"
    assert ttft(row(steady, 120.0), *quiet) == "missed"
    # Runs of the rate itself differ by more than the bound, or those of most rates; one that went astray
    # excuses nothing.
    assert ttft(row(uneven, 120.0), *quiet) == ttft(row(uneven, 101.0), *quiet) == "too noisy to tell"
    busy = row(uneven, 100.0, 0.25), row(uneven, 100.0, 0.45)
    assert ttft(row(steady, 120.0), *busy) == "too noisy to tell"
    assert ttft(row(steady, 120.0), busy[0], quiet[1]) == "missed"
    assert ttft(row(uneven, 130.0), *quiet) == "missed"
    assert ttft(row([np.nan] * 3, 114.0), *quiet) == "missed"


def test_the_typical_run_is_the_one_of_median_latency(tmp_path: Path) -> None:
    logs = []
    for e2el_ms in (90.0, 300.0, 95.0):
        logs.append(tmp_path / f"{e2el_ms}.csv")
        rows = "".join(f"{k},{k / 10},5,3,{e2el_ms / 2},{e2el_ms / 4},{e2el_ms}\n" for k in range(3))
        logs[-1].write_text(
            f"request_id,arrival_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms,e2el_ms\n{rows}"
        )
    assert validate.typical(logs) == logs[2]


@pytest.mark.slow
def test_a_steady_server_is_predicted_at_the_rate_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "running", lambda *_: serving(Behaviour()))
    with serving(Behaviour(first_s=0.05, gap_s=0.02)) as url:
        rows = validate._of_server(STEADY, url, 0.5, tmp_path)
    assert [each.is_left_out for each in rows] == [False, False, True, False]
    assert (
        len(list(tmp_path.glob("steady-*.csv"))) == 4 * validate.ROUNDS
        and (tmp_path / "steady.json").exists()
    )
    left_out = rows[2]
    assert np.mean(left_out.measured["tpot"]) >= 20 * 0.9
    assert abs(left_out.error("tpot")) < 0.3
    assert any("left out" in line for line in validate._table(rows))


@pytest.mark.slow
def test_a_simulation_of_another_server_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers all at once, the simulation one after the other."""
    monkeypatch.setattr(validate, "running", lambda *_: serving(Behaviour()))
    with serving(Behaviour(first_s=0.05, gap_s=0.02)) as url:
        one_by_one = STEADY._replace(policy="continuous:max_num_seqs=1")
        rows = validate._of_server(one_by_one, url, 0.5, tmp_path)
    assert "missed" in [each.outcome for each in validate.verdicts(rows[2], rows)]


def test_a_server_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('no model here')"], {}, "continuous")
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(RuntimeError, match="broken does not start: no model here"),
        running(server, url, tmp_path / "log.txt"),
    ):
        pass


SERVER = """
import sys
sys.path.insert(0, {root!r})
from aiohttp import web
from tests.real.observing.server import Behaviour, app_of
web.run_app(app_of(Behaviour(first_s=0.05, gap_s=0.01)), host="127.0.0.1", port=int(sys.argv[2]))
"""


def started(folder: Path, seconds: float) -> list[str]:
    """The command that watches a server of known behaviour in place of llama.cpp, and no vLLM. Its process id
    is in the file `pid`.
    """
    root = Path(__file__).parents[2]
    (folder / "server.py").write_text(SERVER.format(root=str(root)))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho $$ > {folder}/pid\nexec {sys.executable} {folder}/server.py "$@"\n')
    python.chmod(0o755)
    flags = ["--servers-python", str(python), "--vllm-python", "none", "--seconds", str(seconds)]
    return [sys.executable, "-m", "tests.servers.validate", "--out", str(folder / "out"), *flags]


@pytest.mark.slow
def test_a_whole_run_ends_with_verdicts_and_their_exit_status(tmp_path: Path) -> None:
    run = subprocess.run(
        started(tmp_path, 0.5), cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    figures = json.loads(run.stdout.splitlines()[-1])
    outcomes = [each["outcome"] for each in figures["verdicts"]["llama.cpp"]]
    assert run.returncode == status_of(outcomes), run.stderr
    assert [row["is_left_out"] for row in figures["rows"]] == [False, False, True, False]
    assert RULE in run.stderr and "the median of" in run.stderr and not figures["failed"]
    assert all(f": {outcome}\n" in run.stderr for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_its_server_and_keeps_its_logs(number: int, tmp_path: Path) -> None:
    # As a shell starts what is to run in the background.
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *started(tmp_path, 3)]
    process = subprocess.Popen(ignoring, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (logs := list(tmp_path.glob("out/llama.cpp-*.csv"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("interrupted: ") and logs and logs[0].exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
