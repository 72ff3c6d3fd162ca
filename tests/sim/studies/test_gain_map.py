"""Gain maps: their shape, and what must be equal."""

from __future__ import annotations

import math
from typing import Any

from sim.hardware.profile import Profile
from sim.studies.cases import Case, map_cases
from sim.studies.gain_map import GAINS, gain_map

FEW: dict[str, Any] = {"num_prompts": 150}
SHORTEST = "continuous:order=shortest-predicted"


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
