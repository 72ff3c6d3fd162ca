"""The kinds of Work: each says of itself what records and pictures need to know."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from sim.results.batch_record import BatchRecord
from sim.work import KINDS, Drop, Iterations, Kind, PaddedBatch, Perceive, SchedulingError, Work, unknown_work


def test_every_kind_has_a_name_of_its_own() -> None:
    assert set(KINDS.values()) == set(get_args(Work))
    assert list(KINDS) == list(get_args(Kind))
    assert all(work.kind == name == work.__name__ for name, work in KINDS.items())
    assert len({work.label for work in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize(
    ("work", "is_busy", "is_padded", "is_chunked", "is_question"),
    [
        (Perceive, True, True, False, True),
        (PaddedBatch, True, True, False, False),
        (Iterations, True, False, True, False),
        (Drop, False, False, False, False),
    ],
)
def test_a_record_says_what_its_kind_says(
    work: type[Work], is_busy: bool, is_padded: bool, is_chunked: bool, is_question: bool
) -> None:
    record = BatchRecord(work.kind, (), 0, 0, 0.0, 0.0, 0.0)
    assert (record.is_busy, record.is_padded) == (is_busy, is_padded)
    assert (record.is_chunked, record.is_question) == (is_chunked, is_question)
    assert record.label == work.label


def test_what_is_no_work_is_an_error_that_names_scheduler_and_thing() -> None:
    work: Any = "hello"
    with pytest.raises(SchedulingError, match=r"^int: str is no work of this executor$"):
        unknown_work(work, 7)
