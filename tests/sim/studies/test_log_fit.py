"""A profile from logs alone, beside the profile that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim import simulate
from sim.hardware.host import Host
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost
from sim.studies.log_fit import LogFit, fit_logs
from traces.errors import InputError
from traces.trace import Trace

POLICY = "continuous:max_num_seqs=64"
COLUMNS = ["request_id", "arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2el_ms"]


def truth() -> Profile:
    """8 ms an iteration and more with each sequence, 40 µs a token of prompt, 20 ms before scheduling."""
    decode = PiecewiseLinear((1.0, 8.0, 64.0), (0.008, 0.010, 0.022))
    mixed = PiecewiseLinear((1.0, 4096.0), (0.008, 0.008 + 4095 * 4e-5))
    cost = StepCost(decode, 1e-7, mixed, 1e-7, 0.0)
    provenance = Provenance("measured", "2026-11-29", "made up")
    return Profile("true", None, None, "made up", cost, None, provenance, host=Host(before_ms=20.0))


def requests(seed: int, number: int = 200) -> Trace:
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(20, 1200, number), rng.integers(1, 120, number)
    return Trace("drawn", np.arange(number), prompts, outputs)


def write_log(path: Path, rate: float, seed: int, *, noise: float = 0.0, number: int = 200) -> Path:
    run = simulate(
        requests(seed, number),
        policy=f"{POLICY},async_scheduling=on",
        profile=truth(),
        kv_blocks=50_000,
        request_rate=rate,
        seed=seed,
    )
    log, rng = run.requests, np.random.default_rng(seed)
    log["ttft_ms"] *= rng.normal(1, noise, number)
    log["tpot_ms"] *= rng.normal(1, noise, number)
    log["e2el_ms"] = log.ttft_ms + (log.tpot_ms * (log.output_tokens - 1)).fillna(0)
    log[COLUMNS].to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> LogFit:
    folder = tmp_path_factory.mktemp("logs")
    logs = [write_log(folder / f"{rate}.csv", rate, seed, noise=0.05) for seed, rate in enumerate((1, 4, 9))]
    return fit_logs(logs, name="mine", policy=POLICY)


def test_an_unseen_rate_is_predicted(fitted: LogFit) -> None:
    for rate in (2.5, 6.0):
        runs = [
            simulate(
                requests(7, 400),
                policy=f"{POLICY},async_scheduling=on",
                profile=profile,
                kv_blocks=50_000,
                request_rate=rate,
            )
            for profile in (fitted.profile, truth())
        ]
        for key, bound in (("mean_tpot_ms", 0.03), ("mean_ttft_ms", 0.05), ("mean_e2el_ms", 0.03)):
            assert runs[0].summary[key] == pytest.approx(runs[1].summary[key], rel=bound)


def test_the_quantities_are_those_that_made_the_logs(fitted: LogFit) -> None:
    cost, true = fitted.profile.step_cost, truth().step_cost
    for batch in (1, 4, 16):
        assert cost.decode_s(batch, 300 * batch) == pytest.approx(true.decode_s(batch, 300 * batch), rel=0.08)
    assert cost.mixed_s(0, 0, 1, 1000, 500_000) == pytest.approx(
        true.mixed_s(0, 0, 1, 1000, 500_000), rel=0.15
    )
    assert fitted.profile.host.before_ms == pytest.approx(20.0, abs=4.0)


def test_errors_are_stated_by_log_also_of_fits_that_did_not_see_it(fitted: LogFit) -> None:
    assert [each.name for each in fitted.errors] == ["1.csv", "4.csv", "9.csv"]
    for each in fitted.errors:
        assert each.requests == 200 and each.rate > 0.8
        assert all(abs(error) < 0.03 for error in each.fitted.values())
        assert all(abs(error) < 0.15 for error in each.left_out.values())
        assert each.left_out != each.fitted


def test_the_profile_says_where_it_comes_from_and_how_uncertain_it_is(fitted: LogFit) -> None:
    provenance = fitted.profile.provenance
    assert provenance.kind == "measured" and "no iteration was timed" in provenance.description
    assert set(provenance.residuals) == {"1.csv", "4.csv", "9.csv"}
    for low, high in provenance.uncertainty.values():
        assert -0.2 < low < 0 < high < 0.2
    assert Profile.from_json(fitted.profile.to_json()) == fitted.profile


def test_one_log_is_enough_but_nothing_says_how_well_others_are_predicted(tmp_path: Path) -> None:
    one = fit_logs([write_log(tmp_path / "one.csv", 4.0, 1, number=60)], name="mine", policy=POLICY)
    assert one.errors[0].left_out == {} and any("one log" in note for note in one.notes)
    assert abs(one.errors[0].fitted["tpot_ms"]) < 0.05


def test_prompts_of_one_length_are_named(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.csv", 4.0, 1, number=60)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    rows = [[*line[:2], "100", *line[3:]] for line in lines[1:]]
    path.write_text("\n".join(",".join(line) for line in [lines[0], *rows]) + "\n")
    assert any("prompts are all about as long" in note for note in fit_logs([path], name="m").notes)


def test_too_few_requests_are_refused(tmp_path: Path) -> None:
    path = write_log(tmp_path / "few.csv", 4.0, 1, number=10)
    with pytest.raises(InputError, match=r"few.csv: \d+ completed requests of several tokens, 20 needed"):
        fit_logs([path], name="mine")


def test_requests_that_came_all_at_once_are_fitted_too_and_said_to_have(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", np.inf, 3, number=40)
    profile = fit_logs([log], name="mine", policy=POLICY).profile
    profile.save(tmp_path / "mine.json")
    assert profile.provenance.grid["requests per second"] == ["all at once"]


def test_of_a_fast_and_a_slow_run_of_the_same_requests_the_mean_is_predicted(tmp_path: Path) -> None:
    logs = [write_log(tmp_path / f"{n}.csv", 1.0, 1, number=60) for n in range(2)]
    for path, factor in zip(logs, (0.7, 1.5), strict=True):
        log = pd.read_csv(path)
        log[["ttft_ms", "tpot_ms", "e2el_ms"]] *= factor
        log.to_csv(path, index=False)
    errors = fit_logs(logs, name="mine", policy=POLICY).errors
    for figure in ("ttft_ms", "tpot_ms"):
        measured = sum(each.measured[figure] for each in errors)
        predicted = sum(each.measured[figure] * (1 + each.fitted[figure]) for each in errors)
        assert predicted == pytest.approx(measured, rel=0.07), figure


def test_logs_of_one_file_name_are_told_apart_and_none_counts_twice(tmp_path: Path) -> None:
    logs = []
    for seed, folder in enumerate(("slow", "fast")):
        (tmp_path / folder).mkdir()
        logs.append(write_log(tmp_path / folder / "log.csv", 2.0 + seed, seed, number=40))
    with pytest.raises(InputError, match=r"slow.log\.csv is given twice"):
        fit_logs([*logs, logs[0]], name="mine", policy=POLICY)
    residuals = fit_logs(logs, name="mine", policy=POLICY).profile.provenance.residuals
    assert list(residuals) == [str(path) for path in logs]


@pytest.mark.parametrize("column", ["ttft_ms", "tpot_ms"])
def test_a_latency_of_0_throughout_is_refused(column: str, tmp_path: Path) -> None:
    log = pd.read_csv(write_log(tmp_path / "log.csv", 2.0, 1, number=40))
    log[column] = 0.0
    log["e2el_ms"] = log.ttft_ms + (log.tpot_ms * (log.output_tokens - 1)).fillna(0)
    log.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(InputError, match=f"{column}: is 0 in every row"):
        fit_logs([tmp_path / "log.csv"], name="mine", policy=POLICY)


def test_a_memory_too_small_for_what_was_served_is_refused(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.csv", 4.0, 1, number=60)
    with pytest.raises(InputError, match="requests cannot be served under"):
        fit_logs([path], name="mine", policy=POLICY, kv_blocks=30)
    with pytest.raises(InputError, match="requests cannot be served under"):
        fit_logs([path], name="mine", policy=POLICY, kv_blocks=30 * 16, block_size=1)
    with pytest.raises(InputError, match="block_size: 0 is not between 1 and"):
        fit_logs([path], name="mine", policy=POLICY, block_size=0)
