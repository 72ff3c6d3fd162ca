"""Who pays for shortest-first: the long requests, less of it with ageing; and nobody gains throughput."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sim.hardware.profile import Profile
from sim.scenario.scenario import scenario
from sim.studies.ageing import _levelled, _mean, policies_of, starvation
from traces.errors import InputError


@pytest.fixture(scope="module")
def frame(profile: Profile) -> pd.DataFrame:
    return starvation(
        "alpaca-vicuna",
        load=1.5,
        agings=(1e-4, 1.0, 1e6),
        num_seeds=1,
        profile=profile,
        kv_blocks=300,
        num_prompts=600,
    )


def test_every_discipline_has_a_row_per_seed(frame: pd.DataFrame) -> None:
    assert list(frame.label) == list(policies_of((1e-4, 1.0, 1e6)))
    assert frame.aging_s.dropna().tolist() == [1e-4, 1.0, 1e6]
    assert frame.request_rate.nunique() == 1


def test_ageing_goes_from_shortest_first_to_first_come(frame: pd.DataFrame) -> None:
    rows = frame.set_index("label")
    figures = ["mean_e2el_ms", "p99_e2el_ms", "long_e2el_ms"]
    # Levels part lengths by 50 tokens, and so do the predictions of this predictor: the order is the same.
    assert rows.loc["ageing 1e+06 s", figures].tolist() == pytest.approx(
        rows.loc["shortest predicted first", figures].tolist()
    )
    assert rows.loc["ageing 0.0001 s", figures].tolist() == pytest.approx(
        rows.loc["first come, first served", figures].tolist(), rel=0.02
    )
    first, shortest = rows.loc["first come, first served"], rows.loc["shortest predicted first"]
    assert shortest.mean_e2el_ms < first.mean_e2el_ms and shortest.long_e2el_ms > first.long_e2el_ms
    between = rows.loc["ageing 1 s"]
    assert shortest.mean_e2el_ms <= between.mean_e2el_ms <= first.mean_e2el_ms


def test_a_mean_is_of_those_that_completed() -> None:
    assert _mean(np.array([1.0, np.nan, 3.0])) == 2
    assert np.isnan(_mean(np.array([np.nan])))


def test_levels_are_the_predictions_and_nothing_else(profile: Profile) -> None:
    shared = scenario("alpaca-vicuna", num_prompts=100, profile=profile)
    made = _levelled(shared, 0.0)
    assert made.trace.priority is not None and made.trace.user is not None
    assert np.array_equal(made.trace.priority, -(-shared.trace.perceived_truth // 50))
    assert made.trace.user[0] == f"level {made.trace.priority[0]}"
    assert np.array_equal(made.trace.output_tokens, shared.trace.output_tokens)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"load": 0.0}, "load: 0"),
        ({"sigma": -1.0}, "sigma: -1"),
        ({}, "fixed: its shortest answer"),
        ({"agings": ()}, "agings: at least one"),
        ({"num_seeds": 0}, "num_seeds: 0"),
    ],
)
def test_refusals(given: dict[str, object], said: str, profile: Profile) -> None:
    with pytest.raises(InputError, match=said):
        starvation("fixed", **{"profile": profile, **given})
