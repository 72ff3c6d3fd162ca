"""Decisions as they are written down: who computes how much, who is let in, who leaves, what is held."""

from __future__ import annotations

from typing import Any

from real.engines.decision import Decision
from real.validation.decisions import Recorder, differences
from sim.request import Request
from sim.work import Chunk, Drop, Iterations, Outcome, Work

ONE, OTHER = Request(0, 0.0, 20, 9), Request(1, 0.0, 40, 9)


class Scripted:
    """Hands out these Works, whatever comes."""

    def __init__(self, *works: Work) -> None:
        self.works, self.kv_peak_tokens = list(works), 32

    def submit(self, request: Request, now: float) -> None: ...
    def record(self, work: Work, outcome: Outcome, now: float) -> None: ...
    def drain(self, now: float) -> list[Request]:
        return [ONE]

    def next_work(self, now: float) -> Work | None:
        return self.works.pop(0) if self.works else None


def written(*works: tuple[Work, list[Request]]) -> list[Decision]:
    """What is written down of Works, each with who finishes in it."""
    decisions: list[Decision] = []
    recorder: Any = Recorder(Scripted(*(work for work, _ in works)), 16, decisions)
    for now, (_, finished) in enumerate(works):
        work = recorder.next_work(float(now))
        recorder.record(work, Outcome(1, finished), now + 1.0)
    assert recorder.next_work(9.0) is None and recorder.drain(9.0) == [ONE]
    assert recorder.kv_peak_tokens == 32
    return decisions


def test_chunks_and_decoding_and_what_is_held() -> None:
    decisions = written(
        (Drop((Request(9, 0.0, 1, 1),), "rejected: never"), []),
        (Iterations([Chunk(ONE, 20, True), Chunk(OTHER, 12, False)], (), 1, False), []),
        (Iterations([Chunk(OTHER, 28, True)], (), 1, False), []),
        (Iterations((), (), 1, False), [ONE]),
        (Iterations((), (), 1, False), []),
    )
    assert decisions == [
        Decision(1, {0: 20, 1: 12}, {0: 0, 1: 0}, (), 2 + 1),
        Decision(2, {0: 1, 1: 28}, {}, (), 2 + 3),
        Decision(3, {0: 1, 1: 1}, {}, (), 2 + 3),
        Decision(4, {1: 1}, {}, (), 3),
    ]


def test_who_leaves_who_is_paused_and_what_is_found_again() -> None:
    decisions = written(
        (Iterations([Chunk(ONE, 20, True), Chunk(OTHER, 40, True)], (), 1, False), []),
        (Iterations((), [OTHER], 1, False, pause=[]), []),
        (Iterations([Chunk(OTHER, 9, True, cached=32)], (), 1, False, pause=[ONE]), []),
        (Iterations((), (), 1, False), []),
    )
    assert decisions[1:] == [
        Decision(1, {0: 1}, {}, (1,), 2),
        Decision(2, {1: 9}, {1: 32}, (), 2 + 3),
        Decision(3, {0: 1, 1: 1}, {}, (), 2 + 3),
    ]


def test_where_two_differ_and_where_one_ends_sooner() -> None:
    first, second = Decision(0, {0: 3}, {0: 0}, (), 1), Decision(1, {0: 1}, {}, (), 1)
    assert not list(differences([first, second], [first, second]))
    assert [d.number for d in differences([first, second], [second, second])] == [0]
    (missing,) = differences([first], [first, second])
    assert (missing.number, missing.one, missing.other) == (1, None, second)
