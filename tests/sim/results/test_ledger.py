"""The rules by which executors write down what happened."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sim.execution.iterations import RunningRequests
from sim.hardware.step_cost import StepCost
from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger, ReplicaUse
from sim.work import Chunk, Drop, Iterations, PaddedBatch, Prediction, SchedulingError

REQUESTS = [Request(i, 0.0, 10, 100) for i in range(3)]
BATCH = BatchRecord("PaddedBatch", (0, 1), 7, 7, 2.0, 3.0, 9.0, 10, 1.0, replica=1)


def columns(ledger: Ledger) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in vars(ledger).items() if isinstance(values, memoryview)}


def test_rows_of_a_padded_batch_are_done_where_they_reach_their_length() -> None:
    ledger = Ledger(3, [0.0] * 3)
    outcome = ledger.record_padded(PaddedBatch((REQUESTS[0], REQUESTS[1]), 7), BATCH, [7, 8, 9])
    assert (outcome.iterations, list(outcome.finished), list(outcome.unfinished)) == (
        7,
        *([r] for r in REQUESTS[:2]),
    )
    assert list(ledger.scheduled_s)[:2] == [2.0, 2.0]
    assert (ledger.first_token_s[0], ledger.finish_s[0], ledger.row_length[0]) == (3.0, 9.0, 7)
    assert (ledger.final_batch[0], ledger.replica[0]) == (0, 1)
    assert math.isnan(ledger.finish_s[1]) and ledger.failed_tokens[1] == 7
    later = replace_times(BATCH, 20.0)._replace(request_ids=(1,), iterations=8)
    ledger.record_padded(PaddedBatch((REQUESTS[1],), 9), later, [7, 8, 9])
    assert (ledger.scheduled_s[1], ledger.attempts[1], ledger.failed_tokens[1]) == (2.0, 2, 7)
    assert (ledger.first_token_s[1], ledger.finish_s[1], ledger.final_batch[1]) == (21.0, 27.0, 1)
    with pytest.raises(SchedulingError, match="request 1 was run again after it had ended"):
        ledger.record_padded(PaddedBatch((REQUESTS[1],), 9), later, [7, 8, 9])


def test_a_row_that_goes_on_has_its_first_token_from_its_first_batch_and_loses_nothing() -> None:
    ledger, lengths = Ledger(3, [0.0] * 3), [7, 20, 9]
    ledger.record_padded(PaddedBatch((REQUESTS[0], REQUESTS[1]), 7), BATCH, lengths)
    assert ledger.failed_tokens[1] == 7
    for k, iterations in enumerate((7, 6)):
        rest = Request(1, 0.0, 17 + 7 * k, 93 - 7 * k, answered_tokens=7 * (k + 1))
        later = replace_times(BATCH, 20.0 + 10 * k)._replace(request_ids=(1,), iterations=iterations)
        ledger.record_padded(PaddedBatch((rest,), 7), later, lengths)
    assert (ledger.first_token_s[1], ledger.finish_s[1], ledger.final_batch[1]) == (3.0, 37.0, 2)
    assert (ledger.attempts[1], ledger.row_length[1], ledger.failed_tokens[1]) == (3, 20, 0)
    assert ledger.begun_in == {1: [0, 1]}


def replace_times(record: BatchRecord, by_s: float) -> BatchRecord:
    start_s, prefill_s, end_s = record.start_s, record.prefill_end_s, record.end_s
    shift = by_s - start_s
    return record._replace(start_s=by_s, prefill_end_s=prefill_s + shift, end_s=end_s + shift)


def test_a_drop_needs_a_reason_and_ends_a_request_once() -> None:
    ledger = Ledger(3, [0.0] * 3)
    with pytest.raises(SchedulingError, match="'because' must begin with rejected or expired"):
        ledger.record_drop(Drop((REQUESTS[0],), "because"), 1.0)
    ledger.record_drop(Drop((REQUESTS[0],), "expired: late"), 1.0, replica=2, num_waiting=4)
    assert ledger.reason == {0: "expired: late"} and ledger.ended(0)
    assert ledger.batches == [BatchRecord("Drop", (0,), 0, 0, 1.0, 1.0, 1.0, replica=2, num_waiting=4)]
    with pytest.raises(SchedulingError, match="request 0 was dropped after it had ended"):
        ledger.record_drop(Drop((REQUESTS[0],), "rejected: again"), 1.0)


def test_what_the_model_says_of_a_length_is_kept() -> None:
    ledger = Ledger(3, [0.0] * 3)
    record = BatchRecord("Perceive", (2, 0), 8, 9, 0.0, 1.0, 2.0)
    outcome = ledger.record_perceive(record, [Prediction(50), Prediction(70)])
    assert (outcome.iterations, [p.tokens for p in outcome.predictions]) == (9, [50, 70])
    assert list(ledger.predicted) == [70, -1, 50]


def test_what_a_failure_takes_is_begun_again() -> None:
    ledger = Ledger(3, [0.0] * 3)
    ledger.record_cut_off(BATCH, is_answering=True)
    ledger.record_first_tokens([0], 3.0)
    ledger.record_lost(REQUESTS, {0: 5})
    assert list(ledger.scheduled_s)[:2] == [2.0, 2.0]
    assert ledger.reroutes == dict.fromkeys(range(3), 1)
    assert (ledger.lost_tokens, list(ledger.attempts)) == ({0: 5}, [1, 0, 0])
    assert math.isnan(ledger.first_token_s[0])


def test_iterations_are_logged_inside_the_window_only() -> None:
    work = Iterations((Chunk(REQUESTS[0], 10, True),), (REQUESTS[1],), 5, False)
    for log, window, expected in ((False, (0.0, 9.0), 0), (True, (0.0, 9.0), 1), (True, (4.5, 9.0), 0)):
        ledger = Ledger(3, [0.0] * 3, log=log, window=window)
        ledger.record_iterations(
            work, 4, 1.0, 2.0, 4.0, first_step_s=0.6, step_slope_s=0.1, kv_tokens=13, replica=1, num_waiting=2
        )
        assert len(ledger.batches) == expected
        for record in ledger.batches:
            assert record == BatchRecord(
                "Iterations", (0,), 5, 4, 1.0, 2.0, 4.0, 0, 0.6, 0.1, 13, ((10, True),), (1,), 1, 2
            )


def test_the_hot_loop_writes_what_the_methods_write(cost: StepCost) -> None:
    """Continuous batching in simulated time writes columns itself: by the same rules."""
    lengths = [3, 5, 7]
    written, expected = (Ledger(3, [0.0] * 3, replicas=[ReplicaUse()] * 2) for _ in range(2))
    running = RunningRequests(cost, lengths, written, replica=1)
    now = 1.0
    chunks = [[Chunk(REQUESTS[0], 10, True), Chunk(REQUESTS[1], 4, False)], [Chunk(REQUESTS[1], 6, True)]]
    for new, given in zip(([0, 1], []), chunks, strict=True):
        leap = running.begin(Iterations(given, (), 1, False), now)
        expected.record_scheduled(new, now)
        expected.record_first_tokens([c.request.id for c in given if c.last], now + leap.head_s)
        assert not running.advance(leap, 1, now, now + leap.head_s)
        now += leap.head_s
    evicting = Iterations((Chunk(REQUESTS[2], 10, True),), (REQUESTS[1],), 1, False)
    expected.record_scheduled([2], now)
    expected.record_first_tokens([2], now + cost.mixed_s(1, 11, 1, 10, 50))
    back = Iterations((Chunk(REQUESTS[1], 11, True),), (), 99, False)
    for work in (evicting, back, *[Iterations((), (), 99, False)] * 3):
        if not running.num_running:
            break
        leap = running.begin(work, now)
        end_s = leap.end_s
        finished = running.advance(leap, leap.iterations, now, end_s)
        expected.record_finished(finished, end_s, replica=1)
        now = end_s
    assert columns(written).keys() == columns(expected).keys()
    for name, values in columns(expected).items():
        assert columns(written)[name] == pytest.approx(values, nan_ok=True), name
    assert not any(map(math.isnan, written.finish_s))
