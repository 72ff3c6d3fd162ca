"""Drawn conversations: what they are made of, and that no draw depends on how many are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import InputError, load
from traces.scaling import scale_lengths
from traces.sessions import NOBODY
from traces.trace import Trace

SPECS = st.builds(
    (
        "sessions:turns={},turns_law={},rate={},think_s={},think_law={},system_tokens={},"
        "prompt_tokens={},output_tokens={},max_context_tokens={},agents={}"
    ).format,
    st.sampled_from([1, 2, 4.4]),
    st.sampled_from(["fixed", "geometric"]),
    st.sampled_from([0.1, 1, 1000]),
    st.sampled_from([0, 5, 100]),
    st.sampled_from(["fixed", "exponential"]),
    st.sampled_from([0, 7, 512]),
    st.sampled_from([1, 100]),
    st.sampled_from([1, 100]),
    st.sampled_from([600, 1_000_000]),
    st.sampled_from([0, 0, 1, 3]),
)


def parents_of(trace: Trace, row: int) -> list[int]:
    assert trace.waits_for is not None
    return [parent for parent in trace.waits_for[row].tolist() if parent != NOBODY]


def said_by(trace: Trace) -> list[list[int]]:
    """Each prompt token by token: one number for each token that any other prompt has in the same place."""
    assert trace.blocks is not None
    prompts = []
    for row in range(len(trace)):
        hashes, ends = trace.blocks.of(row)
        starts = [0, *ends][: len(ends)]
        prompts.append(
            [value for value, a, b in zip(hashes, starts, ends, strict=True) for _ in range(b - a)]
        )
    return prompts


def check_growth(trace: Trace) -> None:
    """A turn's prompt is that of the turn before, its answer, and a new question."""
    assert trace.blocks is not None and trace.blocks.answers is not None
    prompts = said_by(trace)
    is_turn = trace.blocks.answers >= 0
    for row in np.flatnonzero(is_turn).tolist():
        before = [parent for parent in parents_of(trace, row) if is_turn[parent]]
        while not before and parents_of(trace, row):  # sub-agents stand between
            row_before = parents_of(trace, parents_of(trace, row)[0])
            before = [parent for parent in row_before if is_turn[parent]]
        for parent in before:
            answer = [trace.blocks.answers[parent]] * int(trace.output_tokens[parent])
            whole = prompts[parent] + answer
            assert len(prompts[parent]) == trace.prompt_tokens[parent]
            assert prompts[row][: len(whole)] == whole
            assert len(prompts[row]) > len(whole)


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, number=st.integers(1, 60), seed=st.integers(0, 5), cap=st.sampled_from([None, 3, 60]))
def test_prompts_grow_by_the_answers_really_given(spec: str, number: int, seed: int, cap: int | None) -> None:
    trace = load(spec, num_prompts=number, seed=seed, max_new_tokens=cap)
    assert len(trace) == number and trace.arrival_s is not None and trace.arrival_s[0] == 0
    check_growth(trace)
    check_growth(scale_lengths(trace, output_scale=2.5))


@settings(max_examples=40, deadline=None)
@given(spec=SPECS, number=st.integers(1, 40), more=st.integers(1, 200), seed=st.integers(0, 5))
def test_a_shorter_trace_is_the_beginning_of_a_longer_one(
    spec: str, number: int, more: int, seed: int
) -> None:
    short = load(spec, num_prompts=number, seed=seed)
    long = load(spec, num_prompts=number + more, seed=seed).select(np.arange(number))
    assert short.columns() == long.columns()
    for name in short.columns():
        assert getattr(short, name).tolist() == getattr(long, name).tolist(), name
    assert short.blocks is not None and long.blocks is not None
    assert short.blocks.hashes.tolist() == long.blocks.hashes.tolist()
    assert short.blocks.ends.tolist() == long.blocks.ends.tolist()


@settings(max_examples=60)
@given(SPECS, st.integers(1, 60), st.integers(0, 9))
def test_whole_sessions_are_the_first_that_have_so_many_requests(spec: str, number: int, seed: int) -> None:
    whole, longer = (load(spec, num_prompts=n, seed=seed, whole_sessions=True) for n in (number, number + 60))
    sizes = [
        dict(zip(*np.unique(trace.session_id, return_counts=True), strict=True)) for trace in (whole, longer)
    ]
    assert sizes[0].items() <= sizes[1].items()
    last = max(sizes[0], key=int)
    assert len(whole) - sizes[0][last] < number <= len(whole)
    assert len(load(spec, num_prompts=number, seed=seed)) == number


def test_as_many_users_as_are_said_are_not_enough_for_more_requests() -> None:
    assert len(load("sessions:users=3,turns=4", num_prompts=9, whole_sessions=True)) == 12
    with pytest.raises(InputError, match="3 users make 12 requests, fewer than 13"):
        load("sessions:users=3,turns=4", num_prompts=13, whole_sessions=True)


def test_users_and_turns_say_how_many_requests_there_are() -> None:
    trace = load("sessions:users=20,turns=4,think_s=5")
    assert len(trace) == 80 and trace.session_id is not None
    assert np.unique(trace.session_id.astype(str), return_counts=True)[1].tolist() == [4] * 20
    assert len(load("sessions")) == 1000 and len(load("sessions:users=20", num_prompts=30)) == 30
    with pytest.raises(InputError, match="20 users make 80 requests, fewer than 90; without users there are"):
        load("sessions:users=20", num_prompts=90)


def test_numbers_drawn_have_their_means() -> None:
    spec = "sessions:users=4000,turns=5,turns_law=geometric,think_s=7,rate=2,prompt_sigma=0,output_sigma=0"
    trace = load(spec)
    assert trace.arrival_s is not None
    starts = trace.arrival_s[~trace.is_waiting]
    assert len(trace) / 4000 == pytest.approx(5, rel=0.06)
    assert trace.thinks_s[trace.is_waiting].mean() == pytest.approx(7, rel=0.06)
    assert starts[-1] == pytest.approx(2000, rel=0.06)
    assert set(trace.output_tokens.tolist()) == {128}


def test_sub_agents_work_side_by_side_between_two_turns() -> None:
    trace = load("sessions:users=1,turns=3,agents=2,think_s=4,think_law=fixed")
    assert [parents_of(trace, row) for row in range(7)] == [[], [0], [0], [1, 2], [3], [3], [4, 5]]
    assert trace.thinks_s.tolist() == [0, 0, 0, 4, 0, 0, 4]
    assert trace.blocks is not None
    assert [len(trace.blocks.of(row)[0]) for row in range(7)] == [2, 1, 1, 4, 1, 1, 6]


def test_a_session_ends_before_a_context_that_is_too_long() -> None:
    spec = "sessions:users=1,turns=9,system_tokens=100,prompt_tokens=50,output_tokens=50,prompt_sigma=0"
    trace = load(f"{spec},output_sigma=0,max_context_tokens=420")
    assert trace.prompt_tokens.tolist() == [150, 250, 350]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sessions:users=0", "users 0 is not between 1 and"),
        ("sessions:turns=0", "turns 0 is not between 1 and 1000"),
        ("sessions:think_s=-1", "think_s -1 is not between 0 and"),
        ("sessions:turns_law=odd", "'odd' must be one of fixed, geometric"),
        ("sessions:agents=1000", "agents 1000 is not between 0 and 100"),
    ],
)
def test_options_out_of_bounds_are_named(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(spec)
