"""How long sessions are predicted to wait: as they do, on average, or with stated errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from sim.perception.predictors import Constant, Exact, Noisy, Oracle, Tuned
from sim.perception.waits import predicted_waits, true_waits
from sim.scenario.policies import make_scheduler
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from traces import InputError, load
from traces.prompt_blocks import blocks_of_lists
from traces.sessions import padded, waits_after
from traces.trace import Trace

SOURCE = "sessions:users=500,turns=3,think_s=4"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_turn_waits_for_the_first_that_waits_for_it() -> None:
    waits = waits_after(padded([[], [0], [0], [1, 2], []]), np.array([0.0, 7.0, 2.0, 5.0, 0.0]))
    assert waits.tolist() == pytest.approx([2.0, 5.0, 5.0, np.nan, np.nan], nan_ok=True)


def test_sub_agents_do_not_come_back_and_their_turn_does() -> None:
    """A turn's memory waits for its session's next turn, not for the sub-agents that work in between."""
    trace = load("sessions:users=3,turns=3,think_s=4,think_law=fixed,agents=2", seed=1)
    assert trace.blocks is not None and trace.waits_for is not None
    assert trace.blocks.answers is not None
    goes_on = (trace.blocks.answers >= 0) & np.isin(np.arange(len(trace)), trace.waits_for)
    assert goes_on.sum() == 6
    # Where answers are not known, sub-agents' prompts are the beginning of their turn's.
    for answers, others_s in ((trace.blocks.answers, np.nan), (None, 4.0)):
        truth = true_waits(replace(trace, blocks=replace(trace.blocks, answers=answers)))
        assert (truth[goes_on] == 4.0).all()
        sub_agents = truth[trace.blocks.answers < 0]
        assert np.array_equal(sub_agents, np.full(12, others_s), equal_nan=True)
    bare = replace(trace, blocks=None)
    assert np.array_equal(true_waits(bare), waits_after(trace.waits_for, trace.thinks_s), equal_nan=True)


@pytest.mark.parametrize(
    ("lists", "waits"),
    [
        ([[1, 2], [1, 2, 3]], [5.0, np.nan]),
        ([[1, 2], [1, 4, 3]], [5.0, np.nan]),  # its last block was not a whole one
        ([[1, 2], [6, 7, 8]], [np.nan, np.nan]),
        ([[], [1]], [np.nan, np.nan]),
    ],
)
def test_who_goes_on_is_told_by_blocks_where_answers_are_not_known(
    lists: list[list[int]], waits: list[float]
) -> None:
    two = Trace(
        "t",
        np.arange(2),
        np.full(2, 96),
        np.full(2, 8),
        waits_for=padded([[], [0]]),
        think_s=np.array([0.0, 5.0]),
        blocks=blocks_of_lists(lists, 32, np.full(2, 96)),
    )
    assert true_waits(two).tolist() == pytest.approx(waits, nan_ok=True)


def test_only_who_knows_the_trace_knows_its_waits() -> None:
    trace = load(SOURCE, seed=3)
    truth = true_waits(trace)
    known = ~np.isnan(truth)
    assert known.sum() == 1000 and known.sum() == trace.is_waiting.sum()
    for knowing in (Exact(), Oracle()):
        assert np.array_equal(predicted_waits(knowing, trace, rng()), truth, equal_nan=True)
    for average in (Constant(50), Tuned()):
        predicted = predicted_waits(average, trace, rng())
        assert np.array_equal(np.isnan(predicted), ~known)
        assert np.ptp(predicted[known]) == 0 and predicted[known][0] == pytest.approx(truth[known].mean())
    noisy = predicted_waits(Noisy(sigma=0.5), trace, rng())
    errors = np.log(noisy[known] / truth[known])
    assert errors.std() == pytest.approx(0.5, rel=0.1) and abs(errors.mean()) < 0.05


def test_without_sessions_nobody_waits() -> None:
    assert np.isnan(predicted_waits(Exact(), load("fixed", num_prompts=3), rng())).all()


@dataclass(frozen=True)
class Says(Exact):
    """What a predictor from outside may say."""

    value: Any = 0.0

    def waits(self, truth_s: Any, rng: np.random.Generator) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value if isinstance(self.value, np.ndarray) else np.full(len(truth_s), self.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1.0, "waits returned -1.0; a time is at least 0 s and finite"),
        (np.nan, "waits returned nan; a time is at least 0 s and finite"),
        (np.zeros(3), r"waits returned shape \(3,\); one time per turn is \(1000,\)"),
        (KeyError("tool"), "waits"),
    ],
)
def test_what_is_no_time_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        predicted_waits(Says(value=value), load(SOURCE), rng())


def test_a_scheduler_sees_what_is_predicted_and_only_where_it_needs_it() -> None:
    """The true waits are in the trace: other ones change nothing that is predicted of them as on average."""
    shared = scenario(SOURCE, num_prompts=200, profile=flat_machine(1.0), predictor="constant:tokens=9")

    def seen(trace: Trace, policy: str) -> list[float | None]:
        world = replace(shared, trace=trace)
        perception = world.perceived_for(make_scheduler(policy, shared.limits))
        return [request.predicted_wait_s for request in world.requests(perception)]

    holding = "continuous:prefix_caching=on,waits=preserve"
    assert set(seen(shared.trace, "continuous:prefix_caching=on")) == {None}
    waits = seen(shared.trace, holding)
    assert len(set(waits) - {None}) == 1 and None in waits
    known = shared.trace.is_waiting
    shuffled = shared.trace.thinks_s.copy()
    shuffled[known] = shuffled[known][::-1]
    assert seen(replace(shared.trace, think_s=shuffled), holding) == pytest.approx(waits, nan_ok=True)
