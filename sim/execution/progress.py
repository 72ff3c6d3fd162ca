"""Notices a scheduler that decides for ever while nothing happens to any request; for every executor.

Knows nothing of SimPy, torch, costs or of how a scheduler decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..work import Chunk, Outcome, PaddedBatch, Perceive, SchedulingError

MOST_IDLE = 10_000
"""So much may be decided in vain between two events, and `REPEATS` times every request at hand."""

REPEATS = 10

INSTANT_S = 1e-6
"""A wait that passes less than this passes no time."""

WAITS = 20
"""So many waits that do pass time count as one decision in vain: a scheduler may poll."""


class Progress:
    """Counts decisions in vain since the last event; SchedulingError once there are too many.

    An event is a request that arrives or ends, a token, a prompt computed further than ever, a request asked
    about for the first time, a batch with a higher limit than its rows had before. Each can happen only so
    often, so that a run without end must have stretches without events. Decisions count by their rows.
    `is_busy_elsewhere()`: whether an event may yet come from another accelerator.
    """

    def __init__(self, scheduler: object, is_busy_elsewhere: Callable[[], bool] = lambda: False) -> None:
        self.scheduler, self.is_busy_elsewhere = scheduler, is_busy_elsewhere
        self.asked: set[int] = set()
        self.limits: dict[int, int] = {}  # id -> the highest limit of a batch that it did not finish in
        self.computed: dict[int, int] = {}  # id -> prompt tokens computed, at the most
        self.tokenless = 0  # iterations that gave nobody a token, counted by the executor
        self.state: object = None  # as of the last decision in vain
        self.happened()

    def happened(self) -> None:
        """There was an event."""
        self.decisions, self.weight = 0, 0.0

    def perceived(self, work: Perceive, state: Callable[[], object], num_requests: int) -> None:
        """These were asked about; `state()` differs wherever a request has arrived, ended or got a token
        since the last decision, `num_requests` are here.
        """
        before, rows = len(self.asked), len(work.requests)
        self.asked.update([request.id for request in work.requests])
        if len(self.asked) > before:
            self.happened()
        else:
            self._count(max(1, rows), state, num_requests, f"a Perceive of {rows} requests")

    def ran(
        self, work: PaddedBatch, outcome: Outcome, state: Callable[[], object], num_requests: int
    ) -> None:
        """A padded batch has run."""
        if outcome.finished:
            self.happened()
            return
        limits, higher = self.limits, False
        for request in work.requests:
            reached = request.answered_tokens + work.token_limit
            if limits.get(request.id, 0) < reached:
                limits[request.id], higher = reached, True
        if higher:
            self.happened()
        else:
            rows = len(work.requests)
            what = f"a PaddedBatch of {rows} requests whose limit of {work.token_limit} tokens none reaches"
            self._count(rows, state, num_requests, what)

    def dropped(self, num_dropped: int, state: Callable[[], object], num_requests: int) -> None:
        """So many were given up."""
        if num_dropped:
            self.happened()
        else:
            self._count(1, state, num_requests, "a Drop of 0 requests")

    def prefilled(
        self,
        chunks: Sequence[Chunk],
        computed: Mapping[int, int],
        state: Callable[[], object],
        num_requests: int,
    ) -> None:
        """Iterations of continuous batching gave nobody a token; `computed`: prompt tokens by id."""
        further = False
        for chunk in chunks:
            i = chunk.request.id
            if computed.get(i, 0) > self.computed.get(i, 0):
                self.computed[i], further = computed[i], True
        if further:
            self.happened()
        else:
            self._count(1, state, num_requests, "Iterations that compute nothing new")

    def woke(
        self, waited_s: float, is_expecting: bool, state: Callable[[], object], num_requests: int
    ) -> None:
        """A wait was over because the scheduler wanted to be asked; `is_expecting`: when the next request
        arrives is known.
        """
        if waited_s < INSTANT_S:
            self._count(1, state, num_requests, f"a wait of {waited_s:g} s")
        elif not is_expecting and not (self._is_due(1 / WAITS, num_requests) and self.is_busy_elsewhere()):
            self._count(1 / WAITS, state, num_requests, f"a wait of {waited_s:g} s")

    def _count(self, weight: float, state: Callable[[], object], num_requests: int, what: str) -> None:
        if (now := state()) != self.state:
            self.state = now
            self.happened()
        self.decisions += 1
        self.weight += weight
        if self._is_due(0, num_requests):
            raise SchedulingError(
                f"{type(self.scheduler).__name__} makes no progress: in {self.decisions} decisions no request"
                f" arrived, ended or got any further; the last of them was {what}"
            )

    def _is_due(self, weight: float, num_requests: int) -> bool:
        return self.weight + weight > MOST_IDLE + REPEATS * num_requests
