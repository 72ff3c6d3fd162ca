"""Who a continuous scheduler lets in: by the memory of today or of a plan, and after which questions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.request import Request
from tests.sim.schedulers.desk import Desk

Requests = Callable[..., list[Request]]


# Admission


def test_admission_by_the_first_chunk_by_the_prompt_and_by_what_is_predicted(requests: Requests) -> None:
    """The first holds nine blocks and will hold 13; the second has a first chunk of three blocks, a prompt of
    eight, and will hold nine, when the first holds ten: together 19, and one each for what is not full.
    """
    asked = requests([80, 16], prompt_tokens=128, arrival_s=[0, 4.5], max_new_tokens=80)

    def admitted(admission: str, blocks: int) -> int:
        options = {"max_num_seqs": 4, "max_num_batched_tokens": 40}
        lines = Desk(asked, [80, 16], blocks=blocks, admission=admission, **options).run()
        return next(k for k, line in enumerate(lines) if any(i == 1 for i, _ in line.chunks))

    assert [admitted("chunk", blocks) for blocks in (13, 16, 17, 22)] == [5, 5, 5, 5]
    assert [admitted("prompt", blocks) for blocks in (13, 16, 17, 22)] == [83, 83, 5, 5]
    assert [admitted("predicted", blocks) for blocks in (13, 18, 21, 22)] == [83, 83, 5, 5]


@settings(max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20),
    order=st.sampled_from(["fcfs", "shortest-predicted", "shortest-remaining", "fair"]),
    blocks=st.sampled_from([8, 12, 20]),
)
def test_with_true_predictions_nobody_is_ever_evicted(
    shapes: list[tuple[int, int]], order: str, blocks: int, requests: Requests
) -> None:
    lengths = [n for _, n in shapes]
    asked = requests(lengths, prompt_tokens=[p for p, _ in shapes], max_new_tokens=60)
    desk = Desk(asked, lengths, blocks=blocks, admission="predicted", order=order)
    assert not any(line.evicted for line in desk.run())
    assert sorted(desk.finished) == list(range(len(shapes)))


def test_what_outlives_its_prediction_counts_with_what_it_holds(requests: Requests) -> None:
    """Told 4, the first answers 80: when it holds six blocks of seven, there is no room for two more."""
    asked = requests([4, 4], prompt_tokens=[16, 16], arrival_s=[0, 70.0], max_new_tokens=80)
    desk = Desk(asked, [80, 4], blocks=7, admission="predicted")
    lines = desk.run()
    assert desk.finished == [0, 1]
    assert not any(line.evicted for line in lines)
    assert lines[80].chunks == [(1, 16)]
    early = requests([4, 4], prompt_tokens=[16, 16], arrival_s=[0, 30.0], max_new_tokens=80)
    desk = Desk(early, [80, 4], blocks=7, admission="predicted")
    assert desk.run()[30].chunks == [(1, 16)]


@pytest.mark.parametrize(("margin", "second"), [(0, 1), (32, 50), (0.9, 50)])
def test_a_margin_is_planned_for(margin: float, second: int, requests: Requests) -> None:
    """Seven blocks: two of 16 + 32 tokens fit, two of 16 + 64 do not."""
    asked = requests([32, 32], prompt_tokens=16, arrival_s=[0, 0.5], upper=[64, 64], max_new_tokens=80)
    lines = Desk(asked, [50, 5], blocks=7, admission="predicted", margin=margin).run()
    assert next(k for k, line in enumerate(lines) if (1, 16) in line.chunks) == second


# Perception


def test_lengths_are_asked_only_where_they_matter(requests: Requests) -> None:
    for options, asked in (
        ({}, []),
        ({"order": "fair"}, []),
        ({"order": "priority", "admission": "prompt"}, []),
        ({"order": "shortest-predicted"}, [[0, 1, 2]]),
        ({"order": "shortest-remaining", "perceive_batch": 2}, [[0, 1], [2]]),
        ({"admission": "predicted"}, [[0, 1, 2]]),
    ):
        desk = Desk(requests([None] * 3), [5, 4, 3], perception_tokens=44, **options)
        desk.run()
        assert desk.asked == asked
        assert sorted(desk.finished) == [0, 1, 2]
        known = Desk(requests([5, 4, 3]), [5, 4, 3], perception_tokens=44, **options)
        known.run()
        assert known.asked == []


def test_a_question_needs_room_beside_what_runs(requests: Requests) -> None:
    """Eight blocks: the first request holds five, the question about the second needs four."""
    asked = requests([20, None], prompt_tokens=[80, 16], arrival_s=[0, 0.5], max_new_tokens=20)
    desk = Desk(asked, [20, 20], blocks=8, perception_tokens=44, order="shortest-predicted")
    desk.run()
    assert desk.asked == [[1]]
    assert [k for k, line in enumerate(desk.lines) if (1, 16) in line.chunks] == [20]


def test_a_question_that_can_never_fit_is_rejected(requests: Requests) -> None:
    desk = Desk(
        requests([None], prompt_tokens=20, max_new_tokens=10),
        [5],
        blocks=3,
        perception_tokens=44,
        order="shortest-predicted",
    )
    desk.run()
    assert desk.dropped == {0: "rejected: prompt + question (64) exceeds the KV capacity (48)"}
