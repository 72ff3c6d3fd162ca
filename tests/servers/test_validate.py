"""Rates, rows and bounds of `make validate-servers`, on a server whose behaviour is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from tests.real.observing.server import Behaviour, serving
from tests.servers import validate
from tests.servers.started import Server, free_port, running

STEADY = Server("steady", [], {}, "continuous:max_num_seqs=64")


def row(ttft: list[float], predicted: float) -> validate.Row:
    """A rate left out whose TPOT and E2EL are predicted as measured."""
    even = {"tpot": [5.0, 5.0], "e2el": [50.0, 50.0]}
    measured, said = {"ttft": ttft, **even}, {"ttft": [predicted, predicted], **even}
    return validate.Row("steady", validate.LEFT_OUT, 2.0, 60, measured, said)


def test_errors_are_of_means_and_noise_is_the_distance_from_them() -> None:
    one = row([90.0, 110.0], 120.0)
    assert one.error("ttft") == pytest.approx(0.2) and one.noise("ttft") == pytest.approx(0.1)
    (line,) = validate._missed(one)
    assert "TTFT +20.0%, at most 15%" in line and "10.0%" in line
    assert list(validate._missed(row([90.0, 110.0], 114.0))) == []
    assert len(list(validate._missed(row([np.nan, 110.0], 114.0)))) == 1


@pytest.mark.slow
def test_a_steady_server_is_predicted_at_the_rate_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "running", lambda *_: serving(Behaviour()))
    with serving(Behaviour(first_s=0.05, gap_s=0.02)) as url:
        rows = validate._of_server(STEADY, url, 0.5, tmp_path)
    assert [each.is_left_out for each in rows] == [False, False, True, False]
    assert len(list(tmp_path.glob("steady-*.csv"))) == 8 and (tmp_path / "steady.json").exists()
    left_out = rows[2]
    assert np.mean(left_out.measured["tpot"]) >= 20 * 0.9
    assert abs(left_out.error("tpot")) < 0.3
    assert any("left out" in line for line in validate._table(rows))


def test_a_server_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('no model here')"], {}, "continuous")
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(RuntimeError, match="broken does not start: no model here"),
        running(server, url, tmp_path / "log.txt"),
    ):
        pass
