"""The log that an executor fills during a run, simulated or real; computes no metrics.

The rules of what is written when stand here and nowhere else, so that simulated and real runs agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..request import Request
from ..work import Drop, Iterations, Outcome, PaddedBatch, Prediction, SchedulingError, TierUse
from .batch_record import BatchRecord
from .token_gaps import GapPool


class PrefixUse(NamedTuple):
    """`found`: prompt tokens that were in memory when their request first ran on the replica, of `asked`.
    `recomputed`: lost by preemptions, less those found again. `evicted`: given up, though they might still
    have been found. `tiers`: what slower memory was good for, where there is any.
    """

    found: int
    asked: int
    recomputed: int
    evicted: int
    tiers: TierUse | None = None


@dataclass
class ReplicaUse:
    """What one accelerator did: sums over its iterations of continuous batching, its memory, its outages.

    Padded batches are not in `iterations` and `busy_s`: their records are (`Ledger.batches`). `unfinished`:
    when it iterated since it last finished a request, from and until in turns; None: it need not be known,
    since nothing that has begun is lost, nor run for nobody. `prefixes`: None where nobody looks for
    the beginnings of prompts in memory.
    """

    profile: str = ""
    kv_capacity_tokens: int = 0
    iterations: int = 0
    busy_s: float = 0.0
    kv_peak_tokens: int = 0
    preemptions: int = 0
    failures: int = 0
    down_s: float = 0.0
    unfinished: list[float] | None = None
    prefixes: PrefixUse | None = None

    def join_unfinished(self) -> None:
        """Join spans of `unfinished` that follow each other without a gap."""
        joined: list[float] = []
        for start_s, end_s in self._unfinished_spans():
            if joined and joined[-1] >= start_s:
                joined[-1] = end_s
            else:
                joined += (start_s, end_s)
        self.unfinished = joined

    def busy_until_s(self, until_s: float) -> float:
        """Its `busy_s` as far as they passed before `until_s`, when it has finished all that it ever will."""
        spans = self._unfinished_spans()
        return self.busy_s - sum(end_s - max(start_s, until_s) for start_s, end_s in spans if end_s > until_s)

    def _unfinished_spans(self) -> Iterator[tuple[float, float]]:
        spans = self.unfinished or []
        return zip(spans[::2], spans[1::2], strict=True)


COUNTS = ("preemptions", "failures", "down_s")
"""What the table of replicas shows of a `ReplicaUse` as it is."""


def column(values: npt.NDArray[Any]) -> memoryview[Any]:
    """An array's buffer: it takes single numbers sooner than the array does, or an `array.array`."""
    return values.data


