"""Distributions of lengths: how they come from errors, how well they cover, what a predictor may state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import traces
from sim.perception.distributions import LEVELS, NUM_LENGTHS, calibrated
from sim.perception.predictions import perceive
from sim.perception.predictors import Constant, Exact, Noisy, Predictor, Tuned
from sim.perception.ranking import Rank
from sim.scenario.scenario import predictions_of
from traces.errors import InputError
from traces.trace import FloatArray, IntArray, Trace


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return traces.load("alpaca-vicuna", num_prompts=4000)


def lengths_of(predictor: Predictor, trace: Trace) -> np.ndarray[Any, Any]:
    """Shape (n, NUM_LENGTHS)."""
    lengths = perceive(predictor, trace, rng(), needs=("distribution",)).lengths
    assert lengths is not None
    return np.array(lengths.tolist())


@pytest.mark.parametrize("predictor", [Tuned(), Noisy(sigma=0.8, regress=False), Constant(50)])
def test_a_distribution_covers_as_it_says(predictor: Predictor, trace: Trace) -> None:
    """Of each level, that share of answers is no longer; fresh predictions, calibrated on others."""
    lengths = lengths_of(predictor, trace)
    assert (np.diff(lengths, axis=1) >= 0).all() and (lengths >= 1).all()
    covered = (trace.output_tokens[:, None] <= lengths).mean(axis=0)
    assert covered == pytest.approx(LEVELS, abs=0.03)


def test_a_constant_says_how_all_lengths_are_distributed(trace: Trace) -> None:
    lengths = lengths_of(Constant(50), trace)
    assert (lengths == lengths[0]).all()
    assert lengths[0] == pytest.approx(np.quantile(trace.output_tokens, LEVELS), abs=1)


def test_what_is_exact_is_certain(trace: Trace) -> None:
    assert (lengths_of(Exact(), trace) == trace.output_tokens[:, None]).all()


def test_few_requests_make_one_group() -> None:
    """Else the group would be the request itself, and its distribution its own length."""
    predicted, length = np.array([10, 20, 30]), np.array([10, 40, 90])
    column = calibrated(predicted, predicted, length)
    assert column[0] != (10,) * NUM_LENGTHS
    assert column[0][0] >= 10 and column[0][-1] <= 30  # one to three times what is predicted


@dataclass(frozen=True)
class States:
    """Returns what it is given as its quantiles."""

    value: Any = field(default=None)
    charge: bool = False

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        return np.full(len(trace), 10)

    def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> FloatArray:
        made: FloatArray = self.value(predicted, levels) if callable(self.value) else self.value
        return made


def test_a_predictor_may_state_its_quantiles() -> None:
    trace = traces.load("fixed", num_prompts=2)
    perception = perceive(States(lambda p, q: p[:, None] * 10 * q), trace, rng(), needs=("distribution",))
    assert perception.lengths is not None and perception.lengths[1][:3] == (3, 8, 13)
    assert predictions_of(perception)[1].lengths == perception.lengths[1]
    assert perceive(States(), trace, rng()).lengths is None  # nobody needs them


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (np.ones(3), "quantiles returned float64 of shape (3,); numbers of shape (2, 20) are due"),
        (np.full((2, 20), np.nan), "quantiles returned nan; a length is from 0 to 1000000000 tokens"),
        (np.full((2, 20), -1), "quantiles returned -1; a length is from 0 to 1000000000 tokens"),
        (lambda p, q: 1 / 0, "quantiles raised ZeroDivisionError"),
    ],
)
def test_quantiles_that_cannot_be_used_are_one_line(value: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        perceive(States(value), traces.load("fixed", num_prompts=2), rng(), needs=("distribution",))
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("need", ["length", "distribution", "again"])
def test_a_ranking_gives_nothing_but_an_order(need: str) -> None:
    trace = traces.load("fixed", num_prompts=2)
    assert perceive(Rank(0.5), trace, rng(), needs=("order",)).is_rank
    with pytest.raises(InputError, match=rf"no lengths; a {need} is needed"):
        perceive(Rank(0.5), trace, rng(), needs=(need,))


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_a_margin_takes_the_quantile_that_a_predictor_states(quantile: float, trace: Trace) -> None:
    """Whoever states none is calibrated: then 90 % of answers stay below it, as far as one can tell."""

    class States(Exact):
        def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> FloatArray:
            return predicted[:, None] + 1000.0 * levels[None, :]

    said = perceive(States(), trace, rng(), quantile)
    assert said.upper is not None and said.lengths is None
    assert (said.upper == said.predicted + 1000 * quantile).all()
    plain = perceive(Noisy(sigma=0.5), trace, rng(), quantile).upper
    assert plain is not None
    assert (trace.output_tokens <= plain).mean() == pytest.approx(quantile, abs=0.02)
