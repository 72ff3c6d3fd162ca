"""Load curves: their shape, what must be equal, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sim.hardware.profile import Profile
from sim.simulation import simulate
from sim.studies.load_curves import curve_keys, load_curves
from traces.errors import InputError

FEW: dict[str, Any] = {"num_prompts": 150}
SHORTEST = "continuous:order=shortest-predicted"


def test_load_curves(profile: Profile) -> None:
    frame = load_curves(
        "alpaca-vicuna",
        rates=(5.0, 500.0),
        policies=("continuous", SHORTEST),
        num_seeds=2,
        profile=profile,
        goodput={"e2el": 1e9},
        **FEW,
    )
    assert list(frame.columns) == ["policy", "request_rate", "seed", *curve_keys()]
    assert len(frame) == 2 * 2 * 2
    assert (frame.request_goodput == frame.request_throughput).all(), "the bound binds nobody"
    slow, fast = (frame[frame.request_rate == rate] for rate in (5.0, 500.0))
    assert slow.mean_e2el_ms.max() < fast.mean_e2el_ms.min()
    one = simulate(policy=SHORTEST, profile=profile, request_rate=500.0, seed=1, **FEW).summary
    row = frame[(frame.policy == SHORTEST) & (frame.seed == 1) & (frame.request_rate == 500.0)]
    assert row.p99_ttft_ms.item() == one["p99_ttft_ms"]


def test_the_number_of_processes_changes_nothing(profile: Profile) -> None:
    settings = {"rates": (5.0, 50.0), "policies": ("continuous",), "num_seeds": 1, "profile": profile, **FEW}
    assert load_curves("alpaca-vicuna", **settings).equals(load_curves("alpaca-vicuna", jobs=2, **settings))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_seeds": 0}, "num_seeds: 0"),
        ({"jobs": 0}, "jobs: 0"),
        ({"jobs": -2}, "jobs: -2"),
        ({"rates": ()}, "rates: at least one"),
        ({"rates": (1.0, 1.0)}, "none twice"),
        ({"rates": (-1.0,)}, "rates: -1"),
        ({"rates": (math.inf,)}, "rates: inf"),
        ({"request_rate": 3.0}, "request_rate"),
        ({"policies": ()}, "policies: at least one"),
    ],
)
def test_refusals(given: dict[str, Any], said: str, profile: Profile) -> None:
    with pytest.raises(InputError, match=said):
        load_curves("fixed", **{"rates": (1.0,), "profile": profile, **given})
