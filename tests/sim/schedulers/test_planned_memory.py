"""The peak in closed form is the peak of letting the iterations pass; and who plans on the truth evicts
nobody.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.kv_blocks import blocks_for
from sim.scenario.scenario import scenario
from sim.schedulers.planned_memory import PlannedMemory
from traces.trace import Trace

BLOCK = 4

SEQUENCES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=12)
"""(tokens held now, tokens still to come) of each."""


@given(SEQUENCES, st.integers(0, 50), st.integers(0, 11))
def test_the_peak_is_reached_as_iterations_pass(
    sequences: list[tuple[int, int]], iteration: int, num_gone: int
) -> None:
    kept = PlannedMemory(BLOCK)
    for i, (held, left) in enumerate(sequences):
        kept.put(i, held + 5 * left, held)  # not the last word
        kept.put(i, held + left, held - iteration)
    gone = [i for i in range(len(sequences) - 1) if i < num_gone]
    for i in gone:
        kept.leave(i)
    last = len(sequences) - 1
    kept.leave(last)
    present = [pair for i, pair in enumerate(sequences) if i not in gone]
    exact = [
        sum(blocks_for(held + k, BLOCK) for held, left in present if left >= k)
        for k in range(max(left for _, left in present) + 1)
    ]
    held, left = sequences[last]
    planned = kept.peak_blocks(iteration, held + left, held - iteration)
    assert max(exact) <= planned <= max(exact) + len(present)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 25))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    arrival = np.sort(column(0, 300)) / 100
    return Trace("made up", np.arange(n), column(1, 100), column(1, 200), arrival_s=arrival - arrival[0])


@settings(max_examples=100)
@given(
    trace=traces(),
    order=st.sampled_from(["fcfs", "shortest-remaining", "fair"]),
    kv_blocks=st.sampled_from([20, 25, 40]),
    tokens=st.sampled_from([60, 2048]),
)
def test_who_plans_on_the_truth_evicts_nobody(
    trace: Trace, order: str, kv_blocks: int, tokens: int, profile: Profile
) -> None:
    policy = f"continuous:admission=predicted,order={order},max_num_seqs=40,max_num_batched_tokens={tokens}"
    result = scenario(trace, profile=profile, kv_blocks=kv_blocks, max_new_tokens=200, predictor="exact").run(
        policy
    )
    assert result.summary["preemptions"] == 0
    assert result.summary["completed"] == len(trace)
