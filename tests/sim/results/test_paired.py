"""Gains over a baseline, seed by seed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sim.results.paired import gains, winners


def table(**latencies: list[float]) -> pd.DataFrame:
    """A latency per seed of each policy, the baseline first."""
    rows = [
        {"case": "c", "load": 0.9, "seed": seed, "policy": policy, "predictor": "none", "mean_ttft_ms": value}
        for policy, values in latencies.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_gain_is_paired_by_seed() -> None:
    """Twice as fast in each seed, however much seeds differ: no doubt is left."""
    made = gains(table(base=[10, 1000, 300], half=[5, 500, 150]), "mean_ttft_ms").set_index("policy")
    assert made.loc["half", ["gain", "low", "high"]].tolist() == pytest.approx([2, 2, 2])
    assert made.loc["base", ["gain", "low", "high"]].tolist() == pytest.approx([1, 1, 1])


def test_its_interval_is_students() -> None:
    made = gains(table(base=[10, 10, 10], other=[5, 10, 8]), "mean_ttft_ms").set_index("policy").loc["other"]
    logs = np.log([2.0, 1.0, 1.25])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert [made["gain"], made["low"], made["high"]] == pytest.approx(
        [math.exp(logs.mean()), math.exp(low), math.exp(high)]
    )


def test_one_seed_has_no_interval() -> None:
    made = gains(table(base=[10], other=[5]), "mean_ttft_ms").set_index("policy").loc["other"]
    assert made["gain"] == pytest.approx(2) and math.isnan(made["low"]) and math.isnan(made["high"])


@pytest.mark.parametrize(
    ("other", "winner", "gain"),
    [
        ([5, 5.1, 4.9], "other", 2.0),
        ([9.9, 9.9, 9.9], "base", 1.0),  # too little
        ([5, 20, 7], "base", 1.0),  # may be chance
        ([20, 20, 20], "base", 1.0),
    ],
)
def test_who_wins(other: list[float], winner: str, gain: float) -> None:
    (best,) = winners(table(base=[10, 10, 10], other=other, same=[10, 10, 10]), "mean_ttft_ms").to_dict(
        "records"
    )
    assert best["policy"] == winner and best["gain"] == pytest.approx(gain, rel=0.01)
