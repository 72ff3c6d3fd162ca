"""What every discipline promises whose ranks rise while a request runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim.request import Request
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.disciplines import discipline
from sim.schedulers.order import BY_MEMORY, ORDERS
from sim.work import Limits

RISING = ("shortest-remaining", "gittins", "lower-bound", "mlfq", "memory-time", "deadline", "least-laxity")


def rank_of(order: str, **options: Any) -> Any:
    return discipline(ContinuousOptions(order=order, **options), Limits(0))


@pytest.mark.parametrize("order", sorted(set(ORDERS) - set(RISING)))
@given(ages=st.lists(st.integers(0, 200), min_size=2, max_size=2))
def test_others_keep_their_ranks(order: str, ages: list[int]) -> None:
    rank = rank_of(order, prefix_caching="on" if order in BY_MEMORY else "own")
    request = Request(0, 3.0, 17, 100, predicted_tokens=40, predicted_lengths=(20,) * 10 + (60,) * 10)
    assert not hasattr(rank, "until_above")
    assert rank(request, ages[0]) == rank(request, ages[1])


@pytest.mark.parametrize("order", RISING)
@given(
    slos=st.tuples(*[st.none() | st.floats(1, most) for most in (4000, 300, 9000)]),
    lengths=st.lists(st.integers(1, 60), min_size=20, max_size=20),
    prompt=st.integers(1, 900),
    age=st.integers(0, 70),
    bound=st.floats(0, 99) | st.floats(0, 3000) | st.just(math.inf),
)
@example(  # with its next token it has 2, which is above
    slos=(None,) * 3, lengths=[1] * 20, prompt=1, age=1, bound=1.5
)
def test_they_say_when_they_may_rise(
    order: str, slos: tuple[float | None, ...], lengths: list[int], prompt: int, age: int, bound: float
) -> None:
    rank, lengths = rank_of(order, level_tokens=4), sorted(lengths)
    request = Request(0, 0.0, prompt, 100, predicted_tokens=lengths[10], predicted_lengths=tuple(lengths))
    request.ttft_slo_ms, request.tpot_slo_ms, request.e2el_slo_ms = slos
    if rank(request, age) > bound:
        return
    until = rank.until_above(request, age, bound)
    assert until >= 1
    for tokens in range(1, min(200, until)):
        assert rank(request, age + tokens) <= bound
