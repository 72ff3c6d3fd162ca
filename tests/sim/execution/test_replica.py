"""One accelerator: a leap equals its iterations, times mean what they say, and a bad scheduler is caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.execution.environment import Environment
from sim.execution.padded_batch import PerceptionCost
from sim.execution.replica import Replica
from sim.fleet.sole import Sole
from sim.hardware.step_cost import StepCost
from sim.request import Request
from sim.results.ledger import Ledger, ReplicaUse
from sim.scenario.scenario import scenario
from sim.schedulers import MicrobatchScheduler, OpenSequenceScheduler, SequenceScheduler
from sim.testing.invariants import check_memory
from sim.work import (
    Chunk,
    Drop,
    Iterations,
    Limits,
    Outcome,
    PaddedBatch,
    Perceive,
    Prediction,
    SchedulingError,
    Work,
)
from tests.sim.flat_machine import flat_machine
from traces.prompt_blocks import blocks_of_lists
from traces.trace import Trace

Requests = Callable[..., list[Request]]
Drive = Callable[..., Ledger]

QUESTION = PerceptionCost(question_tokens=36, answer_tokens=8)


class Scripted:
    """Hands out what `script` says, call by call, and keeps a diary of what it was told."""

    upper_quantile: float | None = None
    wake_at: float | None = None

    def __init__(self, script: Callable[[list[Request]], list[Work | None]]) -> None:
        self.script = script
        self.waiting: list[Request] = []
        self.works: list[Work | None] | None = None
        self.diary: list[tuple[str, float, Any]] = []

    def submit(self, request: Request, now: float) -> None:
        self.waiting.append(request)
        self.diary.append(("submit", now, request.id))

    def next_work(self, now: float) -> Work | None:
        self.diary.append(("next_work", now, None))
        if self.works is None:
            self.works = list(self.script(self.waiting))
        return self.works.pop(0) if self.works else None

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        self.diary.append(("record", now, outcome))

    def drain(self, now: float) -> list[Request]:
        return self.waiting


@pytest.fixture(scope="session")
def drive(cost: StepCost) -> Drive:
    """(scheduler, requests, lengths) -> the ledger of the run."""

    def run(
        scheduler: Any,
        asked: Sequence[Request],
        lengths: Sequence[int],
        kv_tokens: int = 100_000,
        max_concurrency: int | None = None,
        perception: PerceptionCost = QUESTION,
        ragged: bool = False,
    ) -> Ledger:
        env = Environment()
        arrival_s = [r.arrival_s for r in asked]
        ledger = Ledger(len(asked), arrival_s, replicas=[ReplicaUse("made up", kv_tokens)])
        arrivals = Sole(iter(sorted(asked, key=lambda r: r.arrival_s)), ledger, max_concurrency)
        Replica(
            env,
            scheduler,
            replace(cost, ragged_prefill=ragged, ragged_decode=ragged),
            arrivals,
            ledger,
            output_tokens=lengths,
            predictions=[Prediction(n) for n in lengths],
            perception=perception,
        )
        env.run()
        return ledger

    return run


def one_batch(limit: int) -> Callable[[list[Request]], list[Work | None]]:
    return lambda waiting: [PaddedBatch(tuple(waiting), limit)]


@settings(deadline=None, max_examples=100)
@given(
    prompts=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    lengths=st.lists(st.integers(1, 700), min_size=40, max_size=40),
    limit=st.integers(1, 600),
)
def test_a_leap_is_the_sum_of_its_iterations(
    prompts: list[int], lengths: list[int], limit: int, cost: StepCost, drive: Drive, requests: Requests
) -> None:
    rows, lengths = len(prompts), lengths[: len(prompts)]
    asked = requests([None] * rows, prompt_tokens=prompts)
    ledger = drive(Scripted(one_batch(limit)), asked, lengths)
    # Row by row, token by token, as an engine would go about it.
    seconds, done, produced, context = 0.0, [False] * rows, 0, max(prompts)
    while not all(done) and produced < limit:
        seconds += (
            cost.padded_prefill_s(rows, context) if produced == 0 else cost.decode_s(rows, rows * context)
        )
        context += 1 if produced else 0
        produced += 1
        done = [produced >= n for n in lengths]
    (batch,) = ledger.batches
    assert batch.iterations == produced
    assert batch.end_s == pytest.approx(seconds, rel=1e-12)
    assert batch.prefill_end_s == pytest.approx(cost.padded_prefill_s(rows, max(prompts)), rel=1e-12)
    assert [i for i in range(rows) if ledger.final_batch[i] == 0] == [i for i in range(rows) if done[i]]


def test_an_engine_that_computes_no_padding_is_not_charged_for_it(
    cost: StepCost, drive: Drive, requests: Requests
) -> None:
    prompts, lengths = [10, 300, 30], [5, 50, 20]

    def script(waiting: list[Request]) -> list[Work | None]:
        return [Perceive(tuple(waiting)), PaddedBatch(tuple(waiting), 512)]

    ledger = drive(Scripted(script), requests([None] * 3, prompt_tokens=prompts), lengths, ragged=True)
    asked, batch = ledger.batches
    with_question = [p + QUESTION.question_tokens for p in prompts]
    for record, real, steps in ((asked, with_question, QUESTION.answer_tokens), (batch, prompts, 49)):
        prefill = cost.mixed_s(0, 0, 3, sum(real), sum(p * p for p in real) / 2)
        assert record.prefill_end_s - record.start_s == pytest.approx(prefill, rel=1e-9)
        decode = sum(cost.decode_s(3, sum(real) + 3 * j) for j in range(steps))
        assert record.end_s - record.prefill_end_s == pytest.approx(decode, rel=1e-9)
        assert record.prompt_tokens == max(real)
    assert batch.kv_tokens == 3 * (300 + 512)  # what is reserved stays padded


def test_leap_golden(cost: StepCost, drive: Drive, requests: Requests) -> None:
    ledger = drive(Scripted(one_batch(512)), requests([None]), [3])
    # One row: 11.14 ms of prefill (with 50 units of attention), then decode at contexts 10 and 11.
    prefill = 0.011 + 9 * 0.001 / 63 + 50 * 1e-9
    assert list(ledger.finish_s) == [pytest.approx(prefill + 0.010 + 1e-6 + 0.010 + 1.1e-6)]


def test_rows_are_scheduled_run_and_finish_together(drive: Drive, requests: Requests) -> None:
    ledger = drive(Scripted(one_batch(50)), requests([None] * 3), [5, 50, 20])
    (batch,) = ledger.batches
    assert list(ledger.scheduled_s) == [0.0] * 3
    assert list(ledger.first_token_s) == [batch.prefill_end_s] * 3
    assert list(ledger.finish_s) == [batch.end_s] * 3
    assert list(ledger.row_length) == [50] * 3
    assert batch.kv_tokens == 3 * (10 + 50)


def test_the_first_token_is_that_of_the_final_attempt(drive: Drive, requests: Requests) -> None:
    def script(waiting: list[Request]) -> list[Work | None]:
        return [PaddedBatch(tuple(waiting), 10), PaddedBatch((waiting[1],), 512)]

    scheduler = Scripted(script)
    ledger = drive(scheduler, requests([None, None]), [10, 11])
    first, second = ledger.batches
    assert first.iterations == 10
    assert list(ledger.scheduled_s) == [0.0, 0.0]
    assert list(ledger.first_token_s) == [first.prefill_end_s, second.prefill_end_s]
    assert list(ledger.finish_s) == [first.end_s, second.end_s]
    assert list(ledger.attempts) == [1, 2]
    assert list(ledger.failed_tokens) == [0, 10]
    assert list(ledger.row_length) == [10, 11]
    outcomes = [o for name, _, o in scheduler.diary if name == "record"]
    assert [[r.id for r in o.finished] for o in outcomes] == [[0], [1]]
    assert [[r.id for r in o.unfinished] for o in outcomes] == [[1], []]
    assert [o.iterations for o in outcomes] == [10, 11]


def test_perception_costs_a_prefill_and_eight_steps(cost: StepCost, drive: Drive, requests: Requests) -> None:
    scheduler = Scripted(lambda waiting: [Perceive(tuple(waiting)), Drop(tuple(waiting), "rejected: enough")])
    ledger = drive(scheduler, requests([None, None], prompt_tokens=[10, 20]), [70, 80])
    seconds = cost.padded_prefill_s(2, 56) + sum(cost.decode_s(2, 2 * (56 + j)) for j in range(8))
    asked = ledger.batches[0]
    assert asked.end_s == pytest.approx(seconds, rel=1e-12)
    assert asked.kv_tokens == 2 * (20 + 36 + 8)
    outcome = next(o for name, _, o in scheduler.diary if name == "record")
    assert [p.tokens for p in outcome.predictions] == [70, 80]
    assert ledger.reason == dict.fromkeys(range(2), "rejected: enough")


def test_free_perception_takes_no_time(drive: Drive, requests: Requests) -> None:
    scheduler = Scripted(lambda waiting: [Perceive(tuple(waiting)), PaddedBatch(tuple(waiting), 512)])
    ledger = drive(scheduler, requests([None]), [70], perception=PerceptionCost())
    assert ledger.batches[0].end_s == 0.0


def test_what_arrives_as_a_batch_ends_is_submitted_before_the_next_decision(
    drive: Drive, requests: Requests
) -> None:
    alone = drive(MicrobatchScheduler(Limits(100_000)), requests([None]), [30])
    end = alone.finish_s[0]
    asked = requests([None] * 3, arrival_s=[0.0, end, end])
    ledger = drive(MicrobatchScheduler(Limits(100_000)), asked, [30] * 3)
    assert [b.request_ids for b in ledger.batches] == [(0,), (1, 2)]
    assert ledger.batches[1].start_s == end


@settings(deadline=None, max_examples=60)
@given(
    arrivals=st.lists(st.floats(0, 30), min_size=1, max_size=30),
    lengths=st.lists(st.integers(1, 500), min_size=30, max_size=30),
    max_wait_s=st.sampled_from([0.0, 0.3, 5.0]),
)
def test_the_protocol_is_kept(
    arrivals: list[float], lengths: list[int], max_wait_s: float, drive: Drive, requests: Requests
) -> None:
    """The clock never goes back, arrivals are submitted in time, every work is recorded before the next."""
    diary: list[tuple[str, float, Any]] = []
    base: type[SequenceScheduler] = OpenSequenceScheduler if max_wait_s else SequenceScheduler

    class Watched(base):  # type: ignore[misc, valid-type]
        def submit(self, request: Request, now: float) -> None:
            diary.append(("submit", now, request))
            super().submit(request, now)

        def next_work(self, now: float) -> Work | None:
            work = super().next_work(now)
            diary.append(("next_work", now, work))
            return work

        def record(self, work: Work, outcome: Outcome, now: float) -> None:
            diary.append(("record", now, work))
            super().record(work, outcome, now)

    n = len(arrivals)
    asked = requests([None] * n, arrival_s=arrivals)
    drive(Watched(Limits(100_000, perception_tokens=44), max_wait_s=max_wait_s), asked, lengths[:n])
    times = [now for _, now, _ in diary]
    assert times == sorted(times)
    submitted: set[int] = set()
    for (name, now, what), (after, _, then) in itertools.pairwise(diary):
        if name == "submit":
            # While the accelerator is at work nobody looks: what counts is the next decision.
            assert now >= what.arrival_s
            submitted.add(what.id)
        elif name == "next_work":
            assert {r.id for r in asked if r.arrival_s <= now} == submitted
            if what is not None:
                assert sum(entry[0] == "record" and entry[2] is what for entry in diary) == 1
            assert what is None or after == "submit" or (after == "record" and then is what)


def test_max_concurrency_holds_requests_back(drive: Drive, requests: Requests) -> None:
    asked = requests([None] * 7, arrival_s=[0, 0, 0, 0, 0, 0.001, 1000])
    ledger = drive(MicrobatchScheduler(Limits(100_000)), asked, [20] * 7, max_concurrency=2)
    assert [b.request_ids for b in ledger.batches] == [(0, 1), (2, 3), (4, 5), (6,)]
    ends = [b.end_s for b in ledger.batches]
    # A request that is held back arrives when a place falls free.
    assert list(ledger.arrival_s) == [0, 0, ends[0], ends[0], ends[1], ends[1], 1000]
    assert ledger.scheduled_s == ledger.arrival_s


def test_dropped_requests_make_room(drive: Drive, requests: Requests) -> None:
    asked = requests([None] * 4, prompt_tokens=[5000, 5000, 10, 10])
    ledger = drive(MicrobatchScheduler(Limits(1000)), asked, [5] * 4, kv_tokens=1000, max_concurrency=1)
    assert sorted(ledger.reason) == [0, 1]
    assert ledger.finish_s[2] < ledger.finish_s[3]


def whole(request: Request, at_most: int = 99) -> Iterations:
    """Iterations that compute the request's prompt at once."""
    return Iterations((Chunk(request, request.prompt_tokens, True),), (), at_most, False)


