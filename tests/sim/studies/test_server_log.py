"""A log of a simulated server is predicted without error; a bad log is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim import simulate
from sim.cli import main
from sim.studies.server_log import against, read_log
from traces import InputError

SETTINGS = {"profile": "h200-vicuna-7b", "seed": 1}
COLUMNS = ["request_id", "arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2el_ms"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What a server would log that is exactly as simulated."""
    policy = "continuous:async_scheduling=on"
    result = simulate("alpaca-vicuna", policy=policy, num_prompts=80, request_rate=20, **SETTINGS)
    path = tmp_path / "log.csv"
    result.requests[COLUMNS].fillna(0.0).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_a_server_that_is_as_simulated_is_predicted_exactly(log: Path) -> None:
    found = against(log, policy="continuous", profile="h200-vicuna-7b")
    assert len(found.measured) == 14
    assert all(abs(error) < 1e-9 for error in found.errors.values())
    assert found.result.summary["policy"] == "continuous:async_scheduling=on"


def test_a_server_may_decide_when_an_iteration_is_over(log: Path) -> None:
    found = against(log, policy="continuous:async_scheduling=off,max_num_seqs=64", **SETTINGS)
    assert found.errors["mean_ttft_ms"] < -0.05
    assert found.result.summary["policy"] == "continuous:async_scheduling=off,max_num_seqs=64"


def test_a_slower_server_shows_as_a_negative_error_of_its_latencies(log: Path) -> None:
    logged = read_log(log)
    trace, latency = logged.trace, logged.latency
    assert len(trace) == 80 and (trace.arrival_s[1:] >= trace.arrival_s[:-1]).all()
    lines = log.read_text().splitlines()
    slow = [
        ",".join([*row[:4], *(str(2 * float(v)) for v in row[4:])])
        for row in (x.split(",") for x in lines[1:])
    ]
    log.write_text("\n".join([lines[0], *slow]) + "\n")
    found = against(log, policy="continuous", profile="h200-vicuna-7b")
    assert found.errors["mean_ttft_ms"] == pytest.approx(-0.5)
    assert found.errors["p99_e2el_ms"] == pytest.approx(-0.5)
    assert found.errors["output_throughput"] > 0
    assert found.measured["mean_ttft_ms"] == pytest.approx(2 * latency["ttft_ms"].mean())


def test_the_command_prints_the_comparison_and_judges_it(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["validate", "--against", str(log), "--profile", "h200-vicuna-7b"]
    main([*base, "--tolerance", "1", "--save-result", str(log.with_suffix(".json"))])
    assert "output_throughput" in capsys.readouterr().out
    assert set(json.loads(log.with_suffix(".json").read_text())) == {
        "measured",
        "predicted",
        "error_fraction",
        "summary",
        "notes",
        "tolerance",
        "is_saturated",
    }
    with pytest.raises(SystemExit) as caught:
        main([*base, "--policy", "continuous:max_num_seqs=1", "--tolerance", "1", "--json"])
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error_fraction"]["output_throughput"] < -0.01
    assert "errs by" in err


@pytest.mark.parametrize("column", ["ttft_ms", "e2el_ms", "arrival_s"])
def test_a_log_without_a_column_is_refused(column: str, log: Path) -> None:
    lines = log.read_text().splitlines()
    place = lines[0].split(",").index(column)
    kept = [",".join(v for k, v in enumerate(line.split(",")) if k != place) for line in lines]
    log.write_text("\n".join(kept) + "\n")
    with pytest.raises(InputError, match=column):
        against(log, **SETTINGS)


def test_a_negative_latency_is_named_with_its_row(log: Path) -> None:
    lines = log.read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:4], "-5", "1", "1"])
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"log\.csv, row 3, ttft_ms: -5 is below 0"):
        against(log, **SETTINGS)


def test_the_time_between_tokens_of_a_single_one_is_not_looked_at(log: Path) -> None:
    """Whatever stands there; that of all others is."""
    lines = log.read_text().splitlines()
    place = lines[0].split(",").index("tpot_ms")
    rows = [line.split(",") for line in lines[1:]]
    rows[0][3] = rows[1][3] = "1"
    for value in ("", "nan", "-", "-1"):
        rows[0][place] = value
        log.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
        trace, latency = read_log(log).trace, read_log(log).latency
        assert (trace.output_tokens == 1).sum() >= 2 and (latency["tpot_ms"] >= 0).all()
        assert "mean_tpot_ms" in against(log, **SETTINGS).measured
    rows[2][3], rows[2][place] = "7", ""
    log.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
    with pytest.raises(InputError, match=r"row 3, tpot_ms: empty"):
        read_log(log)


