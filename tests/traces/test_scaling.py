"""Scaled lengths keep everything else, and a factor of 1 keeps all."""

from __future__ import annotations

import numpy as np
import pytest

from sim import simulate
from traces.errors import InputError
from traces.scaling import scale_lengths
from traces.trace import Trace


def make(**columns: object) -> Trace:
    return Trace(
        "t",
        np.arange(3),
        np.array([1, 10, 100]),
        np.array([2, 20, 200]),
        **columns,  # type: ignore[arg-type]
    )


def test_factors_of_1_give_the_trace_itself() -> None:
    trace = make()
    assert scale_lengths(trace) is trace


def test_outputs_take_predictions_samples_and_cap_along() -> None:
    trace = make(
        arrival_s=np.array([0.0, 1.0, 2.0]),
        predicted_tokens=np.array([4, 20, 150]),
        samples=np.array([[2], [20], [200]]),
        sample_names=("t0.0",),
        max_new_tokens=256,
        max_tokens=np.array([3, 20, 256]),
        prompt=np.array(["a", "b", "c"]),
    )
    made = scale_lengths(trace, output_scale=0.1)
    assert made.output_tokens.tolist() == [1, 2, 20] and made.prompt_tokens.tolist() == [1, 10, 100]
    assert made.predicted_tokens is not None and made.predicted_tokens.tolist() == [1, 2, 15]
    assert made.samples is not None and made.samples.ravel().tolist() == [1, 2, 20]
    assert made.max_tokens is not None and made.max_tokens.tolist() == [1, 2, 26]
    assert made.max_new_tokens == 26 and made.arrival_s is trace.arrival_s and made.prompt is not None
    assert "output lengths times 0.1" in made.notes


def test_texts_of_other_length_are_dropped() -> None:
    made = scale_lengths(make(prompt=np.array(["a", "b", "c"])), prompt_scale=1.5)
    assert made.prompt is None and made.prompt_tokens.tolist() == [2, 15, 150]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"prompt_scale": 0.0}, "prompt_scale: 0 is not above 0"),
        ({"output_scale": float("inf")}, "output_scale: inf is not above 0 and finite"),
        ({"output_scale": float("nan")}, "output_scale: nan is not above 0"),
        ({"prompt_scale": 1e6}, "t, prompt_tokens: 100,000,000 tokens .* above 10,000,000"),
    ],
)
def test_bad_factors_are_refused(factors: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale_lengths(make(), **factors)


def test_a_simulation_replays_the_scaled_lengths_under_the_cap_that_is_given() -> None:
    run = {"trace": "fixed:prompt_tokens=20,output_tokens=100", "num_prompts": 10, "policy": "continuous"}
    plain = simulate(**run).summary
    longer = simulate(**run, output_scale=2, prompt_scale=0.5).summary
    assert longer["total_output_tokens"] == 2 * plain["total_output_tokens"]
    assert longer["total_input_tokens"] * 2 == plain["total_input_tokens"]
    assert longer["duration"] > plain["duration"]
    capped = simulate(**run, output_scale=2, max_new_tokens=150).summary
    assert capped["total_output_tokens"] == 10 * 150


def test_ten_times_the_traffic_is_a_tenth_of_the_times() -> None:
    trace = make(arrival_s=np.array([0.0, 100.0, 200.0]))
    slow, fast = (simulate(trace, time_scale=scale).summary["duration"] for scale in (1.0, 0.1))
    assert fast < slow / 5