class Unknown:
    requests = ()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda w: [PaddedBatch(tuple(w), 600)], "a PaddedBatch of 3 requests reserves 1830 KV tokens"),
        (lambda w: [Perceive(tuple(w * 30))], "a Perceive of 90 requests reserves 4860 KV tokens"),
        (lambda w: [PaddedBatch(tuple(w), 0)], r"token_limit of at least 1 \(0\)"),
        (lambda w: [PaddedBatch((), 10)], r"different requests \(\[\]\)"),
        (lambda w: [PaddedBatch(tuple(w), 100)] * 2, "request 0 was run again after it had ended"),
        (lambda w: [PaddedBatch((w[0], w[0]), 100)], r"different requests \(\[0, 0\]\)"),
        (lambda w: [PaddedBatch((w[0], w[0]), 2)], r"different requests \(\[0, 0\]\)"),
        (lambda w: [Unknown()], "Scripted: Unknown is no work of this executor"),
        (lambda w: [PaddedBatch(tuple(w), 100), Drop((w[0],), "rejected: late")], "request 0"),
        (lambda w: [Drop((w[0],), "rejected: x"), Drop((w[0],), "rejected: y")], "request 0"),
        (lambda w: [Drop((w[0],), "rejected: x"), PaddedBatch((w[0],), 100)], "request 0"),
        (lambda w: [Drop((w[0],), "rejected: x"), whole(w[0])], "request 0 was run again after it had ended"),
        (lambda w: [whole(w[0])] * 2, "request 0 was run again after it had ended"),
        (lambda w: [whole(w[0], at_most=0)], "of which none is to run"),
        (lambda w: [Iterations((), (), 1, False)], "nothing to run"),
        (lambda w: [Drop((w[0],), "")], "reason"),
        (lambda w: [Perceive(())], "Perceive"),
    ],
)
def test_a_broken_protocol_is_an_error(script: Any, message: str, drive: Drive, requests: Requests) -> None:
    with pytest.raises(SchedulingError, match=message):
        drive(Scripted(script), requests([None] * 3), [3, 4, 5], kv_tokens=1800)


