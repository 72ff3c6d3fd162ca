"""Flags with units: the same question however it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim import plan
from sim.cli import main
from sim.scenario.requests import goodput_bounds
from sim.studies.tolerance import parse_tolerances
from traces.errors import InputError

REQUESTS = "fixed:prompt_tokens=50,output_tokens=10"
SIMULATE = f"simulate --trace {REQUESTS} --num-prompts 20 --policy continuous --json"


def summary(flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main([*SIMULATE.split(), *flags.split()])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("with_unit", "plain"),
    [
        ("--request-rate 60/min", "--request-rate 1"),
        ("--request-rate 7200/h --startup-s 500ms", "--request-rate 2/s --startup-s 0.5"),
        ("--goodput ttft:0.004s e2el:1min", "--goodput ttft:4 e2el:60000"),
        ("--mtbf-s 1min --mttr-s 500ms", "--mtbf-s 60 --mttr-s 0.5"),
    ],
)
def test_a_unit_says_the_same_as_the_number(
    with_unit: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summary(with_unit, capsys) == summary(plain, capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--request-rate 2s", '--request-rate: "2s" is not a number, nor one with a unit (/s, /min or /h)'),
        ("--request-rate 2x", "(/s, /min or /h); for 2x the rate of the trace itself give --time-scale 0.5"),
        ("--request-rate xx", '--request-rate: "xx" is not a number, nor one with a unit (/s, /min or /h)'),
        ("--mtbf-s 2m --mttr-s 1", '--mtbf-s: "2m" is not a number, nor one with a unit (ns, us,'),
        (
            "--goodput ttft:2/s",
            "goodput: ttft:2/s is not a number of milliseconds, nor one with a unit (ns, us,",
        ),
        ("--goodput ttft:-2s", "goodput: ttft:-2s must be above 0 ms"),
    ],
)
def test_another_unit_is_refused(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*SIMULATE.split(), *flags.split()])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_plan_understands_units() -> None:
    def answer(slo: str, rate: float | str) -> dict[str, Any]:
        effort: dict[str, Any] = {"num_requests": 60, "max_requests": 120, "max_seeds": 3, "jobs": 1}
        goodput = {"ttft": 2000.0}
        made = plan(
            REQUESTS, slo=slo, request_rate=rate, profiles="h200-vicuna-7b", goodput=goodput, **effort
        )
        return json.loads(made.to_json())["answers"][0]

    plain = answer("e2el_p99:2000 ttft_mean:90000 attainment:0.99", 2)
    assert answer("e2el_p99:2s ttft_mean:1.5min attainment:99%", "120/min") == plain
    with pytest.raises(InputError, match=r"'e2el_p99:2/s' needs a number of milliseconds or with a unit"):
        answer("e2el_p99:2/s", 2)
    with pytest.raises(InputError, match=r"'5/ms' is neither requests per second \(or /s, /min or /h\)"):
        answer("e2el_p99:2s", "5/ms")


def test_bounds_of_goodput_and_tolerance() -> None:
    assert goodput_bounds(["ttft:2s", "tpot:100ms"]) == {"ttft": 2000.0, "tpot": 100.0}
    assert parse_tolerances(["ttft:12%", "7%"]) == parse_tolerances(["ttft:12", "7"])
    with pytest.raises(InputError, match="KIND:PERCENT"):
        parse_tolerances(["ttft:2s"])


def test_a_trace_is_drawn_at_a_rate_with_a_unit(tmp_path: Path) -> None:
    for name, rate in (("a.csv", "60/min"), ("b.csv", "1")):
        main(
            [
                "trace",
                "generate",
                REQUESTS,
                "--num-prompts",
                "5",
                "--request-rate",
                rate,
                "--out",
                str(tmp_path / name),
            ]
        )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv"))


def test_the_rates_of_a_curve_have_units_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(
        f"plot load --policies continuous --rates 60/min 5/s 8 --num-seeds 1 --trace {REQUESTS} "
        "--num-prompts 20 --jobs 1 --save-table rates.csv".split()
    )
    assert list(pd.read_csv("rates.csv").request_rate.unique()) == [1, 5, 8]
