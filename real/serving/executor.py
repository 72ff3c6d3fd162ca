"""Carries out a scheduler's work over the slots of an inference API: the counterpart of
`real.execution.executor`.

Does no I/O and reads no clock: `submit`, `ended` and `leave` say what has happened, `poll` decides what is
sent now, `wake_at` when to ask again. What an API cannot do is carried out as far as it goes:

- A request occupies a slot from when it is sent until its answer ends. An iteration lasts `TICK_S`.
- A `PaddedBatch` is over when its last row has been sent and a slot is free: nobody waits for neighbours.
- Nothing is evicted: who is to leave keeps the slot, and who was to take it waits for the next one.

A request that has waited `max_wait_s` goes before all that arrived later, whatever the scheduler says: that
is the starvation bound. Should a scheduler fail, all its requests count as such.

Traffic may be split into arms, each with a scheduler of its own, so that policies can be compared. Free slots
then go one by one to the arms whose turn it is, and turns go by arrival: each request that arrives brings its
arm a turn, which whoever of that arm is sent next uses up. So first come, first served is what it would be
alone, and another policy can only change the order within its arm.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from enum import Enum
from heapq import heappop, heappush

from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.schedulers.admission import EXPIRED
from sim.schedulers.base import CompleteScheduler
from sim.work import Prediction

from .driver import Driver


class Stage(Enum):
    """Where a request is: it waits, is next for a slot, has one, or needs none any more."""

    WAITING = "waiting"
    IN_LINE = "in line"
    RUNNING = "running"
    OVER = "over"


class SlotExecutor:
    """Slots at work: asks the schedulers, hands requests to `send` and to `drop`, remembers who is where.

    `make_schedulers`: of each arm. `is_by_level`: each level of importance has a scheduler of its own, a
    lower number first; else one has all levels. `capacity()`: how many slots there are now.
    `predictions(requests)` answers a scheduler that asks for lengths. `on_decision(level, record)` is told of
    each Work when it is over.
    """

    def __init__(
        self,
        make_schedulers: Sequence[Callable[[], CompleteScheduler]],
        capacity: Callable[[], int],
        send: Callable[[Request], None],
        drop: Callable[[Request, str], None],
        *,
        predictions: Callable[[Sequence[Request]], list[Prediction]],
        max_wait_s: float = math.inf,
        is_by_level: bool = False,
        on_decision: Callable[[int, BatchRecord], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self.make_schedulers, self.capacity, self.predictions = make_schedulers, capacity, predictions
        self.send, self.drop, self.max_wait_s, self.is_by_level = send, drop, max_wait_s, is_by_level
        self.on_decision, self.on_failure = on_decision, on_failure
        self.stages: dict[int, Stage] = {}  # of every request that has not ended, or that a scheduler holds
        self.arms: dict[int, int] = {}  # of the same requests, where there are several arms
        self.waiting: OrderedDict[int, Request] = OrderedDict()  # by arrival; those in line too
        self.line: deque[Request] = deque()
        self.num_running = 0
        self.num_sent_overdue = 0
        self.drivers: dict[tuple[int, int], Driver] = {}  # by level and arm
        self.deadlines: list[tuple[float, int]] = []  # heap of what may pass while somebody waits

    # What has happened

    def submit(self, request: Request, now: float, arm: int = 0) -> None:
        """A request of this arm has arrived."""
        if len(self.make_schedulers) > 1:
            self.arms[request.id] = arm
        level, arm = key = self._key(request)
        driver = self.drivers.get(key)
        if driver is None:
            self.drivers[key] = driver = Driver(self, self.make_schedulers[arm](), level)
            self.drivers = dict(sorted(self.drivers.items()))
        self.stages[request.id] = Stage.WAITING
        self.waiting[request.id] = request
        if request.deadline_s is not None:
            heappush(self.deadlines, (request.deadline_s, request.id))
        driver.submit(request, now)

    def ended(self, request: Request, now: float) -> None:
        """The answer of a request that was sent has ended, however: its slot is free."""
        if self.stages.get(request.id) is not Stage.RUNNING:
            return
        self.num_running -= 1
        self._over(request)

    def leave(self, request: Request) -> None:
        """Nobody wants the answer any more of a request that has not been sent."""
        if self.stages.get(request.id) in (Stage.WAITING, Stage.IN_LINE):
            self._no_longer_waits(request)
            self._over(request)

    def _over(self, request: Request) -> None:
        """Needs no slot any more; a scheduler that still holds it hears so when it hands it out."""
        self.stages[request.id] = Stage.OVER
        driver = self.driver_of(request)
        if driver.over(request):
            self._remove(request)

    def _no_longer_waits(self, request: Request) -> None:
        """It is sent, or nobody wants it: a turn of its arm is used up."""
        del self.waiting[request.id]
        self.driver_of(request).turns.popleft()

    def _remove(self, request: Request) -> None:
        """Nobody knows the request any more."""
        self.stages.pop(request.id, None)
        self.arms.pop(request.id, None)

    # What to do

    @property
    def num_free(self) -> int:
        """Slots that nobody has and nobody is next for."""
        return self.capacity() - self.num_running - len(self.line)

    @property
    def num_offered(self) -> int:
        """Slots that the scheduler whose turn it is may fill: all free ones, or one where arms take turns."""
        free = max(0, self.num_free)
        return free if len(self.make_schedulers) == 1 else min(1, free)

    def driver_of(self, request: Request) -> Driver:
        """Whose scheduler has the request."""
        return self.drivers[self._key(request)]

    def _key(self, request: Request) -> tuple[int, int]:
        return request.priority if self.is_by_level else 0, self.arms.get(request.id, 0)

    def poll(self, now: float) -> None:
        """Send whoever is to be sent now."""
        self._expire(now)
        self._fill(now)
        if len(self.make_schedulers) > 1:
            while any(driver.step(now) for driver in self._by_turn()):
                self._fill(now)
        else:
            while sum(driver.step(now) for driver in self.drivers.values()):  # each has its turn
                self._fill(now)

    def _by_turn(self) -> list[Driver]:
        """Levels by importance, the arms of each by whose turn it is."""
        return sorted(self.drivers.values(), key=lambda driver: (driver.level, driver.next_turn_s))

    def _expire(self, now: float) -> None:
        """Give up whose deadline has passed, whenever its scheduler may be asked next."""
        while self.deadlines and (self.deadlines[0][0] < now or self.deadlines[0][1] not in self.waiting):
            request = self.waiting.get(heappop(self.deadlines)[1])
            if request is not None:
                self.leave(request)
                self.drop(request, EXPIRED)

    def _fill(self, now: float) -> None:
        """Give free slots away: first to those that have waited too long, then in the schedulers' order."""
        while self.num_running < self.capacity():
            request = self._overdue(now)
            if request is not None:
                self.num_sent_overdue += 1
            else:
                request = self._next_in_line()
            if request is None:
                return
            self._no_longer_waits(request)
            self.stages[request.id] = Stage.RUNNING
            self.num_running += 1
            self.send(request)

    def _overdue(self, now: float) -> Request | None:
        first = next(iter(self.waiting.values()), None)
        if first is None:
            return None
        if first.arrival_s + self.max_wait_s <= now:
            return first
        broken = [driver.waiting_first() for driver in self.drivers.values() if driver.is_broken]
        return next((request for request in broken if request is not None), None)

    def _next_in_line(self) -> Request | None:
        while self.line:
            request = self.line.popleft()
            if self.stages.get(request.id) is Stage.IN_LINE:
                return request
        return None

    def is_waiting(self, request: Request) -> bool:
        """Whether the request has not been sent."""
        return request.id in self.waiting

    def hand_out(self, request: Request) -> bool:
        """A scheduler wants the request to run; False where it is over already."""
        stage = self.stages.get(request.id)
        if stage is Stage.WAITING:
            self.stages[request.id] = Stage.IN_LINE
            self.line.append(request)
        return stage is not Stage.OVER and stage is not None

    def forget(self, request: Request) -> bool:
        """A scheduler holds the request no longer; whether it was over, so that nobody knows it now."""
        is_over = self.stages.get(request.id) is Stage.OVER
        if is_over:
            self._remove(request)
        return is_over

    def give_up(self, request: Request, reason: str) -> None:
        """A scheduler drops the request; one that was sent meanwhile is answered all the same."""
        stage = self.stages.get(request.id)
        if stage in (Stage.WAITING, Stage.IN_LINE):
            self._no_longer_waits(request)
            self.drop(request, reason)
        if stage is not Stage.RUNNING:
            self._remove(request)

    def wake_at(self) -> float:
        """When to poll again though nothing happened (s); infinite: never."""
        times = [driver.wake_at() for driver in self.drivers.values()]
        if self.num_running < self.capacity() and self.waiting:
            times.append(next(iter(self.waiting.values())).arrival_s + self.max_wait_s)
        if self.deadlines:
            times.append(math.nextafter(self.deadlines[0][0], math.inf))
        return min(times, default=math.inf)
