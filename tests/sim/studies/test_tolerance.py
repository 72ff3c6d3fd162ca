"""Latencies are judged at any load, throughput only where the server was saturated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim import simulate
from sim.cli import main
from sim.studies.tolerance import DEFAULTS, parse_tolerances
from traces.errors import InputError

COLUMNS = ["request_id", "arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2el_ms"]
POLICY = "continuous:max_num_seqs=16,async_scheduling=on"


def log_at(rate: float, path: Path) -> list[str]:
    """A log of a simulated server, as the command to validate against it."""
    how = {"policy": POLICY, "profile": "h200-vicuna-7b", "num_prompts": 200, "request_rate": rate}
    simulate("alpaca-vicuna", **how).requests[COLUMNS].fillna(0.0).to_csv(path, index=False)  # type: ignore[arg-type]
    return ["validate", "--against", str(path), "--policy", POLICY, "--profile", "h200-vicuna-7b"]


def exit_status(command: list[str]) -> int:
    try:
        main(command)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("tolerance", [["5"], ["ttft:15", "tpot:6", "e2el:8"], ["throughput:5"]])
def test_below_saturation_the_machine_shows_in_the_latencies(
    tolerance: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*log_at(2.0, tmp_path / "log.csv"), "--tolerance", *tolerance]
    for scale, status in ((0.5, 1), (1, 0), (2, 1)):
        assert exit_status([*command, "--set", f"scale={scale}"]) == status
        out, err = capsys.readouterr()
        assert "the server kept up" in err and "seqsched: output_throughput errs" not in err
        assert all(f"{s}_{kind}_ms errs by" in err for s in ("mean", "p99") for kind in ("tpot",)) == bool(
            status
        )
        assert ("exceeded" in out) == bool(status)


def test_where_the_server_was_saturated_its_throughput_is_judged_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lax = ["ttft:10000", "tpot:10000", "e2el:10000"]
    command = [*log_at(400.0, tmp_path / "log.csv"), "--json", "--tolerance", *lax]
    assert exit_status(command) == 0
    assert json.loads(capsys.readouterr().out)["is_saturated"]
    assert exit_status([*command, "--set", "scale=1.3"]) == 1
    out, err = capsys.readouterr()
    assert err.count("errs by") == 1 and "output_throughput errs by -" in err and "more than 5 %" in err
    assert json.loads(out)["tolerance"]["output_throughput"] == {"percent": 5.0, "holds": False}
    assert exit_status([*command, "throughput:40", "--set", "scale=1.3"]) == 0


def test_a_number_alone_stands_for_all_that_are_not_named() -> None:
    assert parse_tolerances(["ttft:20"]) == {**DEFAULTS, "ttft": 20.0}
    assert parse_tolerances(["3", "ttft:20"]) == {"ttft": 20.0, "tpot": 3.0, "e2el": 3.0, "throughput": 3.0}
    assert parse_tolerances([]) == DEFAULTS


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["itl:5"], "'itl:5' is not KIND:PERCENT with KIND one of ttft, tpot, e2el, throughput"),
        ([":5"], "':5' is not KIND:PERCENT"),
        (["ttft:much"], "'ttft:much' is not KIND:PERCENT"),
        (["ttft:0"], "ttft:0 must be above 0"),
        (["nan"], "nan must be above 0"),
        (["ttft:5", "ttft:6"], "ttft is given twice (5 and 6 percent)"),
        (["5", "6"], "a number for all is given twice (5 and 6 percent)"),
    ],
)
def test_what_is_no_tolerance_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_tolerances(texts)
    assert says in str(refused.value)
