"""The fit of the alpaca-vicuna model: against the real file where at hand, and against its own draws."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces import fit_alpaca
from traces.errors import InputError
from traces.fit_alpaca import SAMPLE_NAMES, fit, goodness_of_fit, main, read_samples
from traces.synthetic import alpaca_vicuna_model, draw_samples
from traces.trace import IntArray

FILE = "alpaca-val-10k-length.json"


@pytest.fixture(scope="module")
def real_file() -> Path:
    folder = os.environ.get("SEQSCHED_DATA")
    if not folder:
        pytest.skip("SEQSCHED_DATA is not set: the real response lengths are not at hand")
    path = Path(folder) / FILE
    if not path.is_file():
        pytest.skip(f"{FILE} is not in the folder that SEQSCHED_DATA names")
    return path


def synthetic_rows(n: int, seed: int = 7) -> IntArray:
    return draw_samples(alpaca_vicuna_model(), n, np.random.default_rng(seed))


def write_rows(path: Path, samples: IntArray) -> None:
    rows = [{f"L_{name}": int(v) for name, v in zip(SAMPLE_NAMES, row, strict=True)} for row in samples]
    path.write_text(json.dumps(rows), encoding="utf-8")


def assert_close_fit(worst: dict[str, float]) -> None:
    """The bounds within which schedulers cannot tell the twin from the measured lengths."""
    assert worst["mean_relative"] < 0.02
    assert worst["percentiles_relative"] < 0.05
    assert worst["share_at_512"] < 0.002
    assert worst["pearson"] < 0.02
    assert worst["log_pearson"] < 0.02
    assert worst["max_mean_relative"] < 0.015
    assert worst["max_percentiles_relative"] < 0.06
    assert worst["max_share_at_512"] < 0.002
    assert worst["max_minus_greedy_mean_relative"] < 0.03
    assert worst["greedy_over_max_mean"] < 0.005
    assert worst["greedy_over_max_percentiles"] < 0.05
    assert worst["share_equal_to_greedy"] < 0.02
    assert worst["share_all_equal"] < 0.015


def test_the_stated_fit_is_close() -> None:
    assert_close_fit(alpaca_vicuna_model()["goodness_of_fit"]["worst"])


def test_the_committed_model_has_the_stated_fit_to_the_real_file(real_file: Path) -> None:
    model = alpaca_vicuna_model()
    stated = model["goodness_of_fit"]
    assert hashlib.sha256(real_file.read_bytes()).hexdigest() == model["provenance"]["sha256"]
    samples = read_samples(real_file)
    assert samples.shape == (model["provenance"]["rows"], 4)
    again = goodness_of_fit(model, samples, seed=stated["seed"])
    assert again["data"] == stated["data"]
    for name, value in stated["worst"].items():
        # One token of a percentile may turn on the last bit of an exponential.
        assert again["worst"][name] == pytest.approx(value, abs=1.0 if name.endswith("tokens") else 1e-3)
    assert_close_fit(goodness_of_fit(model, samples, seed=99)["worst"])


def test_fitting_the_real_file_again_gives_the_committed_model(real_file: Path) -> None:
    model, again = alpaca_vicuna_model(), fit(read_samples(real_file))
    assert again["sample_names"] == model["sample_names"]
    for part in ("spread", "copying"):
        for name, value in model["dependence"][part].items():
            np.testing.assert_allclose(again["dependence"][part][name], value, atol=0.05, err_msg=name)
    for name, value in model["lengths"].items():
        np.testing.assert_allclose(again["lengths"][name], value, atol=0.05, err_msg=name)


def test_a_fit_to_drawn_rows_finds_a_model_like_theirs() -> None:
    samples = synthetic_rows(10_000)
    worst = goodness_of_fit(fit(samples, rows=5000, rounds=6), samples, seed=3, rows=50_000)["worst"]
    assert worst["mean_relative"] < 0.03
    assert worst["pearson"] < 0.04 and worst["log_pearson"] < 0.04
    assert worst["max_mean_relative"] < 0.03


def test_goodness_of_fit_of_the_true_model_is_sampling_error_alone() -> None:
    worst = goodness_of_fit(alpaca_vicuna_model(), synthetic_rows(200_000), seed=3, rows=200_000)["worst"]
    assert worst["mean_relative"] < 0.01
    assert worst["pearson"] < 0.01 and worst["log_pearson"] < 0.005
    assert worst["share_all_equal"] < 0.004


def test_goodness_of_fit_sees_samples_that_were_made_independent() -> None:
    samples = synthetic_rows(20_000)
    samples[:, 3] = np.random.default_rng(0).permutation(samples[:, 3])
    worst = goodness_of_fit(alpaca_vicuna_model(), samples, seed=3, rows=20_000)["worst"]
    assert worst["mean_relative"] < 0.03 < 0.5 < worst["pearson"]


@pytest.mark.parametrize(
    ("samples", "named"),
    [
        (np.ones((2000, 3), dtype=np.int64), r"shape \(2000, 3\)"),
        (np.ones((10, 4), dtype=np.int64), r"shape \(10, 4\)"),
        (np.zeros((2000, 4), dtype=np.int64), "length 0 is below 1"),
        (np.full((2000, 4), 50, dtype=np.int64), "has 0 greedy lengths, below 30"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(samples: IntArray, named: str) -> None:
    with pytest.raises(InputError, match=named):
        fit(samples)


def quick_fit(samples: IntArray) -> dict[str, Any]:
    return fit(samples, rows=2000, rounds=1)


def test_the_command_writes_a_whole_model_with_its_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_alpaca, "fit", quick_fit)
    source, out = tmp_path / "lengths.json", tmp_path / "model.json"
    write_rows(source, synthetic_rows(3000))
    assert main([str(source), "--out", str(out), "--date", "2026-01-02"]) == 0
    model = json.loads(out.read_text(encoding="utf-8"))
    assert model["provenance"]["rows"] == 3000
    assert model["provenance"]["fit_date"] == "2026-01-02"
    assert model["provenance"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == model["goodness_of_fit"]["worst"]
    assert draw_samples(model, 5, np.random.default_rng(0)).shape == (5, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lengths.json", "model.json"]


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"L_t0.0": 1}]', '[{"L_t0.0": "many"}]'])
def test_the_command_refuses_a_bad_file_with_status_2(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "lengths.json"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main([str(source), "--out", str(tmp_path / "model.json")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "lengths.json" in error and error.count("\n") == 1
    assert not (tmp_path / "model.json").exists()


def test_the_command_refuses_a_place_it_cannot_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_alpaca, "fit", quick_fit)
    write_rows(tmp_path / "lengths.json", synthetic_rows(3000))
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "lengths.json"), "--out", str(tmp_path / "no" / "model.json")])
    assert stopped.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
