"""Iterations put together from kernels: what was measured is kept, and unseen sizes are near."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sim.hardware.composing import Iteration, compose_cost, curve
from sim.hardware.step_cost import StepCost

KV_TOKENS = 400_000


class Made:
    """Kernels of a machine that is known in closed form; a batch above 256 takes another, slower kernel."""

    def rest_ms(self, tokens: int) -> float:
        slower = 1.4 if 256 < tokens <= 384 else 1.0
        return slower * max(3.0, 0.03 * tokens)

    def decode_rest_ms(self, num_seqs: int) -> float:
        return self.rest_ms(num_seqs) + self.logits_ms(num_seqs)

    def logits_ms(self, rows: int) -> float:
        return 0.2 + 0.001 * rows

    def prefill_attention_ms(self, chunks: int, tokens: int, history: int) -> float:
        return 0.5 + 2e-6 * chunks * tokens * (history + tokens / 2)

    def decode_attention_ms(self, num_seqs: int, context: int) -> float:
        return 0.3 + 2e-5 * num_seqs * context * (1.5 if num_seqs < 8 else 1.0)


class Latent(Made):
    """Latent attention: launches that cost more than what they compute, and history a share of the whole."""

    def prefill_attention_ms(self, chunks: int, tokens: int, history: int) -> float:
        whole = history + tokens
        return (7.0 + 8e-3 * chunks * whole + 4e-7 * chunks * whole**2) * (1 - (history / whole) ** 2)

    def decode_attention_ms(self, num_seqs: int, context: int) -> float:
        return 5.0 + 0.05 * num_seqs + 2e-6 * num_seqs * context


@pytest.fixture(scope="module")
def made() -> tuple[StepCost, dict[str, dict[str, dict[str, float]]]]:
    return compose_cost(Made(), KV_TOKENS)


@pytest.mark.parametrize("num_seqs", [1, 5, 31, 77, 256, 257, 300, 391, 1000])
@pytest.mark.parametrize("context", [70, 700, 7000])
def test_a_decode_only_iteration_of_any_size_is_the_sum_of_its_kernels(
    made: tuple[StepCost, object], num_seqs: int, context: int
) -> None:
    it = Iteration(num_seqs, context)
    assert it.predicted(made[0]) == pytest.approx(it.seconds(Made()), rel=0.01)


@pytest.mark.parametrize(
    "it", [Iteration(0, 0, 1, 333, 0), Iteration(37, 900, 2, 450, 777), Iteration(200, 1500, 1, 90, 3000)]
)
def test_so_is_an_iteration_with_prefill(made: tuple[StepCost, object], it: Iteration) -> None:
    assert it.predicted(made[0]) == pytest.approx(it.seconds(Made()), rel=0.02)


def test_latent_attention_is_the_sum_of_its_kernels_with_and_without_history() -> None:
    cost, errors = compose_cost(Latent(), KV_TOKENS)
    assert errors["mixed"]["unseen_sizes"]["max"] < 0.02
    for it in (
        Iteration(0, 0, 1, 20, 0),
        Iteration(0, 0, 1, 20, 1500),
        Iteration(3, 800, 1, 20, 0),
        Iteration(0, 0, 3, 700, 5000),
    ):
        assert it.predicted(cost) == pytest.approx(it.seconds(Latent()), rel=0.01)


def test_a_larger_batch_that_is_faster_stays_faster(made: tuple[StepCost, object]) -> None:
    cost = made[0]
    assert cost.mixed_base.may_fall and cost.mixed_base(385) < 0.8 * cost.mixed_base(384)


def test_the_errors_are_of_sizes_not_looked_at_and_within_three_percent(
    made: tuple[StepCost, dict[str, dict[str, dict[str, float]]]],
) -> None:
    errors = made[1]
    assert set(errors) == {"decode_only", "mixed"}
    assert all(ways["unseen_sizes"]["mean"] < 0.03 for ways in errors.values())
    assert errors["mixed"]["unseen_sizes"]["max"] > 0


def test_the_cost_survives_json_and_leaps_as_it_steps(made: tuple[StepCost, object]) -> None:
    cost = StepCost.from_json(json.loads(json.dumps(made[0].to_json())))
    assert cost == made[0]
    steps = [cost.decode_s(5, 900 + 5 * i) for i in range(40)]
    assert cost.decode_run_s(5, 900, 40) == pytest.approx(sum(steps), rel=1e-12)
    twice = cost.scaled(2.0)
    assert twice.decode_s(3, 5000) == pytest.approx(2 * cost.decode_s(3, 5000))


def test_a_curve_keeps_few_points_and_stays_within_its_tolerance() -> None:
    sizes = np.arange(1.0, 5001.0)
    seconds = np.maximum(1e-3, 1e-5 * sizes)
    kept = curve(sizes, seconds, 0.002)
    assert len(kept.sizes) < 10 and not kept.may_fall
    assert all(kept(s) == pytest.approx(t, rel=0.0021) for s, t in zip(sizes, seconds, strict=True))
