"""Sensitivity and variance: their shape, their ends, and what they refuse."""

from __future__ import annotations

import pytest

from sim.hardware.profile import Profile
from sim.results import failures
from sim.studies.prediction_error import sensitivity, variance
from traces.errors import InputError


def test_sensitivity(profile: Profile) -> None:
    progress: list[tuple[int, int]] = []
    frame = sensitivity(
        "alpaca-vicuna",
        policies=("sequence", "vanilla"),
        sigmas=(0.0, 1.5),
        num_seeds=2,
        num_prompts=300,
        profile=profile,
        on_progress=lambda *counts: progress.append(counts),
    )
    columns = ["policy", "sigma", "miss", "mean_error", "seed", "throughput_ratio"]
    assert list(frame.columns) == [*columns, *failures.KEYS]
    assert len(frame) == 2 * 2 * 2
    assert progress == [(k, 4) for k in (1, 2, 3, 4)]
    points = list(zip(frame.sigma, frame.seed, strict=True))[::2]
    assert points == [(0.0, 0), (1.5, 0), (0.0, 1), (1.5, 1)]
    assert (frame[frame.policy == "vanilla"].throughput_ratio == 1).all()
    sequence = frame[frame.policy == "sequence"].set_index(["seed", "sigma"])
    for seed in (0, 1):
        assert sequence.throughput_ratio[seed, 0.0] > sequence.throughput_ratio[seed, 1.5]
        assert sequence.mean_error[seed, 0.0] < 50 < sequence.mean_error[seed, 1.5]
        assert sequence.miss[seed, 0.0] == 0


def test_variance(profile: Profile) -> None:
    frame, trace = variance("alpaca-vicuna", num_prompts=300, profile=profile)
    assert list(frame.predictor) == ["exact", *trace.sample_names, "largest of all"]
    rows = frame.set_index("predictor")
    columns = ["effective_token_ratio", "failure_ratio", "throughput_ratio"]
    assert list(rows.columns) == [*columns, *failures.KEYS]
    # The answer itself is the greedy sample, so to know that one is to know everything.
    assert rows.loc["exact"].equals(rows.loc[trace.sample_names[0]])
    assert (rows.failure_ratio[["exact", "largest of all"]] == 0).all()
    for name in trace.sample_names[1:]:
        assert rows.failure_ratio[name] > 0
        assert rows.throughput_ratio[name] < rows.throughput_ratio["exact"]


def test_variance_is_measured_against_the_baseline(profile: Profile) -> None:
    settings = {"num_prompts": 100, "profile": profile}
    frame, _ = variance("alpaca-vicuna", policy="vanilla", baseline="vanilla", **settings)
    assert (frame.throughput_ratio == 1).all()


def test_refusals(profile: Profile) -> None:
    with pytest.raises(InputError, match="num_seeds: 0 must be at least 1"):
        sensitivity("fixed", num_seeds=0, profile=profile)
    with pytest.raises(InputError, match="policies: at least one"):
        sensitivity("fixed", policies=(), profile=profile)
    with pytest.raises(InputError, match="sigmas: at least one"):
        sensitivity("fixed", sigmas=(), profile=profile)
    with pytest.raises(InputError, match="sigma: 11 must be between 0 and 10"):
        sensitivity("fixed", sigmas=(0.1, 11), profile=profile)
    with pytest.raises(InputError, match="no samples"):
        variance("fixed", profile=profile)
    with pytest.raises(InputError, match="no request of fixed completed"):
        sensitivity("fixed", profile=profile, kv_blocks=1, sigmas=(0.1,), num_seeds=1)
