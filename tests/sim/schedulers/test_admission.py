"""Who is turned away: at the very bounds, and in which words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.request import Request
from sim.schedulers.admission import EXPIRED, expiry, rejection, unsplit_rejection
from sim.work import Limits

REQUEST = Request(0, 0.0, 30, 20, predicted_tokens=5)


def test_what_the_memory_just_holds_is_let_in() -> None:
    assert rejection(REQUEST, Limits(50)) is None
    drop = rejection(REQUEST, Limits(49))
    assert drop is not None and drop.requests == (REQUEST,)
    assert drop.reason == "rejected: prompt + max_new_tokens (50) exceeds the KV capacity (49)"


def test_a_question_needs_room_where_the_length_is_not_known() -> None:
    unknown = replace(REQUEST, predicted_tokens=None)
    assert rejection(unknown, Limits(74, perception_tokens=44), question=True) is None
    drop = rejection(unknown, Limits(73, perception_tokens=44), question=True)
    assert drop is not None
    assert drop.reason == "rejected: prompt + question (74) exceeds the KV capacity (73)"
    for known, question in ((REQUEST, True), (unknown, False)):
        assert rejection(known, Limits(73, perception_tokens=44), question=question) is None
    # The longer of the two is what it takes: here the answer.
    drop = rejection(unknown, Limits(49, perception_tokens=20), question=True)
    assert drop is not None and "prompt + max_new_tokens (50)" in drop.reason


@pytest.mark.parametrize(
    ("never_evicts", "need", "what"), [(True, 30, "prompt"), (False, 50, "prompt + max_new_tokens")]
)
def test_an_iteration_holds_a_prompt_and_what_may_be_computed_again(
    never_evicts: bool, need: int, what: str
) -> None:
    assert unsplit_rejection(REQUEST, need, never_evicts=never_evicts) is None
    drop = unsplit_rejection(REQUEST, need - 1, never_evicts=never_evicts)
    assert drop is not None and drop.requests == (REQUEST,)
    bound = f"max_num_batched_tokens ({need - 1}), chunked=off"
    assert drop.reason == f"rejected: {what} ({need}) exceeds {bound}"


def test_a_deadline_has_passed_only_after_it() -> None:
    waiting = [replace(REQUEST, id=id, deadline_s=at) for id, at in enumerate((None, 3.0, 2.0, 1.0))]
    drop = expiry(waiting, 2.5)
    assert drop is not None and drop.reason == EXPIRED
    assert [request.id for request in drop.requests] == [2, 3]
    assert expiry(waiting[:3], 2.0) is None and expiry([], 2.0) is None