def test_a_log_without_any_time_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(",".join(COLUMNS) + "\n0,0,5,3,0,0,0\n1,0,5,3,0,0,0\n")
    with pytest.raises(InputError, match=r"log\.csv, e2el_ms: is 0 in every row"):
        against(log, **SETTINGS)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("num_prompts", 3, "a part of them"),
        ("sample_seed", 0, "a part of them"),
        ("request_rate", 3, "arrived when it says"),
        ("burstiness", 2.0, "arrived when it says"),
        ("time_scale", 0.5, "arrived when it says"),
        ("prompt_scale", 2.0, "at its own lengths"),
        ("output_scale", 2.0, "at its own lengths"),
    ],
)
def test_the_workload_is_the_logs(setting: str, value: Any, reason: str, log: Path) -> None:
    with pytest.raises(InputError, match=f"{setting}: {value} would change the workload.*{reason}"):
        against(log, **SETTINGS, **{setting: value})


def test_a_cap_below_the_outputs_of_the_log_is_refused(log: Path) -> None:
    with pytest.raises(InputError, match="max_new_tokens: 1 is below"):
        against(log, max_new_tokens=1, **SETTINGS)


def test_an_answer_of_the_log_beyond_its_own_cap_is_refused(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = log.read_text().splitlines()
    place = lines[0].split(",").index("output_tokens")
    caps = [int(line.split(",")[place]) for line in lines[1:]]
    log.write_text("\n".join([f"{lines[0]},max_tokens", *map("{},{}".format, lines[1:], caps)]) + "\n")
    assert against(log, profile="h200-vicuna-7b").result.summary["share_at_cap"] == 1
    main(["validate", "--against", str(log), "--profile", "h200-vicuna-7b", "--json"])
    assert "Every request's cap is the answer's length" in capsys.readouterr().err
    row = caps.index(max(caps))
    caps[row] -= 1
    log.write_text("\n".join([f"{lines[0]},max_tokens", *map("{},{}".format, lines[1:], caps)]) + "\n")
    with pytest.raises(InputError, match=f"above {max(caps[row], 1)}, its max_tokens, which would cut it"):
        against(log, profile="h200-vicuna-7b")
    assert "share_at_cap" not in against(log, profile="h200-vicuna-7b", cap="shared").result.summary


def test_every_setting_is_a_flag_of_validate(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unchanged = ["--time-scale", "1", "--prompt-scale", "1", "--output-scale", "1", "--burstiness", "1"]
    main(["validate", "--against", str(log), "--profile", "h200-vicuna-7b", "--json", *unchanged])
    plain = json.loads(capsys.readouterr().out)
    acting = {
        "--max-concurrency": "1",
        "--mtbf-s": "1",
        "--startup-s": "9",
        "--fleet": "h200-vicuna-7b*3",
        "--kv-blocks": "300",
        "--set": "scale=2",
        "--goodput": "ttft:1",
    }
    for flag, value in acting.items():
        others = ["--mttr-s", "2"] if flag in ("--mtbf-s", "--startup-s") else []
        others += ["--mtbf-s", "1"] if flag == "--startup-s" else []
        main(
            ["validate", "--against", str(log), "--json", flag, value, *others, *unchanged]
            + ([] if flag == "--fleet" else ["--profile", "h200-vicuna-7b"])
        )
        assert json.loads(capsys.readouterr().out)["summary"] != plain["summary"], flag


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan"])
def test_a_tolerance_is_above_nothing(tolerance: str, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["validate", "--against", str(log), "--tolerance", tolerance])
    assert caught.value.code == 2 and "tolerance: " in capsys.readouterr().err


def test_requests_that_cannot_be_served_are_no_comparison(log: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"80 of 80 requests \(100 %\) could not be served in the simulation, such as \d+ \(rejected: ",
    ):
        against(log, kv_blocks=2, **SETTINGS)


def changed(log: Path, factors: dict[str, float]) -> None:
    table = pd.read_csv(log)
    for column, factor in factors.items():
        table[column] *= factor
    table.to_csv(log, index=False)


def with_failure(log: Path, row: dict[str, object]) -> None:
    """The log with a column of states and a row that is no completed request."""
    table = pd.read_csv(log).assign(status="ok")
    pd.concat([table, pd.DataFrame([row])]).to_csv(log, index=False)


def test_a_request_that_failed_is_not_measured_but_said(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = against(log, **SETTINGS)
    with_failure(log, {"request_id": 999, "arrival_s": 1.0, "e2el_ms": 600_000, "status": "timeout"})
    after = against(log, **SETTINGS)
    assert (after.measured, after.predicted) == (before.measured, before.predicted)
    assert after.notes[0].startswith(
        "1.2 % of the requests of the log failed: neither measured nor simulated"
    )
    main(["validate", "--against", str(log), "--profile", "h200-vicuna-7b", "--json"])
    err = capsys.readouterr().err
    assert "1 of 81 requests (1.2 %) failed and are left out, the first in row 81: status timeout" in err
    assert "note: " in err


@pytest.mark.parametrize(("held_s", "ms"), [(0.2, "200"), (0.001, None), (0.0, None)])
def test_requests_that_a_client_held_back_are_said(
    held_s: float, ms: str | None, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When they were due is looked at, and changes nothing: the server met them when they were sent."""
    before = against(log, **SETTINGS)
    table = pd.read_csv(log)
    table.assign(due_s=table.arrival_s - held_s).to_csv(log, index=False)
    after = against(log, **SETTINGS)
    assert (after.measured, after.predicted) == (before.measured, before.predicted)
    said = [note for note in after.notes if "after they were due" in note]
    assert len(said) == (ms is not None) and all(f"sent {ms} ms after" in note for note in said)
    main(["validate", "--against", str(log), "--profile", "h200-vicuna-7b", "--json"])
    assert "not used" not in capsys.readouterr().err


def test_another_definition_of_tpot_is_named_and_computed_anew(log: Path) -> None:
    ours = against(log, **SETTINGS)
    table = pd.read_csv(log)
    first, last, tokens = table.ttft_ms, table.e2el_ms, table.output_tokens
    others = {
        "e2el_ms / output_tokens": last / tokens,
        "(e2el_ms - ttft_ms) / output_tokens": (last - first) / tokens,
        "e2el_ms / (output_tokens - 1)": last / (tokens - 1).clip(lower=1),
    }
    for formula, tpot in others.items():
        for decimals in (3, 15):
            table.assign(tpot_ms=tpot.round(decimals)).to_csv(log, index=False)
            theirs = against(log, **SETTINGS)
            assert theirs.notes[0].startswith(f"tpot_ms is {formula}, another definition of TPOT")
            assert theirs.measured == pytest.approx(ours.measured)


def test_an_answer_that_ends_before_it_begins_is_refused(log: Path) -> None:
    changed(log, {"e2el_ms": 1e-3})
    with pytest.raises(InputError, match=r"e2el_ms: [\d.e-]+ is below ttft_ms, [\d.]+; are both"):
        read_log(log)


def test_latencies_that_do_not_fit_together_are_noted(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert against(log, **SETTINGS).notes == ()
    for column, factor, unit in (
        ("ttft_ms", 1e-3, None),
        ("tpot_ms", 1e3, "microseconds"),
        ("tpot_ms", 1e-6, "seconds"),
    ):
        changed(log, {column: factor})
        notes = against(log, **SETTINGS).notes
        if unit is not None:
            assert "is not near e2el_ms in most rows" in notes[0]
            assert notes[0].endswith(f"of what the others make it: in {unit}?")
    main(["validate", "--against", str(log), "--profile", "h200-vicuna-7b", "--json"])
    out, err = capsys.readouterr()
    assert json.loads(out)["notes"] and "note: " in err


def test_latencies_in_seconds_are_refused(log: Path) -> None:
    changed(log, dict.fromkeys(COLUMNS[4:], 0.001))
    with pytest.raises(
        InputError, match=r"e2el_ms: 0\.00\d+ ms a token in the median row is below .*in seconds"
    ):
        against(log, **SETTINGS)


def test_latencies_in_microseconds_are_noted(log: Path) -> None:
    changed(log, dict.fromkeys(COLUMNS[4:], 1000.0))
    assert "times the predicted ones and more: in microseconds?" in against(log, **SETTINGS).notes[-1]


def test_arrivals_that_do_not_lead_to_the_ends_are_refused(log: Path) -> None:
    table = pd.read_csv(log)
    table = table.assign(finish_s=table.arrival_s + table.e2el_ms / 1e3 + 1.7e9)
    table.to_csv(log, index=False)
    assert against(log, **SETTINGS).notes == ()
    changed(log, {"arrival_s": 1e3})
    with pytest.raises(InputError, match=r"arrival_s \+ e2el_ms / 1000 is [\d.e+]+ s off finish_s"):
        against(log, **SETTINGS)


def test_arrivals_at_which_no_memory_would_do_are_refused(log: Path) -> None:
    changed(log, {"arrival_s": 0.0, "prompt_tokens": 500.0})
    table = pd.read_csv(log)
    table.assign(ttft_ms=table.ttft_ms + 1e6, e2el_ms=table.e2el_ms + 1e6).to_csv(log, index=False)
    with pytest.raises(
        InputError, match=r"arrival_s: requests seem to hold [\d,]+ tokens of KV cache at once"
    ):
        against(log, **SETTINGS)


def test_arrivals_at_which_no_gpu_computes_are_refused(log: Path) -> None:
    changed(log, {"arrival_s": 0.0, "prompt_tokens": 60.0})
    table = pd.read_csv(log)
    table.assign(ttft_ms=4.0, e2el_ms=table.tpot_ms * (table.output_tokens - 1) + 4).to_csv(log, index=False)
    with pytest.raises(
        InputError, match=r"arrival_s: prompts seem computed at [\d,]+ tokens/s, where 1 x h200"
    ):
        against(log, **SETTINGS)


def test_the_unit_of_arrivals_may_be_given(log: Path) -> None:
    before = against(log, **SETTINGS).measured
    table = pd.read_csv(log)
    table.assign(arrival=table.arrival_s * 1e6).drop(columns="arrival_s").to_csv(log, index=False)
    assert against(log, time_unit="us", **SETTINGS).measured == pytest.approx(before)


def test_a_result_of_a_load_generator_is_a_log(log: Path) -> None:
    """The same figures as the table it was made of."""
    wanted, table = against(log, **SETTINGS).measured, pd.read_csv(log).sort_values("arrival_s")
    gaps = [[tpot / 1e3] * (n - 1) for tpot, n in zip(table.tpot_ms, table.output_tokens, strict=True)]
    result = {
        "input_lens": table.prompt_tokens.tolist(),
        "output_lens": table.output_tokens.tolist(),
        "ttfts": (table.ttft_ms / 1e3).tolist(),
        "itls": gaps,
        "start_times": (table.arrival_s + 353399.5).tolist(),
        "errors": [""] * len(table),
    }
    log.write_text(json.dumps(result), encoding="utf-8")
    assert against(log, **SETTINGS).measured == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("unit", "per_ms"), [("s", 1e-3), ("us", 1e3), ("ns", 1e6)])
def test_latencies_are_read_in_the_unit_of_their_names(log: Path, unit: str, per_ms: float) -> None:
    wanted = against(log, **SETTINGS).measured
    table = pd.read_csv(log)
    names = {name: name.replace("_ms", f"_{unit}") for name in COLUMNS[4:]}
    changed(log, dict.fromkeys(names, per_ms))
    pd.read_csv(log).rename(columns=names).to_csv(log, index=False)
    found = against(log, **SETTINGS)
    assert found.measured == pytest.approx(wanted)
    assert found.notes[0].startswith(f"ttft_{unit} in ") and found.notes[0].endswith(", by the name")
    table.assign(**{f"ttft_{unit}": 9}).to_csv(log, index=False)  # ttft_ms goes before it
    assert against(log, **SETTINGS).measured == wanted


def test_a_result_without_start_times_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"input_lens": [5], "output_lens": [2], "ttfts": [0.1], "itls": [[0.1]]}))
    with pytest.raises(InputError, match=r"json: start_times are missing, so .* not known; a log has"):
        read_log(path)
