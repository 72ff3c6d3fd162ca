"""Load curves and gain maps: their shape, what must be equal, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sim.hardware.profile import Profile
from sim.simulation import simulate
from sim.studies.load_curves import (
    GAINS,
    Case,
    capacity,
    check,
    curve_keys,
    gain_map,
    idle_bound,
    load_curves,
    map_cases,
)
from traces.errors import InputError
from traces.trace import Trace

FEW: dict[str, Any] = {"num_prompts": 150}
SHORTEST = "continuous:order=shortest-predicted"


def test_capacity_is_what_is_done_while_there_is_a_queue(profile: Profile) -> None:
    n, tokens = 400, 50
    trace = Trace("same", np.arange(n), np.full(n, 10), np.full(n, tokens))
    found = capacity(trace, policy="vanilla", profile=profile)
    whole = simulate(trace, policy="vanilla", profile=profile).summary["request_throughput"]
    assert found == pytest.approx(whole, rel=0.05)
    more = capacity(trace, policy="continuous", profile=profile)
    assert more > 2 * found


def test_capacity_is_the_mean_over_seeds(profile: Profile) -> None:
    each = [capacity("alpaca-vicuna", profile=profile, seed=k, **FEW) for k in (3, 4)]
    assert capacity("alpaca-vicuna", profile=profile, seed=3, num_seeds=2, **FEW) == np.mean(each)


def test_idle_bound_is_met_on_an_idle_machine(profile: Profile) -> None:
    bound = idle_bound("alpaca-vicuna", rate=10.0, profile=profile, **FEW)
    idle = simulate(policy="continuous", profile=profile, request_rate=0.1, goodput=bound, **FEW).summary
    assert idle["request_goodput"] == idle["request_throughput"]


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


def test_gain_map(profile: Profile) -> None:
    progress: list[tuple[int, int]] = []
    frame = gain_map(
        "alpaca-vicuna",
        cases=(Case("rich", None), Case("scarce", 200)),
        policies=("continuous", SHORTEST),
        loads=(0.3, 1.5),
        sigmas=(0.0, 1.5),
        num_seeds=1,
        on_progress=lambda *counts: progress.append(counts),
        profile=profile,
        num_prompts=400,
    )
    assert len(frame) == 2 * 2 * 2 * 2 and progress == [(1, 1)] * 2 + [(k, 4) for k in (1, 2, 3, 4)]
    assert list(frame.case) == ["rich"] * 8 + ["scarce"] * 8
    assert list(frame.load) == ([0.3] * 4 + [1.5] * 4) * 2
    same = frame[frame.policy == "continuous"]
    assert (same[list(GAINS)] == 1).all(axis=None), (
        "a policy gains nothing over itself, whatever is predicted"
    )
    shortest = frame[frame.policy == SHORTEST].set_index(["case", "load", "sigma"])
    assert shortest.mean_error["scarce", 1.5, 0.0] < 50 < shortest.mean_error["scarce", 1.5, 1.5]
    assert shortest.mean_e2el_ms["rich", 0.3, 0.0] == 1, "without a queue there is nothing to reorder"
    assert shortest.mean_ttft_ms["scarce", 1.5, 0.0] > 1.5 > 1.1 > shortest.mean_ttft_ms["rich", 0.3, 0.0]
    assert shortest.mean_ttft_ms["scarce", 1.5, 0.0] > shortest.mean_ttft_ms["scarce", 1.5, 1.5]
    assert shortest.baseline_preemptions["scarce", 1.5, 0.0] > 0
    assert (frame.failed == 0).all()


def test_what_asking_costs_shows_where_it_is_charged(profile: Profile) -> None:
    settings: dict[str, Any] = {"cases": (Case("rich", None),), "policies": (SHORTEST,), "loads": (0.8,)}
    settings |= {"sigmas": (0.39,), "num_seeds": 1, "profile": profile, **FEW}
    free, charged = (gain_map("alpaca-vicuna", charge=c, **settings) for c in (False, True))
    assert charged.mean_ttft_ms.item() < free.mean_ttft_ms.item()


def test_map_cases_hold_the_longest_request(profile: Profile) -> None:
    rich, scarce, bursty = map_cases("alpaca-vicuna", profile=profile, **FEW)
    assert rich.kv_blocks is None and rich.label == "12,500 KV blocks"
    assert scarce.kv_blocks == bursty.kv_blocks == 12_500 // 8 and bursty.burstiness < scarce.burstiness == 1
    few = map_cases("alpaca-vicuna", profile=profile, kv_blocks=80, **FEW)[1].kv_blocks
    assert few is not None and few > 2 * math.ceil(512 / 16) <= 80


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


def test_what_is_checked_stays_as_it_was() -> None:
    given = {"seed": 3, "request_rate": None, "kv_blocks": 7}
    assert check(1, given, rates=(1.0,)) == (3, {"kv_blocks": 7})
    assert given == {"seed": 3, "request_rate": None, "kv_blocks": 7}


def test_capacity_needs_a_seed(profile: Profile) -> None:
    with pytest.raises(InputError, match="num_seeds: 0 must be at least 1"):
        capacity("fixed", num_seeds=0, profile=profile)


def test_a_machine_on_which_nothing_completes_has_no_capacity(profile: Profile) -> None:
    with pytest.raises(InputError, match="0 requests completed"):
        capacity("fixed", profile=profile, kv_blocks=1)
    with pytest.raises(InputError, match="no request completed"):
        idle_bound("fixed", rate=1.0, profile=profile, kv_blocks=1)
