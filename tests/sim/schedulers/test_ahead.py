"""One decision in hand: what comes or falls free is acted on an iteration later, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware.profile import Profile
from sim.request import Request
from sim.results.result import Result
from sim.scenario.scenario import scenario
from sim.schedulers import SCHEDULERS, AheadScheduler, ContinuousScheduler
from sim.simulation import simulate
from sim.work import Drop, Iterations, Limits, Outcome, Perceive, Prediction
from tests.sim.flat_machine import flat_machine
from traces.trace import Trace


def seconds(num_blocks: int) -> Profile:
    """Every iteration takes a second; requests can hold `num_blocks` blocks."""
    return flat_machine(kv_tokens=16 * (num_blocks + 1), name="seconds")


def run(
    output: Sequence[int],
    arrival: Sequence[float],
    options: str = "",
    *,
    prompt: Sequence[int] | int = 16,
    blocks: int = 1000,
    max_new_tokens: int = 100,
) -> Result:
    n = len(output)
    trace = Trace(
        "made up",
        np.arange(n),
        np.broadcast_to(np.array(prompt), n).copy(),
        np.array(output),
        arrival_s=np.array(arrival, dtype=float),
    )
    policy = f"continuous:async_scheduling=on{options}"
    return simulate(trace, policy=policy, profile=seconds(blocks), max_new_tokens=max_new_tokens, log=True)


def column(result: Result, name: str) -> list[float]:
    return [float(value) for value in result.columns[name]]


def test_the_option_chooses_it() -> None:
    make = SCHEDULERS["continuous"]
    assert type(make(Limits(1000))) is ContinuousScheduler
    assert type(make(Limits(1000), async_scheduling=True)) is AheadScheduler


def test_an_arrival_is_seen_an_iteration_later_but_at_once_where_nothing_runs() -> None:
    result = run([6, 2, 2, 1], [0, 1.5, 2.0, 20.0])
    assert column(result, "scheduled_s") == [0, 3, 3, 20]
    assert column(result, "finish_s") == [6, 5, 5, 21]


def test_a_place_is_given_on_an_iteration_later_but_at_once_where_nothing_runs() -> None:
    result = run([9, 3, 2], [0, 0, 0], ",max_num_seqs=2")
    assert column(result, "scheduled_s") == [0, 0, 4]
    assert column(result, "finish_s") == [9, 3, 6]
    result = run([3, 2, 1], [0, 0, 0], ",max_num_seqs=1")
    assert column(result, "scheduled_s") == [0, 4, 7]


def test_memory_is_given_on_an_iteration_later() -> None:
    """Of nine blocks the first takes two; the others need four each for their prompts."""
    result = run([20, 3, 2], [0, 0, 0], prompt=[17, 60, 60], blocks=9, max_new_tokens=20)
    assert column(result, "scheduled_s") == [0, 0, 4]


def test_what_ends_as_it_is_to_be_evicted_has_ended() -> None:
    """The second finishes in the iteration during which it is decided to evict it."""
    for length in range(1, 40):
        result = run([60, length, 30], [0, 0, 0], prompt=[40, 30, 30], blocks=9)
        assert result.summary["completed"] == 3
        assert column(result, "finish_s")[1] >= length


WORLDS = st.lists(
    st.tuples(st.integers(1, 90), st.integers(1, 50), st.floats(0, 30), st.integers(0, 60)),
    min_size=1,
    max_size=20,
)
OPTIONS = st.builds(
    "order={},admission={},chunked={},max_num_seqs={},max_num_batched_tokens=200,prefix_caching={}".format,
    st.sampled_from(["fcfs", "shortest-predicted", "shortest-remaining", "priority", "fair"]),
    st.sampled_from(["chunk", "prompt", "predicted"]),
    st.sampled_from(["on", "off"]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from(["on", "off"]),
)


@settings(max_examples=150)
@given(
    shapes=WORLDS,
    options=OPTIONS,
    blocks=st.sampled_from([12, 20, 1000]),
    predictor=st.sampled_from(["oracle", "trace", "tuned"]),
)
def test_everybody_ends_and_a_decision_less_is_an_iteration_more(
    shapes: list[tuple[int, int, float, int]], options: str, blocks: int, predictor: str
) -> None:
    """With a place and memory for all, nobody starts more than two iterations after who need not wait."""
    prompt, output, arrival, predicted_tokens = (np.array(values) for values in zip(*shapes, strict=True))
    trace = Trace(
        "made up",
        np.arange(len(shapes)),
        prompt,
        output,
        arrival_s=np.sort(arrival) - arrival.min(),
        predicted_tokens=predicted_tokens,
    )
    shared = scenario(trace, profile=seconds(blocks), predictor=predictor, max_new_tokens=50)
    late, early = (shared.run(f"continuous:{options},async_scheduling={on}") for on in ("on", "off"))
    assert (late.columns["status"] == early.columns["status"]).all()
    assert late.summary["completed"] + late.summary["failed"] == len(shapes)
    if blocks == 1000 and "max_num_seqs=20" in options and predictor != "tuned":
        wait = late.columns["scheduled_s"] - early.columns["scheduled_s"]
        assert (wait <= 2 + len(shapes)).all()


@settings(max_examples=150)
@given(shapes=WORLDS, steps=st.integers(0, 60), blocks=st.sampled_from([9, 12, 40]), asked=st.booleans())
def test_drained_at_any_moment_it_gives_back_all_that_has_not_ended(
    shapes: list[tuple[int, int, float, int]], steps: int, blocks: int, asked: bool
) -> None:
    scheduler: Any = AheadScheduler(
        Limits(16 * blocks),
        max_num_seqs=5,
        max_num_batched_tokens=40,
        order="shortest-predicted" if asked else "fcfs",
    )
    left = {i: output for i, (_, output, *_) in enumerate(shapes)}
    decoding: dict[int, Request] = {}
    dropped: set[int] = set()
    for i, (prompt, _, _, predicted_tokens) in enumerate(shapes):
        predicted = predicted_tokens if i % 2 else None
        scheduler.submit(Request(i, 0.0, prompt, 60, 0, None, None, predicted), 0.0)
    for now in range(steps):
        work = scheduler.next_work(float(now))
        if work is None:
            break
        if isinstance(work, Drop):
            dropped |= {request.id for request in work.requests}
            scheduler.record(work, Outcome(), float(now))
        elif isinstance(work, Perceive):
            answers = [Prediction(left[request.id]) for request in work.requests]
            scheduler.record(work, Outcome(predictions=answers), float(now))
        else:
            assert isinstance(work, Iterations)
            for request in work.evict:
                decoding.pop(request.id, None)
            decoding |= {chunk.request.id: chunk.request for chunk in work.chunks if chunk.last}
            assert work.chunks or decoding or work.overrun
            finished = []
            for i in list(decoding):
                left[i] -= 1
                if not left[i]:
                    finished.append(decoding.pop(i))
            scheduler.record(work, Outcome(1, finished), float(now))
    given_back = [request.id for request in scheduler.drain(99.0)]
    assert sorted(given_back) == sorted(i for i in left if left[i] > 0 and i not in dropped)
    assert scheduler.next_work(99.0) is None
    assert scheduler.kv.free == scheduler.kv.num_blocks


def test_it_leaps_with_an_iteration_in_hand() -> None:
    """Four events: the first two alone, until an iteration after the third comes, that one, and the end."""
    works = [b for b in run([50, 50, 5], [0, 0, 20]).batches if b.kind == "Iterations"]
    assert [b.iterations for b in works] == [20, 1, 5, 24, 1]
    assert [bool(b.chunks) for b in works] == [True, False, True, False, False]


def test_who_reaches_the_cap_is_known_to_end() -> None:
    """No row too many, and what falls free without others to run is given on at once."""
    capped = run([3, 2, 3], [0, 0, 0], ",max_num_seqs=1", max_new_tokens=3)
    assert column(capped, "finish_s") == [3, 5, 9]  # the second ends by itself, and runs once more
    assert column(capped, "scheduled_s") == [0, 3, 6]
    assert capped.summary["iterations"] == 9
    assert run([3], [0], max_new_tokens=3).summary["iterations"] == 3


def test_who_ends_before_the_cap_runs_once_more() -> None:
    alone = run([3], [0], max_new_tokens=4)
    assert column(alone, "finish_s") == [3]
    assert alone.summary["iterations"] == 4
    assert alone.summary["gpu_busy_fraction"] == 1.0


def test_a_row_that_reaches_the_cap_leaves_its_tokens_to_others() -> None:
    """Ten tokens an iteration: nine beside a row; all ten as soon as that is known to have had its last."""
    policy, cap = ",max_num_seqs=2,max_num_batched_tokens=10", {"blocks": 1000, "prompt": [1, 37]}
    sized = [
        [chunk for b in run([3, 2], [0, 0], policy, **cap, max_new_tokens=most).batches for chunk in b.chunks]
        for most in (3, 4)
    ]
    assert [num for num, _ in sized[0]] == [1, 9, 9, 9, 10]
    assert [num for num, _ in sized[1]] == [1, 9, 9, 9, 9, 1]


def test_who_shares_a_queue_takes_from_it_when_all_that_ran_has_finished() -> None:
    trace = Trace("made up", np.arange(9), np.full(9, 4), np.full(9, 1), arrival_s=np.zeros(9))
    policy = "continuous:async_scheduling=on,max_num_seqs=2"
    how = {"profile": seconds(100), "replicas": 2, "router": "shared-queue"}
    assert simulate(trace, policy=policy, **how).summary["completed"] == 9


def test_only_continuous_batching_has_it() -> None:
    from traces import InputError

    with pytest.raises(InputError, match="async_scheduling"):
        simulate("fixed", policy="sequence:async_scheduling=on", num_prompts=3)
