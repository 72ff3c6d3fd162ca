"""Predictions are worth what they save, none more than perfect ones, and nothing where they say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from sim.simulation import simulate
from sim.studies.prediction_gain import LOAD, prediction_gain
from traces.errors import InputError
from traces.trace import Trace

RNG = np.random.default_rng(0)
LENGTHS = np.maximum(1, np.rint(np.exp(4.5 + 0.9 * RNG.normal(size=400)))).astype(np.int64)
PROMPTS = np.full(400, 30)
NOISY = np.maximum(1, np.rint(LENGTHS * np.exp(0.5 * RNG.normal(size=400)))).astype(np.int64)


def test_perfect_is_worth_most_and_a_constant_no_order() -> None:
    constant = np.full(400, 90)
    gain = prediction_gain(
        PROMPTS, LENGTHS, {"noisy": NOISY, "constant": constant, "perfect": LENGTHS}, profile="h200-vicuna-7b"
    )
    noisy, none, perfect = (gain.worth[name] for name in ("noisy", "constant", "perfect"))
    assert perfect.gpu_saved > noisy.gpu_saved > none.gpu_saved
    assert perfect.mean_e2el_ms < noisy.mean_e2el_ms < none.mean_e2el_ms
    assert none.mean_e2el_ms == pytest.approx(gain.base.mean_e2el_ms, rel=0.02)
    assert perfect.rate_gain >= noisy.rate_gain >= none.rate_gain == 0
    assert perfect.cost_saved == pytest.approx(1 - 1 / (1 + perfect.rate_gain))
    assert gain.load == LOAD and gain.to_json()["worth"]["noisy"]["gpu_saved"] == noisy.gpu_saved


def test_gpu_seconds_are_those_of_a_simulation() -> None:
    gain = prediction_gain(PROMPTS, LENGTHS, {"perfect": LENGTHS}, profile="h200-vicuna-7b")
    rows = np.random.default_rng(0).permutation(np.resize(np.arange(400), 2000))
    trace = Trace("t", np.arange(2000), PROMPTS[rows], LENGTHS[rows], predicted_tokens=LENGTHS[rows])
    alone = simulate(
        trace, policy="vanilla", profile="h200-vicuna-7b", predictor="trace", request_rate=np.inf
    ).summary
    assert gain.base.gpu_s == pytest.approx(1000 * alone["duration"] / 2000)


def test_what_a_machine_cannot_serve_is_said() -> None:
    with pytest.raises(InputError, match="cannot be served there"):
        prediction_gain(np.full(400, 10**6), LENGTHS, {"perfect": LENGTHS}, profile="h200-vicuna-7b")
