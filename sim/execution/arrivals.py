"""Submits requests when they are due; knows nothing of what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import simpy

from ..request import Request
from ..results.ledger import Ledger
from .environment import ARRIVAL, Environment
from .sessions import Sessions

SimProcess = Generator[simpy.Event, Any, None]

Progress = Callable[[int, int], None]
"""Progress callback: (requests ended, total)."""

Submit = Callable[[Request, float], None]
"""Takes a request that has arrived, and the time."""

NOBODY = Request(-1, math.inf, 0, 0)
"""Comes after the last request, and never arrives."""


class Arrivals:
    """Hands out requests when they are due, at most `max_concurrency` of them unfinished at a time.

    `requests` come by rising arrival, and are taken one at a time; of `Sessions` the next one may change as
    others end. A request held back by that bound arrives when a place falls free (vLLM's benchmark client
    does the same); one that arrives as another ends finds that place free.
    """

    due_s: float
    """When the next one comes, as far as that is known: infinity where it waits for a place, or none is left.
    """

    def __init__(
        self,
        requests: Iterator[Request],
        ledger: Ledger,
        max_concurrency: int | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.coming, self.ledger = requests, ledger
        self.sessions = requests if isinstance(requests, Sessions) else None
        self.is_bounded = max_concurrency is not None
        self.num_places = self.room = ledger.num_requests if max_concurrency is None else max_concurrency
        self.head = next(self.coming, NOBODY)
        self.due_s = self.head.arrival_s
        self.freed_s = -math.inf
        self.freed: tuple[Environment, simpy.Event] | None = None
        self.env: Environment | None = None  # of a process that submits and may have to wake sooner
        self.alarm: simpy.Event | None = None  # for which that process waits
        self.alarm_s = math.inf  # when it goes off
        self.num_ended, self.on_progress = 0, on_progress
        self.report_at = self.step = max(1, ledger.num_requests // 200)

    def take(self, now: float, submit: Submit) -> int:
        """Submit every request due by now, as far as there is room; how many these were."""
        head, due_s, coming = self.head, self.due_s, self.coming
        room, is_bounded, taken = self.room, self.is_bounded, 0
        while due_s <= now:
            if is_bounded and head.arrival_s < self.freed_s:
                head.arrival_s = self.ledger.arrival_s[head.id] = self.freed_s
            submit(head, now)
            taken += 1
            head = next(coming, NOBODY)
            due_s = head.arrival_s if taken < room else math.inf
        self.head, self.due_s = head, due_s
        self.room = room - taken
        return taken

    @property
    def is_done(self) -> bool:
        """Whether no request is left."""
        return self.head is NOBODY

    def outlook(self) -> tuple[float, object]:
        """When the next request comes, and which it is."""
        return self.due_s, self.head.id

    def is_empty(self, num_left: int) -> bool:
        """Whether every request that was submitted has ended; `num_left` have not, submitted or not."""
        return self.room == (self.num_places if self.is_bounded else num_left)

    def close(self) -> None:
        """The run is over."""

    def ended(self, replica: Any, requests: Sequence[Request], now: float) -> int:
        """Requests have ended, wherever: their places are free from now on, and who waits for them may come.

        How many have ended with them, those included that will not come any more.
        """
        if self.is_bounded:
            self._free_places(replica, len(requests), now)
        num_ended = len(requests)
        if self.sessions is not None:
            num_cancelled = self.sessions.ended(requests, lambda _: now)
            num_ended += num_cancelled
            self.room -= 0 if self.is_bounded else num_cancelled
            self._look_again(self.sessions)
            if self.env is not None:
                self._set_alarm(self.env, self.due_s)
        if self.on_progress is not None:
            self._report(num_ended)
        return num_ended

    def _look_again(self, coming: Sessions) -> None:
        """Who comes next may be another now."""
        head = self.head
        if coming.ready and coming.ready[0][:2] < (head.arrival_s, head.id):
            if head is not NOBODY:
                coming.put_back(head)
            self.head = next(coming)
            self.due_s = self.head.arrival_s if self.room else math.inf

    def _report(self, num_ended: int) -> None:
        assert self.on_progress is not None
        self.num_ended += num_ended
        if self.num_ended >= self.report_at:
            self.report_at += self.step
            self.on_progress(self.num_ended, self.ledger.num_requests)

    def _free_places(self, replica: Any, number: int, now: float) -> None:
        if self.room == 0 and number:
            self.freed_s = now
            self.due_s = max(now, self.head.arrival_s)
            if self.freed is not None:
                env, event = self.freed
                env.trigger(event, ARRIVAL)
                self.freed = None
        self.room += number

    def run(self, env: Environment, submit: Submit) -> SimProcess:
        """Submit each request when it is due; where there is no room, when there is."""
        if self.sessions is not None:
            yield from self._run_sessions(env, submit)
        while self.head is not NOBODY:
            if self.due_s <= env.now:
                self.take(env.now, submit)
            elif self.due_s < math.inf:
                yield env.at(self.due_s, ARRIVAL)
            else:
                self.freed = env, env.event()
                yield self.freed[1]

    def _run_sessions(self, env: Environment, submit: Submit) -> SimProcess:
        """The same for ever, where an end may let somebody come before whom it waits for."""
        self.env = env
        while True:
            self.take(env.now, submit)
            self._set_alarm(env, self.due_s)
            self.alarm = env.event()
            yield self.alarm
            self.alarm_s = math.inf

    def _set_alarm(self, env: Environment, wake_s: float) -> None:
        """Wake the process that submits by then."""
        if wake_s < self.alarm_s:
            self.alarm_s = wake_s
            timer = env.at(max(wake_s, env.now), ARRIVAL)
            assert timer.callbacks is not None
            timer.callbacks.append(lambda _: self._ring(env))

    def _ring(self, env: Environment) -> None:
        if self.alarm is not None and not self.alarm.triggered:
            env.trigger(self.alarm, ARRIVAL)
