"""Asks one scheduler, one Work at a time, and tells it what became of that; sends nothing itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.schedulers.base import CompleteScheduler
from sim.work import Drop, Iterations, Outcome, PaddedBatch, Perceive, Prediction, Work, unknown_work

TICK_S = 0.01
"""What counts as an iteration: an API does not say how many it ran."""
MOST_TURNS = 1000
"""Works in a row that need no time; a scheduler that hands out more makes no progress."""


class Slots(Protocol):
    """What a driver needs to know of the slots, and what it tells whoever holds them."""

    predictions: Callable[[Sequence[Request]], list[Prediction]]
    on_decision: Callable[[int, BatchRecord], None] | None
    on_failure: Callable[[Exception], None] | None

    @property
    def num_free(self) -> int:
        """Slots that nobody has and nobody is next for."""

    @property
    def num_offered(self) -> int:
        """Those of them that a scheduler may fill now."""

    def is_waiting(self, request: Request) -> bool:
        """Whether the request has not been sent."""

    def hand_out(self, request: Request) -> bool:
        """The scheduler wants the request to run; False where it is over already."""

    def forget(self, request: Request) -> bool:
        """The scheduler holds the request no longer; whether it was over."""

    def give_up(self, request: Request, reason: str) -> None:
        """The scheduler drops the request."""


class Driver:
    """One scheduler at work over the executor's slots.

    `held`: what the scheduler holds. `running`: those of these that it has handed out, by id. `turns`: when
    each turn for a slot came (s); there are as many as requests that wait.
    """

    def __init__(self, slots: Slots, scheduler: CompleteScheduler, level: int) -> None:
        self.slots, self.scheduler, self.level = slots, scheduler, level
        # Policies of continuous batching admit as many at a time as there are places: those free now.
        self.takes_places = hasattr(scheduler, "max_num_seqs")
        self.held: dict[int, Request] = {}
        self.running: dict[int, Request] = {}
        self.finished: list[Request] = []
        self.turns: deque[float] = deque()
        self.work: Iterations | PaddedBatch | None = None
        self.since_s = 0.0
        self.places = 0  # that were free when the work was handed out,
        self.offered = 0  # and those of them that it might fill
        self.num_held = self.num_idle = 0  # at the last work, and works in a row that changed nothing
        self.has_arrival = self.is_broken = False

    def submit(self, request: Request, now: float) -> None:
        """A request has arrived."""
        self.held[request.id] = request
        self.turns.append(request.arrival_s)
        self.has_arrival = True
        if not self.is_broken:
            try:
                self.scheduler.submit(request, now)
            except Exception as error:
                self._break(error)

    def over(self, request: Request) -> bool:
        """The request needs no slot any more; whether the scheduler has forgotten it already."""
        if self.is_broken:
            self.held.pop(request.id, None)
        elif request.id in self.running:
            self.finished.append(request)
        return request.id not in self.held

    def waiting_first(self) -> Request | None:
        """The first of its requests that has not been sent."""
        return next((r for r in self.held.values() if self.slots.is_waiting(r)), None)

    @property
    def next_turn_s(self) -> float:
        """When its next turn came (s); infinite where none of its requests waits."""
        return self.turns[0] if self.turns else math.inf

    def step(self, now: float) -> bool:
        """End the work in progress where it is over, then ask for more; whether there was any."""
        if self.is_broken:
            return False
        try:
            return self._step(now)
        except Exception as error:
            self._break(error)
            return True

    def _step(self, now: float) -> bool:
        if self.work is not None:
            if not self._is_over(self.work, now):
                return False
            self._end(self.work, now)
        for _ in range(MOST_TURNS):
            work = self._ask(now) if self._may_ask() else None
            if work is None:
                return False
            if isinstance(work, Iterations | PaddedBatch):
                self._start(work, now)
                return True
            self._end(work, now)
        raise RuntimeError(f"{type(self.scheduler).__name__}: {MOST_TURNS} Works in a row ran nothing")

    def _may_ask(self) -> bool:
        """Not where it could hand out nothing; who hands out batches, only where a slot is free."""
        return bool(self.held) and (self.slots.num_free > 0 or (self.takes_places and bool(self.running)))

    def _ask(self, now: float) -> Work | None:
        self.places, self.offered = max(0, self.slots.num_free), self.slots.num_offered
        if self.takes_places:
            cast(Any, self.scheduler).max_num_seqs = len(self.running) + self.offered
        return self.scheduler.next_work(now)

    def _start(self, work: Iterations | PaddedBatch, now: float) -> None:
        """Put in line whom the work names; who is over already has finished."""
        free, is_later = self.slots.num_free, now > self.since_s
        self.work, self.since_s, self.has_arrival = work, now, False
        if isinstance(work, Iterations):
            requests: Iterable[Request] = (chunk.request for chunk in work.chunks if chunk.last)
            for request in work.evict:
                self.running.pop(request.id, None)
        else:
            requests = work.requests
        for request in requests:
            self.running[request.id] = request
            if not self.slots.hand_out(request):
                self.finished.append(request)
        has_done = is_later or self.slots.num_free != free or len(self.held) != self.num_held
        self.num_held, self.num_idle = len(self.held), 0 if has_done else self.num_idle + 1
        if self.num_idle > MOST_TURNS:
            raise RuntimeError(f"{type(self.scheduler).__name__}: {MOST_TURNS} Works in a row sent nobody")

    def _is_over(self, work: Iterations | PaddedBatch, now: float) -> bool:
        has_place = self.slots.num_free > 0
        if isinstance(work, PaddedBatch):
            return has_place
        return (
            bool(self.finished)
            or (self.has_arrival and (work.stop_on_arrival or has_place))
            or now > work.until_s
            or now >= self.since_s + work.at_most * TICK_S
            or (len(self.held) > len(self.running) and self._has_more(work))
        )

    def _has_more(self, work: Iterations) -> bool:
        """Whether there are slots that the work could not have filled."""
        free = self.slots.num_free
        return free > self.places - len(work.chunks) or (0 < self.offered <= len(work.chunks) and free > 0)

    def _end(self, work: Work, now: float) -> None:
        """Tell the scheduler what became of the work."""
        match work:
            case Iterations():
                iterations = max(1, min(work.at_most, int((now - self.since_s) / TICK_S)))
                predictions = self.slots.predictions(work.ask) if work.ask else ()
                outcome = Outcome(iterations, self._reported(self.finished), predictions=predictions)
            case PaddedBatch():
                iterations = max(1, min(work.token_limit, int((now - self.since_s) / TICK_S)))
                outcome = Outcome(iterations, self._reported(work.requests))
            case Perceive():
                outcome = Outcome(predictions=self.slots.predictions(work.requests))
            case Drop():
                for request in work.requests:
                    self.held.pop(request.id, None)
                    self.slots.give_up(request, work.reason)
                outcome = Outcome()
            case _:
                unknown_work(work, self.scheduler)
        self._note(work, outcome, now)
        self.work, self.finished = None, []
        self.scheduler.record(work, outcome, now)

    def _reported(self, requests: Iterable[Request]) -> list[Request]:
        """The same requests, which the scheduler will hold no longer."""
        reported = list(requests)
        for request in reported:
            self.held.pop(request.id, None)
            self.running.pop(request.id, None)
            self.slots.forget(request)
        return reported

    def wake_at(self) -> float:
        """When the work in progress ends by itself, or the scheduler wants to be asked (s)."""
        if self.is_broken:
            return math.inf
        if isinstance(self.work, Iterations):
            until_s = math.nextafter(self.work.until_s, math.inf)
            return min(until_s, self.since_s + self.work.at_most * TICK_S)
        try:
            wake_at = self.scheduler.wake_at if self.work is None and self._may_ask() else None
            if wake_at is not None and math.isnan(wake_at):
                raise ValueError("wake_at is no time")
        except Exception as error:
            self._break(error)
            return -math.inf  # at once: its requests go first come, first served
        return math.inf if wake_at is None else wake_at

    def _note(self, work: Work, outcome: Outcome, now: float) -> None:
        if self.slots.on_decision is None:
            return
        ids = tuple([r.id for r in work.requests])
        since_s = self.since_s if isinstance(work, Iterations | PaddedBatch) else now
        record = BatchRecord(work.kind, ids, 0, outcome.iterations, since_s, since_s, now)
        if isinstance(work, PaddedBatch):
            record = record._replace(limit=work.token_limit)
        elif isinstance(work, Iterations):
            record = record._replace(
                request_ids=tuple([chunk.request.id for chunk in work.chunks]),
                limit=work.at_most,
                chunks=tuple([(chunk.num_tokens, chunk.last) for chunk in work.chunks]),
                evicted=tuple([r.id for r in work.evict]),
                paused=tuple([r.id for r in work.pause]),
            )
        self.slots.on_decision(self.level, record)

    def _break(self, error: Exception) -> None:
        """The scheduler has failed: from now on its requests go first come, first served."""
        self.is_broken, self.work, self.finished = True, None, []
        self.running.clear()
        for request in list(self.held.values()):
            if self.slots.forget(request):
                del self.held[request.id]
        if self.slots.on_failure is not None:
            self.slots.on_failure(error)