@pytest.mark.parametrize("wake_at", [0.0, -1.0])
def test_a_wake_up_must_lie_ahead(wake_at: float, drive: Drive, requests: Requests) -> None:
    scheduler = Scripted(lambda waiting: [])
    scheduler.wake_at = wake_at
    with pytest.raises(SchedulingError, match=rf"wake_at \({wake_at}\) must be later than now \(0(\.0)?\)"):
        drive(scheduler, requests([None]), [3])


def test_a_failure_while_somebody_leaves_finds_no_more_in_memory_than_it_holds(tmp_path: Path) -> None:
    """Two requests share 48 tokens; the second leaves at 9 s, for the first one's next block."""
    schedule = tmp_path / "outages.csv"
    schedule.write_text("replica,down_s,up_s\n0,9.5,20\n")
    blocks = blocks_of_lists([[0], [0]], [[48], [48]], [56, 56])
    trace = Trace("t", np.arange(2), np.array([56, 56]), np.array([20, 20]), blocks=blocks)
    shared = scenario(trace, profile=flat_machine(), kv_blocks=7, failures=schedule, max_new_tokens=20)
    result = shared.run("continuous:prefix_caching=on", log=True)
    cut = next(b for b in result.batches if b.end_s == 9.5)
    assert (cut.evicted, cut.iterations, cut.kv_tokens) == ((1,), 0, 64)
    check_memory(result, [7 * 16])
