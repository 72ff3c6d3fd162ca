"""The peak in closed form is the peak of letting the iterations pass; and who plans on the truth evicts
nobody.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.kv_blocks import blocks_for
from sim.request import Request
from sim.scenario.scenario import scenario
from sim.schedulers.planned_memory import PlannedMemory, QuantileMemory
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


# A quantile of the peak


def known(id: int, prompt: int, lengths: tuple[int, ...]) -> Request:
    return Request(id, 0.0, prompt, 1000, predicted_tokens=lengths[0], predicted_lengths=lengths)


def test_a_certain_length_has_the_peak_of_its_plan_at_any_quantile() -> None:
    certain, plain = QuantileMemory(16, 0.9), PlannedMemory(16)
    for i, length in enumerate((30, 100, 60)):
        for memory in (certain, plain):
            memory.plan(known(i, 20, (length,) * 20), 20, 20 - 1)
    more = known(9, 40, (50,) * 20)
    assert certain.peak_with(more, 40, 5) == plain.peak_blocks(5, 90, 40 - 5 - 1)


@given(
    st.lists(st.lists(st.integers(1, 200), min_size=20, max_size=20), min_size=1, max_size=12),
    st.integers(0, 150),
)
def test_higher_quantiles_have_higher_peaks(worlds: list[list[int]], iteration: int) -> None:
    memories = [QuantileMemory(16, quantile) for quantile in (0.1, 0.5, 0.9)]
    requests = [known(i, 10, tuple(sorted(lengths))) for i, lengths in enumerate(worlds)]
    for memory in memories:
        for request in requests[1:]:
            memory.plan(request, 10, 9)
    peaks = [memory.peak_with(requests[0], 10, iteration) for memory in memories]
    assert peaks == sorted(peaks)


def test_the_quantile_is_that_of_the_sum() -> None:
    """Many of a few tokens or of many: their sum is far from the sum of what each stays below."""
    memory, plain = QuantileMemory(1, 0.9), PlannedMemory(1)
    lengths = (10,) * 10 + (210,) * 10
    for i in range(60):
        memory.plan(known(i, 1, lengths), 1, 0)
        plain.put(i, 211, 0)
    more = known(60, 1, lengths)
    at_most = plain.peak_blocks(0, 211, 0)
    assert 0.5 * at_most < memory.peak_with(more, 1, 0) < 0.75 * at_most


def test_what_outlives_a_length_has_a_longer_one() -> None:
    memory, more = QuantileMemory(16, 0.5), known(1, 16, (16,) * 20)
    memory.plan(known(0, 16, (16,) * 19 + (480,)), 16, 15)
    assert memory.peak_with(more, 16, 0) <= 6
    assert memory.peak_with(more, 16, 100) >= 31
    memory.leave(0)
    assert memory.peak_with(more, 16, 100) == 2


@given(st.lists(st.integers(1, 60), min_size=20, max_size=20), st.lists(st.integers(0, 90), max_size=5))
def test_looking_earlier_changes_nothing(lengths: list[int], looks: list[int]) -> None:
    """A leap looks less often than single iterations do."""
    often, once, more = QuantileMemory(16, 0.7), QuantileMemory(16, 0.7), known(1, 16, (40,) * 20)
    for memory in (often, once):
        memory.plan(known(0, 10, tuple(sorted(lengths))), 10, 9)
    for iteration in sorted(looks):
        often.peak_with(more, 16, iteration)
    assert often.peak_with(more, 16, 90) == once.peak_with(more, 16, 90)
