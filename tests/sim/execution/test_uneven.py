"""Contexts that differ cost something: what is tracked is what stands in memory, and leaps stay exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.execution.iterations import RunningRequests
from sim.execution.leap import Leap
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.step_cost import StepCost
from sim.request import Request
from sim.results.ledger import Ledger
from sim.scenario.scenario import scenario
from sim.work import Chunk, Iterations
from tests.sim.execution.test_leap import (
    ORDERS,
    SETTINGS,
    assert_leaping_changes_nothing,
    policies,
    traces,
)
from traces.trace import Trace


def uneven(profile: Profile) -> Profile:
    """The machine, with times that depend strongly on how far contexts differ."""
    cost = replace(
        profile.step_cost,
        decode_uneven=PiecewiseLinear((1, 4, 8), (2e-5, 9e-5, 4e-5), may_fall=True),
        mixed_per_longest_s=3e-5,
        mixed_per_uneven_s=1e-6,
    )
    return replace(profile, step_cost=cost)


@settings(max_examples=150)
@given(trace=traces(expire=True), policy=policies(ORDERS), how=SETTINGS)
def test_leaping_is_iteration_by_iteration(
    trace: Trace, policy: str, how: dict[str, Any], profile: Profile
) -> None:
    assert_leaping_changes_nothing(trace, policy, uneven(profile), how)


@settings(max_examples=80)
@given(
    trace=traces(),
    policy=policies(["fcfs", "priority"]),
    kv_blocks=st.sampled_from([15, 30, None]),
    failing=st.booleans(),
    leap=st.booleans(),
)
def test_the_longest_context_is_that_of_what_runs(
    trace: Trace,
    policy: str,
    kv_blocks: int | None,
    failing: bool,
    leap: bool,
    profile: Profile,
) -> None:
    """Under preemption, failures and asynchronous scheduling too."""

    class Told:
        """A cost that keeps of which rows it was asked."""

        def __init__(self, cost: StepCost) -> None:
            self.counts_uneven, self.decode_run, self.cost = cost.counts_uneven, cost.decode_run, cost
            self.rows: tuple[float, ...] = ()

        def decode_s(self, *about: Any) -> float:
            self.rows = about
            return self.cost.decode_s(*about)

        def mixed_s(self, *about: Any) -> float:
            self.rows = about[0], about[1], about[-1]
            return self.cost.mixed_s(*about)

    class Checked(RunningRequests):
        def begin(self, work: Iterations, now: float, until_s: float = np.inf) -> Leap:
            real, told = self.cost, Told(self.cost)
            self.cost = cast(StepCost, told)
            leap, tick = super().begin(work, now, until_s), self.use.iterations
            self.cost = real
            if not told.rows:  # what was computed when the stretch began holds on
                assert leap.done and not (work.chunks or work.overrun)
                return leap
            num_rows, tokens, uneven = told.rows
            new = {chunk.request.id for chunk in work.chunks}
            ends = [(end, r) for end, r in self._decoding() if r.id not in new]
            ends += [(tick, r) for r in work.overrun]
            contexts = [r.prompt_tokens + self.output_tokens[r.id] - 1 - (end - tick) for end, r in ends]
            assert (num_rows, tokens) == (len(contexts), sum(contexts))
            assert uneven == num_rows * max(contexts, default=0) - tokens
            return leap

    how: dict[str, Any] = {"kv_blocks": kv_blocks, "max_new_tokens": 50, "predictor": "oracle", "replicas": 2}
    if failing:
        how |= {"mtbf_s": 0.3, "mttr_s": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.execution.asked.RunningRequests", Checked)
        shared = scenario(trace, profile=uneven(profile), **how)
        shared.run(policy, leap=leap)


def test_an_even_batch_takes_no_longer(profile: Profile) -> None:
    trace = Trace("even", np.arange(5), np.full(5, 40), np.full(5, 30), arrival_s=np.zeros(5))
    plain, other = (
        scenario(trace, profile=p).run("continuous").columns["finish_s"] for p in (profile, uneven(profile))
    )
    longest = 3e-5 * 20  # the mean keys of the prompt's tokens, in the one iteration with prefill
    assert other == pytest.approx(plain + longest, rel=1e-12)


def test_golden(cost: StepCost) -> None:
    curve = PiecewiseLinear((2,), (1e-3,))
    running = RunningRequests(replace(cost, decode_uneven=curve), [5, 9], Ledger(2, [0.0, 0.0]))
    plain = RunningRequests(cost, [5, 9], Ledger(2, [0.0, 0.0]))
    requests = [Request(0, 0.0, 20, 100), Request(1, 0.0, 60, 100)]
    start = Iterations([Chunk(r, r.prompt_tokens, True) for r in requests], (), 99, False)
    leap, even = running.begin(start, 0.0), plain.begin(start, 0.0)
    # Four decode-only iterations follow the prefill, with contexts of 20 and 60, then 21 and 61, …
    assert (leap.iterations, leap.head_s) == (5, even.head_s)
    assert leap.first_s == pytest.approx(even.first_s + 1e-3 * (60 - 40), rel=1e-12)
    assert leap.slope_s == even.slope_s
    for r in (running, plain):
        r.advance(leap, 5, 0.0, 1.0)
    # The longer one is alone.
    assert running.begin(Iterations((), (), 99, False), 1.0) == plain.begin(
        Iterations((), (), 99, False), 1.0
    )


def test_a_padded_batch_is_even_and_one_of_real_rows_is_not(profile: Profile) -> None:
    trace = Trace("two", np.arange(2), np.array([40, 10]), np.array([30, 30]), arrival_s=np.zeros(2))
    curve = PiecewiseLinear((2,), (1e-3,))

    def ended(ragged: bool, **more: Any) -> float:
        machine = replace(profile, step_cost=replace(profile.step_cost, ragged_decode=ragged, **more))
        return float(scenario(trace, profile=machine).run("vanilla").columns["finish_s"].max())

    assert ended(False, decode_uneven=curve) == ended(False)
    assert ended(True, decode_uneven=curve) == pytest.approx(ended(True) + 29 * 1e-3 * (40 - 25), rel=1e-12)
