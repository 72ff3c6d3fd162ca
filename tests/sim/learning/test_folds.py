"""No prompt, user or later time is learned from where it is judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.learning.answers import Answers
from sim.learning.folds import split
from traces.errors import InputError
from traces.trace import FloatArray, IntArray


def answers_of(
    prompt: list[int], user: list[int] | None = None, time_s: list[float] | None = None
) -> Answers:
    numbers = np.unique(prompt, return_inverse=True)[1]
    n = len(prompt)
    users: IntArray | None = None if user is None else np.unique(user, return_inverse=True)[1]
    times: FloatArray | None = None if time_s is None else np.array(time_s)
    return Answers(
        "made up",
        [f"p {k}" for k in numbers],
        np.arange(1, n + 1),
        np.zeros(n, dtype=np.bool_),
        np.full(n, np.inf),
        numbers,
        np.ones(n),
        np.ones(n, dtype=np.int64),
        users,
        times,
        {},
        (),
    )


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=60, max_size=150), st.integers(0, 9)
)
def test_folds_share_no_prompt_and_no_user(rows: list[tuple[int, int]], seed: int) -> None:
    prompt, user = (list(column) for column in zip(*rows, strict=True))
    answers = answers_of(prompt, user)
    for by in ("prompt", "user"):
        if by == "user" and len(set(user)) < 5:
            continue
        folds = split(answers, by, 5, seed).folds  # type: ignore[arg-type]
        judged = np.concatenate([fold.test for fold in folds])
        assert sorted(judged.tolist()) == list(range(len(rows)))
        for fold in folds:
            assert not set(answers.prompt[fold.train]) & set(answers.prompt[fold.test])
            if by == "user":
                assert answers.user is not None
                assert not set(answers.user[fold.train]) & set(answers.user[fold.test])


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 10**6)), min_size=150, max_size=200))
def test_nothing_is_learned_from_later_times(rows: list[tuple[int, int]]) -> None:
    prompt, time_s = (list(column) for column in zip(*rows, strict=True))
    answers = answers_of(prompt, time_s=[float(t) for t in time_s])
    try:
        folds = split(answers, "time", 5).folds
    except InputError:
        return
    assert answers.time_s is not None
    for fold in folds:
        assert answers.time_s[fold.train].max() < answers.time_s[fold.test].min()
        assert not set(answers.prompt[fold.train]) & set(answers.prompt[fold.test])


def test_the_choice_goes_by_what_is_known() -> None:
    n = 200
    prompts, users, times = list(range(n)), [i % 20 for i in range(n)], [float(i) for i in range(n)]
    assert split(answers_of(prompts)).told == "prompt"
    assert split(answers_of(prompts, time_s=times)).told.startswith("time")
    assert split(answers_of(prompts, users, times)).told == "user"
    assert split(answers_of(prompts, [0] * n, times)).told.startswith("time")


def test_what_cannot_be_split_is_said() -> None:
    answers = answers_of(list(range(60)), [0, 1] * 30)
    with pytest.raises(InputError, match="has 2 users, 5 folds need as many"):
        split(answers, "user")
    with pytest.raises(InputError, match="no column of times"):
        split(answers, "time")
    with pytest.raises(InputError, match="no column of users"):
        split(answers_of(list(range(60))), "user")
    with pytest.raises(InputError, match="folds: 1 is not between 2 and 50"):
        split(answers, "prompt", 1)
