"""Numbers about a trace, against numbers worked out by hand or known from theory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from traces import InputError, Trace
from traces.inspection import arrival_rate, burstiness_over_scales, describe, facts


def arriving(times: np.ndarray) -> Trace:
    ones = np.ones(len(times), dtype=np.int64)
    return Trace("t", np.arange(len(times)), ones, ones, arrival_s=times)


def renewal(shape: float, n: int = 20_000) -> Trace:
    gaps = np.random.default_rng(1).gamma(shape, 1 / shape, n)
    return arriving(np.cumsum(gaps) - gaps[0])


def test_describe_has_a_row_per_column(small: Trace) -> None:
    table = describe(small)
    assert list(table.columns) == ["count", "min", "p10", "p50", "mean", "p90", "p99", "max"]
    assert list(table.index) == [
        "arrival_s",
        "prompt_tokens",
        "output_tokens",
        "predicted_tokens",
        "priority",
        "deadline_s",
        "interarrival_s",
        "L_t0.0",
        "L_t0.7",
    ]
    assert table.loc["prompt_tokens"].tolist() == pytest.approx([4, 10, 13, 25, 25, 37, 39.7, 40])
    assert table.loc["interarrival_s", "count"] == 3


def test_facts_of_a_small_trace(small: Trace) -> None:
    found = facts(small)
    assert small.samples is not None
    correlation = np.corrcoef(*small.samples.T.astype(float))[0, 1]
    assert found["requests"] == 4
    assert (found["prompt_tokens"], found["output_tokens"]) == (100, 624)
    assert found["span_s"] == 4.0
    assert found["mean_rate_per_s"] == pytest.approx(3 / 4)
    assert found["share_at_cap"] == 0.25
    own = replace(small, max_tokens=small.output_tokens + np.array([0, 0, 1, 1]))
    assert facts(own)["share_at_cap"] == 0.5 and describe(own)["max"]["max_tokens"] == 512
    assert found["sample_correlation"] == pytest.approx(correlation)


def test_what_is_undefined_is_none(small: Trace) -> None:
    bare = replace(small, arrival_s=None, samples=None, sample_names=(), max_new_tokens=None)
    undefined = (
        "span_s",
        "mean_rate_per_s",
        "interarrival_cv",
        "burstiness",
        "share_at_cap",
        "sample_correlation",
    )
    assert [facts(bare)[key] for key in undefined] == [None] * 6
    at_once = replace(small, arrival_s=np.zeros(4), samples=np.ones((4, 2), dtype=np.int64))
    assert [facts(at_once)[key] for key in ("mean_rate_per_s", "burstiness", "sample_correlation")] == [
        None
    ] * 3
    assert facts(at_once)["span_s"] == 0
    assert facts(small.select([0]))["interarrival_cv"] is None
    regular = arriving(np.arange(10.0))
    assert facts(regular)["interarrival_cv"] == 0
    assert facts(regular)["burstiness"] is None


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_burstiness_is_the_gamma_shape(shape: float) -> None:
    found = facts(renewal(shape))
    assert found["burstiness"] == pytest.approx(shape, rel=0.06)
    assert found["interarrival_cv"] == pytest.approx(shape**-0.5, rel=0.03)
    assert found["mean_rate_per_s"] == pytest.approx(1, rel=0.05)


def test_arrival_rate_adds_up(small: Trace) -> None:
    edges, rate = arrival_rate(small, bins=4)
    assert edges.tolist() == [0, 1, 2, 3, 4]
    assert rate.tolist() == [3, 0, 0, 1]
    edges, rate = arrival_rate(renewal(1.0, 500), bins=7)
    assert (rate * np.diff(edges)).sum() == pytest.approx(500)


def test_poisson_counts_have_index_one_on_every_scale_up_to_hundreds_of_gaps() -> None:
    windows, index = burstiness_over_scales(renewal(1.0), scales=12)
    assert windows.shape == index.shape == (12,)
    assert index[windows < 200] == pytest.approx(1, abs=0.25)


def test_index_of_dispersion_of_a_renewal_process_tends_to_the_squared_variation_of_its_gaps() -> None:
    windows, index = burstiness_over_scales(renewal(0.25))
    middle = (windows > 30) & (windows < 200)
    assert index[middle].mean() == pytest.approx(4, rel=0.15)
    assert index[0] < 3


def test_a_rate_that_drifts_shows_on_long_scales() -> None:
    rng = np.random.default_rng(3)
    drifting = arriving(np.sort(1000 * np.sqrt(rng.random(20_000))))
    _, index = burstiness_over_scales(drifting)
    assert index[-1] > 10 * index[0]


@pytest.mark.parametrize("function", [arrival_rate, burstiness_over_scales])
def test_no_times_no_rate(small: Trace, function: object) -> None:
    assert callable(function)
    with pytest.raises(InputError, match="small: has no arrival times"):
        function(replace(small, arrival_s=None))
    with pytest.raises(InputError, match="all 4 requests arrive at once"):
        function(replace(small, arrival_s=np.zeros(4)))
    with pytest.raises(InputError, match=": 0 is below 1"):
        function(small, 0)


def test_short_traces_have_a_scale(small: Trace) -> None:
    windows, index = burstiness_over_scales(small)
    assert len(windows) == len(index) >= 1
    assert np.isfinite(index).all()


def test_real_length_file(data: Path) -> None:
    from traces import load

    found = facts(load(data / "alpaca-val-10k-length.json"))
    assert found["requests"] == 10_000
    assert found["share_at_cap"] == pytest.approx(0.0087)
    assert found["sample_correlation"] == pytest.approx(0.7845, abs=1e-3)