class Ledger:
    """The log of a run: entries by request id, by Work, and by replica.

    Executors write requests and Works through the `record_*` methods. One place writes columns itself, for a
    call per request would cost it a twentieth of its speed: `sim.execution.iterations` does what
    `record_scheduled`, `record_first_tokens` and `record_finished` say, and a test holds the two equal.

    Continuous batching is only summed up (`gaps` between tokens, `replicas`; with `keeps_gap_times` the gaps
    of a part of the run can be told from the others); its Works are recorded one by one where `log` is set,
    all of them or those that overlap the seconds in `window`. A request that finished outside of padded
    batches has no `row_length` here: it is its answer's.
    """

    def __init__(
        self,
        num_requests: int,
        arrival_s: npt.ArrayLike,
        *,
        log: bool = False,
        window: tuple[float, float] = (-math.inf, math.inf),
        replicas: Sequence[ReplicaUse] = (),
        keeps_gap_times: bool = False,
    ) -> None:
        n = num_requests
        self.num_requests, self.log, self.window = n, log, window
        self.replicas = list(replicas) or [ReplicaUse()]
        self.batches: list[BatchRecord] = []
        self.gaps = GapPool(keeps_times=keeps_gap_times)
        self.arrival_s = column(np.array(arrival_s, dtype=np.float64))
        self.due_s = np.array(arrival_s, dtype=np.float64)  # by the trace; a bounded client may send later
        self.scheduled_s, self.first_token_s, self.finish_s = (column(np.full(n, math.nan)) for _ in range(3))
        self.attempts = column(np.zeros(n, dtype=np.int64))
        self.row_length = column(np.zeros(n, dtype=np.int64))  # positions decoded in its last attempt
        # Positions decoded in attempts that outlived their prediction.
        self.failed_tokens = column(np.zeros(n, dtype=np.int64))
        self.final_batch = column(np.full(n, -1))  # in `batches`: the padded batch in which it finished
        self.begun_in: dict[int, list[int]] = {}  # id -> in `batches`: those that its last one went on from
        self.predicted = column(np.full(n, -1))
        self.replica = column(np.zeros(n, dtype=np.int32))  # where it finished
        self.reason: dict[int, str] = {}  # id -> why it was given up
        self.reroutes: dict[int, int] = {}  # id -> how often its replica failed
        self.lost_tokens: dict[int, int] = {}  # id -> tokens that were lost with failed replicas

    def ended(self, request_id: int) -> bool:
        """Whether the request has finished or was dropped."""
        return self.finish_s[request_id] == self.finish_s[request_id] or request_id in self.reason

    def check_not_ended(self, requests: Sequence[Request], what: str) -> None:
        """SchedulingError where one of these has ended and was `what` ("run again") nevertheless."""
        for request in requests:
            if self.ended(request.id):
                raise SchedulingError(f"request {request.id} was {what} after it had ended")

    def record_padded(self, work: PaddedBatch, record: BatchRecord, output_tokens: Sequence[int]) -> Outcome:
        """A padded batch has run: rows that reached their length (`output_tokens`, by request id) are done.

        Their first token is the end of the batch's prefill, and they finish as it returns. The iterations of
        the other rows are lost, unless a later batch goes on from their tokens (`Request.answered_tokens`):
        then the first batch gave the first token. SchedulingError where a row had ended before.
        """
        iterations, batch = record.iterations, len(self.batches)
        start_s, first_s, end_s = record.start_s, record.prefill_end_s, record.end_s
        scheduled_s, finish_s, reason = self.scheduled_s, self.finish_s, self.reason
        finished: list[Request] = []
        unfinished: list[Request] = []
        for request in work.requests:
            i = request.id
            if finish_s[i] == finish_s[i] or i in reason:
                raise SchedulingError(f"request {i} was run again after it had ended")
            if scheduled_s[i] != scheduled_s[i]:
                scheduled_s[i] = start_s
            self.attempts[i] += 1
            answered = request.answered_tokens
            if output_tokens[i] - answered <= iterations:
                finished.append(request)
                self.first_token_s[i], finish_s[i] = first_s, end_s
                self.row_length[i], self.final_batch[i] = answered + iterations, batch
                self.replica[i] = record.replica
                if answered:
                    self.first_token_s[i] = self.batches[self.begun_in[i][0]].prefill_end_s
                    self.failed_tokens[i] -= answered
                elif self.begun_in:
                    self.begun_in.pop(i, None)
            else:
                unfinished.append(request)
                self.failed_tokens[i] += iterations
                self.begun_in[i] = [*(self.begun_in[i] if answered else ()), batch]
        self.batches.append(record)
        return Outcome(iterations, finished, unfinished)

    def record_perceive(self, record: BatchRecord, predictions: Sequence[Prediction]) -> Outcome:
        """The model has said how long these answers will be."""
        self.batches.append(record)
        for i, prediction in zip(record.request_ids, predictions, strict=True):
            self.predicted[i] = prediction.tokens
        return Outcome(record.iterations, predictions=predictions)

    def record_drop(self, work: Drop, now: float, *, replica: int = 0, num_waiting: int = 0) -> Outcome:
        """Requests were given up. SchedulingError for a reason of another kind, and where one had ended."""
        if not work.reason.startswith(("rejected", "expired")):
            raise SchedulingError(f"reason: {work.reason!r} must begin with rejected or expired")
        self.check_not_ended(work.requests, "dropped")
        ids = tuple([request.id for request in work.requests])
        self.reason |= dict.fromkeys(ids, work.reason)
        self.batches.append(
            BatchRecord(Drop.kind, ids, 0, 0, now, now, now, replica=replica, num_waiting=num_waiting)
        )
        return Outcome()

    def record_scheduled(self, ids: Sequence[int], now: float) -> None:
        """Continuous batching begins to compute these prompts, which it has not done before."""
        scheduled_s = self.scheduled_s
        for i in ids:
            scheduled_s[i] = now

    def record_first_tokens(self, ids: Sequence[int], now: float) -> None:
        """An iteration of continuous batching has given these their first token, or is about to by `now`."""
        first_token_s = self.first_token_s
        for i in ids:
            first_token_s[i] = now

    def record_finished(self, requests: Sequence[Request], now: float, replica: int) -> None:
        """An iteration of continuous batching has given these their last token."""
        finish_s, where = self.finish_s, self.replica
        for request in requests:
            finish_s[request.id] = now
            where[request.id] = replica

    def record_iterations(
        self,
        work: Iterations,
        iterations: int,
        start_s: float,
        head_end_s: float,
        end_s: float,
        *,
        first_step_s: float,
        step_slope_s: float,
        kv_tokens: int,
        replica: int = 0,
        num_waiting: int = 0,
    ) -> None:
        """Continuous batching has run: `iterations`, of which the first ended at `head_end_s`.

        `kv_tokens` were in memory at the end, before what finished left. Kept only where it is to be logged.
        """
        if not self.log or start_s > self.window[1] or end_s < self.window[0]:
            return
        self.batches.append(
            BatchRecord(
                Iterations.kind,
                tuple([chunk.request.id for chunk in work.chunks]),
                work.at_most,
                iterations,
                start_s,
                head_end_s,
                end_s,
                0,
                first_step_s,
                step_slope_s,
                kv_tokens,
                tuple([(chunk.num_tokens, chunk.last) for chunk in work.chunks]),
                tuple([request.id for request in work.evict]),
                replica,
                num_waiting,
                tuple([request.id for request in work.pause]),
                sum([chunk.cached for chunk in work.chunks]),
            )
        )

    def record_cut_off(self, record: BatchRecord, *, is_answering: bool) -> None:
        """A batch was cut off by a failure of its accelerator; `is_answering`: padded, not a question."""
        self.batches.append(record)
        for i in record.request_ids if is_answering else ():
            if self.scheduled_s[i] != self.scheduled_s[i]:
                self.scheduled_s[i] = record.start_s

    def record_delivered(self, out_s: npt.NDArray[np.float64]) -> None:
        """Tokens have reached their clients so many seconds (by request id) after their iterations."""
        for times in (self.first_token_s, self.finish_s):
            np.asarray(times)[:] += out_s

    def record_lost(self, requests: Sequence[Request], lost_tokens: Mapping[int, int]) -> None:
        """An accelerator has failed: these were there, and so many tokens (by id) of those begun are lost."""
        for request in requests:
            i = request.id
            self.reroutes[i] = self.reroutes.get(i, 0) + 1
            if i in lost_tokens:
                self.attempts[i] += 1
                self.lost_tokens[i] = self.lost_tokens.get(i, 0) + lost_tokens[i]
                self.first_token_s[i] = math.nan
